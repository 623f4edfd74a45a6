"""Calls that a policy refused: counted by reason, and told now and then.

Under overload refusals are anything but rare, so an event stands for many of them: one with the first refusal, then
at most one in ten seconds for each reason. The exact numbers are the figure ``shed``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Final

from .events import Event, EventBus
from .figures import Figure
from .locks import make_lock

PAUSE_SECONDS: Final = 10.0
"""After an event there is none for the same reason for this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsShed(Event):
    """Calls were refused because there are too many.

    Attributes:
        reason: Why, a word of the policy's fixed set.
        shed: How many since the last event of this reason, this one's call included.
    """

    level: ClassVar[int] = logging.WARNING

    reason: str
    shed: int


class _Tally:
    __slots__ = ("quiet_until", "told", "total")

    def __init__(self) -> None:
        self.total = 0
        self.told = 0
        self.quiet_until = -inf


class Shedding:
    """Counts the refusals of one policy. Thread-safe.

    Args:
        name: Of the policy.
        reasons: The words that it gives for a refusal.
        bus: Who hears of it.
    """

    def __init__(self, name: str, reasons: tuple[str, ...], bus: EventBus | None = None) -> None:
        self._name = name
        self._tallies = {reason: _Tally() for reason in reasons}
        self._bus = bus or EventBus()
        self._lock = make_lock()

    def add(self, reason: str, now: float) -> None:
        """Count a refusal.

        Args:
            reason: One of the reasons.
            now: The monotonic instant, in seconds; no number (``nan``) is counted and not told.
        """
        tally = self._tallies[reason]
        with self._lock:
            tally.total += 1
            if not now >= tally.quiet_until:
                return
            tally.quiet_until = now + PAUSE_SECONDS
            shed, tally.told = tally.total - tally.told, tally.total
        self._bus.publish(CallsShed(name=self._name, reason=reason, shed=shed))

    def figures(self) -> Iterator[Figure]:
        """Yield ``shed`` by reason."""
        for reason, tally in self._tallies.items():
            yield Figure("shed", "counter", tally.total, {"name": self._name, "reason": reason})
