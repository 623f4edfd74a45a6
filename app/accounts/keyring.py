"""The keys that sign tokens, cursors and links: several rings, each with keys that come and go.

A ring's key has a life::

    made ──not_before──▶ signs, if none is newer ──a newer one signs──▶ verifies ──retire_at──▶ forgotten

The newest active key signs; every key that is not retired verifies, also one that is not active yet, because
another instance's clock may be ahead. A rotation makes the new key active a few seconds later than now, so that
every worker has read the file by then, and retires the old ones only when nothing they signed is alive. A worker
that meets a key it does not know reads the file at once.

Here is how keys are chosen and read; making and rotating the file is in :mod:`app.accounts.ring_file`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.db.base import utc_now
from app.errors import UnavailableError

_log = logging.getLogger(__name__)

JWT = "jwt"
CURSOR = "cursor"
REFRESH = "refresh"
LINK = "link"
RINGS = (JWT, CURSOR, REFRESH, LINK)

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class RingKey:
    """One key of a ring.

    Attributes:
        kid: Its name, which tokens carry.
        secret: At least 32 bytes.
        not_before: From when on it signs.
        retire_at: From when on nothing it signed holds; None: not planned.
    """

    kid: str
    secret: bytes = field(repr=False)
    not_before: dt.datetime
    retire_at: dt.datetime | None = None

    def is_retired(self, now: dt.datetime) -> bool:
        """Tell whether nothing it signed holds any more."""
        return self.retire_at is not None and self.retire_at <= now

    def is_active(self, now: dt.datetime) -> bool:
        """Tell whether it may sign."""
        return self.not_before <= now and not self.is_retired(now)


Rings = Mapping[str, Sequence[RingKey]]
"""The keys by the name of their ring."""


class RingSource(Protocol):
    """Where rings come from. Thread-safe."""

    def rings(self, *, at_once: bool = False) -> Rings:
        """Return all rings.

        Args:
            at_once: Look whether they have changed, even when that was done a moment ago.
        """
        ...


class DerivedRings:
    """Rings with one key each, derived from a single secret (HKDF, RFC 5869). They cannot be rotated.

    Args:
        secret: At least 32 random bytes.
    """

    def __init__(self, secret: bytes) -> None:
        extracted = hmac.digest(b"photo-api key rings v1", secret, hashlib.sha256)
        self._rings = {name: (_derived_key(extracted, name),) for name in RINGS}

    def rings(self, *, at_once: bool = False) -> Rings:
        """Return the rings; they never change."""
        del at_once
        return self._rings


def _derived_key(extracted: bytes, ring: str) -> RingKey:
    secret = hmac.digest(extracted, f"ring {ring}\x01".encode(), hashlib.sha256)
    kid = "s" + hmac.digest(extracted, f"kid {ring}\x01".encode(), hashlib.sha256).hex()[:12]
    return RingKey(kid, secret, dt.datetime.min.replace(tzinfo=dt.UTC))


def link_keys_from(cursor_keys: Sequence[RingKey]) -> tuple[RingKey, ...]:
    """Return the ring ``link`` of a file that has none: one key derived from each key of the ring ``cursor``.

    Files from before there were links have none. Nothing has to be written for them, and all instances with such a
    file derive the same keys; the next rotation writes the ring down.
    """
    return tuple(
        RingKey(
            key.kid,
            hmac.digest(key.secret, b"photo-api ring link v1\x01", hashlib.sha256),
            key.not_before,
            key.retire_at,
        )
        for key in cursor_keys
    )


class KeyRings:
    """Chooses keys. Thread-safe.

    Args:
        source: Where the rings come from.
        now: The wall clock.
    """

    def __init__(self, source: RingSource, now: Callable[[], dt.datetime] = utc_now) -> None:
        self._source = source
        self._now = now

    def signing(self, ring: str) -> RingKey:
        """Return the newest active key of a ring.

        Raises:
            UnavailableError: None is active.
        """
        now = self._now()
        active = [key for key in self._source.rings()[ring] if key.is_active(now)]
        if not active:
            _log.error("no key of the ring %s is active; run: python -m app keys rotate", ring)
            raise UnavailableError("Nothing can be signed at the moment. Try again later.")
        return max(active, key=lambda key: key.not_before)  # of two as new, the first in the file

    def verifying(self, ring: str, kid: str) -> RingKey | None:
        """Return the key with this name, or None when there is none or it is retired."""
        key = _named(self._source.rings()[ring], kid) or _named(self._source.rings(at_once=True)[ring], kid)
        return None if key is None or key.is_retired(self._now()) else key

    def holding(self, ring: str) -> list[RingKey]:
        """Return all keys of a ring that are not retired, in the ring's order."""
        now = self._now()
        return [key for key in self._source.rings()[ring] if not key.is_retired(now)]

    def secrets(self, ring: str) -> list[bytes]:
        """Return all keys of a ring that are not retired, the signing one first."""
        first = self.signing(ring)
        return [first.secret, *(key.secret for key in self.holding(ring) if key.kid != first.kid)]


def _named(keys: Sequence[RingKey], kid: str) -> RingKey | None:
    return next((key for key in keys if key.kid == kid), None)
