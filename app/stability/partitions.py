"""Shares of a limit: each partition is guaranteed its own, and lends what it does not use.

::

    limit 20     ├ health 2 ┼─── read 10 ───┼ upload 4 ┼ 4 nobody's ┤      guaranteed: share · limit
    in use       ├h┼────────── read 14 ────────────┼u─u┤                   read has borrowed 4

    upload comes back, and no place is free:  refused, and its guarantee is claimed
    a place comes free:                       upload gets it; read is refused until upload has what it is guaranteed,
                                              or has not asked for it for a while

The limit is never exceeded, and no call that is under way is ended: a partition that comes back for what it lent
gets it as soon as places come free.

Not thread-safe: the policy's lock is held around all of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from math import floor, inf
from typing import Any, Final, TypeVar

from .locks import after_fork, make_lock

EntryT = TypeVar("EntryT", bound=tuple[Any, ...])

OTHERS: Final = "others"
"""What the calls of no partition are called in figures."""

LIMIT_REACHED: Final = "limit_reached"
"""All places are taken."""
PARTITION_REACHED: Final = "partition_reached"
"""The partition has all that it is guaranteed, and the places that are free are claimed by others."""

CLAIM_SECONDS: Final = 1.0
"""For so long after a refusal within its guarantee a partition lends nothing."""

_DIGITS: Final = 9


class Partition:
    """One partition.

    Attributes:
        name: Its name.
        share: Of the limit, in [0, 1].
        guaranteed: Places that it gets in any case, now.
        in_use: Places that its calls have.
        claimed_until: Before this instant it lends nothing.
        is_former: Whether it is one of the process that this one was forked from.
    """

    __slots__ = ("claimed_until", "guaranteed", "in_use", "is_former", "name", "share")

    def __init__(self, name: str, share: float) -> None:
        self.name = name
        self.share = share
        self.guaranteed = 0
        self.in_use = 0
        self.claimed_until = -inf
        self.is_former = False


class Partitions:
    """Who may have the next place of a limit.

    In a forked child nobody has a place: those who have are threads of the parent. The one call that goes on there,
    in the thread that forked, does not count.

    Args:
        shares: The guaranteed part of the limit by name of the partition, each in [0, 1], together at most 1.
        limit: Places, at least as many as there are partitions with a share.

    Attributes:
        limit: Places, now.
        lock: What its user holds around all of it.
        in_use: Places that are taken; more than the limit after it was lowered, until calls end.
        named: The partitions by name.
        others: What is in none of them; it is guaranteed nothing.
    """

    __slots__ = ("__weakref__", "in_use", "limit", "lock", "named", "others")

    def __init__(self, shares: Mapping[str, float], limit: int) -> None:
        self.named = {name: Partition(name, share) for name, share in shares.items()}
        self.others = Partition(OTHERS, 0.0)
        self.lock = make_lock()
        self.in_use = 0
        self.limit = 0
        self.resize(limit)
        after_fork(self.begin_anew)

    def find(self, name: str) -> Partition:
        """Return the partition of a name; :attr:`others` for one that is not known."""
        return self.named.get(name, self.others)

    def resize(self, limit: int) -> None:
        """Set the limit, and with it what is guaranteed.

        A guarantee is share · limit, rounded down, but at least one place for any share above 0; where that comes to
        more than the limit, the largest give way.
        """
        if limit == self.limit:
            return
        self.limit = limit
        partitions = self.named.values()
        for partition in partitions:
            # Rounded first: 0.29 · 100 is a little less than 29 in binary.
            exact = round(partition.share * limit, _DIGITS)
            partition.guaranteed = max(1, floor(exact)) if partition.share else 0
        while sum(partition.guaranteed for partition in partitions) > limit:
            max(partitions, key=_guaranteed).guaranteed -= 1

    def take(self, partition: Partition, now: float) -> str:
        """Take a place.

        Args:
            partition: For whom.
            now: The monotonic instant, in seconds.

        Returns:
            Why there was none; empty when it was taken.
        """
        free = self.limit - self.in_use
        if free <= 0:
            if partition.in_use < partition.guaranteed:
                partition.claimed_until = now + CLAIM_SECONDS
            return LIMIT_REACHED
        if partition.in_use >= partition.guaranteed and self.named and free <= self._claimed(now):
            return PARTITION_REACHED
        # Nothing is called in these lines: no signal is looked at in between.
        partition.in_use += 1
        self.in_use += 1
        return ""

    def give_back(self, finished: deque[EntryT]) -> EntryT:
        """Give back the place of the call that finished first.

        Args:
            finished: Calls that are over, each with its partition at first; the first of them is removed.

        Returns:
            That one.

        Raises:
            IndexError: There is none; a signal's function gave it back meanwhile.
        """
        # Nothing is called in these lines: no signal is looked at in between.
        entry = finished[0]
        partition: Partition = entry[0]
        if not partition.is_former:
            partition.in_use -= 1
            self.in_use -= 1
        del finished[0]
        return entry

    def begin_anew(self) -> None:
        """Forget who has places."""
        former = [*self.named.values(), self.others]
        self.named = {name: Partition(name, partition.share) for name, partition in self.named.items()}
        self.others = Partition(OTHERS, 0.0)
        self.in_use = 0
        limit, self.limit = self.limit, 0  # which another thread may have been about to set
        self.resize(limit)
        for partition in former:
            partition.is_former = True

    def _claimed(self, now: float) -> int:
        """Return how many free places are spoken for."""
        return sum(
            partition.guaranteed - partition.in_use
            for partition in self.named.values()
            if now < partition.claimed_until and partition.in_use < partition.guaranteed
        )


def _guaranteed(partition: Partition) -> int:
    return partition.guaranteed
