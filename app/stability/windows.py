"""Sliding windows: how many of the last results, or of those of the last seconds, failed or were slow.

Both keep running totals, so that recording and reading cost the same whatever their length::

    count-based   a ring of the last ``size`` results, one byte each; the oldest makes room for the newest
    time-based    buckets of a tenth of the window, at most one second each; a bucket leaves as a whole,
                  and is there only when it has results

Not thread-safe: the breaker's lock is held around every call. A signal or a fork comes in between all the same, but
CPython lets them in only where a function begins, after a call and at the end of a loop: what has to change together
is written without any of these.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

_FULL = 1
_FAILED = 2
_SLOW = 4
_LAST_TICK = 10**309
"""Of a clock that is so far that its ticks cannot be counted."""


class Window(Protocol):
    """The totals of a window; they are current after :meth:`record` and :meth:`advance`.

    Attributes:
        results: How many results the window holds.
        failures: Those of them that failed.
        slow: Those of them that were slow, failed or not.
        calm: Whether it is full of quick successes, so that one more changes nothing.
    """

    results: int
    failures: int
    slow: int
    calm: bool

    def record(self, now: float, failed: bool, slow: bool, /) -> None:  # noqa: FBT001  # twice as slow by keyword
        """Take in one result.

        Args:
            now: Monotonic seconds.
            failed: Whether it failed.
            slow: Whether it was slow.
        """
        ...

    def advance(self, now: float) -> None:
        """Let go of what is too old."""
        ...


class CountWindow:
    """The last ``size`` results.

    Args:
        size: At least 1.
    """

    __slots__ = ("_index", "_ring", "_size", "calm", "failures", "results", "slow")

    def __init__(self, size: int) -> None:
        self._ring = bytearray(size)
        self._size = size
        self._index = 0
        self.results = 0
        self.failures = 0
        self.slow = 0
        self.calm = False

    def record(self, _now: float, failed: bool, slow: bool) -> None:  # noqa: FBT001  # slow by keyword
        """Take in one result; the oldest one leaves when the window is full."""
        index = self._index
        oldest = self._ring[index]
        newest = _FULL
        if failed:
            newest |= _FAILED
        if slow:
            newest |= _SLOW
        if newest != oldest:
            self._ring[index] = newest
            self.failures += (newest & _FAILED) // _FAILED - (oldest & _FAILED) // _FAILED
            self.slow += (newest & _SLOW) // _SLOW - (oldest & _SLOW) // _SLOW
            if not oldest:
                self.results += 1
            self.calm = self.results == self._size and not (self.failures or self.slow)
        index += 1
        self._index = index if index < self._size else 0

    def advance(self, now: float) -> None:
        """Do nothing: results leave only when others come."""


class TimeWindow:
    """The results of the last ``seconds``, to a bucket exactly.

    A result leaves between ``seconds`` minus one bucket and ``seconds`` after it came.

    Args:
        seconds: The length, greater than 0.
    """

    __slots__ = ("_bucket_seconds", "_buckets", "_count", "calm", "failures", "results", "slow")

    def __init__(self, seconds: float) -> None:
        self._bucket_seconds = min(1.0, seconds / 10)
        self._count = math.ceil(seconds / self._bucket_seconds)
        self._buckets: deque[list[int]] = deque()  # tick, results, failures, slow; the oldest first
        self.results = 0
        self.failures = 0
        self.slow = 0
        self.calm = False  # each result counts until its bucket leaves

    def record(self, now: float, failed: bool, slow: bool) -> None:  # noqa: FBT001  # slow by keyword
        """Take in one result; one whose ``now`` lies before the newest bucket counts there."""
        self.advance(now)
        tick = self._tick_of(now)
        buckets = self._buckets
        if not buckets or buckets[-1][0] < tick:
            buckets.append([tick, 0, 0, 0])
        bucket = buckets[-1]
        bucket[1] += 1
        self.results += 1
        if failed:
            bucket[2] += 1
            self.failures += 1
        if slow:
            bucket[3] += 1
            self.slow += 1

    def advance(self, now: float) -> None:
        """Let go of the buckets that are too old; each is filled before it is emptied, however long nobody came."""
        gone = self._tick_of(now) - self._count
        buckets = self._buckets
        while buckets and buckets[0][0] <= gone:
            _, results, failures, slow = buckets[0]
            del buckets[0]
            self.results -= results
            self.failures -= failures
            self.slow -= slow

    def _tick_of(self, now: float) -> int:
        try:
            return math.floor(now / self._bucket_seconds)
        except OverflowError:
            return _LAST_TICK if now > 0 else -_LAST_TICK
