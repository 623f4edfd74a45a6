"""What MariaDB has to be told so that it keeps what PostgreSQL and SQLite keep by themselves.

======================  ============================================================================
Text                    every table says ``utf8mb4`` and a collation that compares octets, the blanks at the end
                        included: ``é`` is not ``e``, and what is unique elsewhere is unique here
What does not fit       is refused (strict mode), whatever the server's own ``sql_mode`` says
A statement's time      ``max_statement_time``; waits for locks end with it, too
A silent transaction    ``idle_transaction_timeout``: nobody waits for a vanished host's locks for hours
An answer               a connection whose server says nothing is given up half a second later
Statements of a schema  cannot be rolled back, each of them is whole: a migration that died goes on where it was
======================  ============================================================================

MariaDB 10.11 is what this is tested on. MySQL knows neither the collation nor the two times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pymysql
from pymysql.constants import ER

from app.db.time_limits import answer_seconds_left

_SQL_MODE = "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
_CONNECT_SECONDS = 2
_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION = 1792  # two that the driver has no names for
_READ_ONLY_MODE = 1836

COLLATION: Final = "utf8mb4_nopad_bin"
"""Compares octets, which for UTF-8 is the order of code points; PostgreSQL's ``C`` and SQLite do the same."""
CONFLICTS: Final = frozenset({ER.LOCK_DEADLOCK})
"""Another transaction won, and this one is rolled back."""
BUSY: Final = frozenset({ER.LOCK_WAIT_TIMEOUT})
"""A lock that did not come free in time."""
READ_ONLY: Final = frozenset({ER.OPTION_PREVENTS_STATEMENT, _CANT_EXECUTE_IN_READ_ONLY_TRANSACTION, _READ_ONLY_MODE})
"""A server that takes no changes: ``read_only``, a transaction that was set so, a tablespace."""


if TYPE_CHECKING:
    _Connection = pymysql.connections.Connection[pymysql.cursors.Cursor]
else:
    _Connection = pymysql.connections.Connection  # generic in its types only


class PatientMariadb(_Connection):
    """A connection that gives its server up, and with it itself, when no answer comes."""

    @property
    def _read_timeout(self) -> float:
        """How long the driver waits for the next octets; it asks before each wait."""
        return answer_seconds_left(self._answer_seconds)

    @_read_timeout.setter
    def _read_timeout(self, seconds: float) -> None:
        self._answer_seconds = seconds


def connect_arguments(statement_seconds: float) -> dict[str, Any]:
    """Return what the driver is told for a connection.

    Args:
        statement_seconds: How long the server works on a statement at the most.
    """
    session = {
        "max_statement_time": f"{statement_seconds:.3f}",
        "idle_transaction_timeout": str(max(1, round(statement_seconds * 2))),
        "time_zone": "'+00:00'",
    }
    return {
        "charset": "utf8mb4",
        "collation": COLLATION,
        "sql_mode": _SQL_MODE,
        "init_command": "SET " + ", ".join(f"SESSION {name} = {value}" for name, value in session.items()),
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": statement_seconds,
        "write_timeout": statement_seconds,
    }


def number_of(error: BaseException | None) -> int | None:
    """Return the server's number of an error, or None when it is not one of MariaDB's.

    A savepoint that is gone counts as the deadlock before it, which has rolled back the transaction as a whole.
    """
    if not isinstance(error, pymysql.err.MySQLError) or not error.args or not isinstance(error.args[0], int):
        return None
    number = error.args[0]
    lost = number == ER.SP_DOES_NOT_EXIST and "SAVEPOINT" in str(error)
    return ER.LOCK_DEADLOCK if lost else number
