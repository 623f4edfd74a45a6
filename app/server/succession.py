"""Who is started and who is asked to go, so that requests always have somewhere to be answered. Pure arithmetic.

A reload makes every worker there is an old one. New ones are started beside them; each that is ready lets the oldest
go, never before. A worker that gives up its place by itself (``max_requests``) is replaced in the same way: it serves
until another one does, and finishes then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_FIRST_WAIT_SECONDS: Final = 0.5
_LONGEST_WAIT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker, as it stands now.

    Attributes:
        pid: Its process id.
        age: Its number in the order of starts; a later one is greater.
        is_ready: Whether it serves: it has been through its start.
        is_retiring: Whether it has said that it gives up its place; it serves until another one does.
        is_leaving: Whether it was asked to go.
    """

    pid: int
    age: int
    is_ready: bool
    is_retiring: bool = False
    is_leaving: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done now.

    Attributes:
        start: How many workers to start.
        dismiss: Whom to ask to go, by process id: those from before a reload and those that retire first.
        is_settled: Whether there is nothing to do and nothing to wait for.
    """

    start: int
    dismiss: tuple[int, ...]
    is_settled: bool


def plan(seats: Iterable[Seat], *, wanted: int, newer_than: int) -> Plan:
    """Compare the workers there are with those that are wanted.

    Args:
        seats: All of them.
        wanted: How many shall serve, at least 1.
        newer_than: The age of the last worker from before the latest reload; 0 when there was none.
    """
    staying = [seat for seat in seats if not seat.is_leaving]
    current = [seat for seat in staying if seat.age > newer_than and not seat.is_retiring]
    ready = sorted((seat for seat in staying if seat.is_ready), key=lambda seat: (seat in current, seat.age))
    dismissed = ready[: max(0, len(ready) - wanted)]
    return Plan(
        start=max(0, wanted - len(current)),
        dismiss=tuple(seat.pid for seat in dismissed),
        is_settled=len(staying) == len(current) == wanted and all(seat.is_ready for seat in current),
    )


class StartDelay:
    """Lets something that dies at its start be tried again at growing intervals, 0.5 s to 30 s.

    Args:
        longest_seconds: The longest wait.
    """

    def __init__(self, longest_seconds: float = _LONGEST_WAIT_SECONDS) -> None:
        self._longest_seconds = longest_seconds
        self.succeeded()

    def succeeded(self) -> None:
        """Forget all failures: the next start may be at once."""
        self._wait_seconds = 0.0
        self._until = float("-inf")

    def failed(self, now: float) -> float:
        """Note a failure; return for how many seconds nothing is started from now on."""
        doubled = max(_FIRST_WAIT_SECONDS, 2 * self._wait_seconds)
        self._wait_seconds = min(doubled, self._longest_seconds)
        self._until = now + self._wait_seconds
        return self._wait_seconds

    def allows(self, now: float) -> bool:
        """Tell whether something may be started now."""
        return now >= self._until
