"""What guards make of a database that is slow, full, in conflict or cut off: rows 24 to 26 and 28, on a PostgreSQL.

Each promise is shown twice: with its guard, and with the guard off, where it must break.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial

import pytest
import requests
from pydantic import SecretStr
from sqlalchemy import Connection, text

from app.db.engine import SilentObserver
from app.db.guarded import DATABASE_CLASSIFICATION, DatabasePipelines, GuardedDatabase
from app.errors import DatabaseUnavailableError
from app.photos.models import READY
from app.settings import DatabaseSettings
from app.stability import CircuitBreaker, CircuitBreakerOptions, Classification, Pipeline, State
from app.stability.outcome import EVERY_ERROR_FAILS
from tests.chaos.crashes import assert_sound, rows
from tests.chaos.guarded import (
    ATTEMPTS,
    MINIMUM,
    WITH_GUARDS,
    WITHOUT_GUARDS,
    Figures,
    World,
    at_once,
    end_connections,
    left_as_found,
    photo_of,
    retry_after,
    running_world,
    timed,
)
from tests.integration.judging import assert_problem
from tests.servers.client import Client, new_photo
from tests.servers.postgres import PostgresServer
from tests.servers.product import until
from tests.servers.stacks import Stack, cloud_stack
from tests.servers.swift import SwiftServer

CONNECTIONS = 6
BACKGROUND = 3  # the maintenance thread, the relay of renditions and health may hold one each
AT_ONCE = CONNECTIONS - BACKGROUND
"""So many find a connection, whoever else has one."""

STATEMENT_SECONDS = 4.0
"""Longer than a busy machine lets a process stand still: what is well is never ended."""

POOL_SECONDS = 0.2
SLOW_SECONDS = 0.4
SETTINGS = {
    "PHOTO_API_DATABASE__POOL_SIZE": str(CONNECTIONS),
    "PHOTO_API_DATABASE__MAX_OVERFLOW": "0",
    "PHOTO_API_DATABASE__POOL_TIMEOUT_SECONDS": str(POOL_SECONDS),
    "PHOTO_API_DATABASE__STATEMENT_TIMEOUT_SECONDS": str(STATEMENT_SECONDS),
    "PHOTO_API_DATABASE__SLOW_QUERY_SECONDS": str(SLOW_SECONDS),
}
PHOTOS = "/api/v1/photos"


@pytest.fixture(scope="module")
def stack(s3_server: SwiftServer, postgres_server: PostgresServer) -> Iterator[Stack]:
    with cloud_stack(s3_server, postgres_server) as made:
        name = made.database_url.rpartition("/")[2]
        with made.database() as connection:  # or a deadlock would last longer than a statement may
            connection.execute(text(f"ALTER DATABASE {name} SET deadlock_timeout = '50ms'"))
        yield made


@pytest.fixture(scope="module")
def guarded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(stack, tmp_path_factory.mktemp("guarded"), WITH_GUARDS, SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def bare(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The same without guards."""
    with running_world(stack, tmp_path_factory.mktemp("bare"), WITHOUT_GUARDS, SETTINGS) as made:
        yield made


@pytest.fixture
def world(guarded: World) -> Iterator[World]:
    """The guarded product with closed breakers, and left so."""
    with left_as_found(guarded):
        yield guarded


@pytest.fixture
def user(world: World) -> Client:
    return world.product.new_user()


@pytest.fixture(scope="module")
def stranger(bare: World) -> Client:
    user = bare.product.new_user()
    user.upload()
    return user


@pytest.fixture
def unguarded(bare: World, stranger: Client) -> Client:
    """A user of the bare product, whose connections live: those of both products end together."""
    until(lambda: set(at_once(stranger, AT_ONCE, partial(status_of, PHOTOS))) == {200}, "connections that live")
    return stranger


@contextmanager
def locked_photos(stack: Stack, mode: str = "ACCESS EXCLUSIVE", tables: str = "photos") -> Iterator[Connection]:
    """Yield a transaction that all statements on photos, or on other tables too, have to wait for."""
    with stack.database() as connection:
        connection.execute(text(f"LOCK TABLE {tables} IN {mode} MODE"))
        yield connection


LIST, TAKE = "SELECT photos.id, %", "UPDATE users %"
"""How statements begin: of who lists photos, and of who takes of a quota. The background's begin in other ways."""


def waiting_for_locks(stack: Stack, statement: str) -> int:
    """Return how many statements that begin so wait for a lock now."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE :statement"
    )
    with stack.database() as connection:  # a new transaction each time: one sees the same as long as it lasts
        return int(connection.execute(waiting, {"statement": statement}).scalar_one())


def wait_until_blocked(stack: Stack, count: int, statement: str) -> None:
    """Wait until so many of these statements wait for a lock."""
    until(lambda: waiting_for_locks(stack, statement) >= count, f"{count} times {statement} to wait for a lock")


def list_photos(twin: Client) -> requests.Response:
    return twin.get(PHOTOS)


@pytest.mark.parametrize("state", ["closed", "disabled"], ids=["breaker", "no breaker"])
def test_row_24_statements_that_take_too_long_are_ended_and_then_not_begun(
    world: World, user: Client, state: str
) -> None:
    content = new_photo()
    photo, figures, private = user.upload(content), Figures(world.product), user.email
    world.start_anew(("database",))
    world.set_breaker("database", state)
    after: list[tuple[requests.Response, float]] = []

    def one_is_refused() -> bool:
        after.extend(at_once(user, AT_ONCE, lambda twin: timed(partial(list_photos, twin))))
        return min(seconds for _, seconds in after) < STATEMENT_SECONDS

    # The background waits, too: else it would succeed more often than statements fail that take so long.
    with locked_photos(world.stack, tables="photos, outbox, leases"):
        slow, seconds = timed(lambda: list_photos(user))
        health, alive = world.health()[0], user.get("/api/v1/users/me").status_code
        if state == "closed":  # again and again: a trial call of something else may close it in between
            until(one_is_refused, "a statement that is not begun", 60)
        else:
            assert (one_is_refused(), one_is_refused()) == (False, False)
            assert world.state("database") == state

    assert_problem(slow, 503)
    assert seconds >= STATEMENT_SECONDS
    assert (health, alive) == (200, 200)
    assert figures.moved("photo_api_db_errors_total", kind="statement") >= MINIMUM // 2
    assert figures.moved("photo_api_db_slow_queries_total") >= MINIMUM // 2
    assert figures.moved("photo_api_db_errors_total", kind="pool_timeout") == 0
    logged = [line for line in world.product.log_lines() if line["message"] == "slow query"]
    assert any(line["statement"].startswith("SELECT photos.") for line in logged)
    assert world.product.find_logged({private}) == set()
    for answer, _ in after:
        assert_problem(answer, 503)
    until(lambda: list_photos(user).status_code == 200, "the database to be asked again")
    assert_sound(world.product, user, {photo["id"]: content})


def test_row_24_a_statement_that_takes_long_and_ends_is_counted_and_logged(world: World, user: Client) -> None:
    figures = Figures(world.product)

    with ThreadPoolExecutor(1) as pool:
        with locked_photos(world.stack) as locking:
            asked = pool.submit(list_photos, user)
            wait_until_blocked(world.stack, 1, LIST)
            locking.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": SLOW_SECONDS})
        answer = asked.result()

    assert answer.status_code == 200
    assert figures.moved("photo_api_db_slow_queries_total") >= 1
    assert figures.calls("database").get("failed", 0) == 0


def test_row_25_a_full_pool_refuses_soon_and_recovers_at_once(world: World, user: Client) -> None:
    many, figures = MINIMUM + 1, Figures(world.product)
    user.upload()

    def is_full() -> bool:
        in_use = world.product.metric("photo_api_db_pool_active_connections")
        return bool(in_use == CONNECTIONS) and waiting_for_locks(world.stack, "%") >= CONNECTIONS

    with ThreadPoolExecutor(CONNECTIONS + BACKGROUND) as pool:
        with locked_photos(world.stack):
            holding = [pool.submit(list_photos, user.twin()) for _ in range(CONNECTIONS + BACKGROUND)]
            until(is_full, "all connections to be in use, by who has to wait")
            refused = at_once(user, many, list_photos)
            were_first = sum(not one.done() for one in holding) >= AT_ONCE  # the background may have been, too
            health = world.health()[0]
        held = [one.result() for one in holding]
        after = list_photos(user).status_code

    for answer in refused:
        assert_problem(answer, 503)
        assert 1 <= retry_after(answer) <= 2
    assert (were_first, after, health) == (True, 200, 200)
    assert [answer.status_code for answer in held].count(200) >= AT_ONCE
    assert figures.moved("photo_api_db_errors_total", kind="pool_timeout") >= many
    assert figures.calls("database")["ignored"] >= many
    assert "failed" not in figures.calls("database")
    assert world.state("database") == "closed"
    assert world.product.metric("photo_api_db_pool_waiting_requests") == 0


@pytest.mark.parametrize(
    ("classification", "state"),
    [(DATABASE_CLASSIFICATION, State.CLOSED), (EVERY_ERROR_FAILS, State.OPEN)],
    ids=["classified", "not classified"],
)
def test_without_its_classification_a_full_pool_would_open_the_breaker(
    postgres_url: str, classification: Classification, state: State
) -> None:
    options = CircuitBreakerOptions(minimum_number_of_calls=3, sliding_window_size=3)
    breaker = CircuitBreaker("database", options, classification=classification)
    settings = DatabaseSettings(
        url=SecretStr(postgres_url), pool_size=1, max_overflow=0, pool_timeout_seconds=POOL_SECONDS / 4
    )
    pipelines = DatabasePipelines(Pipeline("database", [breaker]), Pipeline("read"), Pipeline("write"))
    database = GuardedDatabase(settings, SilentObserver(), pipelines)

    with closing(database), database.read():
        for _ in range(4):
            with pytest.raises(DatabaseUnavailableError), database.read():
                pytest.fail("there is no connection")

    assert breaker.state is state


@contextmanager
def losing(stack: Stack, event: str, code: str, times: int) -> Iterator[None]:
    """Let the next transactions that insert or update a photo lose against another one, so many times."""
    with stack.database() as connection:
        connection.execute(text("CREATE SEQUENCE lost"))
        connection.execute(
            text(
                "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" IF nextval('lost') <= {times} THEN RAISE EXCEPTION 'lost' USING ERRCODE = '{code}'; END IF;"
                " RETURN NEW; END $$"
            )
        )
        connection.execute(text(f"CREATE TRIGGER lose BEFORE {event} ON photos FOR EACH ROW EXECUTE FUNCTION lose()"))
    try:
        yield
    finally:
        with stack.database() as connection:
            connection.execute(text("DROP FUNCTION lose CASCADE"))
            connection.execute(text("DROP SEQUENCE lost"))


@pytest.mark.parametrize("code", ["40P01", "40001"], ids=["deadlock", "serialization"])
@pytest.mark.parametrize("event", ["INSERT", "UPDATE OF state"], ids=["TX1", "TX2"])
def test_row_26_a_transaction_that_lost_is_done_again_and_takes_effect_once(
    world: World, user: Client, event: str, code: str
) -> None:
    content, puts, figures = new_photo(), world.upstream("PUT"), Figures(world.product)

    with losing(world.stack, event, code, ATTEMPTS - 1):
        photo = photo_of(user.send(content))

    assert world.upstream("PUT") - puts == 1
    assert figures.retries("database_write", "scheduled") == ATTEMPTS - 1
    assert figures.retries("database_write", "succeeded_after_retry") == 1
    assert figures.calls("database")["ignored"] == ATTEMPTS - 1
    assert "failed" not in figures.calls("database")
    assert (len(user.photos()), user.used_bytes()) == (1, len(content))
    assert_sound(world.product, user, {photo["id"]: content})


def test_row_26_one_that_loses_always_is_given_up_and_leaves_nothing(world: World, user: Client) -> None:
    content, puts, figures = new_photo(), world.upstream("PUT"), Figures(world.product)

    with losing(world.stack, "INSERT", "40P01", ATTEMPTS):
        lost = user.send(content, key="lost")
        used = user.used_bytes()
        photo = photo_of(user.send(content, key="lost"))

    assert_problem(lost, 503)
    assert (used, world.upstream("PUT") - puts) == (0, 1)
    assert figures.retries("database_write", "exhausted") == 1
    assert_sound(world.product, user, {photo["id"]: content})


@contextmanager
def pausing_takes(stack: Stack) -> Iterator[Connection]:
    """Let transactions that take of a quota stand still until what is yielded is rolled back."""
    with stack.database() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END $$"
            )
        )
        connection.execute(text("CREATE TRIGGER pause AFTER UPDATE ON users EXECUTE FUNCTION pause()"))
    try:
        with stack.database() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
            yield connection
    finally:
        with stack.database() as connection:
            connection.execute(text("DROP FUNCTION pause CASCADE"))


def lose_a_deadlock(world: World, user: Client) -> requests.Response:
    """Let an upload wait for a transaction that waits for the upload already; return what the client is told."""
    update = text("UPDATE users SET used_bytes = used_bytes WHERE email = :email")
    with ThreadPoolExecutor(2) as pool:
        with pausing_takes(world.stack) as pause, locked_photos(world.stack, "SHARE") as other:
            # Who waits looks for a deadlock once: the upload is the one that begins to wait last, and looks.
            other.execute(text("SET LOCAL deadlock_timeout = '60s'"))
            asked = pool.submit(user.send, new_photo())
            wait_until_blocked(world.stack, 1, TAKE)
            waiting = pool.submit(other.execute, update, {"email": user.email})
            wait_until_blocked(world.stack, 2, TAKE)
            pause.rollback()
            waiting.result()
            other.rollback()
        return asked.result()


def test_row_26_an_upload_that_meets_a_real_deadlock_comes_in_once(world: World, user: Client) -> None:
    figures = Figures(world.product)

    photo = photo_of(lose_a_deadlock(world, user))

    assert figures.retries("database_write", "succeeded_after_retry") == 1
    assert [one["id"] for one in user.photos()] == [photo["id"]]
    assert rows(world.stack, READY) >= 1


def test_without_a_retry_a_lost_transaction_is_the_clients(bare: World, unguarded: Client) -> None:
    photos, used = unguarded.photos(), unguarded.used_bytes()

    with losing(bare.stack, "INSERT", "40P01", 1):
        made = unguarded.send(new_photo())
    real = lose_a_deadlock(bare, unguarded)

    assert_problem(made, 503)
    assert_problem(real, 503)
    assert (unguarded.photos(), unguarded.used_bytes()) == (photos, used)


def status_of(path: str, twin: Client) -> int:
    return twin.get(path).status_code


def read_while_connections_end(world: World, user: Client) -> list[int]:
    """End every connection of the product that it has just used; return what its next reads are answered with."""
    photo = user.photos()[0]
    reads = [PHOTOS, f"{PHOTOS}/{photo['id']}", photo["links"]["original"], "/api/v1/users/me"]
    statuses: list[int] = []
    for path in reads:
        at_once(user, AT_ONCE, list_photos)
        assert end_connections(world.stack) >= 1
        statuses += at_once(user, AT_ONCE, partial(status_of, path))
    return statuses


def test_row_28_reads_do_not_notice_that_every_connection_was_ended(world: World, user: Client) -> None:
    content = new_photo()
    photo, figures = user.upload(content), Figures(world.product)

    statuses = read_while_connections_end(world, user)

    retries = figures.retries("database_read", "scheduled")
    assert statuses == [200] * 4 * AT_ONCE
    assert 1 <= retries <= len(statuses) + BACKGROUND
    assert figures.retries("database_read", "exhausted") <= BACKGROUND  # nobody's who asked: all were answered
    assert figures.moved("photo_api_db_errors_total", kind="disconnect") >= 1
    assert world.state("database") == "closed"
    assert_sound(world.product, user, {photo["id"]: content})


def end_connections_in_use(world: World, user: Client) -> list[int]:
    """End all connections while some of them are in use by reads; return what the reads are answered with."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        with locked_photos(world.stack):
            asked = [pool.submit(list_photos, user.twin()) for _ in range(AT_ONCE)]
            wait_until_blocked(world.stack, AT_ONCE, LIST)
            assert end_connections(world.stack) >= AT_ONCE
        return [one.result().status_code for one in asked]


def test_row_28_reads_do_not_notice_that_their_own_connections_were_ended(world: World, user: Client) -> None:
    figures = Figures(world.product)

    statuses = end_connections_in_use(world, user)

    assert statuses == [200] * AT_ONCE
    assert figures.retries("database_read", "succeeded_after_retry") >= AT_ONCE  # the background's besides


def test_without_a_retry_reads_end_with_their_connections(bare: World, unguarded: Client) -> None:
    statuses = end_connections_in_use(bare, unguarded)

    assert statuses == [503] * AT_ONCE


def test_without_a_retry_a_read_notices(bare: World, unguarded: Client) -> None:
    statuses = read_while_connections_end(bare, unguarded)

    assert 503 in statuses
