"""Only what is broken on this host alone takes it out; what all hosts share warns; what hangs is seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.ops import health
from app.ops.health import HealthMonitor, HealthReport
from app.ops.lifecycle import Lifecycle, State
from app.ops.metrics import Metrics
from app.ops.sampling import HANGS_SECONDS, CheckResult, Status


class HandClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Dial:
    """A check whose result is set by hand."""

    def __init__(self, status: Status = Status.PASS) -> None:
        self.status = status
        self.calls = 0

    def __call__(self) -> CheckResult:
        self.calls += 1
        return CheckResult(self.status)


def ready_lifecycle() -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.advance(State.READY)
    return lifecycle


def monitor_of(**options: Any) -> HealthMonitor:
    """Return one whose clock stands still, so that no sample takes long whatever the machine has to do besides."""
    return HealthMonitor(ready_lifecycle(), clock=HandClock(), **options)


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        threading.Event().wait(0.005)


def report_beside_a_passing_one(monitor: HealthMonitor) -> HealthReport:
    """Return a report in which the second check passes: a sample that was on its way when time passed was late."""
    ends = time.monotonic() + 30
    while (report := monitor.report()).checks[1].status is not Status.PASS:
        assert time.monotonic() < ends, "the second check is delayed"
        threading.Event().wait(0.005)
    return report


@pytest.mark.parametrize(
    ("state", "ready"),
    [(State.STARTING, False), (State.READY, True), (State.DRAINING, False), (State.STOPPED, False)],
)
def test_readiness_follows_the_lifecycle(state: State, ready: bool) -> None:
    lifecycle = Lifecycle()
    monitor = HealthMonitor(lifecycle, clock=HandClock())

    lifecycle.advance(state)

    assert monitor.report().ready is ready
    assert monitor.report().status is (Status.PASS if ready else Status.FAIL)


def test_a_shared_dependency_that_is_down_warns_and_stays_ready_however_long() -> None:
    monitor = monitor_of()
    monitor.register("database", Dial(Status.FAIL), local=False)

    for _ in range(5):
        report = monitor.sample()

    assert report.ready
    assert report.status is Status.WARN
    assert report.checks[0].failures_running == 5


def test_a_local_check_takes_the_host_out_at_its_second_failure_running_and_back_at_once() -> None:
    monitor, spool = monitor_of(), Dial()
    monitor.register("spool", spool, local=True)
    seen = []
    for status in (Status.PASS, Status.FAIL, Status.PASS, Status.FAIL, Status.FAIL, Status.PASS):
        spool.status = status
        report = monitor.sample()
        seen.append((report.status.value, report.ready))

    assert seen == [
        ("pass", True),
        ("warn", True),
        ("pass", True),
        ("warn", True),
        ("fail", False),
        ("pass", True),
    ]


def test_a_check_that_warns_never_takes_the_host_out() -> None:
    monitor = monitor_of()
    monitor.register("memory", Dial(Status.WARN), local=True)

    report = [monitor.sample() for _ in range(3)][-1]

    assert (report.status, report.ready) == (Status.WARN, True)


def test_a_check_that_raises_has_failed_and_says_no_more_than_the_kind() -> None:
    def broken() -> CheckResult:
        raise ConnectionError("postgresql://photo:secret@db")

    monitor = monitor_of()
    monitor.register("database", broken, local=False)

    (check,) = monitor.sample().checks

    assert check.status is Status.WARN
    assert check.output == "the check failed: ConnectionError"


def test_a_check_that_hangs_fails_while_it_hangs_runs_once_and_delays_no_other() -> None:
    clock, hung, release = HandClock(), threading.Event(), threading.Event()
    calls: list[int] = []

    def hanging() -> CheckResult:
        calls.append(1)
        hung.set()
        release.wait(30)
        return CheckResult(Status.PASS)

    monitor, other = HealthMonitor(ready_lifecycle(), interval_seconds=0.01, clock=clock), Dial()
    monitor.register("disk", hanging, local=True, limit_seconds=HANGS_SECONDS, interval_seconds=5.0)
    monitor.register("other", other, local=True)
    monitor.start()
    assert hung.wait(10)
    until(lambda: other.calls > 5)

    before = monitor.report()
    clock.now = 10.5
    first = report_beside_a_passing_one(monitor)
    clock.now = 15.5
    second = report_beside_a_passing_one(monitor)

    assert before.ready
    assert (first.checks[0].failures_running, first.status, first.ready) == (1, Status.WARN, True)
    assert (second.checks[0].failures_running, second.status, second.ready) == (2, Status.FAIL, False)
    assert second.checks[0].output == "no answer within 10 s"
    assert second.checks[1].status is Status.PASS
    assert calls == [1]
    release.set()
    monitor.close()


def test_a_sample_says_how_old_it_is_and_how_long_it_took() -> None:
    clock = HandClock()

    def slow() -> CheckResult:
        clock.now += 0.25
        return CheckResult(Status.PASS, observed={"lines": 3})

    monitor = HealthMonitor(ready_lifecycle(), clock=clock)
    monitor.register("log", slow, local=True)
    monitor.sample()
    clock.now += 4

    (check,) = monitor.report().checks

    assert (check.age_seconds, check.latency_seconds, check.observed) == (4.0, 0.25, {"lines": 3})


def test_a_sample_beyond_its_time_limit_has_failed_even_when_it_came() -> None:
    clock = HandClock()

    def late() -> CheckResult:
        clock.now += 2
        return CheckResult(Status.PASS)

    monitor = HealthMonitor(ready_lifecycle(), clock=clock)
    monitor.register("database", late, local=False, limit_seconds=1.0)

    assert monitor.sample().checks[0].output == "took longer than 1 s"


def test_before_the_first_sample_a_check_warns_and_the_host_is_ready() -> None:
    monitor = monitor_of()
    monitor.register("database", Dial(), local=True)

    assert (monitor.report().status, monitor.report().ready) == (Status.WARN, True)


def test_the_gauges_follow_at_once() -> None:
    metrics, lifecycle, dial = Metrics(version="1"), Lifecycle(), Dial(Status.FAIL)
    monitor = HealthMonitor(
        lifecycle, ready=metrics.ready, check_status=metrics.health_check_status, clock=HandClock()
    )
    monitor.register("database", dial, local=False)
    monitor.sample()
    starting = metrics.ready._value.get()

    lifecycle.advance(State.READY)

    assert (starting, metrics.ready._value.get()) == (0, 1)
    assert metrics.health_check_status.labels("database")._value.get() == 0.5


def test_a_report_in_detail_asks_anew_what_is_registered_so_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "_DETAILS_SECONDS", 30.0)
    monitor, pool, database = monitor_of(interval_seconds=3600), Dial(), Dial()
    monitor.register("pool", pool, local=False, in_details=True)
    monitor.register("database", database, local=False)
    monitor.start()
    until(lambda: pool.calls == database.calls == 1 and all(c.sampled_at for c in monitor.report().checks))
    pool.status = database.status = Status.WARN

    short, detailed = monitor.report(), monitor.report_in_detail()

    assert [check.status for check in short.checks] == [Status.PASS, Status.PASS]
    assert [check.status for check in detailed.checks] == [Status.WARN, Status.PASS]
    monitor.close()


def test_a_report_in_detail_does_not_wait_for_a_check_that_hangs() -> None:
    release = threading.Event()

    def hanging() -> CheckResult:
        release.wait(30)
        return CheckResult(Status.PASS)

    monitor = monitor_of()
    monitor.register("pool", hanging, local=False, in_details=True)
    monitor.start()

    (check,) = monitor.report_in_detail().checks

    assert (check.status, check.output) == (Status.WARN, "not sampled yet")
    release.set()
    monitor.close()


def test_what_failed_last_is_known_by_name_without_asking_again() -> None:
    monitor, storage, other = monitor_of(), Dial(), Dial(Status.FAIL)
    monitor.register("storage", storage, local=False)
    monitor.register("other", other, local=False)
    heard = [monitor.has_failed("storage")]

    for status in (Status.PASS, Status.FAIL, Status.WARN, Status.PASS):
        storage.status = status
        monitor.sample()
        heard.append(monitor.has_failed("storage"))

    assert heard == [False, False, True, False, False]
    assert storage.calls == 4
    assert not monitor.has_failed("unknown")
