"""The deadline of a request ends every wait for the database: for a connection, a statement, an answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app.db.engine import Database
from app.db.time_limits import shorten
from app.errors import DatabaseBusyError, DatabaseDisconnectedError, DatabaseUnavailableError
from app.settings import DatabaseSettings
from app.stability import Deadline, DeadlineExceededError, deadline_scope
from tests.db.conftest import WORDS, Observer, ask
from tests.fakes.clocks import HandClock
from tests.servers.base import stand_still
from tests.servers.mariadb import MariadbServer
from tests.servers.postgres import PostgresServer

LOOSE = 20
"""Seconds that something which takes a fraction of one may take on a busy machine; without a deadline it takes 30."""


def test_the_smaller_of_limit_and_remainder_holds() -> None:
    clock = HandClock()

    assert shorten(2.0) == 2.0
    with deadline_scope(Deadline(10.0, clock)):
        assert shorten(2.0) == 2.0
        clock.advance(9.5)
        assert shorten(2.0) == 0.5
        clock.advance(9.5)
        assert shorten(2.0) == 0.0


def test_nobody_waits_for_a_connection_longer_than_the_request_has(url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(url), pool_size=1, max_overflow=0, pool_timeout_seconds=30)
    with closing(Database(settings, Observer())) as database, database.read():
        began = time.monotonic()

        with deadline_scope(Deadline(0.2)), pytest.raises(DatabaseBusyError):
            database.ping()

        assert time.monotonic() - began < LOOSE


def test_a_pool_that_is_made_anew_keeps_its_own_limit(url: str) -> None:
    with closing(Database(DatabaseSettings(url=SecretStr(url), pool_timeout_seconds=7), Observer())) as database:
        with deadline_scope(Deadline(0.5)):
            again = database.engine.pool.recreate()

        assert again._timeout == 7  # type: ignore[attr-defined]  # SQLAlchemy's own name for it


def test_a_deadline_that_has_passed_sends_no_statement(url: str) -> None:
    observer = Observer()
    with closing(Database(DatabaseSettings(url=SecretStr(url)), observer)) as database:
        database.ping()
        sent = len(observer.queries)

        with deadline_scope(Deadline(-1)), pytest.raises(DeadlineExceededError):
            database.ping()

        assert len(observer.queries) == sent


def limit_of(database: Database) -> str:
    return str(ask(database, WORDS[database.dialect].limit))


def test_a_statement_gets_what_the_request_has_left_and_the_next_one_its_own_limit_again(server_url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(server_url), pool_size=1, max_overflow=0, statement_timeout_seconds=50)
    with closing(Database(settings, Observer())) as database:
        with deadline_scope(Deadline(30.0, HandClock())):
            short = limit_of(database)
        long = limit_of(database)

        assert (short, long) == WORDS[database.dialect].thirty_and_fifty


def test_a_limit_set_in_a_transaction_ends_with_it_even_when_it_is_rolled_back(server_url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(server_url), pool_size=1, max_overflow=0, statement_timeout_seconds=50)
    with closing(Database(settings, Observer())) as database:

        def fail() -> None:
            with database.write() as connection:
                seen.append(str(connection.execute(text(WORDS[database.dialect].limit)).scalar_one()))
                raise RuntimeError

        seen: list[str] = []
        with deadline_scope(Deadline(30.0, HandClock())), pytest.raises(RuntimeError):
            fail()

        assert (*seen, limit_of(database)) == WORDS[database.dialect].thirty_and_fifty


def test_a_short_limit_does_not_keep_a_failed_statement_from_being_taken_back(server_url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(server_url), statement_timeout_seconds=50)
    with closing(Database(settings, Observer())) as database:
        with deadline_scope(Deadline(30.0, HandClock())), database.write() as connection:
            connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY)"))
            connection.execute(text("INSERT INTO things VALUES (1)"))
            with pytest.raises(IntegrityError), connection.begin_nested():
                connection.execute(text("INSERT INTO things VALUES (1)"))
            connection.execute(text("INSERT INTO things VALUES (2)"))

        assert ask(database, "SELECT count(*) FROM things") == 2


def test_a_slow_statement_ends_with_the_request(server_url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(server_url), statement_timeout_seconds=30)
    with closing(Database(settings, Observer())) as database:
        began = time.monotonic()

        with deadline_scope(Deadline(0.3, HandClock())), pytest.raises(DatabaseUnavailableError):
            ask(database, WORDS[database.dialect].sleep)

        assert time.monotonic() - began < LOOSE
        database.ping()


def test_on_sqlite_nobody_waits_for_a_lock_longer_than_the_request_has(tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/locked.db"
    with closing(Database(DatabaseSettings(url=SecretStr(url)), Observer())) as database:
        with database.write() as connection:
            connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY)"))
            began = time.monotonic()
            refused: list[BaseException] = []

            def write() -> None:
                try:
                    with deadline_scope(Deadline(0.3, HandClock())), database.write() as other:
                        other.execute(text("INSERT INTO things VALUES (1)"))
                except DatabaseBusyError as error:
                    refused.append(error)

            thread = threading.Thread(target=write)
            thread.start()
            thread.join(20)

        assert time.monotonic() - began < 5  # as long as it waits without a deadline
        assert len(refused) == 1
        with database.read() as connection:
            assert connection.execute(text("PRAGMA busy_timeout")).scalar_one() == 5000


@pytest.mark.usefixtures("trusting")
def test_a_server_that_hangs_is_given_up_with_its_connection(server: PostgresServer | MariadbServer) -> None:
    with server.database() as url:
        settings = DatabaseSettings(url=SecretStr(url), pool_size=1, max_overflow=0, statement_timeout_seconds=30)
        with closing(Database(settings, Observer())) as database:
            number = ask(database, WORDS[database.dialect].connection)
            pid = number if isinstance(server, PostgresServer) else server.pid
            stand_still(pid)
            began = time.monotonic()
            try:
                with deadline_scope(Deadline(0.3, HandClock())), pytest.raises(DatabaseDisconnectedError):
                    database.ping()
            finally:
                os.kill(pid, signal.SIGCONT)

            assert time.monotonic() - began < LOOSE
            database.ping()
            assert ask(database, WORDS[database.dialect].connection) != number
