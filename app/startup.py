"""Start-up validation: what only the world can tell about the settings, asked once before anything listens.

A dependency that is down (refused, timed out, 5xx) is no mistake: the server starts and says ``warn``. What an
operator has to mend (credentials, a missing bucket or database, tables of another version, a folder that cannot
be written, more connections than the database has) is a mistake, and all of them are reported together.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from app.cdn import verify
from app.db.engine import MANAGEMENT_CONNECTIONS, Database, SilentObserver
from app.db.migrate import current_revision, head_revision
from app.errors import ConfigurationError, DatabaseUnavailableError
from app.startup_files import find_file_mistakes
from app.startup_storage import find_storage_mistakes

if TYPE_CHECKING:
    from app.settings import Settings

_log = logging.getLogger(__name__)

_URL = "PHOTO_API_DATABASE__URL"
_CONNECTIONS_ALLOWED = {
    "postgresql": text(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    ),
    # A user may be allowed fewer than all together; 0 says nothing.
    "mysql": text("SELECT least(@@max_connections, coalesce(nullif(@@max_user_connections, 0), @@max_connections))"),
}
# What a database server says when the address is right and the rest is not.
_REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "access denied", "unknown database")


def verify_startup(settings: Settings) -> None:
    """Ask the world whether these settings can work.

    Args:
        settings: Valid by themselves.

    Raises:
        ConfigurationError: With every mistake found; no value of a setting is repeated.
    """
    mistakes = [*_database_mistakes(settings), *_folder_mistakes(settings), *find_file_mistakes(settings, make=True)]
    of_storage = list(find_storage_mistakes(settings))
    if settings.profile == "production" or settings.storage.backend == "local":
        mistakes += of_storage
    else:
        # Links that are broken or open to all, and nobody would say so.
        for mistake in of_storage:
            _log.warning("%s", mistake)
    if settings.profile == "production":  # a key's file may have been told of already
        mistakes += [mistake for mistake in verify.find_mistakes(settings.cdn) if mistake not in mistakes]
    if mistakes:
        raise ConfigurationError(mistakes)


def _database_mistakes(settings: Settings) -> Iterator[str]:
    with closing(Database(settings.database, SilentObserver())) as database:
        if database.file is not None and database.file.exists() and not _is_writable(database.file):
            yield f"{_URL}: the database's file or its folder cannot be written. Mend its rights or its mount"
            return
        try:
            found = current_revision(database)
            if found != head_revision():
                yield f"{_URL}: the database is at revision {found or 'none'}. Run: python -m app migrate"
            yield from _too_many_connections(settings, database)
        except DatabaseUnavailableError as error:
            said = str(error.__cause__).lower()
            if "unknown system variable" in said:
                yield f"{_URL}: the server is no MariaDB. Use MariaDB 10.11 or newer, PostgreSQL or SQLite"
            elif any(refusal in said for refusal in _REFUSALS):
                yield f"{_URL}: the server refuses the user, the password or the name of the database"
            else:
                _log.warning("the database does not answer at start; starting without it")


def _is_writable(file: Path) -> bool:
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)  # SQLite keeps its log beside the file


def _too_many_connections(settings: Settings, database: Database) -> Iterator[str]:
    asking = _CONNECTIONS_ALLOWED.get(database.dialect)
    if asking is None:
        return
    with database.read() as connection:
        allowed = int(connection.execute(asking).scalar_one())
    server = settings.server
    of_one = server.workers * database.max_connections + MANAGEMENT_CONNECTIONS
    wanted = of_one * server.expected_instances
    if wanted > allowed and settings.profile == "production":
        yield (
            f"PHOTO_API_DATABASE__POOL_SIZE and PHOTO_API_DATABASE__MAX_OVERFLOW: {server.workers} workers on "
            f"{server.expected_instances} instances could open {wanted} connections, the database allows {allowed}"
        )


def _folder_mistakes(settings: Settings) -> Iterator[str]:
    folders: Sequence[tuple[str, Path]] = (
        ("PHOTO_API_UPLOADS__SPOOL_DIR", settings.uploads.spool_dir),
        ("PHOTO_API_RENDITIONS__SCRATCH_DIR", settings.renditions.scratch_dir),
    )
    for variable, folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            yield f"{variable}: the folder cannot be written ({error.strerror})"
