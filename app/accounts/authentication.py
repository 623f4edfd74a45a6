"""From a credential to a principal: an access token or an API key, and whether it still holds.

The database is the truth; what it said is believed for at most ``principal_cache_seconds``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import logging
import re
import threading
import time
from collections.abc import Callable
from uuid import UUID

from cachetools import TTLCache
from sqlalchemy import or_, update

from app.accounts.lookups import find_api_key, find_session
from app.accounts.models import ApiKey
from app.accounts.principals import PrincipalCache
from app.accounts.tokens import AccessTokens
from app.db.base import utc_now
from app.db.engine import Database
from app.errors import DatabaseUnavailableError, InvalidTokenError
from app.http.identity import Principal

_log = logging.getLogger(__name__)

API_KEY_PREFIX = "pk_"
_API_KEY = re.compile(r"pk_([a-z2-7]{8})_([A-Za-z0-9_-]{43})")
_USE_NOTED_EVERY_SECONDS = 60.0
_USES_REMEMBERED = 10_000


class AccountAuthenticator:
    """Knows access tokens and API keys. Thread-safe.

    Args:
        database: Where users, sessions and keys are.
        tokens: Reads access tokens.
        principals: What was read a moment ago.
        now: The wall clock.
        monotonic: The monotonic clock.
    """

    def __init__(
        self,
        database: Database,
        tokens: AccessTokens,
        principals: PrincipalCache,
        now: Callable[[], dt.datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._principals = principals
        self._now = now
        self._noted: TTLCache[UUID, bool] = TTLCache(_USES_REMEMBERED, _USE_NOTED_EVERY_SECONDS, monotonic)
        self._noted_lock = threading.Lock()

    def authenticate(self, credential: str, *, fresh: bool = False) -> Principal:
        """Return whose access token or API key this is.

        Args:
            credential: The token or key.
            fresh: Ask the database, whatever was read a moment ago.

        Raises:
            InvalidTokenError: It is malformed, expired, revoked or unknown.
            DatabaseUnavailableError: That cannot be told now.
        """
        if credential.startswith(API_KEY_PREFIX):
            return self._by_api_key(credential, fresh=fresh)
        return self._by_access_token(credential, fresh=fresh)

    def _by_access_token(self, token: str, *, fresh: bool) -> Principal:
        claims = self._tokens.read(token)
        known = None if fresh else self._principals.session(claims.session_id)
        if known is None:
            changes = self._principals.changes
            known = find_session(self._database, claims.session_id)
            if known is not None:
                self._principals.keep_session(claims.session_id, known, changes)
        if (
            known is None
            or known.user_id != claims.user_id
            or known.token_version != claims.token_version
            or known.expires_at <= self._now()
        ):
            raise InvalidTokenError("This session has ended. Log in again.")
        return Principal(claims.user_id, claims.scopes, session_id=claims.session_id)

    def _by_api_key(self, credential: str, *, fresh: bool) -> Principal:
        matched = _API_KEY.fullmatch(credential)
        if matched is None:
            raise _invalid_key()
        key_id, secret = matched.groups()
        known = None if fresh else self._principals.api_key(key_id)
        if known is None:
            changes = self._principals.changes
            known = find_api_key(self._database, key_id)
            if known is not None:
                self._principals.keep_api_key(key_id, known, changes)
        if known is None or not hmac.compare_digest(known.secret_hash, hash_secret(secret)):
            raise _invalid_key()
        if known.expires_at <= self._now():
            raise InvalidTokenError("This API key has expired. Make a new one.")
        self._note_use(known.id)
        return Principal(known.user_id, known.scopes, api_key_id=known.id)

    def _note_use(self, api_key_id: UUID) -> None:
        """Write when the key was used, at most once a minute over all processes; never fail the request."""
        with self._noted_lock:
            if api_key_id in self._noted:
                return
            self._noted[api_key_id] = True
        now = self._now()
        before = now - dt.timedelta(seconds=_USE_NOTED_EVERY_SECONDS)
        not_lately = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= before)
        try:
            with self._database.write() as connection:
                connection.execute(update(ApiKey).where(ApiKey.id == api_key_id, not_lately).values(last_used_at=now))
        except DatabaseUnavailableError:
            _log.warning("the last use of an API key could not be noted")


def hash_secret(secret: str) -> str:
    """Return what is kept of a random secret: SHA-256 in hex (256 random bits need no slow hash)."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _invalid_key() -> InvalidTokenError:
    return InvalidTokenError("This API key is not valid.")
