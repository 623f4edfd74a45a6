"""Fixtures of the room of renditions: one process of it, on SQLite and where locks matter on every database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.engine import Database
from tests.photos.world import World, clear
from tests.renditions.world import Instance


@pytest.fixture
def anywhere(kept_database: Database, tmp_path: Path) -> Iterator[Instance]:
    """Where locks and SQL matter: on every database."""
    yield from _opened(kept_database, tmp_path)


@pytest.fixture
def here(kept_sqlite: Database, tmp_path: Path) -> Iterator[Instance]:
    """Where one database tells enough."""
    yield from _opened(kept_sqlite, tmp_path)


def _opened(database: Database, scratch: Path) -> Iterator[Instance]:
    clear(database)
    world = World(database)
    instance = Instance(world, scratch)
    yield instance
    instance.close()
    world.keeper.close()
