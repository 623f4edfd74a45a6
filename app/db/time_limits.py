"""The request's deadline reaches the database: no wait for it lasts longer than what remains.

===================  ===============================================================================
A free connection    the pool waits for the smaller of its own time and what remains
A statement          a smaller ``statement_timeout`` (SQLite: ``busy_timeout``) is set first when less
                     remains than its own (MariaDB: ``max_statement_time``); as long as enough remains,
                     nothing is sent
An answer            a server that hangs, or a network that swallows: the connection is given up half a
                     second after the server should have given up (PostgreSQL, MariaDB)
===================  ===============================================================================

Connecting has libpq's own limit, in whole seconds and two at least.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import psycopg

from app.stability import Deadline, current_deadline, deadline_scope, remaining_seconds

_GRACE_SECONDS = 0.5
_SHORTENED = "photo_api_shortened_limit"
_PATIENT_SECONDS = 86_400.0
_IS_PATIENT: ContextVar[bool] = ContextVar("photo_api_is_patient", default=False)


def shorten(own_seconds: float) -> float:
    """Return the smaller of a limit and what remains of the current deadline; 0 when it has passed."""
    deadline = current_deadline()
    return own_seconds if deadline is None else max(0.0, min(own_seconds, deadline.remaining_seconds()))


def time_of_its_own(seconds: float | None) -> AbstractContextManager[object]:
    """Return a scope in which so many seconds remain, whatever remains outside; None for one that changes nothing."""
    return nullcontext() if seconds is None else deadline_scope(Deadline(seconds))


@contextmanager
def long_patience() -> Iterator[None]:
    """Wait for answers for a day: in a migration, whose statements the server does not end."""
    token = _IS_PATIENT.set(True)
    try:
        yield
    finally:
        _IS_PATIENT.reset(token)


def answer_seconds_left(own_seconds: float) -> float:
    """Return how long an answer is worth waiting for: a little longer than its server works on it."""
    return _PATIENT_SECONDS if _IS_PATIENT.get() else shorten(own_seconds) + _GRACE_SECONDS


def patient_connection(answer_seconds: float) -> type[psycopg.Connection[Any]]:
    """Return the class of connections that do not wait for ever.

    Args:
        answer_seconds: How long the server itself works on a statement at the most.
    """

    class PatientConnection(psycopg.Connection[Any]):
        """A connection that gives its server up, and with it itself, when no answer comes."""

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            if timeout is None:
                timeout = answer_seconds_left(answer_seconds)
            try:
                return super().wait(gen, interval, timeout)
            except psycopg.errors._WaitTimeout as error:  # noqa: SLF001  # the one that wait() documents
                self.close()  # the answer may still come, and would be taken for that of the next statement
                raise psycopg.OperationalError("the server did not answer in time") from error

    return PatientConnection


class StatementLimit:
    """Gives each statement no more time than its request has. Thread-safe.

    Args:
        dialect: Of the database: ``postgresql``, ``sqlite`` or ``mysql``, which is MariaDB.
        own_seconds: The limit that connections have by themselves.
    """

    def __init__(self, dialect: str, own_seconds: float) -> None:
        self._dialect = dialect
        self._own_seconds = own_seconds

    def apply(self, info: MutableMapping[Any, Any], cursor: Any, *, in_transaction: bool) -> None:
        """Set the limit of the next statement on a connection, if the present one is wrong.

        Args:
            info: What the pool keeps of the connection.
            cursor: Of the driver.
            in_transaction: Whether the statement is part of one; on PostgreSQL what is set there ends with it.

        Raises:
            DeadlineExceededError: No time is left.
        """
        left = remaining_seconds(self._own_seconds)
        if left >= self._own_seconds and _SHORTENED not in info:
            return
        milliseconds = max(1, round(left * 1000))
        if self._dialect == "sqlite":
            cursor.execute(f"PRAGMA busy_timeout = {milliseconds}")
        elif self._dialect == "mysql":  # a transaction's end does not take it back there
            cursor.execute(f"SET SESSION max_statement_time = {milliseconds / 1000:.3f}")
        elif in_transaction:
            cursor.execute(f"SET LOCAL statement_timeout = {milliseconds}")
            return
        else:
            cursor.execute(f"SET statement_timeout = {milliseconds}")
        if left < self._own_seconds:
            info[_SHORTENED] = True
        else:
            info.pop(_SHORTENED)
