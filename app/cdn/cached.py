"""Any signer whose signatures cost something, with those of this window remembered: same port in, same port out.

An entry ends with its URL. That length is taken once, from the wall clock, and counted by the monotonic one: when the
wall clock jumps, callers ask for other ends, which are other entries, and what is here grows neither old nor young.
Of many who want the same URL at once, one has it made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Protocol

from cachetools import TLRUCache

from app.cdn.base import SignedUrl, UrlSigner, epoch_of
from app.errors import UpstreamTimeoutError
from app.stability import SYSTEM_CLOCK, Clock, DeadlineExceededError, SingleFlight


class SizeGauge(Protocol):
    """Follows how many URLs are remembered."""

    def set(self, value: float) -> None:
        """So many now."""
        ...


class CachedSigner:
    """A :class:`app.cdn.base.UrlSigner` that remembers. Thread-safe if the signer is.

    Args:
        signer: What signs.
        max_entries: How many URLs are remembered; the least recently used one goes first.
        gauge: Follows how many there are.
        now: The wall clock.
        clock: Where lengths come from.
    """

    def __init__(
        self,
        signer: UrlSigner,
        *,
        max_entries: int,
        gauge: SizeGauge,
        now: Callable[[], datetime],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._signer = signer
        self._gauge = gauge
        self._now = now
        self._lock = threading.Lock()
        self._flights = SingleFlight()
        self._entries: TLRUCache[str, tuple[SignedUrl, float]] = TLRUCache(
            maxsize=max_entries, ttu=lambda _key, entry, made_at: made_at + entry[1], timer=clock.monotonic
        )

    @property
    def name(self) -> str:
        """See the port."""
        return self._signer.name

    def sign(self, path: str, *, expires_at: datetime) -> SignedUrl:
        """See the port."""
        key = f"{epoch_of(expires_at)} {path}"
        with self._lock:
            entry = self._entries.get(key)
        if entry is not None:
            return entry[0]
        try:
            return self._flights.run(key, partial(self._make, key, path, expires_at))
        except DeadlineExceededError as error:
            raise UpstreamTimeoutError("The CDN's link did not come in time. Try again.") from error

    def close(self) -> None:
        """See the port."""
        self._signer.close()

    def _make(self, key: str, path: str, expires_at: datetime) -> SignedUrl:
        signed = self._signer.sign(path, expires_at=expires_at)
        lives_seconds = (signed.expires_at - self._now()).total_seconds()
        with self._lock:
            self._entries[key] = (signed, lives_seconds)
            self._gauge.set(len(self._entries))
        return signed
