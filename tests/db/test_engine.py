"""The engine: transactions, the pool and its end, slow queries, errors, and that every connection comes back."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import IntegrityError

from app.db.engine import Database, StatementObserver
from app.db.pool import PoolFigures
from app.errors import DatabaseBusyError, DatabaseReadOnlyError, DatabaseUnavailableError
from app.http.problems import problem_for
from app.settings import DatabaseSettings
from tests.db.conftest import WORDS, Observer, answers, ask, in_use
from tests.servers.mariadb import MariadbServer
from tests.servers.postgres import PostgresServer
from tests.servers.product import until

OpenDatabase = Callable[..., Database]


@pytest.fixture
def table(database: Database) -> Database:
    with database.write() as connection:
        connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY, name VARCHAR(50))"))
    return database


def names(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(text("SELECT name FROM things ORDER BY id")).scalars())


def add(connection: Connection, number: int, name: str = "x") -> None:
    connection.execute(text("INSERT INTO things VALUES (:id, :name)"), {"id": number, "name": name})


def test_a_write_commits_at_its_end_as_a_whole(table: Database) -> None:
    with table.write() as connection:
        add(connection, 1, "one")
        assert names(table) == []
        add(connection, 2, "two")

    assert names(table) == ["one", "two"]


def test_a_write_that_raises_changes_nothing_and_raises_the_same(table: Database) -> None:
    class OurError(Exception):
        pass

    def fail() -> None:
        with table.write() as connection:
            add(connection, 1)
            raise OurError

    with pytest.raises(OurError):
        fail()

    assert names(table) == []
    assert in_use(table) == (0, 0)


def test_each_statement_of_a_read_stands_alone_and_sees_what_others_commit(table: Database) -> None:
    with table.read() as connection:
        before = connection.execute(text("SELECT count(*) FROM things")).scalar_one()
        with table.write() as other:
            add(other, 1)
        after = connection.execute(text("SELECT count(*) FROM things")).scalar_one()

    assert (before, after) == (0, 1)


def test_writers_queue_and_none_of_many_is_lost(table: Database) -> None:
    def count_up(number: int) -> None:
        with table.write() as connection:
            add(connection, number)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(count_up, range(64)))

    assert len(names(table)) == 64


def test_on_sqlite_a_writer_has_the_lock_from_its_first_moment(table: Database, observer: Observer) -> None:
    if table.dialect != "sqlite":
        with table.write() as connection:
            assert connection.execute(text(WORDS[table.dialect].isolation)).scalar_one() == "read committed"
        return
    order: list[str] = []
    started = threading.Event()

    def second() -> None:
        started.set()
        with table.write() as connection:
            order.append("second")
            add(connection, 2)

    with ExitStack() as stack:
        connection = stack.enter_context(table.write())
        thread = threading.Thread(target=second)
        thread.start()
        started.wait(10)
        # Only read so far: without BEGIN IMMEDIATE the other would pass now, and this write would then fail.
        connection.execute(text("SELECT count(*) FROM things")).scalar_one()
        order.append("first")
        add(connection, 1)
    thread.join(10)

    assert order == ["first", "second"]
    assert observer.errors == []


def test_sqlite_is_in_wal_mode_with_foreign_keys_and_durable(database: Database) -> None:
    if database.dialect != "sqlite":
        zones = {"postgresql": ("SHOW timezone", "UTC"), "mysql": ("SELECT @@session.time_zone", "+00:00")}
        statement, zone = zones[database.dialect]
        assert ask(database, statement) == zone
        return
    with database.read() as connection:
        found = [
            connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        ]

    assert found == ["wal", 1, 2, 5000]


def test_an_integrity_error_passes_through_and_counts_as_no_failure(table: Database, observer: Observer) -> None:
    def twice() -> None:
        with table.write() as connection:
            add(connection, 1)
            add(connection, 1)

    with pytest.raises(IntegrityError):
        twice()

    assert names(table) == []
    assert observer.errors == []


def test_a_failing_statement_is_one_error_of_ours_that_says_nothing_inside(
    database: Database, observer: Observer
) -> None:
    def fail() -> None:
        with database.read() as connection:
            connection.execute(text("SELECT secret_column FROM nowhere"))

    with pytest.raises(DatabaseUnavailableError) as caught:
        fail()

    assert "secret_column" not in caught.value.detail
    assert caught.value.retry_after_seconds == 2
    assert problem_for(DatabaseUnavailableError).status == 503
    assert observer.errors == ["statement"]
    assert in_use(database) == (0, 0)


def test_an_empty_pool_is_a_503_within_its_time_and_recovers_at_once(
    open_database: OpenDatabase, observer: Observer
) -> None:
    database = open_database(pool_size=2, max_overflow=1, pool_timeout_seconds=0.2)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(database.read())
        assert in_use(database) == (3, 0)

        started = time.monotonic()
        with pytest.raises(DatabaseUnavailableError) as caught:
            database.ping()
        waited = time.monotonic() - started

    assert 0.2 <= waited < 15
    assert caught.value.retry_after_seconds == 1
    assert observer.errors == ["pool_timeout"]
    assert max(waiting for _, waiting in observer.figures) == 1
    database.ping()
    assert in_use(database) == observer.figures[-1] == (0, 0)


def test_a_wait_for_a_connection_is_measured_and_one_in_vain_is_counted(
    open_database: OpenDatabase, observer: Observer
) -> None:
    database = open_database(pool_size=1, max_overflow=0, pool_timeout_seconds=0.2)
    with database.read(), pytest.raises(DatabaseBusyError):
        database.ping()

    assert (len(observer.waits), observer.timeouts) == (1, 1)
    assert database.pool() == PoolFigures(active=0, idle=1, waiting=0, max_connections=1, timeouts=1)


def test_a_process_that_serves_nobody_is_heard_of_by_its_statements_alone(url: str, observer: Observer) -> None:
    settings = DatabaseSettings(url=SecretStr(url), pool_size=1, max_overflow=0, pool_timeout_seconds=0.05)
    with closing(Database(settings, StatementObserver(observer))) as database:
        with database.read(), pytest.raises(DatabaseBusyError):
            database.ping()
        database.ping()
        with pytest.raises(DatabaseUnavailableError), database.read() as connection:
            connection.execute(text("SELECT nothing FROM nowhere"))

    assert (observer.figures, observer.waits, observer.timeouts) == ([], [], 0)
    assert len(observer.queries) == 2
    assert observer.errors == ["pool_timeout", "statement"]


@pytest.fixture
def read_only(table: Database, request: pytest.FixtureRequest) -> Iterator[Database]:
    """The database, after somebody has set it so that nothing can be changed; its connections are new ones."""
    if table.dialect == "mysql":
        mariadb: MariadbServer = request.getfixturevalue("mariadb_server")
        mariadb.execute("SET GLOBAL read_only = ON")
        yield table
        mariadb.execute("SET GLOBAL read_only = OFF")
        return
    if table.dialect == "postgresql":
        name = str(table.engine.url.database)
        with table.read() as connection:
            connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    else:
        event.listen(table.engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only = ON"))
    table.close()
    yield table
    if table.dialect == "postgresql":
        with table.read() as connection:
            connection.execute(text("SET default_transaction_read_only = off"))
            connection.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))


def test_a_database_that_takes_no_changes_is_told_from_one_that_is_down(
    read_only: Database, observer: Observer
) -> None:
    with pytest.raises(DatabaseReadOnlyError) as caught, read_only.write() as connection:
        add(connection, 1)

    assert names(read_only) == []
    assert problem_for(type(caught.value)).slug == "read-only"
    assert caught.value.retry_after_seconds == 2
    assert observer.errors == ["statement"]
    assert read_only.ping() is (read_only.dialect != "sqlite")


def test_a_database_that_takes_changes_says_so(database: Database) -> None:
    assert database.ping() is False


def test_a_waiting_thread_gets_the_connection_that_comes_free(
    open_database: OpenDatabase, observer: Observer
) -> None:
    database = open_database(pool_size=1, max_overflow=0, pool_timeout_seconds=20)
    with ThreadPoolExecutor(1) as pool:
        with database.read():
            waiting = pool.submit(database.ping)
            ends = time.monotonic() + 10
            while in_use(database) != (1, 1):
                assert time.monotonic() < ends
        waiting.result(10)

    assert observer.figures[-1] == (0, 0)
    assert database.max_connections == 1


def test_the_last_of_many_returned_connections_is_reported(database: Database, observer: Observer) -> None:
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: database.ping(), range(300)))

    assert observer.figures[-1] == (0, 0)


def test_a_slow_query_is_logged_without_its_values_in_100_characters(
    open_database: OpenDatabase, observer: Observer, caplog: pytest.LogCaptureFixture
) -> None:
    database = open_database(slow_query_seconds=0.001)
    waits = {
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 300000) "
        "SELECT max(i) FROM n",
        "postgresql": "SELECT count(*) FROM generate_series(1, 300000) AS numbers_that_take_a_while_to_be_counted",
        "mysql": "SELECT count(*) FROM (SELECT seq AS number FROM seq_1_to_300000) AS numbers_that_take_a_while",
    }
    statement = f"{waits[database.dialect]}\n   WHERE 'a private value' <> :value  AND 1 = 1 AND 2 = 2 AND 3 = 3"

    with caplog.at_level(logging.WARNING), database.read() as connection:
        connection.execute(text(statement), {"value": "ada@example.org"})

    records = [record for record in caplog.records if record.message == "slow query"]
    assert len(records) == observer.slow == 1
    shown = vars(records[0])
    assert shown["statement"] == " ".join(statement.split())[:100]
    assert shown["duration_ms"] >= 1
    assert "ada@example.org" not in str(shown)


def test_a_quick_query_is_timed_and_not_logged(
    open_database: OpenDatabase, observer: Observer, caplog: pytest.LogCaptureFixture
) -> None:
    database = open_database(slow_query_seconds=60)

    with caplog.at_level(logging.WARNING):
        database.ping()

    assert len(observer.queries) == 1
    assert observer.slow == 0
    assert "slow query" not in caplog.messages


@pytest.mark.usefixtures("patient_client")
def test_a_statement_that_its_time_has_ended_was_a_slow_query(server_url: str, observer: Observer) -> None:
    settings = DatabaseSettings(url=SecretStr(server_url), statement_timeout_seconds=0.1, slow_query_seconds=0.05)
    database = Database(settings, observer)

    with closing(database), pytest.raises(DatabaseUnavailableError):
        ask(database, WORDS[database.dialect].sleep)

    assert (observer.slow, len(observer.queries), observer.errors) == (1, 1, ["statement"])


def test_a_statement_over_its_time_is_ended(server_url: str, observer: Observer) -> None:
    settings = DatabaseSettings(url=SecretStr(server_url), statement_timeout_seconds=0.2)
    database = Database(settings, observer)
    started = time.monotonic()

    with pytest.raises(DatabaseUnavailableError):
        ask(database, WORDS[database.dialect].sleep)

    assert time.monotonic() - started < 20
    until(lambda: answers(database), "an answer")
    database.close()


def test_connections_that_died_are_replaced_without_a_restart(
    server: PostgresServer | MariadbServer, observer: Observer
) -> None:
    with server.database() as url:
        database = Database(DatabaseSettings(url=SecretStr(url), pool_timeout_seconds=1), observer)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: database.ping(), range(20)))
        server.kill()

        with pytest.raises(DatabaseUnavailableError):
            database.ping()
        server.start()

        failures = 0
        for _ in range(20):
            try:
                database.ping()
            except DatabaseUnavailableError:
                failures += 1
        # A pool learns of the death from the connections it has: never more than those.
        assert failures <= 4
        database.ping()
        assert in_use(database) == (0, 0)
        database.close()


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_a_database_that_refuses_is_unavailable_and_its_address_is_not_told(observer: Observer, driver: str) -> None:
    database = Database(DatabaseSettings(url=SecretStr(f"{driver}://ada:pw@127.0.0.1:1/photos")), observer)

    with pytest.raises(DatabaseUnavailableError) as caught:
        database.ping()

    assert "127.0.0.1" not in caught.value.detail
    database.close()


@pytest.mark.parametrize("way", ["read", "write"])
def test_every_way_out_gives_the_connection_back(table: Database, way: str) -> None:
    enter = getattr(table, way)

    def leave(error: BaseException | None) -> None:
        with enter() as connection:
            connection.execute(text("SELECT 1"))
            if error is not None:
                raise error

    for error in (None, ValueError(), KeyboardInterrupt(), SystemExit(), GeneratorExit()):
        try:
            leave(error)
        except BaseException as raised:
            if raised is not error:
                raise
        assert in_use(table) == (0, 0)


@pytest.fixture
def _generous_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.usefixtures("_generous_umask")
def test_a_sqlite_database_and_the_folders_made_for_it_are_private(tmp_path: Path, observer: Observer) -> None:
    file = tmp_path / "var" / "deep" / "photo-api.db"

    with closing(Database(DatabaseSettings(url=SecretStr(f"sqlite:///{file}")), observer)) as database:
        assert not file.exists()
        with database.write() as connection:
            connection.execute(text("CREATE TABLE things (id INTEGER)"))
        found = {path.name: mode(path) for path in file.parent.iterdir()}

    assert found == {"photo-api.db": 0o600, "photo-api.db-wal": 0o600, "photo-api.db-shm": 0o600}
    assert (mode(tmp_path / "var"), mode(tmp_path / "var" / "deep")) == (0o700, 0o700)


@pytest.mark.usefixtures("_generous_umask")
def test_a_sqlite_file_that_its_operator_widened_stays_as_it_is(tmp_path: Path, observer: Observer) -> None:
    file = tmp_path / "photo-api.db"
    file.touch(mode=0o640)

    with closing(Database(DatabaseSettings(url=SecretStr(f"sqlite:///{file}")), observer)) as database:
        database.ping()

    assert mode(file) == 0o640


@pytest.mark.parametrize("place", ["file/photo-api.db", "folder"])
def test_a_sqlite_file_that_cannot_be_made_is_unavailable(tmp_path: Path, observer: Observer, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()

    with (
        closing(Database(DatabaseSettings(url=SecretStr(f"sqlite:///{tmp_path}/{place}")), observer)) as database,
        pytest.raises(DatabaseUnavailableError),
    ):
        database.ping()
