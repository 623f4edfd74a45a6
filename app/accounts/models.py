"""The tables of accounts: users, sessions with their refresh tokens, API keys, login delays."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, UtcDateTime


class User(Base):
    """An account. ``used_bytes`` is the sum over the owner's ready and pending photos."""

    __tablename__ = "users"
    __table_args__ = (Index("ix_users_deleted_at", "deleted_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    """Normalized: lower case, IDNA."""
    password_hash: Mapped[str] = mapped_column(String(200))
    is_admin: Mapped[bool]
    token_version: Mapped[int]
    """Raised to end all sessions: access tokens carry it."""
    quota_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """None: the deployment's default."""
    used_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    deleted_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    """Set: the account is closed; its photos leave through the trash's end, then the row."""


class LoginSession(Base):
    """One login on one device: the family of its refresh tokens."""

    __tablename__ = "login_sessions"
    __table_args__ = (
        Index("ix_login_sessions_user_id", "user_id"),
        Index("ix_login_sessions_expires_at", "expires_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    user_agent: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    """The absolute end, whatever is refreshed."""
    revoked_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class RefreshToken(Base):
    """One refresh token, by its SHA-256; the token itself is nowhere."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (
        Index("ix_refresh_tokens_session_id", "session_id"),
        Index("ix_refresh_tokens_expires_at", "expires_at"),
    )

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    session_id: Mapped[UUID] = mapped_column(ForeignKey("login_sessions.id", ondelete="CASCADE"))
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    successor_kid: Mapped[str | None] = mapped_column(String(32))
    """Which key of the ring makes its successor, so that a double submit gets the same one."""


class ApiKey(Base):
    """A scoped key of a user: ``pk_<key_id>_<secret>``, only the secret's SHA-256 is kept."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_user_id", "user_id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    key_id: Mapped[str] = mapped_column(String(8), unique=True)
    secret_hash: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(100))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class LoginDelay(Base):
    """Failed logins of one subject (an account or an address), by the SHA-256 of its name."""

    __tablename__ = "login_delays"
    __table_args__ = (Index("ix_login_delays_updated_at", "updated_at"),)

    subject_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures: Mapped[int]
    blocked_until: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
