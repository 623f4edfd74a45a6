"""Fixtures of the database's tests: an empty database of each kind, and an observer that remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import URL, text

from app.db import engine, time_limits
from app.db.engine import Database
from app.errors import DatabaseUnavailableError
from app.settings import DatabaseSettings
from tests.servers.mariadb import MariadbServer
from tests.servers.postgres import PostgresServer


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


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    return str(request.getfixturevalue("postgres_url" if request.param == "postgresql" else "mariadb_url"))


@dataclass(frozen=True)
class Words:
    """What the two servers call the same things.

    Attributes:
        limit: A SELECT of the time that a statement has.
        thirty_and_fifty: How that says 30 and 50 seconds.
        connection: A SELECT of the number of the present connection.
        sleep: A SELECT that takes half a minute.
        isolation: A SELECT of the isolation of transactions.
    """

    limit: str
    thirty_and_fifty: tuple[str, str]
    connection: str
    sleep: str
    isolation: str


WORDS = {
    "postgresql": Words(
        limit="SELECT current_setting('statement_timeout')",
        thirty_and_fifty=("30s", "50s"),
        connection="SELECT pg_backend_pid()",
        sleep="SELECT pg_sleep(30)",
        isolation="SELECT lower(current_setting('transaction_isolation'))",
    ),
    "mysql": Words(
        limit="SELECT @@session.max_statement_time",
        thirty_and_fifty=("30.0", "50.0"),
        connection="SELECT connection_id()",
        sleep="SELECT sleep(30)",
        isolation="SELECT replace(lower(@@session.tx_isolation), '-', ' ')",
    ),
}
"""By the name of the dialect."""


def answers(database: Database) -> bool:
    """Tell whether the server has answered in the time of a statement: a busy one may have to be asked again."""
    try:
        database.ping()
    except DatabaseUnavailableError:
        return False
    return True


def ask(database: Database, statement: str) -> Any:
    """Return the one value that a statement of the server's own words finds, alone."""
    with database.read() as connection:
        return connection.execute(text(statement)).scalar_one()


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> PostgresServer | MariadbServer:
    """Each server in turn."""
    running = request.getfixturevalue("postgres_server" if request.param == "postgresql" else "mariadb_server")
    assert isinstance(running, PostgresServer | MariadbServer)
    return running


@pytest.fixture
def server_url(server: PostgresServer | MariadbServer) -> Iterator[str]:
    """Of an empty database on each server in turn."""
    with server.database() as url:
        yield url


@pytest.fixture
def open_database(url: str, observer: Observer) -> Iterator[Callable[..., Database]]:
    """A function that opens the database with some settings, and else with patience; all are closed in the end."""
    patient = {"pool_timeout_seconds": 30, "statement_timeout_seconds": 30}
    with ExitStack() as closing:

        def make(**settings: Any) -> Database:
            database = Database(DatabaseSettings(url=SecretStr(url), **{**patient, **settings}), observer)
            closing.callback(database.close)
            return database

        yield make


@pytest.fixture
def database(open_database: Callable[..., Database]) -> Database:
    return open_database()


@pytest.fixture
def patient_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server be who ends a statement, be it ever so slow to do so."""
    monkeypatch.setattr(time_limits, "_GRACE_SECONDS", 20.0)


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody ask whether a connection still lives, however long it was idle."""
    monkeypatch.setattr(engine, "_TRUSTED_IDLE_SECONDS", 3600.0)


@pytest.fixture(autouse=True)
def _patient_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a busy PostgreSQL more time to take a connection than the two seconds of a short wait for the pool."""
    arguments = engine._connect_arguments

    def patient(url: URL, settings: DatabaseSettings) -> dict[str, Any]:
        given = arguments(url, settings)
        return {**given, "connect_timeout": 30} if "connect_timeout" in given else given

    monkeypatch.setattr(engine, "_connect_arguments", patient)
