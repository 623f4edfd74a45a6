"""Rows 21, 24 to 28, 35, 36 and 40 as a balancer and an operator see them: what is shared warns, what is ours is out.

Each promise is shown twice: with its guard, and with the guard off, where it must break.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
from pydantic import SecretStr
from sqlalchemy import Connection, text

from app.db.engine import Database, SilentObserver
from app.db.guarded import DATABASE_CLASSIFICATION, DatabasePipelines, GuardedDatabase
from app.errors import DatabaseUnavailableError
from app.ops import checks
from app.ops.build import find_instance
from app.ops.health import HealthMonitor
from app.ops.lifecycle import Lifecycle
from app.ops.lifecycle import State as LifeState
from app.ops.memory import Memory
from app.ops.probes import ProbeAnswers
from app.ops.sampling import Check, CheckSpec, Sampler, Status
from app.settings import DatabaseSettings
from app.stability import (
    SYSTEM_CLOCK,
    CircuitBreaker,
    CircuitBreakerOptions,
    Classification,
    Pipeline,
    State,
)
from app.stability.outcome import EVERY_ERROR_FAILS
from tests.chaos.guarded import (
    MINIMUM,
    WITH_GUARDS,
    WITHOUT_GUARDS,
    World,
    at_once,
    end_connections,
    running_world,
    timed,
)
from tests.fakes.postgres_proxy import PostgresProxy
from tests.house.source import write_tree
from tests.integration.judging import assert_problem
from tests.servers.base import find_free_port
from tests.servers.client import Client, new_photo
from tests.servers.postgres import PostgresServer
from tests.servers.product import Product, until
from tests.servers.stacks import Stack, cloud_stack
from tests.servers.swift import SwiftServer

CONNECTIONS = 6
AT_ONCE = 3
"""So many find a connection while the background has some."""

STATEMENT_SECONDS = 4.0
"""Longer than a busy machine lets a process stand still: what is well is never ended."""

LATE_SECONDS = 30.0
"""What a sample may take where a test takes it by itself: a busy machine is no finding."""

PHOTOS = "/api/v1/photos"
ORIGINAL = "/api/v1/photos/{photo_id}/original"
RENDITION = "/api/v1/photos/{photo_id}/renditions/{preset}"
PROBE_SECONDS = 0.5
"""Of most of them, loose: who waits for a dependency takes longer, who does not takes a few milliseconds."""

FRESH_SECONDS = 20.0
"""Loose: a second for the samples, on a machine that has other work; who waits for what hangs waits for ever."""

RECOVERY_SECONDS = 20.0
"""Loose: two seconds until the breaker asks again, and one sample."""

SETTINGS = {
    "PHOTO_API_DATABASE__POOL_SIZE": str(CONNECTIONS),
    "PHOTO_API_DATABASE__MAX_OVERFLOW": "0",
    "PHOTO_API_DATABASE__POOL_TIMEOUT_SECONDS": "0.2",
    "PHOTO_API_DATABASE__STATEMENT_TIMEOUT_SECONDS": str(STATEMENT_SECONDS),
}


class Faulty:
    """A product between whose database and itself anything may happen."""

    def __init__(self, world: World, database: PostgresProxy) -> None:
        self.world = world
        self.database = database
        self.product: Product = world.product
        self.stack: Stack = world.stack
        self.probe_seconds: list[float] = []

    def probe(self, path: str) -> requests.Response:
        """Ask what a balancer asks, and note how long it took."""
        answer, seconds = timed(lambda: requests.get(f"{self.product.url}{path}", timeout=10))
        self.probe_seconds.append(seconds)
        return answer

    def health(self) -> dict[str, Any]:
        """Return what ``/health`` says, which must be 200."""
        answer = self.probe("/health")
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def check(self, name: str) -> dict[str, Any]:
        """Return what ``/health`` says of one check."""
        check: dict[str, Any] = self.health()["checks"][name][0]
        return check

    def is_ready(self) -> bool:
        """Return whether the balancer's question is answered with 200."""
        return self.probe("/health/readiness").status_code == 200

    def is_alive(self) -> bool:
        return self.probe("/health/liveness").status_code == 200

    def fresh(self) -> tuple[requests.Response, float]:
        """Return the details with fresh samples, and how long they took."""
        url = f"{self.product.management_url}/health/detailed?fresh=1"
        headers = {"Authorization": str(self.world.operator.http.headers["Authorization"])}
        return timed(lambda: requests.get(url, headers=headers, timeout=2 * FRESH_SECONDS))

    def sampled(self, name: str) -> dict[str, Any]:
        """Return what a fresh sample of a check says that was not late: a busy machine is no finding."""
        found: dict[str, Any] = {}

        def is_answered() -> bool:
            found.update(self.fresh()[0].json()["checks"][name][0])
            return not str(found.get("output")).startswith(("no answer within", "took longer"))

        until(is_answered, f"a sample of {name}")
        return found

    def wait_for(self, name: str, status: str) -> dict[str, Any]:
        """Wait until a check says so, and never lose the host while waiting; return all it says."""
        found: dict[str, Any] = {}

        def has_come() -> bool:
            assert self.is_ready()
            found.clear()
            found.update(self.check(name))
            return bool(found["status"] == status)

        until(has_come, f"{name} to be {status}")
        return found

    def heal(self) -> None:
        """Mend everything, and wait until nothing is left of it."""
        self.database.heal()
        self.world.start_anew()
        until(lambda: self.health()["status"] == "pass", "everything to pass")


@pytest.fixture(scope="module")
def running(
    s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Faulty]:
    with cloud_stack(s3_server, postgres_server) as stack, PostgresProxy(postgres_server.port) as database:
        settings = {**SETTINGS, "PHOTO_API_DATABASE__URL": database.url(stack.database_url)}
        with running_world(stack, tmp_path_factory.mktemp("faulty"), WITH_GUARDS, settings) as world:
            yield Faulty(world, database)


@pytest.fixture
def faulty(running: Faulty) -> Iterator[Faulty]:
    """The product, sound before and after, with the same worker, and with probes that wait for nobody."""
    running.heal()
    workers = running.product.worker_pids()
    running.probe_seconds.clear()
    yield running
    assert statistics.median(running.probe_seconds) < PROBE_SECONDS
    running.heal()
    assert running.product.worker_pids() == workers


@pytest.fixture
def user(faulty: Faulty) -> Client:
    return faulty.product.new_user()


@contextmanager
def locked_photos(stack: Stack) -> Iterator[Connection]:
    """Yield a transaction that all statements on photos have to wait for; it goes past the proxy.

    Those of the background wait, too: it would succeed more often than statements fail that take so long.
    """
    with stack.database() as connection:
        connection.execute(text("LOCK TABLE photos, outbox, leases IN ACCESS EXCLUSIVE MODE"))
        yield connection


@contextmanager
def asking_for_photos(user: Client) -> Iterator[None]:
    """Let some clients ask for lists of photos, one after the other, as long as the block lasts."""
    ended = threading.Event()

    def ask(twin: Client) -> None:
        while not ended.wait(0.05):  # between two questions
            twin.get(PHOTOS)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        asking = [pool.submit(ask, user.twin()) for _ in range(AT_ONCE)]
        try:
            yield
        finally:
            ended.set()
        for one in asking:
            one.result()


def monitor_of(name: str, check: Check, *, local: bool) -> HealthMonitor:
    """Return a monitor with one check, on a host that is ready otherwise."""
    lifecycle = Lifecycle()
    lifecycle.advance(LifeState.READY)
    monitor = HealthMonitor(lifecycle)
    monitor.register(name, check, local=local, limit_seconds=LATE_SECONDS)
    return monitor


def openings(faulty: Faulty) -> float:
    """Return how often the worker's breaker of the database has opened because calls failed."""
    metric = "photo_api_circuit_breaker_transitions_total"
    return faulty.product.metric(metric, name="database", **{"from": "closed", "to": "open"})


def test_row_21_a_database_that_refuses_warns_names_what_suffers_and_takes_no_host_out(
    faulty: Faulty, user: Client
) -> None:
    content = new_photo()
    puts, opened = faulty.world.upstream("PUT"), openings(faulty)

    faulty.database.cut()
    refused = [user.send(new_photo()) for _ in range(MINIMUM)]
    shown = faulty.wait_for("database", "warn")
    until(lambda: openings(faulty) > opened, "the breaker's opening to be published")
    state = faulty.world.state("database")
    details = requests.get(f"{faulty.product.management_url}/health/detailed", timeout=10).json()
    reached = faulty.world.upstream("PUT") - puts
    faulty.database.heal()
    until(lambda: user.send(content).status_code in {200, 201}, "uploads again", RECOVERY_SECONDS)

    for answer in refused:
        assert_problem(answer, 503)
        assert int(answer.headers["Retry-After"]) >= 1
    # It opens once and again: a look may come when its wait of a second is over and it tries a call.
    assert {state, details["breakers"]["database"]["state"]} <= {"open", "half_open"}
    assert {PHOTOS, ORIGINAL, "/api/v1/users/me"} <= set(shown["affectedEndpoints"])
    assert reached == 0
    faulty.wait_for("database", "pass")


@pytest.mark.parametrize(("local", "ready"), [(False, True), (True, False)], ids=["shared", "taken for local"])
def test_row_21_if_a_database_counted_as_this_host_it_would_take_every_host_out(local: bool, ready: bool) -> None:
    url = f"postgresql+psycopg://photo@127.0.0.1:{find_free_port()}/none"
    with closing(Database(DatabaseSettings(url=SecretStr(url)), SilentObserver())) as database:
        monitor = monitor_of("database", checks.database_check(database), local=local)

        reports = [monitor.sample() for _ in range(3)]

    assert reports[-1].ready is ready
    assert reports[-1].checks[0].failures_running == 3


def test_row_24_a_database_that_is_too_slow_warns_by_its_breaker_though_it_answers(
    faulty: Faulty, user: Client
) -> None:
    answers: list[tuple[requests.Response, float]] = []

    def is_named() -> bool:
        """Look; what is not locked closes the breaker again in between."""
        answers.append(faulty.fresh())
        output = str(answers[-1][0].json()["checks"]["database"][0].get("output"))
        return output.startswith("the circuit breaker database is ")

    with asking_for_photos(user), locked_photos(faulty.stack):
        until(lambda: faulty.world.state("database") != "closed", "the breaker to open", 60)
        shown = faulty.wait_for("database", "warn")
        until(is_named, "the details to name the breaker")

    assert PHOTOS in shown["affectedEndpoints"]
    for details, seconds in answers:
        assert (details.status_code, seconds < FRESH_SECONDS) == (200, True)


def test_row_24_without_its_breaker_the_check_alone_would_find_nothing(
    s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with (
        cloud_stack(s3_server, postgres_server) as stack,
        running_world(stack, tmp_path, WITHOUT_GUARDS, SETTINGS) as world,
        locked_photos(stack),
    ):
        for _ in range(2):  # as many failures as open a breaker that looks at ten calls
            answers = at_once(world.operator, AT_ONCE, lambda twin: twin.get(PHOTOS))
            assert {answer.status_code for answer in answers} == {503}

        def database() -> str:
            health = requests.get(f"{world.product.url}/health", timeout=10).json()
            return str(health["checks"]["database"][0]["status"])

        until(lambda: database() == "pass", "a sample that was not late")


def test_row_25_a_full_pool_warns_while_it_is_full_and_not_a_moment_longer(faulty: Faulty, user: Client) -> None:
    user.upload()
    timeouts = faulty.product.metric("photo_api_db_pool_timeouts_total")

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        with locked_photos(faulty.stack):
            held = [pool.submit(user.twin().get, PHOTOS) for _ in range(CONNECTIONS)]
            shown = faulty.wait_for("pool", "warn")
            refused, seconds = timed(lambda: user.twin().get(PHOTOS))
            alive, ready = faulty.is_alive(), faulty.is_ready()
        answers = [one.result().status_code for one in held]
        after = faulty.check("pool")["status"]

    assert_problem(refused, 503)
    assert (seconds < FRESH_SECONDS, int(refused.headers["Retry-After"]) >= 1) == (True, True)
    assert (alive, ready, after) == (True, True, "pass")
    assert set(answers) <= {200, 503}
    assert PHOTOS in shown["affectedEndpoints"]
    assert faulty.product.metric("photo_api_db_pool_timeouts_total") > timeouts
    assert faulty.product.metric("photo_api_db_pool_waiting_requests") == 0
    assert 1 <= faulty.product.metric("photo_api_db_pool_idle_connections") <= CONNECTIONS


@pytest.mark.parametrize(("local", "ready"), [(False, True), (True, False)], ids=["shared", "taken for local"])
def test_row_25_if_a_full_pool_counted_as_broken_the_busiest_hosts_would_be_taken_out(
    tmp_path: Path,
    local: bool,
    ready: bool,
) -> None:
    settings = DatabaseSettings(
        url=SecretStr(f"sqlite:///{tmp_path}/test.db"), pool_size=1, max_overflow=0, pool_timeout_seconds=0.05
    )
    with closing(Database(settings, SilentObserver())) as database:
        monitor = monitor_of("database", checks.answers(database.ping), local=local)
        with database.read():
            reports = [monitor.sample() for _ in range(2)]

    assert reports[-1].ready is ready


@pytest.mark.parametrize(
    ("classification", "status"),
    [(DATABASE_CLASSIFICATION, Status.PASS), (EVERY_ERROR_FAILS, Status.WARN)],
    ids=["classified", "not classified"],
)
def test_row_26_transactions_that_lose_say_nothing_about_health(
    postgres_url: str, classification: Classification, status: Status
) -> None:
    with guarded_database(postgres_url, classification) as (database, breaker):
        for _ in range(4):
            with pytest.raises(DatabaseUnavailableError), database.write() as connection:
                connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40P01'; END $$"))
        spec = CheckSpec("database", local=False, limit_seconds=LATE_SECONDS, gates={"database": breaker})
        sampler = Sampler(spec, checks.database_check(database), SYSTEM_CLOCK)
        sampler.sample()
        sampler.look_at_gates()

    assert sampler.report(SYSTEM_CLOCK.monotonic()).status is status


@contextmanager
def guarded_database(url: str, classification: Classification) -> Iterator[tuple[GuardedDatabase, CircuitBreaker]]:
    """Yield a database behind a breaker that opens after three failures."""
    options = CircuitBreakerOptions(minimum_number_of_calls=3, sliding_window_size=3)
    breaker = CircuitBreaker("database", options, classification=classification)
    pipelines = DatabasePipelines(Pipeline("database", [breaker]), Pipeline("read"), Pipeline("write"))
    settings = DatabaseSettings(url=SecretStr(url))
    with closing(GuardedDatabase(settings, SilentObserver(), pipelines)) as database:
        yield database, breaker


@contextmanager
def read_only(stack: Stack) -> Iterator[None]:
    """Let the database take no changes for a while, as after a failover to a standby; all connections are new."""
    name = stack.database_url.rpartition("/")[2]
    with stack.database() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    end_connections(stack)
    try:
        yield
    finally:
        with stack.database() as connection:
            connection.execute(text("SET TRANSACTION READ WRITE"))
            connection.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
        end_connections(stack)


def test_row_27_a_database_that_takes_no_changes_warns_and_serves_reads(faulty: Faulty, user: Client) -> None:
    content = new_photo()
    photo, puts = user.upload(content), faulty.world.upstream("PUT")

    with read_only(faulty.stack):
        shown = faulty.wait_for("database", "warn")
        writes = [user.send(new_photo()) for _ in range(MINIMUM)]
        writes += [user.patch(f"{PHOTOS}/{photo['id']}", json={"title": "x"}), user.delete(f"{PHOTOS}/{photo['id']}")]
        reads = [user.get(PHOTOS).status_code, user.get(f"{PHOTOS}/{photo['id']}").status_code]
        original = user.original(photo)
        sampled = faulty.sampled("database")
        state = faulty.world.state("database")
    until(lambda: user.send(content).status_code == 200, "changes again", RECOVERY_SECONDS)

    for answer in writes:
        assert_problem(answer, 503, "read-only")
        assert int(answer.headers["Retry-After"]) >= 1
    assert (reads, original.status_code, original.content) == ([200, 200], 200, content)
    assert (state, faulty.world.upstream("PUT")) == ("closed", puts)
    assert sampled["output"] == "the database takes reads only"
    assert PHOTOS in shown["affectedEndpoints"]
    faulty.wait_for("database", "pass")


@pytest.mark.parametrize(
    ("classification", "state"),
    [(DATABASE_CLASSIFICATION, State.CLOSED), (EVERY_ERROR_FAILS, State.OPEN)],
    ids=["classified", "not classified"],
)
def test_row_27_if_a_standby_counted_as_down_its_breaker_would_take_reads_away_too(
    postgres_url: str, classification: Classification, state: State
) -> None:
    with guarded_database(postgres_url, classification) as (database, breaker):
        for _ in range(4):
            with pytest.raises(DatabaseUnavailableError), database.write() as connection:
                connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'standby' USING ERRCODE = '25006'; END $$"))

    assert breaker.state is state


def test_row_28_health_does_not_notice_that_every_connection_was_ended(faulty: Faulty, user: Client) -> None:
    user.upload()
    seen = []

    for _ in range(3):
        at_once(user, AT_ONCE, lambda twin: twin.get(PHOTOS))
        assert end_connections(faulty.stack) >= 1
        seen.append(faulty.sampled("database")["status"])
        assert faulty.is_ready()

    assert seen == ["pass"] * 3
    assert user.get(PHOTOS).status_code == 200


def test_row_28_without_another_try_an_idle_connection_that_died_would_be_a_dead_database(postgres_url: str) -> None:
    def ask(check: Callable[[Database], Check]) -> Status:
        with closing(Database(DatabaseSettings(url=SecretStr(postgres_url)), SilentObserver())) as database:
            monitor = monitor_of("database", check(database), local=False)
            monitor.sample()
            with closing(Database(DatabaseSettings(url=SecretStr(postgres_url)), SilentObserver())) as other:
                ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                with other.read() as connection:
                    connection.execute(text(f"{ending} AND pid <> pg_backend_pid()"))
            return monitor.sample().checks[0].status

    assert ask(checks.database_check) is Status.PASS
    assert ask(lambda database: checks.answers(database.ping)) is Status.WARN


def test_a_database_that_is_silent_holds_up_no_probe_and_no_details(faulty: Faulty, user: Client) -> None:
    user.upload()
    threads = thread_count(faulty.product)

    faulty.database.freeze()
    answers = [faulty.fresh() for _ in range(3)]
    shown = faulty.wait_for("database", "warn")
    details = requests.get(f"{faulty.product.management_url}/health/detailed", timeout=10).json()
    meanwhile = thread_count(faulty.product)
    faulty.database.heal()

    for answer, seconds in answers:
        assert (answer.status_code, seconds < FRESH_SECONDS) == (200, True)
        assert answer.json()["checks"]["database"][0]["status"] == "warn"
    assert "pass" in [answer.json()["checks"]["storage"][0]["status"] for answer, _ in answers]
    assert ORIGINAL in shown["affectedEndpoints"]
    assert details["checks"]["database"][0]["output"]
    assert meanwhile <= threads + 1
    faulty.wait_for("database", "pass")


def thread_count(product: Product) -> int:
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in product.worker_pids())


def test_a_store_that_is_down_names_uploads_and_originals_and_nothing_else(faulty: Faulty, user: Client) -> None:
    user.upload()

    faulty.world.proxy.refuse()
    shown = faulty.wait_for("storage", "warn")

    assert shown["affectedEndpoints"] == [PHOTOS, ORIGINAL, RENDITION, "/o/{link}"]
    until(lambda: "affectedEndpoints" not in faulty.check("database"), "the database to be well")
    assert user.get(PHOTOS).status_code == 200


@pytest.mark.parametrize(
    ("local", "statuses"), [(True, [200, 503, 503]), (False, [200, 200, 200])], ids=["local", "taken for shared"]
)
def test_row_35_a_full_spool_is_this_host_s_own_trouble_from_the_second_sample_on(
    tmp_path: Path,
    local: bool,
    statuses: list[int],
) -> None:
    monitor = monitor_of(
        "spool", checks.room_check("spool", tmp_path, purpose="uploads", needed_bytes=2**62), local=local
    )
    probes = ProbeAnswers(monitor, find_instance("10.0.0.7", "node-7"))
    seen = []

    for _ in range(3):
        monitor.sample()
        seen.append(probes.answer("/health/readiness").status)

    assert seen == statuses
    assert orjson.loads(probes.answer("/health").body)["checks"]["spool"][0]["status"] == (
        "fail" if local else "warn"
    )


@pytest.mark.parametrize(("name", "suffering"), [("spool", PHOTOS), ("scratch", RENDITION)])
def test_row_36_a_folder_that_cannot_be_written_warns_and_names_what_suffers(
    faulty: Faulty, name: str, suffering: str
) -> None:
    with faulty.product.blocked(faulty.product.folder / "var" / name):
        shown = faulty.wait_for(name, "warn")
        sampled = faulty.sampled(name)

    assert shown["affectedEndpoints"] == [suffering]
    assert sampled["output"].startswith(f"the {name} folder cannot be written")
    assert sampled["local"] is (name == "spool")  # what is stored is served without the other: no reason to leave
    faulty.wait_for(name, "pass")


@pytest.mark.parametrize(
    ("available", "statuses"),
    [(50, (200, 200)), (8, (200, 200)), (2, (200, 503))],
    ids=["enough", "short", "red"],
)
def test_row_40_memory_takes_this_host_out_when_it_is_almost_gone_and_only_then(
    tmp_path: Path, available: int, statuses: tuple[int, int]
) -> None:
    files = {
        "proc/meminfo": f"MemTotal: 100 kB\nMemAvailable: {available} kB\n",
        "proc/self/statm": "50 10 5 1 0 9 0\n",
    }
    write_tree(tmp_path, files)
    memory = Memory(tmp_path / "proc", tmp_path / "groups")
    monitor = monitor_of("memory", checks.memory_check(memory=memory), local=True)
    probes = ProbeAnswers(monitor, find_instance("10.0.0.7", "node-7"))
    seen = []

    for _ in range(2):
        monitor.sample()
        seen.append(probes.answer("/health/readiness").status)

    assert tuple(seen) == statuses
    assert probes.answer("/health/liveness").status == 200
    word = orjson.loads(probes.answer("/health").body)["checks"]["memory"][0]["status"]
    assert word == {50: "pass", 8: "warn", 2: "fail"}[available]
