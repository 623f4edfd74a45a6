"""What this process believes for a moment about sessions and API keys, so that not each request asks the database.

A belief ends after a few seconds by itself, and at once when this process changes the user. A reading that was
under way during such a change is not kept: it may have seen the state before.
"""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from cachetools import TTLCache

from app.stability import Clock, SystemClock

KeyT = TypeVar("KeyT")
KnownT = TypeVar("KnownT")

_ENTRIES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class KnownSession:
    """A session that was not ended, of an account that was open, when it was read."""

    user_id: UUID
    token_version: int
    expires_at: dt.datetime


@dataclass(frozen=True, slots=True)
class KnownApiKey:
    """An API key as it was read; ``scopes`` are those that its owner may still have."""

    user_id: UUID
    id: UUID
    secret_hash: str
    scopes: frozenset[str]
    expires_at: dt.datetime


class PrincipalCache:
    """Beliefs by session id or key id. Thread-safe; one per process.

    Args:
        seconds: How long one is believed; 0: not at all.
        clock: The monotonic clock.
    """

    def __init__(self, seconds: float, clock: Clock | None = None) -> None:
        timer = (SystemClock() if clock is None else clock).monotonic
        self._sessions: TTLCache[UUID, KnownSession] = TTLCache(_ENTRIES_MAX, seconds, timer)
        self._api_keys: TTLCache[str, KnownApiKey] = TTLCache(_ENTRIES_MAX, seconds, timer)
        self._lock = threading.Lock()
        self._changes = 0

    @property
    def changes(self) -> int:
        """How often something was forgotten; read it before the database, and give it along to ``keep_…``."""
        return self._changes

    def session(self, session_id: UUID) -> KnownSession | None:
        """Return what is believed of a session."""
        return self._found(self._sessions, session_id)

    def api_key(self, key_id: str) -> KnownApiKey | None:
        """Return what is believed of an API key, by the id that stands in it."""
        return self._found(self._api_keys, key_id)

    def _found(self, beliefs: TTLCache[KeyT, KnownT], key: KeyT) -> KnownT | None:
        with self._lock:
            try:
                return beliefs[key]  # in one step, where get() takes two
            except KeyError:
                return None

    def keep_session(self, session_id: UUID, known: KnownSession, changes: int) -> None:
        """Believe what was read, unless something was forgotten since ``changes`` was read."""
        with self._lock:
            if changes == self._changes:
                self._sessions[session_id] = known

    def keep_api_key(self, key_id: str, known: KnownApiKey, changes: int) -> None:
        """Believe what was read, unless something was forgotten since ``changes`` was read."""
        with self._lock:
            if changes == self._changes:
                self._api_keys[key_id] = known

    def forget(self, user_id: UUID) -> None:
        """Believe nothing about a user any more; call it after the change is committed."""
        with self._lock:
            self._changes += 1
            for session_id in [key for key, known in self._sessions.items() if known.user_id == user_id]:
                self._sessions.pop(session_id, None)
            for key_id in [key for key, known in self._api_keys.items() if known.user_id == user_id]:
                self._api_keys.pop(key_id, None)
