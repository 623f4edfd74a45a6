"""One flight: of many callers that want the same at the same time, one fetches it and the others wait for it.

::

    caller 1 ─▶ board("a") ─▶ leads ───▶ function ─▶ land · fail · abandon ─▶ leave
    caller 2 ─▶ board("a") ─▶ follows ─▶ ·········· ─▶ the value, or a copy of the error
    caller 3 ─▶ board("a") ─▶ follows ─▶ ·· deadline ─▶ DeadlineExceededError
    caller 4 ─▶ board("a") ─▶ follows ─▶ ·········· abandoned, or too long ─▶ boards again

* A leader's error goes to the followers as copies: an error that is raised in several threads at once would collect
  the tracebacks of all of them, and the notes of all policies around them. The leader's own is each copy's cause. An
  error that cannot be copied is shared as it is.
* A leader that is interrupted, or that ends because *its* deadline has passed, has found out nothing: the flight is
  abandoned and one of the followers leads the next one.
* A leader that hangs holds a follower for ``max_wait_seconds`` and never beyond the follower's own deadline. Then one
  follower puts a new flight in the place of the old one and the others follow that: a hang costs one more call at a
  time and no stampede. Without a deadline a follower may wait for several such flights.
* A leader that comes by its own key again does not wait for itself.

Threads of one process share flights; a forked child begins without any. No lock is held while a function runs.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf, isnan
from typing import Any, Final, TypeVar

from .deadline import Deadline, DeadlineExceededError, current_deadline

_log = logging.getLogger(__name__)

R = TypeVar("R")

_FLYING: Final = 0
_LANDED: Final = 1
_FAILED: Final = 2
_ABANDONED: Final = 3


class Flight:
    """One call for one key, which others may wait for. Made by :meth:`SingleFlight.board`.

    Attributes:
        key: What it is for.
        is_void: Whether what it brings is out of date already and must not be kept.
        is_replaced: Whether it lasted too long, and another one flies in its place; what it brings is not kept.
    """

    __slots__ = (
        "_brought",
        "_is_doomed",
        "_is_writing",
        "_landed",
        "_state",
        "_thread",
        "is_replaced",
        "is_void",
        "key",
    )

    def __init__(self, key: str) -> None:
        self.key = key
        self.is_void = False
        self.is_replaced = False
        self._is_writing = False
        self._is_doomed = False
        self._thread = threading.get_ident()
        self._landed = threading.Event()
        self._state = _FLYING
        self._brought: Any = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self._state != _FLYING

    @property
    def is_abandoned(self) -> bool:
        """Whether it ended without an answer."""
        return self._state == _ABANDONED

    @property
    def is_own(self) -> bool:
        """Whether the calling thread leads it, so that waiting would be for ever."""
        return self._thread == threading.get_ident()

    def land(self, value: Any) -> None:
        """Give the followers a value. Only the first of land, fail and abandon counts."""
        self._settle(_LANDED, value)

    def fail(self, error: Exception) -> None:
        """Give the followers an error."""
        self._settle(_FAILED, error)

    def abandon(self) -> None:
        """Let a follower try."""
        self._settle(_ABANDONED, None)

    def wait(self, seconds: float) -> bool:
        """Wait until it is over, so many seconds at most; return whether it is."""
        return self._landed.wait(seconds)

    def answer(self) -> Any:
        """Return what it brought; it has to be over, and not abandoned.

        Raises:
            Exception: A copy of the leader's error, of which that one is the cause.
        """
        if self._state != _FAILED:
            return self._brought
        error: Exception = self._brought
        again = fresh_copy(error)
        if again is None:
            raise error
        raise again from error

    def make_void(self) -> bool:
        """Make it void, and return whether something is written at this moment that has to be taken back.

        This and the next two are called under the lock of :class:`SingleFlight`, which is where to ask for them.
        """
        self.is_void = True
        self._is_doomed = self._is_writing
        return self._is_doomed

    def begin_write(self) -> bool:
        """Return whether what it brought may be written."""
        self._is_writing = not (self.is_void or self.is_replaced)
        return self._is_writing

    def end_write(self) -> bool:
        """End a write, and return whether it has to be taken back."""
        self._is_writing = False
        return self._is_doomed

    def _settle(self, state: int, brought: Any) -> None:
        if self._state == _FLYING:
            self._brought = brought
            self._state = state
            self._landed.set()


class SingleFlight:
    """The flights of one kind of call. Thread-safe.

    :meth:`run` is all that most callers need; a cache uses the parts.

    Args:
        max_wait_seconds: How long a follower waits before a flight counts as lost, greater than 0.
    """

    def __init__(self, max_wait_seconds: float = 30.0) -> None:
        self._max_wait_seconds = max_wait_seconds
        self._tables: dict[int, _Table] = {}

    def run(self, key: str, function: Callable[[], R]) -> R:
        """Return what a function returns, or what it returned to whoever was first.

        Args:
            key: Whose calls are the same.
            function: What fetches it.

        Raises:
            DeadlineExceededError: The caller's deadline passed while it waited.
            Exception: What the function raised, or a copy of what it raised to whoever was first.
        """
        while True:
            flight, leads = self.board(key)
            if leads:
                return self._lead(flight, function)
            if flight.is_own:
                return function()
            if self.follow(flight):
                result: R = flight.answer()
                return result

    def board(self, key: str) -> tuple[Flight, bool]:
        """Return the flight for a key, and whether the caller leads it and so has to :meth:`leave` it."""
        table = self._table()
        with table.lock:
            flight = table.flights.get(key)
            if flight is not None:
                return flight, False
            flight = table.flights[key] = Flight(key)
            return flight, True

    def follow(self, flight: Flight) -> bool:
        """Wait for a flight.

        Returns:
            Whether it has an answer; else board again.

        Raises:
            DeadlineExceededError: The caller's own deadline has passed.
        """
        deadline = current_deadline()
        left_seconds = _left_seconds(deadline)
        if flight.wait(min(self._max_wait_seconds, max(0.0, left_seconds))):
            return not flight.is_abandoned
        if deadline is not None and left_seconds <= self._max_wait_seconds:
            raise deadline.exceeded()
        self._supersede(flight)
        return False

    def leave(self, flight: Flight) -> None:
        """End a flight that the caller leads; one that brought nothing is abandoned."""
        table = self._table()
        with table.lock:
            if table.flights.get(flight.key) is flight:
                del table.flights[flight.key]
        flight.abandon()  # after it is off the table, or its followers would find it there again

    def void(self, key: str) -> None:
        """Make the flight of a key void: later callers start another one, and what it brings is not kept."""
        table = self._table()
        with table.lock:
            flight = table.flights.pop(key, None)
            if flight is not None and flight.make_void():
                table.doomed[key] = table.doomed.get(key, 0) + 1

    def begin_write(self, flight: Flight) -> bool:
        """Return whether what a flight brought may be written; if so :meth:`end_write` has to follow."""
        with self._table().lock:
            return flight.begin_write()

    def end_write(self, flight: Flight) -> bool:
        """End a write, and return whether the flight became void meanwhile.

        If so, the caller takes back what it wrote and then calls :meth:`take_back`.
        """
        with self._table().lock:
            return flight.end_write()

    def take_back(self, flight: Flight) -> None:
        """Say that nothing is left of what a void flight wrote."""
        table = self._table()
        with table.lock:
            left = table.doomed.pop(flight.key, 1) - 1
            if left:
                table.doomed[flight.key] = left

    def is_doomed(self, key: str) -> bool:
        """Return whether something out of date may be written for a key at this moment."""
        return key in self._table().doomed

    def _lead(self, flight: Flight, function: Callable[[], R]) -> R:
        try:
            result = function()
            flight.land(result)
        except Exception as error:
            if not ends_with_caller(error):
                flight.fail(error)
            raise
        finally:
            self.leave(flight)
        return result

    def _supersede(self, flight: Flight) -> None:
        """Take a flight that lasts too long off the table, if it is still there and not over."""
        table = self._table()
        with table.lock:
            if table.flights.get(flight.key) is flight and not flight.is_over:
                del table.flights[flight.key]
                flight.is_replaced = True

    def _table(self) -> _Table:
        """Return this process's table, which nothing that the parent's threads held at a fork can block."""
        pid = os.getpid()
        table = self._tables.get(pid)
        if table is None:
            table = self._tables.setdefault(pid, _Table())  # atomic: one of two threads wins
            for other in self._tables.keys() - {pid}:
                self._tables.pop(other, None)
        return table


class _Table:
    """The flights of one process. :attr:`lock` is held around all but a look at :attr:`doomed`.

    The lock is reentrant, because a signal's function may call what its thread is calling.
    """

    __slots__ = ("doomed", "flights", "lock")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.flights: dict[str, Flight] = {}
        self.doomed: dict[str, int] = {}


def fresh_copy(error: Exception) -> Exception | None:
    """Return a copy of an error without traceback, cause and context; None when it cannot be copied; never raises."""
    try:
        again = copy.copy(error)
        if type(again) is not type(error) or again is error:
            return None
        notes = getattr(again, "__notes__", None)
        if notes is not None:
            again.__notes__ = list(notes)  # a shallow copy would share the list
    except Exception:  # noqa: BLE001  # classes may do anything when they are copied
        with suppress(Exception):  # what a log handler raises
            _log.debug("an error cannot be copied", exc_info=True)
        return None
    return again


def ends_with_caller(error: Exception) -> bool:
    """Return whether an error only says that the caller's own deadline has passed, and nothing of the work."""
    deadline = current_deadline()
    if deadline is None:
        return False
    if isinstance(error, DeadlineExceededError) and error.deadline in {None, deadline}:
        return True
    return _left_seconds(deadline) <= 0


def _left_seconds(deadline: Deadline | None) -> float:
    """Return what remains of a deadline; ``inf`` without one, or when its clock raises or gives no number."""
    if deadline is None:
        return inf
    try:
        left = deadline.remaining_seconds()
    except Exception:  # noqa: BLE001  # a broken clock must not lose the call
        with suppress(Exception):  # what a log handler raises
            _log.exception("a clock raised; the deadline is not minded")
        return inf
    return inf if isnan(left) else left
