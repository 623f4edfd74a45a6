"""What health says, and with which status, in each state of the process."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from app.ops.build import VERSION, find_instance
from app.ops.health import HealthMonitor
from app.ops.lifecycle import Lifecycle, State
from app.ops.metrics import Metrics
from app.ops.probes import PROBE_PATHS, ProbeAnswers
from app.ops.routes import operations_blueprint
from app.ops.sampling import CheckResult, Status
from app.server.management import build_operations_app


class Operations:
    """The operations application with one local check that is set by hand."""

    def __init__(self) -> None:
        self.lifecycle = Lifecycle()
        self.monitor = HealthMonitor(self.lifecycle)
        self.spool = Status.PASS
        self.monitor.register("spool", lambda: CheckResult(self.spool, "no room for uploads"), local=True)
        self.monitor.sample()
        instance = find_instance("10.0.0.7", "node-7")
        blueprint = operations_blueprint(
            monitor=self.monitor,
            probes=ProbeAnswers(self.monitor, instance),
            lifecycle=self.lifecycle,
            metrics=Metrics(version=VERSION),
            instance=instance,
        )
        self.client: FlaskClient = build_operations_app([blueprint]).test_client()


@pytest.fixture
def operations() -> Operations:
    return Operations()


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
    assert shown.keys() == {"status", "age_seconds"}
    (check,) = details.get_json()["checks"]["spool"]
    assert check["output"] == "no room for uploads"
    assert (check["local"], check["failures_running"]) == (True, 0)
    assert check["age_seconds"] >= 0
    assert details.get_json()["in_flight"] == 0
    assert details.get_json()["instance"]["ip"] == "10.0.0.7"


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


def test_the_version_is_said(operations: Operations) -> None:
    assert operations.client.get("/__version__").get_json() == {"version": VERSION}


def test_an_instance_without_configuration_finds_itself() -> None:
    instance = find_instance()

    assert instance.ip.count(".") == 3
    assert instance.node_name
