"""Accounts: making one, seeing it, changing its password, closing it.

Closing takes effect at once: nobody can log in, no token or key holds, the address is free again. The photos and
the row itself leave later, by the maintenance thread, which looks for ``deleted_at``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.accounts.credentials import CheckedUser, Credentials
from app.accounts.models import ApiKey, User
from app.accounts.passwords import Passwords
from app.accounts.principals import PrincipalCache
from app.accounts.sessions import end_sessions_of
from app.db.base import new_id, utc_now
from app.db.engine import Database
from app.errors import (
    ConflictError,
    InvalidCredentialsError,
    InvalidTokenError,
    PermissionDeniedError,
    RegistrationClosedError,
)

_NO_PASSWORD = "!"


@dataclass(frozen=True, slots=True)
class Account:
    """An account as its owner sees it."""

    id: UUID
    email: str
    is_admin: bool
    quota_bytes: int
    used_bytes: int
    created_at: dt.datetime


class AccountService:
    """The use cases of accounts. Thread-safe.

    Args:
        database: Where the accounts are.
        passwords: Judges and hashes new passwords.
        credentials: Checks present ones.
        principals: What this process believes; told of every change.
        is_registration_open: Whether strangers may make an account.
        default_quota_bytes: For accounts without a quota of their own.
        now: The wall clock.
    """

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        credentials: Credentials,
        principals: PrincipalCache,
        *,
        is_registration_open: bool,
        default_quota_bytes: int,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._credentials = credentials
        self._principals = principals
        self._is_registration_open = is_registration_open
        self._default_quota_bytes = default_quota_bytes
        self._now = now

    def register(self, email: str, password: str) -> Account:
        """Make an account for a stranger.

        Raises:
            RegistrationClosedError: Only administrators make accounts here.
            ValidationFailedError: The password is too easy to guess.
            ConflictError: The address has an account.
            TooManyRequestsError: Too many passwords are hashed just now.
        """
        if not self._is_registration_open:
            raise RegistrationClosedError("Accounts are made by an administrator here.")
        return self.create(email, password)

    def create(self, email: str, password: str, *, is_admin: bool = False) -> Account:
        """Make an account, whether registration is open or not.

        Args:
            email: The address, normalized.
            password: As it was given.
            is_admin: Whether it gets the admin scopes.

        Raises:
            ValidationFailedError: The password is too easy to guess.
            ConflictError: The address has an account.
            TooManyRequestsError: Too many passwords are hashed just now.
        """
        self._passwords.require_acceptable(password, email)
        password_hash = self._passwords.hash(password)
        now = self._now()
        user_id = new_id()
        row = insert(User).values(
            id=user_id,
            email=email,
            password_hash=password_hash,
            is_admin=is_admin,
            token_version=1,
            used_bytes=0,
            created_at=now,
            updated_at=now,
        )
        try:
            with self._database.write() as connection:
                connection.execute(row)
        except IntegrityError:
            raise ConflictError("This e-mail address has an account. Log in instead.") from None
        return Account(user_id, email, is_admin, self._default_quota_bytes, 0, now)

    def show(self, user_id: UUID) -> Account:
        """Return an account with its quota and use.

        Raises:
            InvalidTokenError: It was closed meanwhile.
        """
        query = select(User.id, User.email, User.is_admin, User.quota_bytes, User.used_bytes, User.created_at).where(
            User.id == user_id, User.deleted_at.is_(None)
        )
        row = self._database.run_read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise _closed()
        quota_bytes = self._default_quota_bytes if row.quota_bytes is None else row.quota_bytes
        return Account(row.id, row.email, row.is_admin, quota_bytes, row.used_bytes, row.created_at)

    def change_password(self, user_id: UUID, current: str, new: str, address: str | None) -> None:
        """Change a password, and end all sessions; API keys stay.

        Args:
            user_id: Whose.
            current: The present password.
            new: The new one.
            address: The client's IP address.

        Raises:
            ValidationFailedError: The new password is too easy to guess.
            PermissionDeniedError: The present password is wrong.
            TooManyRequestsError: After repeated failures, or too many passwords are hashed just now.
        """
        email = self._email(user_id)
        self._passwords.require_acceptable(new, email, pointer="/new_password")
        checked = self._check(email, current, address)
        password_hash = self._passwords.hash(new)
        with self._database.write() as connection:
            self._credentials.confirm(connection, checked)
            now = self._now()
            connection.execute(
                update(User)
                .where(User.id == user_id)
                .values(password_hash=password_hash, token_version=User.token_version + 1, updated_at=now)
            )
            end_sessions_of(connection, user_id, now)
        self._principals.forget(user_id)

    def close(self, user_id: UUID, password: str, address: str | None) -> None:
        """Close an account for good.

        Args:
            user_id: Whose.
            password: The present password.
            address: The client's IP address.

        Raises:
            PermissionDeniedError: The password is wrong.
            TooManyRequestsError: After repeated failures, or too many passwords are hashed just now.
        """
        checked = self._check(self._email(user_id), password, address)
        with self._database.write() as connection:
            self._credentials.confirm(connection, checked)
            now = self._now()
            connection.execute(
                update(User)
                .where(User.id == user_id)
                .values(
                    email=f"{user_id}@closed.invalid",  # the address may be registered again at once
                    password_hash=_NO_PASSWORD,
                    token_version=User.token_version + 1,
                    updated_at=now,
                    deleted_at=now,
                )
            )
            end_sessions_of(connection, user_id, now)
            connection.execute(delete(ApiKey).where(ApiKey.user_id == user_id))
        self._principals.forget(user_id)

    def _email(self, user_id: UUID) -> str:
        query = select(User.email).where(User.id == user_id, User.deleted_at.is_(None))
        email = self._database.run_read(lambda connection: connection.execute(query).scalar_one_or_none())
        if email is None:
            raise _closed()
        return email

    def _check(self, email: str, password: str, address: str | None) -> CheckedUser:
        try:
            return self._credentials.check(email, password, address)
        except InvalidCredentialsError:
            raise PermissionDeniedError("The present password is wrong.") from None


def _closed() -> InvalidTokenError:
    return InvalidTokenError("This account is closed.")
