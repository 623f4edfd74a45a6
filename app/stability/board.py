"""What the circuit breakers of several processes on one host tell each other: a small port.

Each breaker keeps its own window; what it *decides* (a state, until when, by whom) it writes to the board, and looks
there a few times a second for what others decided. Decisions are numbered: a decision counts only when it follows
the one that its maker knew, so that of two at the same time one wins and the other adopts it. The trial calls of
a half-open breaker are counted on the board, for all processes together.

A board that has lost its memory, is damaged or hangs on nothing answers None: the breaker goes on by itself. One
that does not keep to that is asked through a :class:`CheckedBoard`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from .breaker_states import State

_log = logging.getLogger(__name__)

ATTEMPT_MAX: Final = 1_000_000
"""The longest run of openings that is believed: what a wait makes of the number has to stay computable."""


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


class CheckedBoard:
    """A :class:`Board` that keeps its promises whatever the one behind it does.

    An answer that cannot be is none: a state that this version of the library does not know, an instant that is no
    number, counts that contradict each other. What it raises is logged once until it answers again.

    Args:
        board: The one that is asked.
    """

    __slots__ = ("_board", "_is_broken")

    def __init__(self, board: Board) -> None:
        self._board = board
        self._is_broken = False

    def read(self, name: str) -> Decision | None:
        """See :meth:`Board.read`."""
        return _believed(self._asked(lambda: self._board.read(name)))

    def decide(self, name: str, decision: Decision) -> Decision | None:
        """See :meth:`Board.decide`."""
        return _believed(self._asked(lambda: self._board.decide(name, decision)))

    def take_probe(self, name: str, era: int, limit: int) -> bool | None:
        """See :meth:`Board.take_probe`."""
        granted = self._asked(lambda: self._board.take_probe(name, era, limit))
        return granted if isinstance(granted, bool) else None

    def return_probe(self, name: str, era: int) -> None:
        """See :meth:`Board.return_probe`."""
        self._asked(lambda: self._board.return_probe(name, era))

    def record_probe(self, name: str, era: int, *, failed: bool, slow: bool) -> ProbeCounts | None:
        """See :meth:`Board.record_probe`."""
        counts = self._asked(lambda: self._board.record_probe(name, era, failed=failed, slow=slow))
        return counts if isinstance(counts, ProbeCounts) and _can_be(counts) else None

    def _asked(self, question: Callable[[], Any]) -> Any:
        try:
            answer = question()
        except Exception:  # noqa: BLE001  # a board's mistake is its own
            was_broken, self._is_broken = self._is_broken, True  # first, for a log handler that uses a breaker
            if not was_broken:
                with suppress(Exception):  # a log handler's mistake is its own, too
                    _log.exception("the board raised; each process decides for itself until it answers again")
            return None
        self._is_broken = False
        return answer


_STATES: Final = frozenset(state.value for state in State)


def _can_be(counts: ProbeCounts) -> bool:
    said: tuple[Any, Any, Any] = (counts.results, counts.failures, counts.slow)
    results, *parts = said
    return all(isinstance(count, int) for count in said) and all(0 <= part <= results for part in parts)


def _believed(decision: Any) -> Decision | None:
    """Return a decision that can be, its attempt within bounds; None in the place of any other."""
    if not isinstance(decision, Decision):
        return None
    said: tuple[Any, Any, Any] = (decision.era, decision.attempt, decision.until)
    era, attempt, until = said
    is_possible = (
        isinstance(era, int)
        and isinstance(attempt, int)
        and isinstance(until, float | int)
        and era > 0
        and attempt >= 0
        and not math.isnan(until)
        and decision.state in _STATES
    )
    if not is_possible:
        return None
    return decision if attempt <= ATTEMPT_MAX else replace(decision, attempt=ATTEMPT_MAX)
