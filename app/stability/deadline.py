"""One deadline per request, read by every layer.

A deadline is an instant, a timeout a length. The edge opens a :func:`deadline_scope`; every layer below
takes the smaller of its own timeout and what remains (:func:`remaining_seconds`) and hands it to its
client's own timeouts. No thread is spent on a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

from .clock import SYSTEM_CLOCK, Clock


class DeadlineExceededError(TimeoutError):
    """The deadline passed before the work was done."""


class Deadline:
    """An instant on a monotonic clock. Immutable and thread-safe.

    Args:
        seconds: From now, greater than 0.
        clock: Where "now" comes from.
    """

    __slots__ = ("_at", "_clock")

    def __init__(self, seconds: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._at = clock.monotonic() + seconds

    def remaining_seconds(self) -> float:
        """Return the seconds left; negative once the deadline has passed."""
        return self._at - self._clock.monotonic()

    def check(self) -> None:
        """Raise :class:`DeadlineExceededError` when no time is left."""
        if self.remaining_seconds() <= 0:
            message = "the deadline has passed"
            raise DeadlineExceededError(message)


_current: ContextVar[Deadline | None] = ContextVar("stability_deadline", default=None)


def current_deadline() -> Deadline | None:
    """Return the deadline of this context, or None outside any scope."""
    return _current.get()


def enter_deadline(deadline: Deadline) -> Token[Deadline | None]:
    """Make a deadline the current one, where a block does not fit; the token goes to :func:`leave_deadline`."""
    return _current.set(deadline)


def leave_deadline(token: Token[Deadline | None]) -> None:
    """Return to the deadline that was current before the token was given."""
    _current.reset(token)


@contextmanager
def deadline_scope(deadline: Deadline) -> Iterator[Deadline]:
    """Make a deadline the current one for the block; the outer one returns afterwards."""
    token = enter_deadline(deadline)
    try:
        yield deadline
    finally:
        leave_deadline(token)


def remaining_seconds(cap_seconds: float) -> float:
    """Return the smaller of a cap and what remains of the current deadline, in seconds.

    Args:
        cap_seconds: The layer's own timeout, greater than 0.

    Raises:
        DeadlineExceededError: No time is left.
    """
    deadline = _current.get()
    if deadline is None:
        return cap_seconds
    deadline.check()
    return min(cap_seconds, deadline.remaining_seconds())
