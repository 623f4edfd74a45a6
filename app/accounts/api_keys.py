"""API keys: ``pk_<8 characters of id>_<43 characters of secret>``, shown once, kept as a hash.

Here they are made, listed and deleted; who comes with one is judged in :mod:`app.accounts.authentication`.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from app.accounts.authentication import API_KEY_PREFIX, hash_secret
from app.accounts.models import ApiKey, User
from app.accounts.principals import PrincipalCache
from app.db.base import new_id, utc_now
from app.db.engine import Database
from app.errors import (
    ConflictError,
    InvalidTokenError,
    MissingScopeError,
    NotFoundError,
    UnavailableError,
    ValidationFailedError,
)
from app.http.identity import Principal

KEYS_PER_USER_MAX = 100
LIFE_MAX = dt.timedelta(days=366)

_ID_CHARACTERS = "abcdefghijklmnopqrstuvwxyz234567"
_ID_LENGTH = 8
_SECRET_BYTES = 32
_TRIES = 3


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """An API key without its secret."""

    id: UUID
    name: str
    key_prefix: str
    scopes: list[str]
    created_at: dt.datetime
    expires_at: dt.datetime
    last_used_at: dt.datetime | None


class ApiKeyService:
    """The use cases of API keys. Thread-safe.

    Args:
        database: Where the keys are.
        principals: What this process believes; told of every deletion.
        now: The wall clock.
    """

    def __init__(
        self, database: Database, principals: PrincipalCache, now: Callable[[], dt.datetime] = utc_now
    ) -> None:
        self._database = database
        self._principals = principals
        self._now = now

    def create(
        self, maker: Principal, name: str, scopes: Collection[str], expires_at: dt.datetime
    ) -> tuple[ApiKeyRecord, str]:
        """Make a key.

        Args:
            maker: Who makes it, for the maker's user.
            name: What it is for.
            scopes: What it may do.
            expires_at: When it stops.

        Returns:
            The record, and the key itself, which is nowhere else.

        Raises:
            MissingScopeError: A scope that the maker does not have.
            ValidationFailedError: The end is past, or more than 366 days ahead.
            ConflictError: The user has too many keys.
        """
        lacking = sorted(set(scopes) - maker.scopes)
        if lacking:
            raise MissingScopeError(f"A key cannot do more than its maker. You lack: {', '.join(lacking)}.")
        now = self._now()
        if not now < expires_at <= now + LIFE_MAX:
            mistake = {"pointer": "/expires_at", "detail": f"Give a time within the next {LIFE_MAX.days} days."}
            raise ValidationFailedError("A key must end, within a year.", [mistake])
        for _ in range(_TRIES):
            key_id = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
            prefix = f"{API_KEY_PREFIX}{key_id}_"
            secret = secrets.token_urlsafe(_SECRET_BYTES)
            record = ApiKeyRecord(new_id(), name, prefix, sorted(scopes), now, expires_at, None)
            try:
                self._insert(maker.user_id, key_id, hash_secret(secret), record)
            except IntegrityError:
                continue  # someone has this id: one in 2**40
            return record, prefix + secret
        raise UnavailableError("The key could not be made. Try again.")

    def of_user(self, user_id: UUID) -> list[ApiKeyRecord]:
        """Return a user's keys, expired ones too, the latest first."""
        query = (
            select(
                ApiKey.id,
                ApiKey.name,
                ApiKey.key_id,
                ApiKey.scopes,
                ApiKey.created_at,
                ApiKey.expires_at,
                ApiKey.last_used_at,
            )
            .where(ApiKey.user_id == user_id)
            .order_by(ApiKey.id.desc())
        )
        found = self._database.run_read(lambda connection: connection.execute(query).all())
        return [
            ApiKeyRecord(
                id=row.id,
                name=row.name,
                key_prefix=f"{API_KEY_PREFIX}{row.key_id}_",
                scopes=row.scopes,
                created_at=row.created_at,
                expires_at=row.expires_at,
                last_used_at=row.last_used_at,
            )
            for row in found
        ]

    def delete(self, user_id: UUID, api_key_id: UUID) -> None:
        """Delete one of a user's keys; it stops at once.

        Raises:
            NotFoundError: The user has no such key.
        """
        with self._database.write() as connection:
            ours = delete(ApiKey).where(ApiKey.id == api_key_id, ApiKey.user_id == user_id)
            if not connection.execute(ours).rowcount:
                raise NotFoundError("There is no such API key.")
        self._principals.forget(user_id)

    def _insert(self, user_id: UUID, key_id: str, secret_hash: str, record: ApiKeyRecord) -> None:
        with self._database.write() as connection:
            # The user's row is held, so that two makers do not both make the last key, or one for a closed account.
            living = select(User.id).where(User.id == user_id, User.deleted_at.is_(None)).with_for_update()
            if connection.execute(living).one_or_none() is None:
                raise InvalidTokenError("This account is closed.")
            count = select(func.count()).select_from(ApiKey).where(ApiKey.user_id == user_id)
            if connection.execute(count).scalar_one() >= KEYS_PER_USER_MAX:
                raise ConflictError(f"An account has at most {KEYS_PER_USER_MAX} API keys. Delete one first.")
            connection.execute(
                insert(ApiKey).values(
                    id=record.id,
                    user_id=user_id,
                    key_id=key_id,
                    secret_hash=secret_hash,
                    name=record.name,
                    scopes=record.scopes,
                    created_at=record.created_at,
                    expires_at=record.expires_at,
                )
            )
