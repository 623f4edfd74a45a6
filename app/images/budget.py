"""A budget that photos share: each waits until what it costs fits in, takes it, and gives it back.

::

    admit ─► nobody waits and it fits ─────────────────────────────────────► block ─► given back
               └ no ─► queue ─► first of all, and it fits ───────────────▲            │
                         │                    ▲                                       │
                         │                    └───────────────────────────────────────┘
                         └─► OverloadedError: not in time

Who costs more than there is at all pays the whole and so works alone: a photo that is large is late, and not refused.

The queue is in the order of arrival, except that background work stands behind everybody who comes within half of
the longest wait after it. Nobody is overtaken for ever: neither the large one by small ones, for only the first of
the queue is let in, nor background work by people.

What is counted is what was asked for; how much a photo costs is in :mod:`app.images.cost`.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import OverloadedError
from app.stability import SYSTEM_CLOCK, Clock, remaining_seconds


class _Waiter:
    """Somebody who waits.

    Attributes:
        cost: What is asked for, at most the whole budget.
        rank: Its place in the queue: an instant, and a number where two have the same.
        admitted: Whether it holds its share.
    """

    __slots__ = ("admitted", "cost", "rank")

    def __init__(self, cost: int, rank: tuple[float, int]) -> None:
        self.cost = cost
        self.rank = rank
        self.admitted = False


class PixelBudget:
    """Admits work as long as there is budget for it. Thread-safe; one per web worker.

    Bytes of decoded pixels, or turns at so many processes: the unit is the caller's.

    Args:
        total: All there is, 1 or more.
        queue_seconds: The longest wait, greater than 0.
        clock: What the order of the queue is measured with; the waits are in real time.
        observe: Told after each change how much is taken and how many wait; must be quick.

    Raises:
        ValueError: There is no budget, or no time to wait.
    """

    def __init__(
        self,
        total: int,
        queue_seconds: float,
        clock: Clock = SYSTEM_CLOCK,
        *,
        observe: Callable[[int, int], None] = lambda _in_use, _waiting: None,
    ) -> None:
        if total < 1 or not 0 < queue_seconds < math.inf:
            raise ValueError("a budget needs something to give, and a number of seconds to wait for it")
        self.total = total
        self._queue_seconds = queue_seconds
        self._clock = clock
        self._observe = observe
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._waiting: list[_Waiter] = []
        self._in_use = 0

    @property
    def in_use(self) -> int:
        """How much is taken now, 0 to :attr:`total`."""
        return self._in_use

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    @contextmanager
    def admit(self, cost: int, /, *, background: bool) -> Iterator[None]:
        """Wait for a share, and hold it for the block.

        Args:
            cost: How much, 0 or more; more than there is means all of it.
            background: Whether nobody waits for the work: it stands behind those who do, within bounds.

        Raises:
            ValueError: The cost is negative.
            OverloadedError: There was no room in time: within the longest wait, or by the current deadline.
            DeadlineExceededError: The current deadline had passed before.
        """
        if cost < 0:
            raise ValueError("nothing costs less than nothing")
        seconds = remaining_seconds(self._queue_seconds)
        waiter = self._join(min(cost, self.total), background=background)
        try:
            with self._changed:
                self._changed.wait_for(lambda: waiter.admitted, seconds)
            if not waiter.admitted:
                raise OverloadedError(
                    "Too many photos are being worked on. Try again in a moment.",
                    # Whoever waits now has been let in or sent away by then.
                    retry_after_seconds=self._queue_seconds,
                )
            yield
        finally:
            self._leave(waiter)

    def _join(self, cost: int, *, background: bool) -> _Waiter:
        with self._changed:
            due = self._clock.monotonic() + (self._queue_seconds / 2 if background else 0)
            waiter = _Waiter(cost, (due, next(self._numbers)))
            self._waiting.append(waiter)
            self._waiting.sort(key=lambda each: each.rank)
            self._let_in()
        return waiter

    def _leave(self, waiter: _Waiter) -> None:
        with self._changed:
            if waiter.admitted:
                self._in_use -= waiter.cost
            else:
                self._waiting.remove(waiter)
            self._let_in()

    def _let_in(self) -> None:
        """Give shares to the first of the queue, as long as they fit."""
        while self._waiting and self._in_use + self._waiting[0].cost <= self.total:
            first = self._waiting.pop(0)
            first.admitted = True
            self._in_use += first.cost
            self._changed.notify_all()
        self._observe(self._in_use, len(self._waiting))
