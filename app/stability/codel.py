"""CoDel: which calls of a queue are refused so that it does not stand.

A queue that empties now and then is good: it takes up a burst. One whose *shortest* wait has been above a target for
a whole interval stands: it adds its wait to every call and lets none more through. Then calls are dropped, one at
first, the next ones sooner and sooner, until the wait is below the target again::

    wait  ▲            ╭──────╮        every wait above the target for an interval
          │      ╭─────╯  x x xx╮      ▼ x: dropped, interval / √1, / √2, / √3 … apart
    target│╌╌╌╌╌╌╯╌╌╌╌╌╌╌╌╌╌╌╌╌╌╰╌╌    below: nothing more is dropped
          └──────┴─────┴────────────▶
                interval

The algorithm is RFC 8289 section 5 (K. Nichols, V. Jacobson: "Controlling Queue Delay", ACM Queue 10(5), 2012), with
calls in the place of packets: a call is judged when a place has come free for it, by the time that it waited, and it
is never dropped when nobody waits behind it, as RFC 8289 never drops the last packet.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Final

_MEMORY: Final = 16
"""So many intervals long the rate of drops that worked is remembered (RFC 8289 section 5.6)."""


class CoDel:
    """Judges the calls of one queue. Not thread-safe: the queue's lock is held around it.

    Args:
        target_seconds: The wait that may last, greater than 0.
        interval_seconds: How long the wait has to be above it, greater than the target.
    """

    __slots__ = (
        "_count",
        "_drop_at",
        "_dropping",
        "_former_count",
        "_has_dropped",
        "_interval",
        "_standing_at",
        "_target",
    )

    def __init__(self, target_seconds: float = 0.005, interval_seconds: float = 0.1) -> None:
        self._target = target_seconds
        self._interval = interval_seconds
        self._standing_at = inf  # when the queue will have stood for an interval; inf while it does not stand
        self._dropping = False
        self._drop_at = -inf
        self._has_dropped = False  # just now, and the next instant is not set yet
        self._count = 0
        self._former_count = 0

    def empty(self) -> None:
        """Take note that the queue is empty, or was."""
        self._standing_at = inf
        self._dropping = self._has_dropped = False

    def drops(self, now: float, waited_seconds: float, *, is_last: bool) -> bool:
        """Judge the call that is to leave the queue now.

        Args:
            now: The monotonic instant, in seconds; no number (``nan``) drops nothing.
            waited_seconds: How long the call has waited.
            is_last: Whether nobody waits behind it.

        Returns:
            Whether it is dropped; the one behind it is then judged next.
        """
        if not self._stands(now, waited_seconds, is_last=is_last):
            self._dropping = self._has_dropped = False
            return False
        if not self._dropping:
            self._begin(now)
            return True
        if self._has_dropped:
            self._has_dropped = False
            self._drop_at += self._interval / sqrt(self._count)
        if now < self._drop_at:
            return False
        self._count += 1
        self._has_dropped = True
        return True

    def _stands(self, now: float, waited_seconds: float, *, is_last: bool) -> bool:
        # "Not at the target" is asked this way around so that a wait that is no number is a short one.
        if is_last or not waited_seconds >= self._target:
            self._standing_at = inf
            return False
        if self._standing_at == inf:
            self._standing_at = now + self._interval
            return False
        return now >= self._standing_at

    def _begin(self, now: float) -> None:
        self._dropping = True
        drops = self._count - self._former_count
        was_short_ago = now - self._drop_at < _MEMORY * self._interval
        self._count = drops if drops > 1 and was_short_ago else 1
        self._former_count = self._count
        self._drop_at = now + self._interval / sqrt(self._count)
