"""Fixtures of the room of photos: its world on every database, each migrated once and emptied for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.db.engine import Database
from tests.accounts.world import open_database
from tests.photos.world import World, clear
from tests.servers.mariadb import MariadbServer
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('photos')}/photos.db")
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgresql(postgres_server: PostgresServer) -> Iterator[Database]:
    with postgres_server.database() as url:
        database = open_database(url)
        yield database
        database.close()


@pytest.fixture(scope="session")
def mariadb(mariadb_server: MariadbServer) -> Iterator[Database]:
    with mariadb_server.database() as url:
        database = open_database(url)
        yield database
        database.close()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def any_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Where locks and SQL matter: on every database."""
    database: Database = request.getfixturevalue(request.param)
    database.close()  # another file's test may have restarted the server: no connection of before is used
    clear(database)
    world = World(database)
    yield world
    world.keeper.close()


@pytest.fixture
def world(sqlite: Database) -> Iterator[World]:
    """Where one database tells enough."""
    clear(sqlite)
    world = World(sqlite)
    yield world
    world.keeper.close()
