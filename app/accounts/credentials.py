"""Checking an e-mail address and a password: the one place where guesses are judged, delayed and counted.

It takes two steps. :meth:`Credentials.check` hashes, outside of any transaction; :meth:`Credentials.confirm` stands
in the transaction that follows from it, and makes sure that the password is still the one that was checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select, update

from app.accounts.delays import LoginDelays, account_subject, login_subjects
from app.accounts.models import User
from app.accounts.passwords import Passwords
from app.db.engine import Database
from app.errors import InvalidCredentialsError


@dataclass(frozen=True, slots=True)
class CheckedUser:
    """A user whose password was right a moment ago.

    Attributes:
        id: The user.
        email: The user's address.
        is_admin: Whether the user is an administrator.
        token_version: The user's; a change of the password raises it.
        better_hash: The password hashed anew, when the kept hash has outdated parameters.
        subjects: On whom a failure would have been counted.
    """

    id: UUID
    email: str
    is_admin: bool
    token_version: int
    better_hash: str | None
    subjects: tuple[str, ...]


class Credentials:
    """Judges passwords of users. Thread-safe.

    Args:
        database: Where the users are.
        passwords: Hashes.
        delays: Makes those wait who fail often.
    """

    def __init__(self, database: Database, passwords: Passwords, delays: LoginDelays) -> None:
        self._database = database
        self._passwords = passwords
        self._delays = delays

    def check(self, email: str, password: str, address: str | None) -> CheckedUser:
        """Return the user with this password. An unknown address costs the same work as a wrong password.

        Args:
            email: The e-mail address, normalized.
            password: As it was given.
            address: The client's IP address; None when it has none.

        Raises:
            InvalidCredentialsError: The address or the password is wrong.
            TooManyRequestsError: After repeated failures, or too many others are checked just now.
        """
        subjects = login_subjects(email, address)
        self._delays.require_patience(subjects)
        query = select(User.id, User.password_hash, User.is_admin, User.token_version).where(User.email == email)
        user = self._database.run_read(lambda connection: connection.execute(query).one_or_none())
        matches = self._passwords.verify(None if user is None else user.password_hash, password)
        if user is None or not matches:
            self._delays.count_failure(subjects)
            raise _wrong()
        better_hash = self._passwords.hash(password) if self._passwords.is_outdated(user.password_hash) else None
        return CheckedUser(user.id, email, user.is_admin, user.token_version, better_hash, subjects)

    def confirm(self, connection: Connection, checked: CheckedUser) -> None:
        """Hold the user's row, and make sure that nothing has changed since the password was checked.

        Args:
            connection: The transaction that follows from the check.
            checked: From :meth:`check`.

        Raises:
            InvalidCredentialsError: The password was changed, or the account closed, in between.
            TooManyRequestsError: Others failed in between: then this one must not learn that it was right.
        """
        query = select(User.token_version).where(User.id == checked.id).with_for_update()
        if connection.execute(query).scalar_one_or_none() != checked.token_version:
            raise _wrong()
        self._delays.require_patience(checked.subjects, connection)
        self._delays.forgive(connection, account_subject(checked.email))
        if checked.better_hash is not None:
            connection.execute(update(User).where(User.id == checked.id).values(password_hash=checked.better_hash))


def _wrong() -> InvalidCredentialsError:
    return InvalidCredentialsError("The e-mail address or the password is wrong.")
