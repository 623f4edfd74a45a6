"""How long one call may wait for a server that need not be honest.

- :class:`WaitBudget`: the time one call may spend *waiting*. It is used up by every wait on the wire, so that a
  server that feeds one byte per second cannot hold a thread; it is not used up while our own client is slow to take
  what it gets.
- :class:`BudgetedSocketReader`: sits right on a socket, below all buffering, and gives every single receive what is
  left of the budget. Socket time-outs alone start anew with every byte.
- :class:`BudgetedResponse`: the answer of a server read through it, its status line and headers included.
"""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import UnavailableError, UpstreamTimeoutError
from app.stability import Clock, DeadlineExceededError, SystemClock, remaining_seconds

_RECEIVE_BUFFER_BYTES = 64 * 1024
_SYSTEM_CLOCK = SystemClock()


class WaitBudget:
    """How long one call may still wait for its server. Used by one thread at a time.

    Args:
        cap_seconds: The caller's own limit; the current deadline shortens it.
        clock: Where "now" comes from.

    Raises:
        UnavailableError: What :meth:`exceeded` says, when the current deadline has passed already.
    """

    __slots__ = ("_clock", "_left")

    def __init__(self, cap_seconds: float, clock: Clock = _SYSTEM_CLOCK) -> None:
        self._clock = clock
        try:
            self._left = remaining_seconds(cap_seconds)
        except DeadlineExceededError as error:
            raise self.exceeded() from error

    def exceeded(self) -> UnavailableError:
        """Return the error for a server that took too long; who raises it is the budget or its user."""
        return UpstreamTimeoutError("A service did not answer in time. Try again.", retry_after_seconds=2)

    def left_seconds(self) -> float:
        """Return what is left, always greater than 0.

        Raises:
            UnavailableError: Nothing is left.
        """
        if self._left <= 0:
            raise self.exceeded()
        return self._left

    @contextmanager
    def wait(self, cap_seconds: float | None = None) -> Iterator[float]:
        """Yield the seconds the block may wait, and take off what it did wait.

        Args:
            cap_seconds: A shorter limit for this wait alone.
        """
        left = self.left_seconds()
        started = self._clock.monotonic()
        try:
            yield left if cap_seconds is None else min(left, cap_seconds)
        finally:
            self._left -= self._clock.monotonic() - started


class BudgetedSocketReader(io.RawIOBase):
    """The raw bytes of a socket, each receive within a :class:`WaitBudget`. Closing leaves the socket open.

    Attributes:
        has_ended: Whether the peer has been seen to send no more.
    """

    def __init__(self, connection: socket.socket, budget: WaitBudget) -> None:
        super().__init__()
        self._socket = connection
        # Counted by the socket: it is closed for good only when this file object is closed, too.
        self._raw = connection.makefile("rb", buffering=0)
        self._budget = budget
        self.has_ended = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None:  # type: ignore[override]  # typeshed asks for any Buffer
        """Receive once.

        Raises:
            UnavailableError: The budget is used up.
        """
        with self._budget.wait() as seconds:
            self._socket.settimeout(seconds)
            try:
                received = self._raw.readinto(buffer)
            except TimeoutError as error:
                raise self._budget.exceeded() from error
        self.has_ended = received == 0
        return received

    def close(self) -> None:
        """Give the socket back to its owner."""
        self._raw.close()
        super().close()


class BudgetedResponse(http.client.HTTPResponse):
    """A response that is read through a :class:`BudgetedSocketReader`, its status line and headers included."""

    def __init__(self, connection: socket.socket, *, method: str | None, budget: WaitBudget) -> None:
        super().__init__(connection, method=method)
        self.fp.close()
        self._reader = BudgetedSocketReader(connection, budget)
        self.fp = io.BufferedReader(self._reader, _RECEIVE_BUFFER_BYTES)

    def begin(self) -> None:
        """Read the head.

        Raises:
            UnavailableError: The budget is used up.
            http.client.HTTPException: It is no head, or breaks off: the last header may lack its end then.
        """
        super().begin()
        lengths = set(self.msg.get_all("Content-Length", ()))
        is_clear = len(lengths) <= 1 and all(value.isascii() and value.isdigit() for value in lengths)
        if self._reader.has_ended or self.msg.defects or not is_clear:
            raise http.client.IncompleteRead(b"")
