"""The timeout: narrows the deadline for a call, and interrupts nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from app.stability.call import Call
from app.stability.context import PolicyContext
from app.stability.deadline import (
    Deadline,
    DeadlineExceededError,
    current_deadline,
    deadline_scope,
    remaining_seconds,
)
from app.stability.errors import OptionError
from app.stability.events import Event, EventBus
from app.stability.pipeline import Pipeline
from app.stability.retry import Retry, RetryOptions
from app.stability.timeout import CallTimedOut, Timeout, TimeoutOptions
from tests.fakes.clocks import HandClock


@pytest.fixture
def clock() -> Iterator[HandClock]:
    yield HandClock()
    assert current_deadline() is None, "a deadline outlived its scope"


@pytest.fixture
def bus() -> Iterator[EventBus]:
    bus = EventBus()
    yield bus
    bus.close()


def timeout_of(seconds: float, clock: HandClock, bus: EventBus | None = None) -> Timeout:
    return Timeout("storage", TimeoutOptions(timeout_seconds=seconds), clock=clock, bus=bus)


def run(policy: Timeout, function: Callable[[], object]) -> object:
    return Pipeline("storage", [policy]).call(function)


def counts(policy: Timeout) -> dict[str, float]:
    return {figure.labels["outcome"]: figure.value for figure in policy.figures() if figure.value}


def test_a_call_sees_its_own_timeout_as_what_remains(clock: HandClock) -> None:
    policy = timeout_of(5.0, clock)

    seen = run(policy, lambda: remaining_seconds(60.0))

    assert seen == 5.0


def test_a_call_sees_the_outer_deadline_when_that_is_tighter(clock: HandClock) -> None:
    policy = timeout_of(5.0, clock)

    with deadline_scope(Deadline(2.0, clock)) as outer:
        seen = run(policy, current_deadline)

    assert seen is outer


def test_the_outer_deadline_returns_after_the_call(clock: HandClock) -> None:
    policy = timeout_of(5.0, clock)

    with deadline_scope(Deadline(30.0, clock)) as outer:
        run(policy, lambda: None)

        assert current_deadline() is outer


@pytest.mark.parametrize("error", [ValueError("broken"), TimeoutError("slow"), KeyboardInterrupt(), SystemExit(1)])
def test_the_outer_deadline_returns_whatever_the_call_raises(clock: HandClock, error: BaseException) -> None:
    policy = timeout_of(5.0, clock)

    def fail() -> None:
        raise error

    with deadline_scope(Deadline(30.0, clock)) as outer:
        with pytest.raises(type(error)) as raised:
            run(policy, fail)
        after = current_deadline()

    assert raised.value is error
    assert after is outer


def test_a_call_without_time_is_refused_before_it_runs(clock: HandClock) -> None:
    policy = timeout_of(5.0, clock)
    runs: list[int] = []

    with deadline_scope(Deadline(2.0, clock)):
        clock.advance(2)
        with pytest.raises(DeadlineExceededError) as raised:
            run(policy, lambda: runs.append(1))

    assert raised.value.refused is True, "it would count against whoever was not even asked"
    assert runs == []
    assert counts(policy) == {"refused": 1}


def test_a_late_result_is_returned_and_counted_and_told(clock: HandClock, bus: EventBus) -> None:
    policy = timeout_of(5.0, clock, bus)
    told: list[Event] = []
    bus.subscribe(told.append)

    def dawdle() -> str:
        clock.advance(5)
        return "late"

    result = run(policy, dawdle)

    assert result == "late"
    assert counts(policy) == {"returned_late": 1}
    assert bus.flush()
    assert told == [CallTimedOut(name="storage", operation="", attempt=1, timeout_seconds=5.0, error="")]
    assert told[0].level == logging.WARNING


def test_an_error_after_the_time_is_raised_as_it_is_and_counted_and_told(clock: HandClock, bus: EventBus) -> None:
    policy = timeout_of(5.0, clock, bus)
    told: list[Event] = []
    bus.subscribe(told.append)
    error = TimeoutError("the client gave up")

    def give_up() -> None:
        clock.advance(5.1)
        raise error

    with pytest.raises(TimeoutError) as raised:
        run(policy, give_up)

    assert raised.value is error
    assert counts(policy) == {"failed_late": 1}
    assert bus.flush()
    assert told == [CallTimedOut(name="storage", operation="", attempt=1, timeout_seconds=5.0, error="TimeoutError")]


def test_results_and_errors_in_time_are_not_counted(clock: HandClock) -> None:
    policy = timeout_of(5.0, clock)

    def fail() -> None:
        clock.advance(4.9)
        raise TimeoutError("a limit of the client's own")

    with pytest.raises(TimeoutError):
        run(policy, fail)
    run(policy, lambda: clock.advance(4.9))

    assert counts(policy) == {}


def test_what_ends_the_process_is_not_counted_as_late(clock: HandClock) -> None:
    policy = timeout_of(5.0, clock)

    def interrupt() -> None:
        clock.advance(6)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(policy, interrupt)

    assert counts(policy) == {}


def test_outermost_it_is_the_time_of_all_attempts(clock: HandClock) -> None:
    waits = RetryOptions(max_attempts=10, base_seconds=0.1, cap_seconds=0.1, budget_floor=10)
    pipeline = Pipeline("storage", [timeout_of(5.0, clock), Retry("storage", waits, clock=clock)])
    left: list[float] = []

    def fail() -> None:
        left.append(remaining_seconds(60.0))
        clock.advance(2)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        pipeline.call(fail)

    assert len(left) == 3
    assert left == sorted(left, reverse=True)
    assert left[0] == 5.0


def test_inside_a_retry_it_is_the_time_of_one_attempt(clock: HandClock) -> None:
    waits = RetryOptions(max_attempts=3, base_seconds=0.1, cap_seconds=0.1)
    attempts = timeout_of(5.0, clock)
    pipeline = Pipeline("storage", [Retry("storage", waits, clock=clock), attempts])
    left: list[float] = []

    def run_out_of_time() -> None:
        left.append(remaining_seconds(60.0))
        clock.advance(6)
        remaining_seconds(60.0)

    with pytest.raises(DeadlineExceededError):
        pipeline.call(run_out_of_time)

    assert left == [5.0, 5.0, 5.0]
    assert counts(attempts) == {"failed_late": 3}


class _BrokenClock(HandClock):
    is_broken = True

    def monotonic(self) -> float:
        if self.is_broken:
            raise OSError("no clock")
        return super().monotonic()


def test_a_clock_that_raises_before_the_call_leaves_only_the_outer_deadline(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    policy = timeout_of(5.0, _BrokenClock())

    with deadline_scope(Deadline(30.0, clock)) as outer:
        seen = run(policy, current_deadline)

    assert seen is outer
    assert "a clock raised" in caplog.text
    assert [vars(record)["policy"] for record in caplog.records] == ["storage"]


def test_a_clock_that_raises_after_the_call_loses_neither_result_nor_error(caplog: pytest.LogCaptureFixture) -> None:
    clock = _BrokenClock()
    clock.is_broken = False
    policy = timeout_of(5.0, clock)

    def succeed() -> str:
        clock.is_broken = True
        return "result"

    def fail() -> str:
        clock.is_broken = True
        raise ValueError("the call's own")

    result = run(policy, succeed)
    clock.is_broken = False
    with pytest.raises(ValueError, match="the call's own"):
        run(policy, fail)

    assert result == "result"
    assert current_deadline() is None
    assert counts(policy) == {}
    assert "a clock raised" in caplog.text
    assert [vars(record)["policy"] for record in caplog.records] == ["storage", "storage"]


class _NoNumber(HandClock):
    def monotonic(self) -> float:
        return float("nan")


def test_a_clock_without_a_number_takes_no_time_away() -> None:
    policy = timeout_of(5.0, _NoNumber())

    seen = run(policy, lambda: remaining_seconds(60.0))

    assert seen == 60.0
    assert counts(policy) == {}


def test_counters_begin_at_zero(clock: HandClock) -> None:
    policy = timeout_of(5.0, clock)

    figures = [(f.metric, f.kind, f.value, dict(f.labels)) for f in policy.figures()]

    assert figures == [
        ("timeouts", "counter", 0, {"name": "storage", "outcome": outcome})
        for outcome in ("refused", "failed_late", "returned_late")
    ]


def test_it_is_built_from_its_context(clock: HandClock, bus: EventBus) -> None:
    context = PolicyContext("cdn", clock=clock, bus=bus)
    told: list[Event] = []
    bus.subscribe(told.append)

    policy = Timeout.build(Timeout.Options(timeout_seconds=2.0), context)
    policy.execute(Call(clock.advance, 3.0).describe(operation="head", attempt=2), lambda call: call())

    assert policy.name == "cdn"
    assert bus.flush()
    assert told == [CallTimedOut(name="cdn", operation="head", attempt=2, timeout_seconds=2.0, error="")]


def test_without_options_the_defaults_hold() -> None:
    assert Timeout("storage").options == TimeoutOptions(timeout_seconds=1.0)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "5"])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(OptionError, match="timeout_seconds"):
        TimeoutOptions(timeout_seconds=seconds)
