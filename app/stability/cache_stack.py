"""The tiers of a cache, fastest first, asked so that none of them can harm a call.

A tier that raises is skipped and counted, and so is one that lies: an answer that is no entry, is another key's, has
no number for its freshness, is an exception that cannot be raised anew, or is refused by the caller's own judgement.
Freshness that exceeds what the cache allows is cut to it, so that no tier can make an entry live longer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from math import isnan
from typing import Any, Final, NamedTuple

from .breaker_tally import LockFreeCounter
from .cache_tiers import Entry, Tier
from .errors import OptionError
from .figures import Figure
from .locks import make_lock
from .single_flight import fresh_copy

_log = logging.getLogger(__name__)

HIT: Final = "hit"
"""A fresh entry was found."""
MISS: Final = "miss"
"""No entry was found, or only one that is past its time."""
STALE: Final = "stale"
"""An entry past its time was given to a caller; finding it was a miss."""
ERROR: Final = "error"
"""A tier raised or lied, at a read, a write or a removal; of ``source``, the call failed."""
NEGATIVE: Final = "negative"
"""The fresh answer that there is nothing."""

RESULTS: Final = (HIT, MISS, STALE, ERROR, NEGATIVE)
"""What is counted."""

FLIGHT: Final = "flight"
"""Stands for a tier in metrics: the answer was another caller's, who asked at the same time."""
SOURCE: Final = "source"
"""Stands for a tier in metrics: the guarded function was called."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long entries live. In seconds, 0 or more.

    Attributes:
        fresh: A value is given without asking anybody.
        stale: After that it is still of use, for whatever reason.
        negative: A negative answer is given without asking anybody; it is of no use afterwards.
    """

    fresh: float
    stale: float
    negative: float


class Found(NamedTuple):
    """An entry, and the number of the tier where it was."""

    entry: Entry
    level: int


class TierStack:
    """Tiers, fastest first. Thread-safe; no method raises an ``Exception``.

    Args:
        name: Of the cache, for metrics and logs.
        tiers: At least one; their names differ.
        lifetimes: How long entries live.
        accepts: Judges what a tier brought: is given key and value.

    Raises:
        OptionError: There is no tier, or two have the same name, or one has a name of this module.
    """

    def __init__(
        self,
        name: str,
        tiers: Sequence[Tier],
        lifetimes: Lifetimes,
        accepts: Callable[[str, Any], bool] | None = None,
    ) -> None:
        names = [tier.name for tier in tiers]
        if not names or len({*names, FLIGHT, SOURCE}) != len(names) + 2:
            raise OptionError([f"a cache needs tiers with names of their own, not {', '.join(names) or 'none'}"])
        self._name = name
        self._tiers = tuple(tiers)
        self._lifetimes = lifetimes
        self._accepts = accepts
        self._reading = make_lock()
        self._counters = {
            (tier, result): LockFreeCounter() for tier in (*names, FLIGHT, SOURCE) for result in RESULTS
        }
        self._count = {place: counter.add for place, counter in self._counters.items()}
        self._names = tuple(names)

    def __len__(self) -> int:
        """Return how many tiers there are."""
        return len(self._tiers)

    def count(self, tier: str, result: str) -> None:
        """Count something that became of a request."""
        self._count[tier, result]()

    def count_stale(self, found: Found) -> None:
        """Count that an entry past its time was given to a caller."""
        self._count[self._names[found.level], STALE]()

    def look(self, level: int) -> Callable[[str], Found | None]:
        """Return the function that looks for a key in one tier and counts what it found.

        It returns an entry that is fresh, or stale and of use; None for anything else.
        """
        name, get, inspect = self._names[level], self._tiers[level].get, self._inspected
        count_hit, count_miss = self._count[name, HIT], self._count[name, MISS]
        count_negative = self._count[name, NEGATIVE]

        def look(key: str) -> Found | None:
            try:
                entry: Any = get(key)
                if entry is not None:
                    entry = inspect(key, entry)
            except Exception:  # noqa: BLE001  # a tier is never an error
                self._failed(name, "read")
                return None
            if entry is None:
                count_miss()
                return None
            if entry.fresh_seconds <= 0:
                count_miss()
            elif entry.is_negative:
                count_negative()
            else:
                count_hit()
            return Found(entry, level)

        return look

    def glance(self, key: str) -> Found | None:
        """Return a fresh entry of the first tier without counting; None for anything else."""
        try:
            entry: Any = self._tiers[0].get(key)
            entry = None if entry is None else self._inspected(key, entry)
        except Exception:  # noqa: BLE001  # counted a moment ago
            return None
        return Found(entry, 0) if entry is not None and entry.fresh_seconds > 0 else None

    def put(self, entry: Entry, below: int | None = None) -> None:
        """Write an entry into all tiers, lowest first, or only into those above a level."""
        stale = 0.0 if entry.is_negative else self._lifetimes.stale
        keep_seconds = entry.fresh_seconds + stale
        if keep_seconds <= 0:
            return
        for tier in reversed(self._tiers[:below]):
            try:
                tier.put(entry.key, entry, keep_seconds)
            except Exception:  # noqa: BLE001  # a tier is never an error
                self._failed(tier.name, "write")

    def remove(self, key: str, before_each: Callable[[str], None] | None = None) -> bool:
        """Remove a key from all tiers, lowest first; return whether all of them did.

        Args:
            key: What to remove.
            before_each: Is called before each tier.
        """
        is_removed = True
        for tier in reversed(self._tiers):
            if before_each is not None:
                before_each(key)
            try:
                tier.remove(key)
            except Exception:  # noqa: BLE001  # a tier is never an error
                self._failed(tier.name, "removal")
                is_removed = False
        return is_removed

    def figures(self) -> Iterator[Figure]:
        """Yield what became of requests, and how many entries the tiers keep that know it."""
        with self._reading:
            counts = {place: counter.read() for place, counter in self._counters.items()}
        for (tier, result), count in counts.items():
            yield Figure("cache_requests", "counter", count, {"name": self._name, "tier": tier, "result": result})
        for kept in self._tiers:
            if isinstance(kept, Sized):
                yield Figure("cache_entries", "gauge", len(kept), {"name": self._name, "tier": kept.name})

    def _inspected(self, key: str, brought: Any) -> Entry | None:
        """Return what a tier brought as an entry that can be used; None when it is too old for anything.

        Raises:
            ValueError: The tier lies.
            Exception: The caller's judgement raised.
        """
        if not isinstance(brought, Entry) or brought.key != key or isnan(brought.fresh_seconds):
            raise ValueError("not an entry of this key")
        entry = brought
        lifetimes = self._lifetimes
        limit, stale = (lifetimes.negative, 0.0) if entry.is_negative else (lifetimes.fresh, lifetimes.stale)
        if entry.fresh_seconds > limit:
            entry = entry._replace(fresh_seconds=limit)
        if entry.fresh_seconds <= -stale:
            return None
        if entry.is_negative and isinstance(entry.value, BaseException):
            if not isinstance(entry.value, Exception) or fresh_copy(entry.value) is None:
                raise ValueError("not an error that can be raised")
        elif self._accepts is not None and not self._accepts(key, entry.value):
            raise ValueError("not a value of this cache")
        return entry

    def _failed(self, tier: str, what: str) -> None:
        self.count(tier, ERROR)
        with suppress(Exception):  # what a log handler raises
            _log.debug(
                "a tier of a cache failed at a %s", what, exc_info=True, extra={"policy": self._name, "tier": tier}
            )
