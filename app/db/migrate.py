"""Bringing a database's schema up to date, and telling whether it is.

Two machines may start at once: on PostgreSQL and MariaDB the second waits on an advisory lock, on SQLite on the
writing transaction, and then finds nothing left to do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app.db.engine import Database
from app.db.time_limits import long_patience
from app.errors import DatabaseBusyError

_LOCK_NUMBER = 7_046_911_502
_LOCK_NAME = "CONCAT('photo-api-migrate ', DATABASE())"
_LOCK_WAIT_SECONDS = 60
_LOCK_LOOK_SECONDS = 0.05


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def head_revision() -> str:
    """Return the revision that this version of the product needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise LookupError("there are no migrations")
    return head


def current_revision(database: Database) -> str | None:
    """Return the revision of the database, or None when it is empty.

    Raises:
        DatabaseUnavailableError: It cannot be reached.
    """
    if database.file is not None and not database.file.exists():
        return None  # asking would make it
    with database.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema up to a revision, keeping all rows.

    Raises:
        DatabaseUnavailableError: It cannot be reached, or a statement failed; nothing was changed where the
            database can roll back its schema (all but MariaDB, where the same again goes on from there).
    """
    with _alone(database) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(database: Database, revision: str) -> None:
    """Take the schema back to a revision; rows of dropped tables are lost."""
    with _alone(database) as connection:
        command.downgrade(_config(connection), revision)


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """Yield a connection whose transaction migrates while no other one does."""
    with ExitStack() as opened:
        connection = _begin(database, opened)
        with long_patience(), _locked(connection):
            yield connection


def _begin(database: Database, opened: ExitStack) -> Connection:
    """Begin to write, on SQLite when another migration has ended: it may take longer than a request would wait."""
    ends = time.monotonic() + _LOCK_WAIT_SECONDS
    while True:
        try:
            return opened.enter_context(database.write())
        except DatabaseBusyError:
            if time.monotonic() >= ends:
                raise
            time.sleep(_LOCK_LOOK_SECONDS)


@contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    match connection.dialect.name:
        case "postgresql":
            # A migration may take longer than a request's statement may.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
            yield
        case "mysql":
            with _locked_by_name(connection):
                yield
        case _:
            yield


@contextmanager
def _locked_by_name(connection: Connection) -> Iterator[None]:
    """Hold MariaDB's lock, which belongs to a connection and not to a transaction, and time without a limit."""
    ends = time.monotonic() + _LOCK_WAIT_SECONDS
    # A name is the whole server's; a piece of the wait is shorter than any limit of a statement.
    while not connection.execute(text(f"SELECT GET_LOCK({_LOCK_NAME}, 0.05)")).scalar_one():
        if time.monotonic() >= ends:
            raise DatabaseBusyError("Another process is migrating the database. Try again when it has ended.")
    own = connection.execute(text("SELECT @@session.max_statement_time")).scalar_one()
    connection.execute(text("SET SESSION max_statement_time = 0"))
    try:
        yield
    finally:
        if not connection.invalidated:  # the server has given the lock back by itself
            connection.execute(text("SET SESSION max_statement_time = :own"), {"own": own})
            connection.execute(text(f"SELECT RELEASE_LOCK({_LOCK_NAME})"))
