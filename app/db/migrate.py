"""Bringing a database's schema up to date, and telling whether it is.

Two machines may start at once: on PostgreSQL and MySQL the second waits on an advisory lock, on SQLite on the
writing transaction, and then finds nothing left to do.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app.db.engine import Database

_LOCK_NUMBER = 7_046_911_502
_LOCK_WAIT_SECONDS = 60


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
            database can roll back its schema (all but MySQL).
    """
    with database.write() as connection:
        _lock(connection)
        command.upgrade(_config(connection), revision)


def downgrade(database: Database, revision: str) -> None:
    """Take the schema back to a revision; rows of dropped tables are lost."""
    with database.write() as connection:
        _lock(connection)
        command.downgrade(_config(connection), revision)


def _lock(connection: Connection) -> None:
    match connection.dialect.name:
        case "postgresql":
            # A migration may take longer than a request's statement may.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
        case "mysql":
            connection.execute(
                text("SELECT GET_LOCK('photo-api-migrate', :seconds)"), {"seconds": _LOCK_WAIT_SECONDS}
            )
