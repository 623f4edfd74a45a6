"""Fixtures of the room of photos: its world on every database, emptied for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.db.engine import Database
from tests.photos.world import World, clear


@pytest.fixture
def any_world(kept_database: Database) -> Iterator[World]:
    """Where locks and SQL matter: on every database."""
    yield from _opened(kept_database)


@pytest.fixture
def world(kept_sqlite: Database) -> Iterator[World]:
    """Where one database tells enough."""
    yield from _opened(kept_sqlite)


def _opened(database: Database) -> Iterator[World]:
    clear(database)
    world = World(database)
    yield world
    world.keeper.close()
