"""Fixtures of the room of accounts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.db.engine import Database
from tests.accounts.world import CountingHashing, World, open_database
from tests.fakes.clocks import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/accounts.db")
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Where races are judged: on every database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/accounts.db"
    else:
        url = request.getfixturevalue("postgres_url" if request.param == "postgresql" else "mariadb_url")
    database = open_database(url)
    yield database
    database.close()


@pytest.fixture
def hashing() -> CountingHashing:
    return CountingHashing()


@pytest.fixture
def world(database: Database, tmp_path: Path, clock: HandClock, hashing: CountingHashing) -> World:
    return World(database, tmp_path / "keys" / "ring.json", clock, hashing=hashing)


@pytest.fixture
def any_world(any_database: Database, tmp_path: Path, clock: HandClock, hashing: CountingHashing) -> World:
    return World(any_database, tmp_path / "keys" / "ring.json", clock, hashing=hashing, waiting=100, cache_seconds=5)


@pytest.fixture
def client(world: World) -> FlaskClient:
    return world.app().test_client()
