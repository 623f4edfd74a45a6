"""Prepared reads: the same rows as SQLAlchemy's, in one statement, under the same limits and with the same errors."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    bindparam,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.types import TypeDecorator

from app.db.base import UtcDateTime
from app.db.engine import Database
from app.db.prepared import PreparedSelect
from app.errors import DatabaseBusyError, DatabaseDisconnectedError, DatabaseUnavailableError
from app.settings import DatabaseSettings
from app.stability import Deadline, DeadlineExceededError, deadline_scope
from tests.db.conftest import WORDS, Observer, in_use
from tests.fakes.clocks import HandClock
from tests.servers.mariadb import MariadbServer
from tests.servers.postgres import PostgresServer
from tests.servers.product import until

OpenDatabase = Callable[..., Database]

THINGS = Table(
    "things",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("number", Integer),
    Column("share", Float),
    Column("is_good", Boolean),
    Column("at", UtcDateTime),
    Column("words", JSON),
    Column("state", String(10)),
)
FIRST, SECOND = UUID(int=1), UUID(int=2)
NOON = dt.datetime(2026, 1, 2, 12, 30, 1, 250, tzinfo=dt.UTC)
ROWS: list[dict[str, Any]] = [
    {"id": FIRST, "number": 7, "share": 0.5, "is_good": True, "at": NOON, "words": ["a", "ö"], "state": "ready"},
    {"id": SECOND, "number": None, "share": None, "is_good": False, "at": None, "words": {"n": 1}, "state": "ready"},
]
ALL = PreparedSelect(select(*THINGS.c).order_by(THINGS.c.id))
ONE = PreparedSelect(
    select(THINGS.c.id, THINGS.c.at).where(
        THINGS.c.id == bindparam("thing"),
        THINGS.c.state == "ready",
        literal_column("'x'") == "x",
    )
)
SINCE = PreparedSelect(select(THINGS.c.number).where(THINGS.c.at >= bindparam("since")).limit(bindparam("most")))
QUESTION = PreparedSelect(select(literal(1).label("one")))
LIMIT = {
    "postgresql": PreparedSelect(select(func.current_setting("statement_timeout").label("limit"))),
    "mysql": PreparedSelect(select(literal_column("concat(@@session.max_statement_time)").label("limit"))),
}
NUMBER = {
    "postgresql": PreparedSelect(select(func.pg_backend_pid().label("number"))),
    "mysql": PreparedSelect(select(func.connection_id().label("number"))),
}
SLEEP = {
    "postgresql": PreparedSelect(select(func.pg_sleep(30).label("slept"))),
    "mysql": PreparedSelect(select(func.sleep(30).label("slept"))),
}


@pytest.fixture
def things(database: Database, observer: Observer) -> Database:
    with database.write() as connection:
        THINGS.create(connection)
        connection.execute(insert(THINGS), ROWS)
    observer.queries.clear()
    return database


def test_the_rows_are_those_of_sqlalchemy_in_type_and_value(things: Database) -> None:
    with things.read() as connection:
        expected = [tuple(row) for row in connection.execute(ALL.statement)]

    found = [things.ask(ALL, {}) for _ in range(2)]

    assert found[0] == found[1] == expected == [tuple(row.values()) for row in ROWS]
    assert [type(value) for value in found[0][0]] == [type(value) for value in expected[0]]


def test_members_of_a_row_have_the_names_of_their_columns(things: Database) -> None:
    (row,) = things.ask(ONE, {"thing": FIRST})

    assert (row.id, row.at) == (FIRST, NOON)
    assert tuple(row) == (FIRST, NOON)


def test_parameters_are_written_in_the_words_of_the_database(things: Database) -> None:
    a_day = dt.timedelta(days=1)

    assert things.ask(SINCE, {"since": NOON, "most": 5}) == [(7,)]
    assert things.ask(SINCE, {"since": NOON.astimezone(dt.timezone(a_day / 3)), "most": 5}) == [(7,)]
    assert things.ask(SINCE, {"since": NOON + a_day, "most": 5}) == []
    assert things.ask(SINCE, {"since": NOON - a_day, "most": 0}) == []


def test_a_read_is_one_statement_and_gives_its_connection_back(things: Database, observer: Observer) -> None:
    things.ask(ONE, {"thing": FIRST})

    assert len(observer.queries) == 1
    assert in_use(things) == (0, 0)


def test_a_statement_is_compiled_once_for_a_database(things: Database) -> None:
    dialect = things.engine.dialect

    assert ALL.form(dialect) is ALL.form(dialect)


def test_one_statement_serves_two_databases_in_turn(things: Database, postgres_url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(postgres_url))
    with closing(Database(settings, Observer())) as other:
        answers = [database.ask(QUESTION, {}) for database in (things, other, things, other)]

    assert answers == [[(1,)]] * 4


@pytest.mark.parametrize("values", [{}, {"thing": FIRST, "other": 1}])
def test_a_parameter_too_few_or_too_many_is_our_mistake_and_costs_no_connection(
    things: Database, observer: Observer, values: dict[str, Any]
) -> None:
    with pytest.raises(KeyError):
        things.ask(ONE, values)

    assert observer.queries == []
    assert in_use(things) == (0, 0)


def test_a_failing_statement_is_one_error_of_ours_that_says_nothing_inside(
    database: Database, observer: Observer
) -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        database.ask(ALL, {})

    assert "things" not in caught.value.detail
    assert observer.errors == ["statement"]
    assert in_use(database) == (0, 0)


def test_a_database_that_refuses_is_unavailable(observer: Observer) -> None:
    settings = DatabaseSettings(url=SecretStr("postgresql+psycopg://ada:pw@127.0.0.1:1/photos"))

    with closing(Database(settings, observer)) as database, pytest.raises(DatabaseUnavailableError):
        database.ask(QUESTION, {})

    assert len(observer.errors) == 1


def test_an_empty_pool_is_busy(open_database: OpenDatabase, observer: Observer) -> None:
    database = open_database(pool_size=1, max_overflow=0, pool_timeout_seconds=0.05)

    with database.read(), pytest.raises(DatabaseBusyError):
        database.ask(QUESTION, {})

    assert observer.errors == ["pool_timeout"]


def end_connections(server: PostgresServer | MariadbServer, url: str, numbers: set[int]) -> None:
    """Let the server end connections, and wait until they are gone."""
    if isinstance(server, MariadbServer):
        for number in numbers:
            server.execute(f"KILL {number}")
        until(lambda: not numbers & {row[0] for row in server.execute("SHOW PROCESSLIST")}, "their end")
        return
    with closing(Database(DatabaseSettings(url=SecretStr(url)), Observer())) as other, other.read() as killer:
        for number in numbers:
            killer.execute(text("SELECT pg_terminate_backend(:number, 5000)"), {"number": number})


@pytest.mark.usefixtures("trusting")
def test_a_connection_that_died_is_told_and_none_as_old_is_used_again(
    server: PostgresServer | MariadbServer, observer: Observer
) -> None:
    with server.database() as url:
        database = Database(DatabaseSettings(url=SecretStr(url), pool_size=2), observer)
        number = NUMBER[database.dialect]
        with closing(database):
            with database.read() as first, database.read() as second:
                before = {item.execute(number.statement).scalar_one() for item in (first, second)}
            end_connections(server, url, before)

            with pytest.raises(DatabaseDisconnectedError):
                database.ask(number, {})
            with database.read():
                answers = [row.number for _ in range(3) for row in database.ask(number, {})]

    assert not before & set(answers)
    assert observer.errors == ["disconnect"]


def test_a_dead_connection_is_an_error_of_its_own_kind(postgres_url: str, observer: Observer) -> None:
    settings = DatabaseSettings(url=SecretStr(postgres_url), pool_size=1, max_overflow=0)
    dying = PreparedSelect(select(func.pg_terminate_backend(func.pg_backend_pid()).label("is_done")))
    with closing(Database(settings, observer)) as database:
        (before,) = database.ask(NUMBER["postgresql"], {})

        with pytest.raises(DatabaseDisconnectedError):
            database.ask(dying, {})
        (after,) = database.ask(NUMBER["postgresql"], {})

    assert before.number != after.number
    assert observer.errors == ["disconnect"]
    assert in_use(database) == (0, 0)


def test_a_deadline_that_has_passed_sends_no_statement(things: Database, observer: Observer) -> None:
    with deadline_scope(Deadline(-1)), pytest.raises(DeadlineExceededError):
        things.ask(ALL, {})

    assert observer.queries == []
    assert things.ask(QUESTION, {}) == [(1,)]


def test_a_read_gets_what_the_request_has_left_and_the_next_one_its_own_limit_again(server_url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(server_url), pool_size=1, max_overflow=0, statement_timeout_seconds=50)
    with closing(Database(settings, Observer())) as database:
        with deadline_scope(Deadline(30.0, HandClock())):
            (short,) = database.ask(LIMIT[database.dialect], {})
        (long,) = database.ask(LIMIT[database.dialect], {})

        found = tuple(value.removesuffix("00000") for value in (*short, *long))
        assert found == WORDS[database.dialect].thirty_and_fifty


@pytest.mark.usefixtures("patient_client")
def test_a_read_over_its_time_is_ended_and_was_slow(server_url: str, observer: Observer) -> None:
    settings = DatabaseSettings(url=SecretStr(server_url), statement_timeout_seconds=0.1, slow_query_seconds=0.05)

    def is_answered() -> bool:
        try:
            return database.ask(QUESTION, {}) == [(1,)]
        except DatabaseUnavailableError:  # it took longer than that by itself
            return False

    with closing(Database(settings, observer)) as database:
        with pytest.raises(DatabaseUnavailableError):
            database.ask(SLEEP[database.dialect], {})
        heard = (observer.slow, len(observer.queries), list(observer.errors))
        until(is_answered, "an answer")

    assert heard == (1, 1, ["statement"])


def test_a_slow_read_is_logged_without_its_values(
    open_database: OpenDatabase, observer: Observer, caplog: pytest.LogCaptureFixture
) -> None:
    database = open_database(slow_query_seconds=0.001)
    numbers = select(literal(1).label("i")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.i + 1).where(numbers.c.i < 99_999))
    if database.dialect == "mysql":  # a recursion ends after a thousand steps there
        numbers = select(literal_column("seq").label("i")).select_from(text("seq_1_to_300000")).cte("numbers")
    slow = PreparedSelect(select(func.count().label("n")).select_from(numbers).where(bindparam("name") == "ada"))

    with caplog.at_level(logging.WARNING):
        database.ask(slow, {"name": "ada"})

    (record,) = (record for record in caplog.records if record.message == "slow query")
    assert observer.slow == 1
    assert len(vars(record)["statement"]) == 100
    assert "ada" not in str(vars(record))


class Interrupting(TypeDecorator[int]):
    """A type that is interrupted while a row is read."""

    impl = Integer
    cache_ok = True

    def process_result_value(self, value: int | None, dialect: object) -> int:
        del value, dialect
        raise KeyboardInterrupt


def test_a_connection_whose_thread_was_interrupted_is_not_used_again(
    open_database: OpenDatabase, observer: Observer
) -> None:
    database = open_database(pool_size=1, max_overflow=0)
    database.ask(QUESTION, {})
    pool = database.engine.pool
    with database.read() as connection:
        before = connection.connection.dbapi_connection

    with pytest.raises(KeyboardInterrupt):
        database.ask(PreparedSelect(select(literal(1, Interrupting).label("one"))), {})

    assert in_use(database) == (0, 0)
    assert database.engine.pool is pool
    with database.read() as connection:
        assert connection.connection.dbapi_connection is not before


def test_many_threads_get_each_their_own_answer(things: Database) -> None:
    wanted = [FIRST, SECOND] * 100

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda thing: things.ask(ONE, {"thing": thing}), wanted))

    assert [rows[0].id for rows in found] == wanted
