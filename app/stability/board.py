"""What the circuit breakers of several processes on one host tell each other: a small port.

Each breaker keeps its own window; what it *decides* (a state, until when, by whom) it writes to the board, and looks
there a few times a second for what others decided. Decisions are numbered: a decision counts only when it follows
the one that its maker knew, so that of two at the same time one wins and the other adopts it. The trial calls of
a half-open breaker are counted on the board, for all processes together.

A board that has lost its memory, is damaged or hangs on nothing answers None: the breaker goes on by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Decision:
    """What holds for a breaker on this host.

    Attributes:
        era: Number of the decision, from 1; each follows its predecessor by one.
        state: The state in lower case, as :class:`.breaker_states.State` has it.
        attempt: How many openings in a row there have been since the breaker was last closed, 0 or more.
        until: The monotonic instant at which the state ends by itself; ``inf`` when it does not.
        by: Who decided: ``"breaker"`` for a breaker itself, else an operator's name; for logs.
        reason: Why, in an operator's words or a few fixed ones; for logs.
    """

    era: int
    state: str
    attempt: int
    until: float
    by: str = "breaker"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProbeCounts:
    """How the trial calls of one era stand, all processes together.

    Attributes:
        results: Finished ones.
        failures: Those of them that failed.
        slow: Those of them that were slow.
    """

    results: int
    failures: int
    slow: int


class Board(Protocol):
    """Shared memory of the breakers of one host. Thread-safe, never raises, never waits for long."""

    def read(self, name: str) -> Decision | None:
        """Return what holds for a breaker; None when nothing was decided yet, or the board is lost."""
        ...

    def decide(self, name: str, decision: Decision) -> Decision | None:
        """Write a decision if it follows what holds (``era`` one higher; anything follows nothing).

        Returns:
            What holds now: the decision given, or the one that came before it. None when the board is lost.
        """
        ...

    def take_probe(self, name: str, era: int, limit: int) -> bool | None:
        """Take one of ``limit`` trial calls of an era.

        Returns:
            Whether there was one left; None when the board is lost or another era holds.
        """
        ...

    def return_probe(self, name: str, era: int) -> None:
        """Give a trial call back that came to no result; nothing happens when another era holds."""
        ...

    def record_probe(self, name: str, era: int, *, failed: bool, slow: bool) -> ProbeCounts | None:
        """Count the result of a trial call.

        Returns:
            How they stand with this one; None when the board is lost or another era holds.
        """
        ...
