"""The database as commands use it: opened for one command, judged to be migrated, closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.errors import UnavailableError

if TYPE_CHECKING:
    from app.db.engine import Database
    from app.settings import DatabaseSettings


@contextmanager
def open_database(settings: DatabaseSettings, *, migrated: bool = True) -> Iterator[Database]:
    """Open the database for a command and close it afterwards.

    Args:
        settings: The section of the settings.
        migrated: Whether the command needs today's tables.

    Raises:
        DatabaseUnavailableError: It cannot be reached.
        UnavailableError: Its tables are not those of this version.
    """
    from app.db.engine import Database, SilentObserver
    from app.db.migrate import current_revision, head_revision

    database = Database(settings, SilentObserver())
    try:
        if migrated and current_revision(database) != head_revision():
            raise UnavailableError("The database is not migrated. Run: python -m app migrate")
        yield database
    finally:
        database.close()
