"""How the others hear of a change: the processes of this host by stamps, other instances by Redis.

::

    begin     stones in Redis, over which nobody writes ─▶ the stamps say "changing": nobody remembers
    commit
    settle    other stones, and told on Redis's channel ─▶ new stamps: what was remembered is nobody's any more

Redis comes first: who sees the new stamp must not find the old value below. What Redis could not be told, this host
owes: it does not ask Redis for it, and tells it once Redis is back. A process that dies in between leaves "changing"
behind, which ends by itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from app.cache.tiers import key_of
from app.stability import Pipeline

_log = logging.getLogger(__name__)

OWED_MAX: Final = 10_000
"""How many names a process owes to Redis at most; of the rest Redis's own time is waited for."""


class StampSource(Protocol):
    """Stamps that all processes of a host share; see :mod:`app.ops.stamps`. Thread-safe; never raises."""

    def stamp(self, key: str) -> int | None:
        """Return the stamp of a key; None when nothing may be remembered under it now."""
        ...

    def is_owing(self, stamp: int) -> bool:
        """Return whether a stamp says that Redis may have what is old."""
        ...

    def begin(self, keys: Sequence[str]) -> bool:
        """Say that something is about to change; return whether the others can see it."""
        ...

    def settle(self, keys: Sequence[str], *, owing: bool = False) -> bool:
        """Say that it has changed; return whether the others can see it."""
        ...


class SharedTier(Protocol):
    """What Redis is told; :class:`app.cache.redis_tier.RedisTier` is it."""

    def begin(self, names: Sequence[str]) -> None:
        """Let nobody write under some names until they are settled."""
        ...

    def settle(self, names: Sequence[str]) -> None:
        """Forget what was under some names, and tell all instances."""
        ...


class Announcer:
    """Tells of changes, and names what is remembered. Thread-safe; never raises.

    Args:
        stamps: Of this host.
        tier: Redis; None without it.
        pipeline: What calls of Redis run through.
    """

    def __init__(self, stamps: StampSource, tier: SharedTier | None, pipeline: Pipeline) -> None:
        self._stamps = stamps
        self._tier = tier
        self._call = pipeline.call
        self._lock = threading.Lock()
        self._owed: set[str] = set()
        self._hearing = 0

    def key(self, name: str) -> str:
        """Return what something is remembered under now; empty when it may not be remembered."""
        stamp = self._stamps.stamp(name)
        if stamp is None:
            return ""
        return key_of(name, f"{stamp:x}.{self._hearing}", is_shared=not self._stamps.is_owing(stamp))

    @contextmanager
    def changing(self, names: Sequence[str]) -> Iterator[None]:
        """Surround a change, its commit included; how it ends is of no matter."""
        before = {name: self._stamps.stamp(name) for name in names}
        owed = {name for name, stamp in before.items() if stamp is not None and self._stamps.is_owing(stamp)}
        self._told(lambda tier: tier.begin(names))
        is_seen = self._stamps.begin(names)
        try:
            yield
        finally:
            if not self._told(lambda tier: tier.settle(names)):
                owed = set(names)
                self._owe(names)
            is_seen &= self._stamps.settle([name for name in names if name not in owed])
            is_seen &= self._stamps.settle([*owed], owing=True)
            if not is_seen:
                _log.error("workers of this host could not be told of a change; some may not know it for a minute")

    def heard(self, names: Sequence[str]) -> None:
        """Note what another process has changed, here or elsewhere."""
        self._stamps.settle([name for name in names if not self._owes(name)])

    def lost_touch(self) -> None:
        """Note that changes may have been missed: what this process remembers is nobody's any more."""
        self._hearing += 1

    def pay(self) -> None:
        """Tell Redis what it could not be told before; what fails again is still owed."""
        with self._lock:
            names = sorted(self._owed)[:100]
        if names and self._told(lambda tier: tier.settle(names)):
            with self._lock:
                self._owed -= set(names)
            self._stamps.settle(names)

    def _owe(self, names: Sequence[str]) -> None:
        with self._lock:
            self._owed |= set(names[: OWED_MAX - len(self._owed)])

    def _owes(self, name: str) -> bool:
        stamp = self._stamps.stamp(name)
        return stamp is None or self._stamps.is_owing(stamp)

    def _told(self, tell: Callable[[SharedTier], None]) -> bool:
        if self._tier is None:
            return True
        try:
            self._call(tell, self._tier)
        except Exception:  # noqa: BLE001  # the change is made, whatever Redis says
            return False
        return True
