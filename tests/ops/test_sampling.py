"""A check has one thread, one sample at a time, a deadline while it runs, and breakers that are named."""

from __future__ import annotations

import threading

import pytest

from app.ops.sampling import CheckResult, CheckSpec, LiveCheck, Sampler, Status
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

    Sampler(CheckSpec("database", local=False, limit_seconds=0.75), check, SYSTEM_CLOCK).sample()

    assert 0.5 < left[0] <= 0.75
    assert current_deadline() is None


@pytest.mark.parametrize("state", [State.OPEN, State.HALF_OPEN, State.FORCED_OPEN, State.FORCED_HALF_OPEN])
def test_a_breaker_that_lets_little_through_warns_by_its_name_and_state(state: State) -> None:
    gates = {"storage_read": GateAt(state), "storage_write": GateAt(State.CLOSED)}
    sampler = Sampler(CheckSpec("storage", local=False, gates=gates), passing, SYSTEM_CLOCK)
    sampler.sample()
    before = sampler.report(0)

    sampler.look_at_gates()

    after = sampler.report(0)
    assert (before.status, before.output) == (Status.PASS, "")
    assert (after.status, after.output) == (Status.WARN, f"the circuit breaker storage_read is {state.value}")
    assert not after.is_broken


@pytest.mark.parametrize("state", [State.CLOSED, State.DISABLED, State.METRICS_ONLY])
def test_a_breaker_that_lets_everything_through_is_no_news(state: State) -> None:
    sampler = Sampler(CheckSpec("storage", local=False, gates={"storage": GateAt(state)}), passing, SYSTEM_CLOCK)
    sampler.sample()

    sampler.look_at_gates()

    assert sampler.report(0).status is Status.PASS


def test_what_the_check_found_is_said_beside_what_its_breakers_say() -> None:
    gate = GateAt(State.OPEN)
    sampler = Sampler(CheckSpec("database", local=False, gates={"database": gate}), failing, SYSTEM_CLOCK)
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
    sampler = Sampler(CheckSpec("disk", local=True), passing, HandClock())
    sampler.sample()

    came = sampler.wait(sampler.ask(), 0)

    late, other = sampler.report(0, is_late=True), sampler.report(0)
    assert not came
    assert (late.status, late.output, late.failures_running) == (Status.WARN, "no answer within 1 s", 1)
    assert other.status is Status.PASS
