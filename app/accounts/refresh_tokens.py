"""Refresh tokens: opaque, kept as hashes, replaced at each use.

A token's successor is an HMAC over it, so that a client that submits twice (its first answer got lost, two tabs)
gets the same successor both times without the server keeping it. Used again later than that, or after its
successor was used, a token is in two hands: the whole family, which is the session, is revoked.

::

    unused ──use──▶ used ──again within 10 s, successor unused──▶ the same successor
                      └────again otherwise──────────────────────▶ family revoked
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, Row, delete, insert, select, update

from app.accounts.keyring import REFRESH, KeyRings
from app.accounts.models import LoginSession, RefreshToken
from app.db.base import utc_now

DOUBLE_SUBMIT_SECONDS = 10

_PREFIX = "rt_"
_TOKEN = re.compile(r"rt_[A-Za-z0-9_-]{43}")
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Rotation:
    """What became of a submitted token.

    Attributes:
        session_id: The token's session; None when the token is unknown.
        user_id: The session's user.
        successor: The new token; None when there is none for this one.
        is_reuse: The token is in two hands: the caller revokes the session.
    """

    session_id: UUID | None = None
    user_id: UUID | None = None
    successor: str | None = None
    is_reuse: bool = False


class RefreshTokens:
    """Makes and rotates refresh tokens inside the caller's transactions. Thread-safe.

    Args:
        rings: The keys that make successors.
        idle_seconds: How long an unused token holds.
        now: The wall clock.
    """

    def __init__(self, rings: KeyRings, idle_seconds: int, now: Callable[[], dt.datetime] = utc_now) -> None:
        self._rings = rings
        self.idle_seconds = idle_seconds
        self._now = now

    def start(self, connection: Connection, session_id: UUID, session_ends_at: dt.datetime) -> str:
        """Write and return the first token of a session."""
        token = _as_token(secrets.token_bytes(_SECRET_BYTES))
        self._insert(connection, token, session_id, session_ends_at)
        return token

    def session_of(self, connection: Connection, token: str) -> UUID | None:
        """Return whose family a token is of, whether it is used or not; None when it is unknown."""
        if not _TOKEN.fullmatch(token):
            return None
        query = select(RefreshToken.session_id).where(RefreshToken.token_hash == _hashed(token))
        return connection.execute(query).scalar_one_or_none()

    def rotate(self, connection: Connection, token: str) -> Rotation:
        """Use a token, in a transaction that then holds its session's row.

        Args:
            connection: The transaction; commit it also when there is no successor.
            token: As the client gave it.
        """
        session_id = self.session_of(connection, token)
        if session_id is None:
            return Rotation()
        # The session's row is the family's lock. What is read before it is held may be out of date afterwards.
        session = connection.execute(
            select(LoginSession.user_id, LoginSession.expires_at, LoginSession.revoked_at)
            .where(LoginSession.id == session_id)
            .with_for_update()
        ).one_or_none()
        row = self._locked(connection, token)
        now = self._now()
        if session is None or row is None or session.revoked_at is not None or session.expires_at <= now:
            return Rotation()
        if row.used_at is not None:
            return self._again(connection, token, Rotation(session_id, session.user_id), row)
        if row.expires_at <= now:
            return Rotation()
        key = self._rings.signing(REFRESH)
        successor = _successor(key.secret, token)
        connection.execute(
            update(RefreshToken)
            .where(RefreshToken.token_hash == _hashed(token))
            .values(used_at=now, successor_kid=key.kid)
        )
        self._insert(connection, successor, session_id, session.expires_at)
        connection.execute(update(LoginSession).where(LoginSession.id == session_id).values(last_used_at=now))
        return Rotation(session_id, session.user_id, successor)

    def purge(self, connection: Connection) -> int:
        """Delete tokens that no longer hold and return how many."""
        return connection.execute(delete(RefreshToken).where(RefreshToken.expires_at <= self._now())).rowcount

    def _again(
        self,
        connection: Connection,
        token: str,
        found: Rotation,
        row: Row[dt.datetime, dt.datetime | None, str | None],
    ) -> Rotation:
        reuse = Rotation(found.session_id, found.user_id, is_reuse=True)
        _, used_at, kid = row
        if used_at is None or self._now() - used_at > dt.timedelta(seconds=DOUBLE_SUBMIT_SECONDS):
            return reuse
        key = self._rings.verifying(REFRESH, kid or "")
        if key is None:
            return Rotation()  # the key was taken away within these seconds; nobody has two hands on anything
        successor = _successor(key.secret, token)
        next_row = self._locked(connection, successor)
        if next_row is None or next_row.used_at is not None:
            return reuse
        return Rotation(found.session_id, found.user_id, successor)

    def _locked(self, connection: Connection, token: str) -> Row[dt.datetime, dt.datetime | None, str | None] | None:
        query = select(RefreshToken.expires_at, RefreshToken.used_at, RefreshToken.successor_kid)
        ours = RefreshToken.token_hash == _hashed(token)
        return connection.execute(query.where(ours).with_for_update()).one_or_none()

    def _insert(self, connection: Connection, token: str, session_id: UUID, session_ends_at: dt.datetime) -> None:
        now = self._now()
        connection.execute(
            insert(RefreshToken).values(
                token_hash=_hashed(token),
                session_id=session_id,
                created_at=now,
                expires_at=min(now + dt.timedelta(seconds=self.idle_seconds), session_ends_at),
            )
        )


def _successor(key: bytes, token: str) -> str:
    return _as_token(hmac.digest(key, token.encode(), "sha256"))


def _as_token(secret: bytes) -> str:
    return _PREFIX + base64.urlsafe_b64encode(secret).decode().rstrip("=")


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
