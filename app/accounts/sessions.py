"""Sessions: logging in, refreshing, seeing where one is logged in, logging out."""

from __future__ import annotations

import datetime as dt
import logging
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, or_, select, update

from app.accounts.credentials import Credentials
from app.accounts.models import LoginSession, User
from app.accounts.principals import PrincipalCache
from app.accounts.refresh_tokens import RefreshTokens, Rotation
from app.accounts.tokens import AccessTokens
from app.db.base import new_id, utc_now
from app.db.engine import Database
from app.errors import InvalidTokenError, NotFoundError

_log = logging.getLogger(__name__)

_USER_AGENT_CHARACTERS_MAX = 200
_REVOKED_KEPT = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Client:
    """Where a login comes from.

    Attributes:
        address: Its IP address, as far as proxies are trusted; None when it has none.
        user_agent: What it calls itself.
    """

    address: str | None
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a login or a refresh gives; ``expires_in`` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One living login."""

    id: UUID
    user_agent: str
    created_at: dt.datetime
    last_used_at: dt.datetime
    expires_at: dt.datetime


class SessionService:
    """The use cases of sessions. Thread-safe.

    Args:
        database: Where users and sessions are.
        credentials: Checks passwords.
        access_tokens: Issues access tokens.
        refresh_tokens: Makes and rotates refresh tokens.
        principals: What this process believes; told of every end of a session.
        absolute_seconds: The life of a session, however often it is refreshed.
        now: The wall clock.
    """

    def __init__(
        self,
        database: Database,
        credentials: Credentials,
        access_tokens: AccessTokens,
        refresh_tokens: RefreshTokens,
        principals: PrincipalCache,
        *,
        absolute_seconds: int,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._database = database
        self._credentials = credentials
        self._access_tokens = access_tokens
        self._refresh_tokens = refresh_tokens
        self._principals = principals
        self._absolute = dt.timedelta(seconds=absolute_seconds)
        self._now = now

    def log_in(self, email: str, password: str, client: Client) -> TokenPair:
        """Begin a session.

        An unknown address costs the same work as a wrong password and gets the same answer.

        Args:
            email: The address, normalized.
            password: As it was given.
            client: Where the login comes from.

        Raises:
            InvalidCredentialsError: The address or the password is wrong.
            TooManyRequestsError: After repeated failures, or too many others log in just now.
        """
        user = self._credentials.check(email, password, client.address)
        with self._database.write() as connection:
            self._credentials.confirm(connection, user)
            session_id, refresh_token = self._start(connection, user.id, client)
            access_token = self._access_tokens.issue(user.id, session_id, user.token_version, is_admin=user.is_admin)
        return TokenPair(access_token, refresh_token, self._access_tokens.lifetime_seconds)

    def refresh(self, refresh_token: str) -> TokenPair:
        """Give the next pair of tokens for a refresh token; see :mod:`app.accounts.refresh_tokens`.

        Raises:
            InvalidTokenError: It is unknown, has expired, was used before or its session has ended.
        """
        with self._database.write() as connection:
            rotation = self._refresh_tokens.rotate(connection, refresh_token)
            if rotation.is_reuse:
                _end(connection, LoginSession.id == rotation.session_id, self._now())
            pair = self._pair(connection, rotation)
        if rotation.is_reuse and rotation.user_id is not None:
            self._principals.forget(rotation.user_id)
            _log.warning(
                "a refresh token was used twice: session %s is revoked",
                rotation.session_id,
                extra={"user_id": str(rotation.user_id)},
            )
        if pair is None:
            raise InvalidTokenError("The refresh token is not valid. Log in again.")
        return pair

    def log_out(self, refresh_token: str) -> None:
        """End the session of a refresh token; nothing happens when there is none."""
        with self._database.write() as connection:
            session_id = self._refresh_tokens.session_of(connection, refresh_token)
            if session_id is None:
                return
            query = select(LoginSession.user_id).where(LoginSession.id == session_id)
            user_id = connection.execute(query).scalar_one()
            _end(connection, LoginSession.id == session_id, self._now())
        self._principals.forget(user_id)

    def living(self, user_id: UUID) -> list[SessionRecord]:
        """Return a user's living sessions, the latest first."""
        now = self._now()
        idle_since = now - dt.timedelta(seconds=self._refresh_tokens.idle_seconds)
        query = (
            select(
                LoginSession.id,
                LoginSession.user_agent,
                LoginSession.created_at,
                LoginSession.last_used_at,
                LoginSession.expires_at,
            )
            .where(
                LoginSession.user_id == user_id,
                LoginSession.revoked_at.is_(None),
                LoginSession.expires_at > now,
                LoginSession.last_used_at > idle_since,
            )
            .order_by(LoginSession.id.desc())
        )
        found = self._database.run_read(lambda connection: connection.execute(query).all())
        return [SessionRecord(*row) for row in found]

    def end(self, user_id: UUID, session_id: UUID) -> None:
        """End one of a user's sessions.

        Raises:
            NotFoundError: The user has no such session, or it has ended.
        """
        with self._database.write() as connection:
            whose = and_(LoginSession.id == session_id, LoginSession.user_id == user_id)
            if not _end(connection, and_(whose, LoginSession.expires_at > self._now()), self._now()):
                raise NotFoundError("There is no such session.")
        self._principals.forget(user_id)

    def end_all(self, user_id: UUID) -> None:
        """End all of a user's sessions."""
        with self._database.write() as connection:
            _end(connection, LoginSession.user_id == user_id, self._now())
        self._principals.forget(user_id)

    def purge(self) -> int:
        """Delete tokens and sessions whose time is over and return how many; for the maintenance thread."""
        now = self._now()
        over = or_(LoginSession.expires_at <= now, LoginSession.revoked_at <= now - _REVOKED_KEPT)
        with self._database.write() as connection:
            tokens = self._refresh_tokens.purge(connection)
            sessions = connection.execute(delete(LoginSession).where(over)).rowcount
        return tokens + sessions

    def _start(self, connection: Connection, user_id: UUID, client: Client) -> tuple[UUID, str]:
        now = self._now()
        session_id = new_id()
        ends_at = now + self._absolute
        connection.execute(
            insert(LoginSession).values(
                id=session_id,
                user_id=user_id,
                user_agent=_shown_user_agent(client.user_agent),
                created_at=now,
                last_used_at=now,
                expires_at=ends_at,
            )
        )
        return session_id, self._refresh_tokens.start(connection, session_id, ends_at)

    def _pair(self, connection: Connection, rotation: Rotation) -> TokenPair | None:
        if rotation.successor is None or rotation.session_id is None or rotation.user_id is None:
            return None
        query = select(User.is_admin, User.token_version).where(
            User.id == rotation.user_id, User.deleted_at.is_(None)
        )
        user = connection.execute(query).one_or_none()
        if user is None:
            return None
        access_token = self._access_tokens.issue(
            rotation.user_id, rotation.session_id, user.token_version, is_admin=user.is_admin
        )
        return TokenPair(access_token, rotation.successor, self._access_tokens.lifetime_seconds)


def end_sessions_of(connection: Connection, user_id: UUID, now: dt.datetime) -> None:
    """End all of a user's sessions in the caller's transaction."""
    _end(connection, LoginSession.user_id == user_id, now)


def _end(connection: Connection, which: ColumnElement[bool], now: dt.datetime) -> int:
    living = and_(which, LoginSession.revoked_at.is_(None))
    return connection.execute(update(LoginSession).where(living).values(revoked_at=now)).rowcount


def _shown_user_agent(user_agent: str) -> str:
    shown = "".join(" " if unicodedata.category(character)[0] == "C" else character for character in user_agent)
    return " ".join(shown.split())[:_USER_AGENT_CHARACTERS_MAX]
