"""Fixtures of the database's tests: an empty database of each kind, and an observer that remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.db.engine import Database
from app.settings import DatabaseSettings


class Observer:
    """Remembers what it hears of a database."""

    def __init__(self) -> None:
        self.queries: list[float] = []
        self.slow = 0
        self.errors: list[str] = []
        self.figures: list[tuple[int, int]] = []
        self.waits: list[float] = []
        self.timeouts = 0

    def query(self, seconds: float) -> None:
        self.queries.append(seconds)

    def slow_query(self) -> None:
        self.slow += 1

    def database_error(self, kind: str) -> None:
        self.errors.append(kind)

    def pool(self, active: int, idle: int, waiting: int) -> None:
        assert idle >= 0
        self.figures.append((active, waiting))

    def pool_wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def pool_timeout(self) -> None:
        self.timeouts += 1


def in_use(database: Database) -> tuple[int, int]:
    """Return how many connections are in use and how many threads wait for one."""
    figures = database.pool()
    return figures.active, figures.waiting


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def open_database(url: str, observer: Observer) -> Iterator[Callable[..., Database]]:
    """A function that opens the database with some settings; all are closed in the end."""
    with ExitStack() as closing:

        def make(**settings: Any) -> Database:
            database = Database(DatabaseSettings(url=SecretStr(url), **settings), observer)
            closing.callback(database.close)
            return database

        yield make


@pytest.fixture
def database(open_database: Callable[..., Database]) -> Database:
    return open_database()
