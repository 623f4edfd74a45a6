"""The tiers of this product's caches in general: memory whose time can be cut, and what every shared tier says.

A key is ``<name>@<stamp>``: a change gives the name another stamp, so that whatever was remembered before, or is
being fetched at that moment, is nobody's any more. A shared tier keeps it under the name alone; ``!`` at the end says
that it may still have what is old, and is not to be asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from app.stability import SYSTEM_CLOCK, Clock
from app.stability.cache_tiers import Entry, MemoryTier
from app.stability.outcome import Classification

ENTRY_BYTES_MAX: Final = 65_536
"""Longer entries are kept nowhere."""

_UNSHARED: Final = "!"


class TierDownError(Exception):
    """A shared tier did not answer in time, or not at all."""


class TierRefusedError(TierDownError):
    """A shared tier answered, and lets this server do nothing there: its operator must act, and is told what."""


class PoisonedEntryError(ValueError):
    """What a shared tier has under a key was not written by this product, or not for this key."""


TIER_CLASSIFICATION: Final = Classification(failures=(TierDownError,))
"""What errors say of the server of a shared tier: those of an entry say nothing."""


class Codec(Protocol):
    """Turns values into bytes and back."""

    def encode(self, value: Any) -> bytes:
        """Return a value as bytes."""
        ...

    def decode(self, name: str, raw: bytes) -> Any:
        """Return the value of a name.

        Raises:
            PoisonedEntryError: It is none of this name.
        """
        ...


def key_of(name: str, stamp: str, *, is_shared: bool = True) -> str:
    """Return the key of a name while its stamp is this one.

    Args:
        name: What it is about; without ``@``.
        stamp: Hexadecimal digits and dots.
        is_shared: Whether tiers that other hosts write to may be asked.
    """
    return f"{name}@{stamp}" if is_shared else f"{name}@{stamp}{_UNSHARED}"


def shared_name(key: str) -> str | None:
    """Return the name that a shared tier keeps a key under; None when it is not to be asked."""
    return None if key.endswith(_UNSHARED) else key.partition("@")[0]


class BriefMemory(MemoryTier):
    """Memory in which nothing is fresh for longer than it can be relied on now. Thread-safe.

    Args:
        max_entries: How many are kept.
        fresh_seconds: Says how long an entry that comes now is fresh at most.
        max_entry_bytes: Larger values are not kept.
        size_of: Says how many bytes a value takes.
        clock: Where "now" comes from.
    """

    def __init__(
        self,
        max_entries: int,
        fresh_seconds: Callable[[], float],
        *,
        max_entry_bytes: int,
        size_of: Callable[[Any], int],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(
            max_entries,
            max_entry_bytes=max_entry_bytes,
            size_of=size_of,
            clock=clock,
        )
        self._fresh_seconds = fresh_seconds

    def put(self, key: str, entry: Entry, keep_seconds: float) -> None:
        """Keep an entry; it is of use when it is stale for as long as before."""
        cut = max(0.0, entry.fresh_seconds - self._fresh_seconds())
        super().put(key, entry._replace(fresh_seconds=entry.fresh_seconds - cut), keep_seconds - cut)
