"""A window that is full of quick successes makes the next one cheap, and changes nothing else."""

from __future__ import annotations

import pytest

from app.stability.breaker import CircuitBreaker
from app.stability.breaker_options import CircuitBreakerOptions
from app.stability.breaker_states import State
from app.stability.errors import CallNotPermittedError
from app.stability.pipeline import Pipeline
from tests.fakes.clocks import HandClock

SIZE = 4
OPTIONS = CircuitBreakerOptions(
    sliding_window_size=SIZE,
    minimum_number_of_calls=SIZE,
    slow_call_duration_threshold_seconds=5.0,
    slow_call_rate_threshold=0.5,
)


class BrokenAtTheEndClock(HandClock):
    """Tells the time of a call's beginning and then no more."""

    is_broken = False

    def monotonic(self) -> float:
        if self.is_broken:
            raise OSError
        return super().monotonic()


class Calm:
    """A breaker with a full window of quick successes."""

    def __init__(self) -> None:
        self.clock = BrokenAtTheEndClock()
        self.breaker = CircuitBreaker("a", OPTIONS, clock=self.clock)
        self.pipeline = Pipeline("a", [self.breaker])
        for _ in range(SIZE):
            self.take(0.0)

    def take(self, seconds: float) -> None:
        self.pipeline.call(self.clock.advance, seconds)

    def fail(self) -> None:
        with pytest.raises(ZeroDivisionError):
            self.pipeline.call(divmod, 1, 0)

    def counts(self) -> dict[str, float]:
        return {
            figure.labels["kind"]: figure.value  # type: ignore[union-attr]  # durations have another metric
            for figure in self.breaker.figures()
            if figure.metric == "circuit_breaker_calls"
        }


@pytest.fixture
def calm() -> Calm:
    return Calm()


def test_a_quick_success_is_counted_with_its_duration(calm: Calm) -> None:
    calm.take(0.25)

    (durations, *_) = (each for each in calm.breaker.figures() if each.metric.endswith("duration_seconds"))
    assert calm.counts()["successful"] == SIZE + 1
    assert durations.sum_seconds == pytest.approx(0.25)  # type: ignore[union-attr]  # it is a distribution


def test_a_success_of_exactly_the_slow_threshold_is_quick_and_a_longer_one_slow(calm: Calm) -> None:
    calm.take(5.0)
    quick = calm.breaker.snapshot().slow_call_rate
    calm.take(5.1)
    slow = calm.breaker.snapshot().slow_call_rate

    assert (quick, slow) == (0.0, 1 / SIZE)


def test_failures_open_it_as_ever(calm: Calm) -> None:
    calm.fail()
    calm.fail()

    assert calm.breaker.state is State.OPEN
    with pytest.raises(CallNotPermittedError):
        calm.take(0.0)


def test_a_success_after_a_failure_takes_its_place_in_the_window(calm: Calm) -> None:
    calm.fail()
    for _ in range(SIZE):
        calm.take(0.0)

    assert calm.breaker.snapshot().failure_rate == 0.0


def test_a_success_that_comes_after_the_state_has_ended_is_late(calm: Calm) -> None:
    calm.pipeline.call(calm.breaker.transition_to, State.FORCED_OPEN)

    assert calm.breaker.state is State.FORCED_OPEN
    assert calm.counts() == {"successful": SIZE, "failed": 0, "ignored": 0, "late": 1, "not_permitted": 0}


def test_a_clock_that_breaks_during_the_call_does_not_take_its_result(calm: Calm) -> None:
    def break_the_clock() -> str:
        calm.clock.is_broken = True
        return "ok"

    assert calm.pipeline.call(break_the_clock) == "ok"

    calm.clock.is_broken = False
    assert calm.counts()["successful"] == SIZE + 1
