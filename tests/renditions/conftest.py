"""Fixtures of the room of renditions: one process of it, on SQLite and where locks matter on every database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.engine import Database
from tests.accounts.world import open_database
from tests.photos.world import World, clear
from tests.renditions.world import Instance
from tests.servers.mariadb import MariadbServer
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('renditions')}/photos.db")
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
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Instance]:
    """Where locks and SQL matter: on every database."""
    database: Database = request.getfixturevalue(request.param)
    database.close()  # another file's test may have restarted the server
    yield from _opened(database, tmp_path)


@pytest.fixture
def here(sqlite: Database, tmp_path: Path) -> Iterator[Instance]:
    """Where one database tells enough."""
    yield from _opened(sqlite, tmp_path)


def _opened(database: Database, scratch: Path) -> Iterator[Instance]:
    clear(database)
    world = World(database)
    instance = Instance(world, scratch)
    yield instance
    instance.close()
    world.keeper.close()
