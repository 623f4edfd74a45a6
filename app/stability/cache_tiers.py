"""What a cache keeps its entries in: the port :class:`Tier`, memory, and any tier behind policies.

A tier may fail in every way: it may be down, slow, empty, or say what is not true. The cache skips it then and counts
it (see :mod:`.cache_stack`); a tier therefore does not have to catch anything. What it should do is to keep its own
time-outs short, within :func:`.deadline.remaining_seconds`; one that may be slow is put behind a circuit breaker::

    redis = GuardedTier(RedisTier(client), Pipeline("redis", [Timeout(…), CircuitBreaker(…)]))
    cache = Cache("photos", CacheOptions(ttl_seconds=300.0), tiers=[MemoryTier(ttl_seconds=60.0), redis])

Times in entries are lengths and no instants, because two hosts do not share a clock.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .clock import SYSTEM_CLOCK
from .errors import OptionError

if TYPE_CHECKING:
    from .clock import Clock
    from .pipeline import Pipeline


class Entry(NamedTuple):
    """What is kept for one key.

    Attributes:
        key: The key, so that an entry that came under another one is noticed.
        value: What the call returned; the exception, for an error that is a negative answer.
        fresh_seconds: How long it is fresh from now on; less than 0 once it is stale.
        is_negative: Whether it is the answer that there is nothing.
    """

    key: str
    value: Any
    fresh_seconds: float
    is_negative: bool = False


class Tier(Protocol):
    """Keeps entries. Thread-safe; may raise whatever it likes.

    One that is used by several caches, processes or hosts puts a prefix of its own before the keys. One that leaves
    the process turns values into bytes and back, negative answers (exceptions) included, and never with
    :mod:`pickle`, which runs what it reads; a value that it cannot turn it does not keep.
    """

    @property
    def name(self) -> str:
        """Of the tier, in metrics: ``memory``, ``redis``."""
        ...

    def get(self, key: str) -> Entry | None:
        """Return what is kept, with what is left of its freshness now; None when there is nothing."""
        ...

    def put(self, key: str, entry: Entry, keep_seconds: float) -> None:
        """Keep an entry.

        Args:
            key: Replaces what is kept for it.
            entry: What to keep.
            keep_seconds: How long at most, greater than 0; longer than it is fresh when stale values are wanted.
        """
        ...

    def remove(self, key: str) -> None:
        """Forget a key; nothing happens when there is none."""
        ...


def size_in_bytes(value: Any) -> int:
    """Return the length of bytes; of other objects what :func:`sys.getsizeof` says, without what they refer to."""
    if isinstance(value, bytes | bytearray):
        return len(value)
    return value.nbytes if isinstance(value, memoryview) else sys.getsizeof(value)


@dataclass(frozen=True, slots=True)
class MemoryCounts:
    """What a :class:`MemoryTier` has done.

    Attributes:
        entries: Kept now, expired ones that nobody asked for among them.
        hits: Looks that found an entry, stale or not.
        misses: Looks that found none.
        evicted: Entries that had to go for others.
        expired: Entries whose time was over when somebody asked.
        oversized: Entries that were not taken because of their size.
    """

    entries: int = 0
    hits: int = 0
    misses: int = 0
    evicted: int = 0
    expired: int = 0
    oversized: int = 0


class MemoryTier:
    """A :class:`Tier` in this process: the entries used last, up to a number. Thread-safe.

    A forked child begins with none. Values are kept as they are: whoever changes one changes it for all.

    Args:
        max_entries: How many are kept; the one that was not used for longest goes first.
        max_entry_bytes: Larger values are not kept; None for no limit.
        ttl_seconds: The longest that an entry is kept here, whatever its freshness; ``inf`` for no limit.
        size_of: Says how many bytes a value takes.
        name: In metrics.
        clock: Where "now" comes from.

    Raises:
        OptionError: A limit is not greater than 0.
    """

    def __init__(
        self,
        max_entries: int = 1000,
        *,
        max_entry_bytes: int | None = None,
        ttl_seconds: float = inf,
        size_of: Callable[[Any], int] = size_in_bytes,
        name: str = "memory",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        limits = {"max_entries": max_entries, "max_entry_bytes": max_entry_bytes, "ttl_seconds": ttl_seconds}
        mistakes = [f"{limit} must be > 0" for limit, value in limits.items() if value is not None and not value > 0]
        if mistakes:
            raise OptionError(mistakes)
        self.name = name
        self._max_entries = max_entries
        self._max_entry_bytes = max_entry_bytes
        self._ttl_seconds = ttl_seconds
        self._size_of = size_of
        self._monotonic = clock.monotonic
        self._shelves: dict[int, _Shelf] = {}

    @property
    def counts(self) -> MemoryCounts:
        """What this process's part has done so far."""
        shelf = self._shelf()
        with shelf.lock:
            return MemoryCounts(
                len(shelf.kept), shelf.hits, shelf.misses, shelf.evicted, shelf.expired, shelf.oversized
            )

    def __len__(self) -> int:
        """Return how many entries are kept."""
        return len(self._shelf().kept)

    def get(self, key: str) -> Entry | None:
        """Return what is kept, and mark it as used."""
        now = self._monotonic()
        shelf = self._shelf()
        with shelf.lock:
            kept = shelf.kept.get(key)
            if kept is None:
                shelf.misses += 1
                return None
            # Asked this way around so that a clock without a number ends the entry.
            if not now < kept.ends_at:
                del shelf.kept[key]
                shelf.expired += 1
                shelf.misses += 1
                return None
            shelf.kept.move_to_end(key)
            shelf.hits += 1
        return Entry(key, kept.value, kept.fresh_until - now, kept.is_negative)

    def put(self, key: str, entry: Entry, keep_seconds: float) -> None:
        """Keep an entry; one that is too large only ends the one before it."""
        now = self._monotonic()
        is_too_large = self._max_entry_bytes is not None and self._size_of(entry.value) > self._max_entry_bytes
        ends_at = now + min(keep_seconds, self._ttl_seconds)
        kept = _Kept(entry.value, now + entry.fresh_seconds, ends_at, entry.is_negative)
        shelf = self._shelf()
        with shelf.lock:
            shelf.kept.pop(key, None)
            if is_too_large:
                shelf.oversized += 1
                return
            shelf.kept[key] = kept
            if len(shelf.kept) > self._max_entries:
                shelf.kept.popitem(last=False)
                shelf.evicted += 1

    def remove(self, key: str) -> None:
        """Forget a key."""
        shelf = self._shelf()
        with shelf.lock:
            shelf.kept.pop(key, None)

    def clear(self) -> None:
        """Forget all keys."""
        shelf = self._shelf()
        with shelf.lock:
            shelf.kept.clear()

    def _shelf(self) -> _Shelf:
        """Return this process's shelf, which nothing that the parent's threads held at a fork can block."""
        pid = os.getpid()
        shelf = self._shelves.get(pid)
        if shelf is None:
            shelf = self._shelves.setdefault(pid, _Shelf())  # atomic: one of two threads wins
            for other in self._shelves.keys() - {pid}:
                self._shelves.pop(other, None)
        return shelf


class _Kept(NamedTuple):
    value: Any
    fresh_until: float
    ends_at: float
    is_negative: bool


class _Shelf:
    """What one process keeps, and its counts."""

    __slots__ = ("evicted", "expired", "hits", "kept", "lock", "misses", "oversized")

    def __init__(self) -> None:
        self.lock = threading.RLock()  # reentrant: a signal's function may ask what its thread is asking
        self.kept: OrderedDict[str, _Kept] = OrderedDict()
        self.hits = 0
        self.misses = 0
        self.evicted = 0
        self.expired = 0
        self.oversized = 0


class GuardedTier:
    """A :class:`Tier` behind policies, so that a slow or dead one costs nothing after its first failures.

    Args:
        tier: What is guarded.
        pipeline: A time-out and a circuit breaker, for example. No retry: the next tier is faster.
    """

    def __init__(self, tier: Tier, pipeline: Pipeline) -> None:
        self.name = tier.name
        self._tier = tier
        self._call = pipeline.call

    def get(self, key: str) -> Entry | None:
        """Return what is kept.

        Raises:
            CallRefusedError: A policy refused.
            Exception: What the tier raised.
        """
        return self._call(self._tier.get, key)

    def put(self, key: str, entry: Entry, keep_seconds: float) -> None:
        """Keep an entry; raises as :meth:`get` does."""
        self._call(self._tier.put, key, entry, keep_seconds)

    def remove(self, key: str) -> None:
        """Forget a key; raises as :meth:`get` does."""
        self._call(self._tier.remove, key)
