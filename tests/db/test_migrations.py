"""Migrations: up, down and up again on every database, without a difference to the models, and twice at once."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import (
    JSON,
    Boolean,
    ColumnClause,
    Connection,
    Uuid,
    column,
    create_engine,
    insert,
    inspect,
    table,
    text,
)
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import DropIndex
from sqlalchemy.types import TypeEngine

from app.accounts.models import User
from app.db import leases, migrate, outbox
from app.db.base import Base, UtcDateTime
from app.db.engine import Database
from app.db.time_limits import answer_seconds_left
from app.photos.models import Photo
from app.settings import DatabaseSettings
from tests.db.conftest import WORDS, Observer, ask

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
    settings = DatabaseSettings(url=SecretStr(server_url), pool_size=1, statement_timeout_seconds=50)
    found: list[tuple[float, float]] = []

    def look(config: Config, _revision: str) -> None:
        connection: Connection = config.attributes["connection"]
        limit = connection.execute(text(WORDS[connection.dialect.name].limit)).scalar_one()
        found.append((float(limit), answer_seconds_left(5)))

    monkeypatch.setattr("alembic.command.upgrade", look)
    with closing(Database(settings, observer)) as database:
        migrate.upgrade(database)
        words = WORDS[database.dialect]
        after = str(ask(database, words.limit))

    assert found == [(0, 86_400)]  # neither the server nor who waits for it ends a statement
    assert after == words.thirty_and_fifty[1]


OWNER = UUID(int=99)
SINCE = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
TYPES: dict[type, TypeEngine[Any]] = {UUID: Uuid(), bool: Boolean(), dt.datetime: UtcDateTime(), list: JSON()}
PLACES = [(59.91, 10.75), (-33.5, -70.25), (None, None), (0.0, 0.0), (12.5, None)]
"""Where photos of before were taken; the last is none, as one half of it is not known."""


def lay(connection: Connection, name: str, **values: Any) -> None:
    """Write one row into a table as it stands now, whatever the models say of it."""
    columns: list[ColumnClause[Any]] = [column(key, TYPES.get(type(value))) for key, value in values.items()]
    connection.execute(insert(table(name, *columns)).values(values))


def write_photos_of_before(database: Database) -> list[str]:
    """Write a photo for each place, with a tag, as revision 0002 had them; return their ids as they stand there."""
    migrate.upgrade(database, "0002")
    times = {"created_at": SINCE, "updated_at": SINCE}
    facts = {"state": "ready", "content_type": "image/png", "sha256": "", "tags": ["sea"], "favorite": False}
    numbers = dict.fromkeys(("version", "size_bytes", "width", "height", "frames", "orientation"), 1)
    with database.write() as connection:
        account = {"email": "a@example.org", "password_hash": "", "is_admin": False}
        lay(connection, "users", id=OWNER, **account, token_version=0, used_bytes=0, **times)
        for number, (latitude, longitude) in enumerate(PLACES):
            named = {"id": UUID(int=number), "owner_id": OWNER, "object_key": f"originals/{number}"}
            place = {"latitude": latitude, "longitude": longitude}
            lay(connection, "photos", **named, **facts, **numbers, **place, timeline_at=SINCE, **times)
            lay(connection, "photo_tags", photo_id=UUID(int=number), tag="sea", owner_id=OWNER)
    return found(database, "SELECT id FROM photos ORDER BY object_key")


def found(database: Database, statement: str) -> list[Any]:
    with plain(database) as connection:
        rows = connection.execute(text(statement)).all()
    return [row[0] if len(row) == 1 else tuple(row) for row in rows]


def places(database: Database) -> list[Any]:
    return found(
        database,
        "SELECT photo_places.latitude, photo_places.longitude FROM photos LEFT JOIN photo_places"
        " ON photo_places.photo_id = photos.id ORDER BY object_key",
    )


def test_places_move_out_of_the_photos_and_back_and_nothing_else_is_touched(database: Database) -> None:
    ids = write_photos_of_before(database)

    migrate.upgrade(database, "0003")
    apart = places(database)
    states = found(database, "SELECT processing_state FROM photos")
    tagged = found(database, "SELECT count(*) FROM photo_tags")
    migrate.downgrade(database, "0002")

    assert apart == [*PLACES[:4], (None, None)]
    assert states == ["waiting"] * len(PLACES)
    assert tagged == [len(PLACES)]
    back = found(database, "SELECT latitude, longitude FROM photos ORDER BY object_key")
    assert back == apart
    assert found(database, "SELECT id FROM photos ORDER BY object_key") == ids
    assert found(database, "SELECT count(*) FROM photo_tags") == [len(PLACES)]


@pytest.mark.parametrize("step", ["execute", "drop_column", "add_column"])
@pytest.mark.parametrize("survived", [0, 1])
def test_a_move_of_places_that_died_goes_on_and_loses_none(
    database: Database, monkeypatch: pytest.MonkeyPatch, step: str, survived: int
) -> None:
    from alembic import op

    write_photos_of_before(database)
    left = [survived]
    real = getattr(op, step)

    def die(*arguments: Any, **options: Any) -> Any:
        if not left[0]:
            raise RuntimeError
        left[0] -= 1
        return real(*arguments, **options)

    moves: list[Callable[[Database], None]] = [
        lambda database: migrate.upgrade(database, "0003"),
        lambda database: migrate.downgrade(database, "0002"),
    ]
    for move in moves:
        left[0] = survived
        with monkeypatch.context() as patch:
            patch.setattr(op, step, die)
            with contextlib.suppress(RuntimeError):
                move(database)
        move(database)

    back = found(database, "SELECT latitude, longitude FROM photos ORDER BY object_key")
    assert back == [*PLACES[:4], (None, None)]
    migrate.upgrade(database)
    assert places(database) == [*PLACES[:4], (None, None)]
    assert differences(database) == []
