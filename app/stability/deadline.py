"""One deadline per request, read by every layer.

A deadline is an instant, a timeout a length. The edge opens a :func:`deadline_scope`; every layer below
takes the smaller of its own timeout and what remains (:func:`remaining_seconds`) and hands it to its
client's own timeouts. No thread is spent on a call. What is asked of another server carries the rest with it
(:func:`deadline_header_value`).

A deadline inside another one can only be sooner (:func:`narrow_deadline`)::

    request   ├──────────────────────────────────────────┤
    attempt          ├────────┤  ├────────┤  ├────────┤         own timeout, sooner: entered
    attempt                                      ├───────┤····  own timeout, later: the request's holds
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

from .clock import SYSTEM_CLOCK, Clock


class DeadlineExceededError(TimeoutError):
    """The deadline passed before the work was done.

    Attributes:
        deadline: Which one, so that an attempt's own end is told from the end of the whole call; None when whoever
            raised the error did not say.
        refused: Whether the call was not even begun, so that it says nothing of whom it was for.
    """

    deadline: Deadline | None = None
    refused: bool = False


class Deadline:
    """An instant on a monotonic clock. Immutable and thread-safe.

    Args:
        seconds: From now, greater than 0; ``inf`` for one without an end.
        clock: Where "now" comes from.

    Attributes:
        at: The instant, in the seconds of its clock.

    Raises:
        ValueError: The seconds are no number (``nan``) or a bool; under such a deadline nothing would end.
    """

    __slots__ = ("_monotonic", "at")

    def __init__(self, seconds: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._monotonic = monotonic = clock.monotonic  # looked up once: a guarded call asks up to three times
        self.at = monotonic() + seconds
        given: Any = seconds
        if not given <= math.inf or given is True or given is False:
            message = f"a deadline needs a number of seconds from now, not {given!r}"
            raise ValueError(message)

    def remaining_seconds(self) -> float:
        """Return the seconds left; negative once the deadline has passed."""
        return self.at - self._monotonic()

    def check(self) -> None:
        """Raise :class:`DeadlineExceededError` when no time is left."""
        if self.remaining_seconds() <= 0:
            raise self.exceeded()

    def exceeded(self) -> DeadlineExceededError:
        """Return the error for this deadline; the caller raises it."""
        error = DeadlineExceededError("the deadline has passed")
        error.deadline = self
        return error

    def narrows(self, outer: Deadline) -> bool:
        """Return whether this one ends before another one, which has not passed yet.

        On one clock the instants are compared; on two, what remains of each.

        Raises:
            DeadlineExceededError: The other one has passed.
        """
        if self._monotonic == outer._monotonic:
            if outer.at <= self._monotonic():
                raise outer.exceeded()
            return self.at < outer.at
        # This one is asked first: time that passes between the two questions can only make it sooner.
        own_seconds = self.remaining_seconds()
        outer.check()
        return own_seconds < outer.remaining_seconds()


_current: ContextVar[Deadline | None] = ContextVar("stability_deadline", default=None)


def current_deadline() -> Deadline | None:
    """Return the deadline of this context, or None outside any scope."""
    return _current.get()


def enter_deadline(deadline: Deadline) -> Token[Deadline | None]:
    """Make a deadline the current one, where a block does not fit; the token goes to :func:`leave_deadline`."""
    return _current.set(deadline)


def narrow_deadline(deadline: Deadline) -> Token[Deadline | None] | None:
    """Make a deadline the current one, but only if it ends before the current one does.

    Returns:
        What :func:`leave_deadline` takes; None when nothing was entered, because the current one is as tight.

    Raises:
        DeadlineExceededError: The current deadline has passed already.
    """
    outer = _current.get()
    if outer is None or deadline.narrows(outer):
        return _current.set(deadline)
    return None


def leave_deadline(token: Token[Deadline | None]) -> None:
    """Return to the deadline that was current before the token was given."""
    _current.reset(token)


@contextmanager
def deadline_scope(deadline: Deadline) -> Generator[Deadline]:
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


def deadline_header_value() -> str | None:
    """Return what remains of the current deadline for another server, in whole milliseconds, rounded down.

    There is no standard header for it; Envoy's ``X-Envoy-Expected-Rq-Timeout-Ms`` has this form. It is a length and
    no instant, because two hosts do not share a clock.

    Returns:
        Digits, at least ``"1"``; None when there is no deadline, or one without an end.

    Raises:
        DeadlineExceededError: Less than a millisecond is left.
    """
    deadline = _current.get()
    if deadline is None:
        return None
    milliseconds = deadline.remaining_seconds() * 1000
    if not math.isfinite(milliseconds):
        return None
    if milliseconds < 1:
        raise deadline.exceeded()
    return str(int(milliseconds))
