"""A check has one thread, one sample at a time, a deadline while it runs, and breakers that are named."""

from __future__ import annotations

import logging
import threading

import pytest

from app.ops.sampling import HANGS_SECONDS, CheckReport, CheckResult, CheckSpec, LiveCheck, Sampler, Status
from app.stability import SYSTEM_CLOCK, State, current_deadline
from tests.fakes.clocks import HandClock


class GateAt:
    """A breaker that stands where it is put."""

    def __init__(self, state: State) -> None:
        self.state = state


def passing() -> CheckResult:
    return CheckResult(Status.PASS)


def failing() -> CheckResult:
    return CheckResult(Status.FAIL, "no answer")


def test_what_a_check_waits_for_ends_with_its_limit() -> None:
    left: list[float] = []

    def check() -> CheckResult:
        deadline = current_deadline()
        assert deadline is not None
        left.append(deadline.remaining_seconds())
        return CheckResult(Status.PASS)

    Sampler(CheckSpec("database", local=False, limit_seconds=75.0), check, SYSTEM_CLOCK).sample()

    assert 50 < left[0] <= 75
    assert current_deadline() is None


@pytest.mark.parametrize("state", [State.OPEN, State.HALF_OPEN, State.FORCED_OPEN, State.FORCED_HALF_OPEN])
def test_a_breaker_that_lets_little_through_warns_by_its_name_and_state(state: State) -> None:
    gates = {"storage_read": GateAt(state), "storage_write": GateAt(State.CLOSED)}
    sampler = Sampler(CheckSpec("storage", local=False, gates=gates), passing, HandClock())
    sampler.sample()
    before = sampler.report(0)

    sampler.look_at_gates()

    after = sampler.report(0)
    assert (before.status, before.output) == (Status.PASS, "")
    assert (after.status, after.output) == (Status.WARN, f"the circuit breaker storage_read is {state.value}")
    assert not after.is_broken


@pytest.mark.parametrize("state", [State.CLOSED, State.DISABLED, State.METRICS_ONLY])
def test_a_breaker_that_lets_everything_through_is_no_news(state: State) -> None:
    sampler = Sampler(CheckSpec("storage", local=False, gates={"storage": GateAt(state)}), passing, HandClock())
    sampler.sample()

    sampler.look_at_gates()

    assert sampler.report(0).status is Status.PASS


def test_what_the_check_found_is_said_beside_what_its_breakers_say() -> None:
    gate = GateAt(State.OPEN)
    sampler = Sampler(CheckSpec("database", local=False, gates={"database": gate}), failing, HandClock())
    sampler.sample()
    sampler.look_at_gates()
    down = sampler.report(0).output

    gate.state = State.CLOSED
    sampler.look_at_gates()

    assert down == "no answer; the circuit breaker database is open"
    assert sampler.report(0).output == "no answer"


def test_a_live_check_is_asked_at_each_report_and_what_it_finds_holds_at_once() -> None:
    results = [passing(), failing(), passing()]
    check = LiveCheck(CheckSpec("workers", local=True), lambda: results.pop(0))

    reports = [check.report(0) for _ in range(3)]

    assert [report.is_broken for report in reports] == [False, True, False]
    assert [report.status for report in reports] == [Status.PASS, Status.FAIL, Status.PASS]


def test_a_live_check_of_something_shared_only_warns() -> None:
    report = LiveCheck(CheckSpec("pool", local=False), failing).report(0)

    assert (report.status, report.is_broken) == (Status.WARN, False)


def test_callers_that_come_while_a_sample_is_taken_wait_for_that_one() -> None:
    began, release, stop = threading.Event(), threading.Event(), threading.Event()
    taken: list[int] = []

    def check() -> CheckResult:
        taken.append(1)
        began.set()
        release.wait(30)
        return CheckResult(Status.PASS)

    sampler = Sampler(CheckSpec("storage", local=False, interval_seconds=3600), check, SYSTEM_CLOCK)
    thread = threading.Thread(target=sampler.run, args=(stop, lambda: None), daemon=True)
    thread.start()
    assert began.wait(10)
    asked = [sampler.ask() for _ in range(5)]

    release.set()
    came = [sampler.wait(count, 10) for count in asked]

    assert came == [True] * 5
    assert taken == [1]
    stop.set()
    sampler.wake()
    thread.join(10)
    assert not thread.is_alive()


def test_a_sample_that_was_asked_for_is_a_new_one() -> None:
    stop = threading.Event()
    taken: list[int] = []

    def check() -> CheckResult:
        taken.append(1)
        return CheckResult(Status.PASS)

    sampler = Sampler(CheckSpec("storage", local=False, interval_seconds=3600), check, SYSTEM_CLOCK)
    thread = threading.Thread(target=sampler.run, args=(stop, lambda: None), daemon=True)
    thread.start()
    assert sampler.wait(0, 10)

    came = sampler.wait(sampler.ask(), 10)

    assert came
    assert len(taken) == 2
    stop.set()
    sampler.wake()
    thread.join(10)


def test_a_sample_that_does_not_come_in_time_is_late_and_failed_in_that_report_alone() -> None:
    sampler = Sampler(CheckSpec("database", local=False), passing, HandClock())
    sampler.sample()

    came = sampler.wait(sampler.ask(), 0)

    late, other = sampler.report(0, is_late=True), sampler.report(0)
    assert not came
    assert (late.status, late.output, late.failures_running) == (Status.WARN, "no answer within 1 s", 1)
    assert other.status is Status.PASS


def taking(clock: HandClock, seconds: float, result: CheckResult) -> Sampler:
    """Return a local check each of whose samples takes so long."""

    def check() -> CheckResult:
        clock.advance(seconds)
        return result

    return Sampler(CheckSpec("memory", local=True, interval_seconds=2.0), check, clock)


@pytest.mark.parametrize("seconds", [1.1, HANGS_SECONDS])
def test_a_local_check_that_is_slow_again_and_again_warns_and_takes_no_host_out(seconds: float) -> None:
    clock = HandClock()
    sampler = taking(clock, seconds, passing())

    for _ in range(5):
        sampler.sample()

    report = sampler.report(clock.monotonic())
    assert (report.status, report.output) == (Status.WARN, "took longer than 1 s")
    assert (report.failures_running, report.is_broken) == (0, False)


def test_a_local_check_that_fails_slowly_has_failed() -> None:
    clock = HandClock()
    sampler = taking(clock, 1.1, failing())

    sampler.sample()
    sampler.sample()

    report = sampler.report(clock.monotonic())
    assert (report.status, report.output, report.is_broken) == (Status.FAIL, "no answer", True)


def test_a_local_check_whose_samples_take_too_long_to_be_slow_has_failed() -> None:
    clock = HandClock()
    sampler = taking(clock, HANGS_SECONDS + 0.1, passing())

    sampler.sample()
    sampler.sample()

    report = sampler.report(clock.monotonic())
    assert (report.status, report.output, report.is_broken) == (Status.FAIL, "took longer than 10 s", True)


def test_a_local_check_warns_while_a_sample_is_late_and_has_failed_when_it_hangs() -> None:
    clock = HandClock()
    reports: dict[float, CheckReport] = {}

    def check() -> CheckResult:
        for seconds in (1.0, 1.1, 10.0, 10.1, 11.9, 12.1):
            reports[seconds] = sampler.report(clock.monotonic() + seconds)
        return CheckResult(Status.PASS)

    sampler = Sampler(CheckSpec("spool", local=True, interval_seconds=2.0), check, clock)
    sampler.sample()

    sampler.sample()

    seen = {seconds: (report.status, report.failures_running) for seconds, report in reports.items()}
    assert seen == {
        1.0: (Status.PASS, 0),
        1.1: (Status.WARN, 0),
        10.0: (Status.WARN, 0),
        10.1: (Status.WARN, 1),
        11.9: (Status.WARN, 1),
        12.1: (Status.FAIL, 2),
    }
    assert reports[1.1].output == "no answer within 1 s"
    assert reports[12.1].output == "no answer within 10 s"


def test_a_late_sample_takes_no_failure_back() -> None:
    clock = HandClock()
    statuses = []

    def check() -> CheckResult:
        statuses.append(sampler.report(clock.monotonic() + 1.5).is_broken)
        return failing()

    sampler = Sampler(CheckSpec("spool", local=True), check, clock)
    for _ in range(3):
        sampler.sample()

    assert statuses == [False, False, True]


def test_a_local_sample_that_is_waited_for_in_vain_warns_in_that_report_alone() -> None:
    sampler = Sampler(CheckSpec("memory", local=True), passing, HandClock())
    sampler.sample()

    late, other = sampler.report(0, is_late=True), sampler.report(0)

    assert (late.status, late.output, late.failures_running) == (Status.WARN, "no answer within 1 s", 0)
    assert other.status is Status.PASS


def test_the_log_line_of_a_check_that_changes_says_what_it_found(caplog: pytest.LogCaptureFixture) -> None:
    sampler = Sampler(CheckSpec("memory", local=True), failing, HandClock())

    with caplog.at_level(logging.WARNING):
        sampler.sample()

    (line,) = (record for record in caplog.records if record.name == "app.ops.sampling")
    assert (line.__dict__["check"], line.__dict__["output"]) == ("memory", "no answer")
