"""What a policy is built from besides its options, and how a policy can be built from a file.

A class can be named in a configuration when it is a :class:`PolicyKind`: its ``Options`` say what may stand in the
file, its ``build`` makes it. Those of this library are known by name; others come by the entry-point group
``stability.policies``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from .board import Board
from .call import Policy
from .clock import SYSTEM_CLOCK, Clock
from .events import EventBus
from .outcome import EVERY_ERROR_FAILS, Classification


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """Everything a policy may use of its surroundings.

    Attributes:
        name: Of the pipeline; the name of the policy in events, metrics and errors.
        classification: What is a failure.
        clock: Where "now" comes from.
        bus: Who hears of events.
        random: Where chance comes from.
        board: What the workers of a host share; None for a process on its own.
    """

    name: str
    classification: Classification = EVERY_ERROR_FAILS
    clock: Clock = SYSTEM_CLOCK
    bus: EventBus = field(default_factory=EventBus)
    random: random.Random = field(default_factory=random.SystemRandom)
    board: Board | None = None


class PolicyKind(Protocol):
    """A class of policies that a configuration can name."""

    # A subclass of Options. Variables are invariant: typed so, no class could name its own.
    Options: ClassVar[Any]

    @classmethod
    def build(cls, options: Any, context: PolicyContext) -> Policy:
        """Return a new policy.

        Args:
            options: An instance of ``Options``, judged already.
            context: Its surroundings.
        """
        ...
