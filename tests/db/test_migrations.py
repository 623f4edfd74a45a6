"""Migrations: up, down and up again on every database, without a difference to the models, and twice at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import DropIndex

from app.accounts.models import User
from app.db import leases, migrate, outbox
from app.db.base import Base
from app.db.engine import Database
from app.errors import DatabaseUnavailableError
from app.photos.models import Photo
from app.settings import DatabaseSettings
from tests.db.conftest import Observer, ask

# Importing the rooms' models makes the metadata whole.
MODELS = (User, Photo, leases.Lease, outbox.OutboxRow)
INDEXES = Base.metadata.tables["photos"].indexes
REVISIONS = ["0001_accounts", "0002_photos", "0003_renditions"]  # app/db/migrations/versions


@contextmanager
def plain(database: Database) -> Iterator[Connection]:
    """Yield a connection of SQLAlchemy's own making: it cannot reflect what arrives in binary."""
    engine = create_engine(database.engine.url, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def tables(database: Database) -> set[str]:
    with plain(database) as connection:
        return set(inspect(connection).get_table_names()) - {"alembic_version"}


def differences(database: Database) -> list[Any]:
    """Return what Alembic would change to make the database what the models say."""
    with plain(database) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, Base.metadata))


def test_an_upgraded_database_is_what_the_models_say(database: Database) -> None:
    assert migrate.current_revision(database) is None

    migrate.upgrade(database)

    assert migrate.current_revision(database) == migrate.head_revision()
    assert tables(database) == set(Base.metadata.tables)
    assert differences(database) == []


def test_a_difference_would_be_seen(database: Database) -> None:
    migrate.upgrade(database)
    with database.write() as connection:
        connection.execute(DropIndex(next(index for index in INDEXES if index.name == "ix_photos_trashed_at")))
        connection.execute(text("ALTER TABLE photos ADD COLUMN odd INTEGER"))

    assert {difference[0] for difference in differences(database)} == {"add_index", "remove_column"}


def test_every_revision_goes_up_down_and_up_again(database: Database) -> None:
    revisions = [script.revision for script in ScriptDirectory.from_config(migrate._config()).walk_revisions()][::-1]
    assert len(revisions) == len(REVISIONS)

    for revision in revisions:
        migrate.upgrade(database, revision)
        before = tables(database)
        migrate.downgrade(database, "-1")
        migrate.upgrade(database, revision)
        assert tables(database) == before
    assert differences(database) == []

    migrate.downgrade(database, "base")
    assert tables(database) == set()

    migrate.upgrade(database)
    assert differences(database) == []


def test_upgrading_what_is_up_to_date_keeps_every_row(database: Database) -> None:
    migrate.upgrade(database)
    leases.hold(database, "kept", "one", 60)

    migrate.upgrade(database)

    assert not leases.hold(database, "kept", "two", 60)


def test_two_that_upgrade_at_once_are_both_content(open_database: Any) -> None:
    databases = [open_database() for _ in range(2)]
    databases[0].ping()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(migrate.upgrade, databases))

    assert migrate.current_revision(databases[1]) == migrate.head_revision()
    assert differences(databases[0]) == []


def test_a_migration_that_fails_can_be_done_again_and_leaves_no_trace_where_a_schema_is_rolled_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import op

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    migrate.upgrade(database, "0001")
    before = tables(database)
    with monkeypatch.context() as patch:
        patch.setattr(op, "create_index", fail)
        with pytest.raises(RuntimeError):
            migrate.upgrade(database)

    if database.dialect == "mysql":  # it keeps what was made, and goes on from there
        assert tables(database) == before | {"photos"}
    else:
        assert tables(database) == before
    assert migrate.current_revision(database) == "0001"
    migrate.upgrade(database)
    assert differences(database) == []


def test_a_migration_may_take_longer_than_a_statement_of_a_request(
    server_url: str, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DatabaseSettings(url=SecretStr(server_url), statement_timeout_seconds=0.1)
    long = {"postgresql": "SELECT 7 FROM pg_sleep(1)", "mysql": "SELECT 7 + sleep(1)"}
    found: list[int] = []

    def take_long(config: Config, _revision: str) -> None:
        connection: Connection = config.attributes["connection"]
        found.append(connection.execute(text(long[connection.dialect.name])).scalar_one())

    monkeypatch.setattr("alembic.command.upgrade", take_long)
    with closing(Database(settings, observer)) as database:
        migrate.upgrade(database)
        with pytest.raises(DatabaseUnavailableError):
            ask(database, long[database.dialect])

    assert found == [7]
