"""What health says, and with which status, in each state of the process."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from flask import Request
from flask.testing import FlaskClient

from app.errors import DatabaseUnavailableError, InvalidTokenError, MissingScopeError, PhotoApiError
from app.ops import health, routes
from app.ops.build import VERSION, find_instance
from app.ops.health import HealthMonitor
from app.ops.lifecycle import Lifecycle, State
from app.ops.metrics import Metrics
from app.ops.probes import PROBE_PATHS, ProbeAnswers
from app.ops.routes import nobody, operations_blueprint
from app.ops.sampling import CheckResult, Status
from app.server.management import build_operations_app
from tests.server.running import until

FRESH = "/health/detailed?fresh=1"
HANGS_SECONDS = 60.0
LOOSE_SECONDS = 20.0  # a second, on a machine that has other work; who waits for what hangs waits for longer


class Operations:
    """The operations application with one local check that is set by hand, and an operator who is let in or not."""

    def __init__(self) -> None:
        self.lifecycle = Lifecycle()
        self.monitor = HealthMonitor(self.lifecycle, interval_seconds=3600)
        self.samples: list[str] = []
        self.admit: Callable[[Request], object] = lambda _request: None
        self.spool = Status.PASS
        self.release = threading.Event()
        self.monitor.register(
            "spool", self.check_spool, local=True, limit_seconds=HANGS_SECONDS, endpoints=("/api/v1/photos",)
        )
        self.monitor.sample()
        instance = find_instance("10.0.0.7", "node-7")
        blueprint = operations_blueprint(
            monitor=self.monitor,
            probes=ProbeAnswers(self.monitor, instance),
            lifecycle=self.lifecycle,
            metrics=Metrics(version=VERSION),
            instance=instance,
            sections={"pool": lambda: {"active": 3}, "breakers": self.broken_section},
            admit=self.ask_admission,
        )
        self.client: FlaskClient = build_operations_app([blueprint]).test_client()

    def check_spool(self) -> CheckResult:
        self.samples.append("spool")
        return CheckResult(self.spool, "" if self.spool is Status.PASS else "no room for uploads")

    def ask_admission(self, request: Request) -> object:
        return self.admit(request)

    def broken_section(self) -> object:
        raise OSError("gone")

    def hang(self, *_arguments: object) -> CheckResult:
        self.release.wait(HANGS_SECONDS)
        return CheckResult(Status.PASS)


@pytest.fixture
def operations() -> Iterator[Operations]:
    made = Operations()
    yield made
    made.release.set()
    made.monitor.close()


@pytest.mark.parametrize(
    ("state", "status"), [(State.STARTING, 503), (State.READY, 200), (State.DRAINING, 503), (State.STOPPED, 503)]
)
@pytest.mark.parametrize(
    "path", ["/health/readiness", "/__lbheartbeat__", "/health", "/__heartbeat__", "/health/detailed"]
)
def test_readiness_and_health_follow_the_state(operations: Operations, path: str, state: State, status: int) -> None:
    operations.lifecycle.advance(state)

    answer = operations.client.get(path)

    assert answer.status_code == status
    assert answer.content_type == "application/health+json"
    assert answer.get_json()["status"] == ("pass" if status == 200 else "fail")
    assert answer.get_json()["state"] == state.name.lower()
    assert ("Retry-After" in answer.headers) is (status == 503)


@pytest.mark.parametrize("state", list(State))
def test_a_process_that_answers_is_alive_in_every_state(operations: Operations, state: State) -> None:
    operations.lifecycle.advance(state)

    answer = operations.client.get("/health/liveness")

    assert (answer.status_code, answer.get_json()) == (200, {"status": "pass"})


def test_a_full_spool_takes_the_host_out_after_two_samples_and_not_before(operations: Operations) -> None:
    operations.lifecycle.advance(State.READY)
    operations.spool = Status.FAIL
    operations.monitor.sample()
    first = operations.client.get("/health/readiness")

    operations.monitor.sample()
    second = operations.client.get("/health/readiness")

    assert (first.status_code, first.get_json()["status"]) == (200, "warn")
    assert (second.status_code, second.get_json()["status"]) == (503, "fail")


def test_what_operators_read_is_in_the_details_only(operations: Operations) -> None:
    operations.lifecycle.advance(State.READY)
    operations.spool = Status.WARN
    operations.monitor.sample()

    public, details = operations.client.get("/health"), operations.client.get("/health/detailed")

    (shown,) = public.get_json()["checks"]["spool"]
    assert shown.keys() == {"status", "age_seconds", "affectedEndpoints"}
    (check,) = details.get_json()["checks"]["spool"]
    assert check["output"] == "no room for uploads"
    assert (check["local"], check["failures_running"]) == (True, 0)
    assert check["age_seconds"] >= 0
    assert details.get_json()["in_flight"] == 0
    assert details.get_json()["instance"]["ip"] == "10.0.0.7"
    assert details.get_json()["pool"] == {"active": 3}


def test_a_part_that_cannot_be_read_takes_no_other_away(operations: Operations) -> None:
    operations.lifecycle.advance(State.READY)

    answer = operations.client.get("/health/detailed")

    assert answer.status_code == 200
    assert (answer.get_json()["breakers"], answer.get_json()["pool"]) == (None, {"active": 3})


def test_affected_endpoints_are_named_where_something_is_wrong(operations: Operations) -> None:
    operations.lifecycle.advance(State.READY)
    sound = operations.client.get("/health").get_json()["checks"]["spool"][0]
    operations.spool = Status.WARN
    operations.monitor.sample()

    short = operations.client.get("/health").get_json()["checks"]["spool"][0]

    assert "affectedEndpoints" not in sound
    assert short["affectedEndpoints"] == ["/api/v1/photos"]


def test_who_takes_this_host_out_is_named_in_readiness(operations: Operations) -> None:
    operations.lifecycle.advance(State.READY)
    operations.spool = Status.FAIL
    for _ in range(2):
        operations.monitor.sample()
    spool = operations.client.get("/health/readiness").get_json()

    operations.lifecycle.advance(State.DRAINING)

    assert spool["output"] == "broken on this host: spool"
    assert operations.client.get("/health/readiness").get_json()["output"] == "the server is draining"


@pytest.fixture
def told_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says who asks may take its time."""
    monkeypatch.setattr(routes, "_WHO_ASKS_SECONDS", LOOSE_SECONDS)


def test_fresh_samples_are_new_ones(operations: Operations, told_late: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (health, routes):
        monkeypatch.setattr(module, "FRESH_SECONDS", LOOSE_SECONDS)
    operations.lifecycle.advance(State.READY)
    first = sampled_at(operations)
    operations.monitor.start()
    until(lambda: sampled_at(operations) != first, "the first sample of the thread")
    operations.spool = Status.WARN
    before = len(operations.samples)

    asked_at = datetime.now(UTC)
    answer = operations.client.get(FRESH)

    (shown,) = answer.get_json()["checks"]["spool"]
    assert shown["status"] == "warn"
    assert shown["age_seconds"] <= (datetime.now(UTC) - asked_at).total_seconds()
    assert len(operations.samples) > before
    assert "notes" not in answer.get_json()


@pytest.mark.parametrize(
    ("error", "status"),
    [(InvalidTokenError("Who?"), 401), (MissingScopeError("No."), 403)],
    ids=["unknown", "no operator"],
)
def test_fresh_samples_need_an_operator(
    operations: Operations, told_late: None, error: PhotoApiError, status: int
) -> None:
    def refuse(_request: Request) -> object:
        raise error

    operations.lifecycle.advance(State.READY)
    operations.monitor.start()
    operations.admit = refuse
    before = len(operations.samples)

    answer = operations.client.get(FRESH)

    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    assert len(operations.samples) <= before + 1  # the first one of the thread
    assert operations.client.get("/health/detailed").status_code == 200


@pytest.mark.parametrize("way", ["refuses", "hangs"])
def test_when_nobody_can_tell_who_asks_the_last_samples_are_shown(operations: Operations, way: str) -> None:
    def unknown(_request: Request) -> object:
        if way == "hangs":
            operations.hang()
        raise DatabaseUnavailableError("The database is not available.")

    operations.lifecycle.advance(State.READY)
    operations.admit = unknown
    before = list(operations.samples)

    began = time.monotonic()
    answer = operations.client.get(FRESH)

    assert time.monotonic() - began < LOOSE_SECONDS
    assert answer.status_code == 200
    assert answer.get_json()["notes"] == [
        "Who asks cannot be told now, so no fresh samples were taken. These are the last ones."
    ]
    assert operations.samples == before


def test_a_dependency_that_hangs_is_said_to_and_keeps_nobody_waiting_however_many_ask(told_late: None) -> None:
    operations, asked = Operations(), []
    first = sampled_at(operations)

    def hang() -> CheckResult:
        asked.append(1)
        return operations.hang()

    operations.monitor.register("database", hang, local=False)
    operations.lifecycle.advance(State.READY)
    operations.monitor.start()
    client = operations.client.application

    began = time.monotonic()
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: client.test_client().get(FRESH), range(8)))
    took = time.monotonic() - began

    assert took < LOOSE_SECONDS
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        checks = answer.get_json()["checks"]
        assert (checks["database"][0]["status"], checks["database"][0]["output"]) == ("warn", "no answer within 1 s")
    until(lambda: sampled_at(operations) != first, "a sample of what does not hang")
    assert operations.client.get("/health").get_json()["checks"]["spool"][0]["status"] == "pass"
    assert asked == [1]
    operations.release.set()
    operations.monitor.close()


@pytest.mark.parametrize("query", ["fresh=yes", "fresh=", "fresh=1&fresh=1", "frsh=1"])
def test_a_wrong_question_gets_a_clear_error(operations: Operations, query: str) -> None:
    operations.lifecycle.advance(State.READY)

    answer = operations.client.get(f"/health/detailed?{query}")

    assert (answer.status_code, answer.get_json()["type"]) == (422, "urn:photo-api:problem:validation-failed")
    assert "fresh" in answer.get_data(as_text=True)


def test_a_process_without_operators_lets_nobody_ask_for_fresh_samples() -> None:
    with pytest.raises(MissingScopeError):
        nobody(Request({}))


@pytest.mark.parametrize("path", sorted(PROBE_PATHS | {"/health/detailed", "/metrics"}))
def test_every_path_has_head_and_no_store_and_only_reads(operations: Operations, path: str) -> None:
    operations.lifecycle.advance(State.READY)

    head, post = operations.client.head(path), operations.client.post(path)

    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Cache-Control"] == "no-store"
    assert (post.status_code, post.content_type) == (405, "application/problem+json")


def test_a_valid_request_id_is_kept_and_another_is_replaced(operations: Operations) -> None:
    kept = operations.client.get("/health", headers={"X-Request-Id": "abc-1"})
    replaced = operations.client.get("/health", headers={"X-Request-Id": "a b"})

    assert kept.headers["X-Request-Id"] == "abc-1"
    assert replaced.headers["X-Request-Id"] not in {"", "a b"}


def test_metrics_are_compressed_for_who_takes_that(operations: Operations) -> None:
    plain = operations.client.get("/metrics", headers={"Accept-Encoding": "gzip;q=0, br"})
    short = operations.client.get("/metrics", headers={"Accept-Encoding": "gzip"})

    assert "Content-Encoding" not in plain.headers
    assert short.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(short.data).splitlines()[:2] == plain.data.splitlines()[:2]
    assert len(short.data) < len(plain.data) / 4


def test_the_version_is_said(operations: Operations) -> None:
    assert operations.client.get("/__version__").get_json() == {"version": VERSION}


def test_the_details_ask_anew_what_is_registered_so(operations: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_DETAILS_SECONDS", LOOSE_SECONDS)
    found = [Status.WARN, Status.PASS]
    operations.monitor.register(
        "pool", lambda: CheckResult(found.pop()), local=False, limit_seconds=HANGS_SECONDS, in_details=True
    )
    operations.lifecycle.advance(State.READY)
    operations.monitor.start()
    until(lambda: all(check.sampled_at for check in operations.monitor.report().checks), "the first samples")

    short, details = operations.client.get("/health"), operations.client.get("/health/detailed")

    shown = [answer.get_json()["checks"]["pool"][0]["status"] for answer in (short, details)]
    assert shown == ["pass", "warn"]


def sampled_at(operations: Operations) -> datetime | None:
    """Return when the spool was looked at last."""
    return operations.monitor.report().checks[0].sampled_at
