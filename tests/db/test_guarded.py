"""The database behind its pipelines: what is done again, what opens the breaker, what says nothing of the server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, column, literal, select, text
from sqlalchemy.exc import IntegrityError

from app.db.engine import Database
from app.db.guarded import (
    DATABASE_CLASSIFICATION,
    READ_CLASSIFICATION,
    WRITE_CLASSIFICATION,
    DatabasePipelines,
    GuardedDatabase,
)
from app.db.prepared import PreparedSelect, Record, Values
from app.errors import (
    DatabaseBusyError,
    DatabaseConflictError,
    DatabaseDisconnectedError,
    DatabaseReadOnlyError,
    DatabaseTransactionLostError,
    DatabaseUnavailableError,
    NotFoundError,
)
from app.settings import DatabaseSettings
from app.stability import (
    CircuitBreaker,
    CircuitBreakerOptions,
    Classification,
    Deadline,
    DeadlineExceededError,
    Pipeline,
    Retry,
    RetryOptions,
    State,
    Timeout,
    TimeoutOptions,
    deadline_scope,
)
from tests.db.conftest import Observer
from tests.fakes.clocks import HandClock

MINIMUM = 3
ONE = PreparedSelect(select(literal(1).label("one")))


class World:
    """A guarded database on a clock of its own."""

    def __init__(self, url: str, *, guarded: bool = True) -> None:
        self.clock = HandClock()
        self.breaker = CircuitBreaker(
            "database",
            CircuitBreakerOptions(
                minimum_number_of_calls=MINIMUM, sliding_window_size=MINIMUM, wait_duration_in_open_state_seconds=5
            ),
            classification=DATABASE_CLASSIFICATION,
            clock=self.clock,
        )
        pipelines = DatabasePipelines(
            Pipeline("database", [self.breaker] if guarded else []),
            self._again("database_read", READ_CLASSIFICATION),
            self._again("database_write", WRITE_CLASSIFICATION),
        )
        settings = DatabaseSettings(url=SecretStr(url), pool_size=1, max_overflow=0, pool_timeout_seconds=0.05)
        self.database = GuardedDatabase(settings, Observer(), pipelines)

    def _again(self, name: str, classification: Classification) -> Pipeline:
        retry = Retry(name, RetryOptions(), classification=classification, clock=self.clock, random=random.Random(3))
        return Pipeline(name, [Timeout(name, TimeoutOptions(timeout_seconds=60)), retry])


@pytest.fixture
def world(url: str) -> Iterator[World]:
    made = World(url)
    with closing(made.database):
        with made.database.write() as connection:
            connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY)"))
        made.breaker.reset()
        yield made


def count(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM things")).scalar_one())


def add(connection: Connection, number: int) -> None:
    connection.execute(text("INSERT INTO things VALUES (:id)"), {"id": number})


class Work:
    """Work that fails so often with an error, and then does what it should."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error = error
        self.times = times
        self.runs = 0

    def __call__(self, connection: Connection) -> int:
        self.runs += 1
        if self.runs > 1:
            add(connection, self.runs)
        if self.runs <= self.times:
            raise self.error
        return count(connection)


def test_a_transaction_that_lost_is_done_again_and_once(world: World) -> None:
    work = Work(DatabaseConflictError("deadlock"), times=2)

    assert world.database.run_write(work) == 1

    assert work.runs == 3
    assert world.database.run_read(count) == 1
    assert world.breaker.snapshot().calls["failed"] == 0


def test_what_a_client_is_told_to_wait_is_not_waited_here(world: World) -> None:
    lost = Work(DatabaseConflictError("deadlock", retry_after_seconds=3600), times=2)
    died = Work(DatabaseDisconnectedError("gone", retry_after_seconds=3600), times=1)

    world.database.run_write(lost)
    world.database.run_read(died)

    assert (lost.runs, died.runs) == (3, 2)


def test_a_transaction_that_loses_always_ends_with_its_own_error(world: World) -> None:
    work = Work(DatabaseConflictError("deadlock"), times=9)

    with pytest.raises(DatabaseConflictError):
        world.database.run_write(work)

    assert work.runs == 3
    assert world.breaker.state is State.CLOSED


def test_a_transaction_whose_connection_died_before_the_commit_is_done_again_and_once(world: World) -> None:
    work = Work(DatabaseTransactionLostError("gone"), times=1)

    assert world.database.run_write(work) == 1

    assert work.runs == 2
    assert world.database.run_read(count) == 1


@pytest.mark.parametrize("error", [DatabaseDisconnectedError("x"), DatabaseUnavailableError("x"), NotFoundError("x")])
def test_no_other_failure_of_a_transaction_is_done_again(world: World, error: Exception) -> None:
    work = Work(error, times=1)

    with pytest.raises(type(error)):
        world.database.run_write(work)

    assert work.runs == 1


def test_what_a_read_asks_is_asked_again_when_its_connection_died(world: World) -> None:
    work = Work(DatabaseDisconnectedError("gone"), times=1)

    assert world.database.run_read(work) == 1

    assert work.runs == 2


@pytest.mark.parametrize("error", [DatabaseUnavailableError("x"), DatabaseBusyError("x"), NotFoundError("x")])
def test_no_other_failure_of_a_read_is_asked_again(world: World, error: Exception) -> None:
    work = Work(error, times=1)

    with pytest.raises(type(error)):
        world.database.run_read(work)

    assert work.runs == 1


def test_a_prepared_read_is_asked_again_when_its_connection_died(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = [DatabaseDisconnectedError("gone")]
    whole = Database.ask

    def dies_once(database: Database, select: PreparedSelect, values: Values) -> list[Record]:
        if deaths:
            raise deaths.pop()
        return whole(database, select, values)

    monkeypatch.setattr(Database, "ask", dies_once)

    assert world.database.ask(ONE, {}) == [(1,)]
    assert deaths == []


def test_a_prepared_read_that_fails_counts_for_the_breaker(world: World) -> None:
    unknown = PreparedSelect(select(column("unknown")))

    for _ in range(MINIMUM):
        with pytest.raises(DatabaseUnavailableError):
            world.database.ask(unknown, {})

    assert world.breaker.state is State.OPEN


def fail(world: World, error: Exception, way: str = "read") -> None:
    with suppress(type(error)), getattr(world.database, way)():
        raise error


@pytest.mark.parametrize("way", ["read", "write"])
def test_a_server_that_fails_opens_the_breaker_and_is_asked_no_more(world: World, way: str) -> None:
    for _ in range(MINIMUM):
        fail(world, DatabaseUnavailableError("refused"), way)
    asked: list[str] = []

    with pytest.raises(DatabaseUnavailableError) as refused, getattr(world.database, way)():
        asked.append(way)
    with pytest.raises(DatabaseUnavailableError):
        world.database.run_read(count)
    with pytest.raises(DatabaseUnavailableError):
        world.database.run_write(count)
    with pytest.raises(DatabaseUnavailableError) as refused_too:
        world.database.ask(ONE, {})

    assert asked == []
    assert [told.value.retry_after_seconds for told in (refused, refused_too)] == [5, 5]
    assert refused.value.__suppress_context__
    assert refused_too.value.__suppress_context__
    assert world.breaker.snapshot().calls["not_permitted"] == 4


def test_after_the_wait_it_is_asked_again_and_closes(world: World) -> None:
    for _ in range(MINIMUM):
        fail(world, DatabaseUnavailableError("refused"))
    world.clock.advance(5)

    for _ in range(MINIMUM):
        world.database.run_read(count)

    assert world.breaker.state is State.CLOSED


@pytest.mark.parametrize(
    "error",
    [
        DatabaseBusyError("pool"),
        DatabaseConflictError("deadlock"),
        DatabaseReadOnlyError("standby"),
        DeadlineExceededError("late"),
        NotFoundError("404"),
        IntegrityError("INSERT", {}, Exception("duplicate")),
        RuntimeError("a mistake of ours"),
    ],
)
def test_what_says_nothing_of_the_server_opens_nothing(world: World, error: Exception) -> None:
    for _ in range(2 * MINIMUM):
        fail(world, error)

    assert world.breaker.state is State.CLOSED


def test_a_full_pool_is_too_much_work_and_no_failure_of_the_server(world: World) -> None:
    with world.database.read():
        for _ in range(2 * MINIMUM):
            with pytest.raises(DatabaseBusyError):
                world.database.run_read(count)

    assert world.database.run_read(count) == 0
    assert world.breaker.state is State.CLOSED


def test_the_ping_of_health_goes_past_an_open_breaker(world: World) -> None:
    world.breaker.transition_to(State.FORCED_OPEN)

    world.database.ping()

    assert world.breaker.snapshot().calls["not_permitted"] == 0


def test_without_a_breaker_everything_passes(url: str) -> None:
    world = World(url, guarded=False)

    with closing(world.database), world.database.read() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_what_must_be_undone_has_time_of_its_own(world: World) -> None:
    with deadline_scope(Deadline(-1)):
        with pytest.raises(DeadlineExceededError):
            world.database.run_write(count)

        assert world.database.run_write(count, own_seconds=5) == 0
