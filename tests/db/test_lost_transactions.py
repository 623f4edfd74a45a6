"""A connection that dies in a transaction: before the commit nothing took effect, and it is done again."""

from __future__ import annotations

from contextlib import closing
from typing import Literal

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text

from app.db.engine import Database
from app.db.guarded import WRITE_CLASSIFICATION, DatabasePipelines, GuardedDatabase
from app.errors import DatabaseDisconnectedError, DatabaseTransactionLostError
from app.settings import DatabaseSettings
from app.stability import Pipeline, Retry, RetryOptions
from tests.db.conftest import WORDS, Observer
from tests.db.test_prepared import end_connections
from tests.servers.mariadb import MariadbServer
from tests.servers.postgres import PostgresServer

Moment = Literal["at the first statement", "after a statement", "at the commit"]
BEFORE_THE_COMMIT: tuple[Moment, ...] = ("at the first statement", "after a statement")


class Work:
    """Adds a row; its first connection is ended at a moment."""

    def __init__(self, server: PostgresServer | MariadbServer, url: str, moment: Moment) -> None:
        self.moment = moment
        self.runs = 0
        self._server = server
        self._url = url

    def __call__(self, connection: Connection) -> None:
        self.runs += 1
        if self.moment == "at the first statement":
            self._end(connection)
        connection.execute(text("INSERT INTO things VALUES (:id)"), {"id": self.runs})
        if self.moment != "at the first statement":
            self._end(connection)
        if self.moment == "after a statement":
            connection.execute(text("SELECT count(*) FROM things"))

    def _end(self, connection: Connection) -> None:
        if self.runs == 1:
            words = WORDS[connection.dialect.name]
            number = connection.execute(text(words.connection)).scalar_one()
            end_connections(self._server, self._url, {number})


@pytest.fixture
def url(server_url: str) -> str:
    settings = DatabaseSettings(url=SecretStr(server_url))
    with closing(Database(settings, Observer())) as database, database.write() as connection:
        connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY)"))
    return server_url


def rows(database: Database) -> list[int]:
    with database.read() as connection:
        return list(connection.execute(text("SELECT id FROM things ORDER BY id")).scalars())


@pytest.mark.parametrize("moment", BEFORE_THE_COMMIT)
def test_before_the_commit_nothing_took_effect(
    server: PostgresServer | MariadbServer, url: str, moment: Moment
) -> None:
    with closing(Database(DatabaseSettings(url=SecretStr(url)), Observer())) as database:
        with pytest.raises(DatabaseTransactionLostError):
            database.run_write(Work(server, url, moment))

        assert rows(database) == []


def test_what_dies_at_the_commit_is_unknown(server: PostgresServer | MariadbServer, url: str) -> None:
    with (
        closing(Database(DatabaseSettings(url=SecretStr(url)), Observer())) as database,
        pytest.raises(DatabaseDisconnectedError) as caught,
    ):
        database.run_write(Work(server, url, "at the commit"))

    assert caught.type is DatabaseDisconnectedError


@pytest.mark.parametrize("moment", BEFORE_THE_COMMIT)
def test_a_lost_transaction_is_done_again_and_once(
    server: PostgresServer | MariadbServer, url: str, moment: Moment
) -> None:
    again = Pipeline("write", [Retry("write", RetryOptions(), classification=WRITE_CLASSIFICATION)])
    pipelines = DatabasePipelines(Pipeline("database", []), Pipeline("read", []), again)
    work = Work(server, url, moment)
    with closing(GuardedDatabase(DatabaseSettings(url=SecretStr(url)), Observer(), pipelines)) as database:
        database.run_write(work)

        assert (work.runs, rows(database)) == (2, [2])
