"""Facts that the test suites of three other libraries state, asked of ours.

Sources, read as facts and told in our own words:

- resilience4j (resilience4j/resilience4j): ``CircuitBreakerStateMachineTest``, ``CircuitBreakerMetricsTest``,
  ``CircuitBreakerThrowingPredicateLeakTest``
- failsafe-go (failsafe-go/failsafe-go): ``closedstate_test.go``, ``halfopenstate_test.go``, ``openstate_test.go``,
  ``timedcircuitstats_test.go``, ``countingcircuitstats_test.go``
- Polly (App-vNext/Polly): ``CircuitStateControllerTests``, ``AdvancedCircuitBehaviorTests``,
  ``RollingHealthMetricsTests``, ``CircuitBreakerResilienceStrategyTests``
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Any

import pytest

from app.stability.breaker_events import ThresholdCrossed
from app.stability.breaker_states import State
from app.stability.errors import CallNotPermittedError, IllegalTransitionError
from app.stability.outcome import Classification
from app.stability.windows import CountWindow, TimeWindow
from tests.fakes.breakers import AbsentError, DownError, Rig

RESILIENCE4J: dict[str, Any] = {
    "failure_rate_threshold": 0.5,
    "slow_call_rate_threshold": 0.5,
    "slow_call_duration_threshold_seconds": 4.0,
    "sliding_window_type": "time_based",
    "sliding_window_size": 5,
    "minimum_number_of_calls": 5,
    "permitted_calls_in_half_open_state": 4,
    "wait_duration_in_open_state_seconds": 5.0,
}
"""What its state machine is tested with."""


def play(rig: Rig, outcomes: str) -> None:
    """Make calls: ``+`` succeeds, ``-`` fails, ``x`` is ignored."""
    for outcome in outcomes:
        {"+": rig.succeed, "-": rig.fail, "x": lambda: rig.fail(error=AbsentError())}[outcome]()


def fill(window: CountWindow | TimeWindow, outcomes: Iterable[bool], now: float = 0.0) -> None:
    """Record successes (True) and failures."""
    for succeeded in outcomes:
        window.record(now, not succeeded, False)


# --- resilience4j ------------------------------------------------------------------------------------------------


def test_resilience4j_the_result_that_completes_the_minimum_opens_it_though_it_is_a_success() -> None:
    rig = Rig(**RESILIENCE4J)
    play(rig, "---+")
    before = rig.state

    play(rig, "+")

    snapshot = rig.breaker.snapshot()
    assert (before, snapshot.state) == (State.CLOSED, State.OPEN)
    assert (snapshot.failure_rate, snapshot.results, snapshot.failures) == (0.6, 5, 3)


def test_resilience4j_slow_successes_and_slow_failures_open_it_together() -> None:
    rig = Rig(**RESILIENCE4J | {"failure_rate_threshold": 1.0, "sliding_window_size": 60})
    rig.fail(seconds=5)
    rig.succeed(seconds=5)
    rig.fail(seconds=0.1)
    rig.succeed(seconds=0.1)

    rig.succeed(seconds=5)

    snapshot = rig.breaker.snapshot()
    assert (snapshot.state, snapshot.slow_calls, snapshot.slow_call_rate) == (State.OPEN, 3, 0.6)


def test_resilience4j_a_refusal_is_counted_and_leaves_the_figures_that_tripped_it() -> None:
    rig = Rig(**RESILIENCE4J)
    play(rig, "---++")

    rig.refused()

    assert rig.calls["not_permitted"] == 1
    assert rig.breaker.snapshot().failure_rate == 0.6


def test_resilience4j_each_half_open_visit_has_all_its_permits() -> None:
    rig = Rig(**RESILIENCE4J)
    granted = []
    for _ in range(2):
        rig.half_open()
        granted.append([rig.breaker.try_acquire() is not None for _ in range(6)])

    assert granted == [[True] * 4 + [False] * 2] * 2


def test_resilience4j_a_released_permit_can_be_acquired_again() -> None:
    rig = Rig(**RESILIENCE4J)
    rig.half_open()
    permits = [rig.begin() for _ in range(4)]

    permits[0].release()

    assert rig.breaker.try_acquire() is not None


def test_resilience4j_half_open_begins_with_no_figures() -> None:
    rig = Rig(**RESILIENCE4J)
    play(rig, "---++")
    rig.clock.advance(6)
    rig.begin()

    snapshot = rig.breaker.snapshot()

    assert (snapshot.state, snapshot.results, snapshot.failure_rate) == (State.HALF_OPEN, 0, -1.0)


def test_resilience4j_ignored_trial_calls_decide_nothing_however_many() -> None:
    rig = Rig(**RESILIENCE4J)
    rig.half_open()

    play(rig, "xxxx")
    between = rig.breaker.snapshot()
    play(rig, "+++")

    assert (between.state, between.results) == (State.HALF_OPEN, 0)
    assert rig.state is State.CLOSED


def test_resilience4j_three_successes_an_ignored_one_and_a_failure_close_it() -> None:
    rig = Rig(**RESILIENCE4J)
    rig.half_open()

    play(rig, "++x-+")

    assert rig.state is State.CLOSED


def test_resilience4j_an_open_wait_that_grows_keeps_it_open_longer_the_second_time() -> None:
    rig = Rig(**RESILIENCE4J | {"wait_duration_in_open_state_seconds": lambda attempt: 5.0 * 1.5 ** (attempt - 1)})
    rig.breaker.transition_to(State.OPEN)
    rig.clock.advance(6)
    rig.begin()
    rig.breaker.transition_to(State.OPEN)
    rig.clock.advance(6)
    refused_after_6 = rig.is_refused()
    rig.clock.advance(5)

    assert refused_after_6
    assert not rig.is_refused()


def test_resilience4j_disabled_records_nothing() -> None:
    rig = Rig(**RESILIENCE4J)
    rig.breaker.transition_to(State.DISABLED)

    play(rig, "+----")

    assert rig.breaker.snapshot().results == 0
    assert rig.calls == {}


def test_resilience4j_forced_open_outlasts_every_wait() -> None:
    rig = Rig(**RESILIENCE4J)
    rig.breaker.transition_to(State.FORCED_OPEN)
    rig.refused()

    rig.clock.advance(6)
    rig.refused()

    assert (rig.state, rig.calls) == (State.FORCED_OPEN, {"not_permitted": 2})


def test_resilience4j_metrics_only_starts_afresh_and_tells_a_crossed_threshold_once() -> None:
    rig = Rig(**RESILIENCE4J)
    play(rig, "++")
    rig.breaker.transition_to(State.METRICS_ONLY)
    begins_with = rig.breaker.snapshot().results
    rig.told.clear()

    play(rig, "---++-")

    assert begins_with == 0
    assert rig.told == [ThresholdCrossed(name="storage", cause="failure_rate", rate=0.6)]
    assert rig.state is State.METRICS_ONLY


def test_resilience4j_closed_cannot_be_moved_to_half_open() -> None:
    rig = Rig(**RESILIENCE4J)

    with pytest.raises(IllegalTransitionError, match="from closed to half_open"):
        rig.breaker.transition_to(State.HALF_OPEN)

    assert rig.state is State.CLOSED


def test_resilience4j_a_count_window_of_ten_keeps_the_last_ten_of_twelve() -> None:
    window = CountWindow(10)
    fill(window, [True, True, False, False])
    fill(window, [False] * 4 + [True] * 4)
    after_twelve = window.failures / window.results

    fill(window, [True] * 3)

    assert (after_twelve, window.failures / window.results) == (0.6, 0.3)


@pytest.mark.parametrize("settle", ["error", "result"])
def test_resilience4j_a_predicate_that_raises_loses_no_trial_permit(settle: str) -> None:
    def boom(_judged: object) -> bool:
        raise RuntimeError

    rig = Rig(
        **RESILIENCE4J | {"permitted_calls_in_half_open_state": 1},
        classification=Classification(ignored_when=boom, failing_result=boom),
    )
    rig.half_open()
    permit = rig.begin()

    permit.fail(DownError()) if settle == "error" else permit.succeed("result")

    assert rig.breaker.try_acquire() is not None


# --- failsafe-go -------------------------------------------------------------------------------------------------


def test_failsafe_go_a_ratio_of_two_of_three_opens_it_with_the_third_result() -> None:
    rig = Rig(failure_rate_threshold=2 / 3, minimum_number_of_calls=3, sliding_window_size=3)
    play(rig, "-+")
    before = rig.state

    play(rig, "-")

    assert (before, rig.state) == (State.CLOSED, State.OPEN)


def test_failsafe_go_every_other_failure_never_reaches_three_of_four() -> None:
    rig = Rig(failure_rate_threshold=3 / 4)

    play(rig, "+-" * 20)

    assert rig.state is State.CLOSED


@pytest.mark.parametrize(("last", "state"), [("-", State.OPEN), ("+", State.CLOSED)])
def test_failsafe_go_the_third_trial_call_decides_two_of_three(last: str, state: State) -> None:
    rig = Rig(
        failure_rate_threshold=2 / 3,
        minimum_number_of_calls=3,
        sliding_window_size=3,
        permitted_calls_in_half_open_state=3,
    )
    rig.half_open()
    play(rig, "-+")
    before = rig.state

    play(rig, last)

    assert (before, rig.state) == (State.HALF_OPEN, state)


def test_failsafe_go_a_successful_acquire_after_the_delay_makes_it_half_open() -> None:
    rig = Rig(wait_duration_in_open_state_seconds=lambda _: 0.1)
    rig.breaker.transition_to(State.OPEN)
    too_early = rig.breaker.try_acquire()

    rig.clock.advance(0.11)

    assert too_early is None
    assert rig.breaker.try_acquire() is not None
    assert rig.state is State.HALF_OPEN


def test_failsafe_go_a_time_window_skips_over_seconds_without_calls() -> None:
    window = TimeWindow(4)
    held = []
    for now, outcomes in [
        (0.0, [number % 5 == 0 for number in range(50)]),
        (1.0, [True] * 10),
        (2.5, [False] * 20),
        (3.1, [number % 5 == 0 for number in range(25)]),
        (5.4, [True] * 8),
        (7.3, [False] * 5),
    ]:
        fill(window, outcomes, now)
        held.append((window.results, window.failures))
    window.advance(22.5)

    assert held == [(50, 40), (60, 40), (80, 60), (105, 80), (53, 40), (13, 5)]
    assert window.results == 0


def test_failsafe_go_a_full_ring_of_successes_forgets_every_earlier_failure() -> None:
    window = CountWindow(100)
    fill(window, [number % 3 == 0 for number in range(50)])
    before = (window.results, window.failures)

    fill(window, [True] * 100)

    assert before == (50, 33)
    assert (window.results, window.failures) == (100, 0)


# --- Polly -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "failures", "opens"), [(10, 0, False), (10, 1, True), (10, 2, True), (11, 2, True), (9, 1, False)]
)
def test_polly_it_breaks_at_the_ratio_and_from_the_minimum_throughput_on(
    calls: int, failures: int, opens: Any
) -> None:
    rig = Rig(failure_rate_threshold=0.1, minimum_number_of_calls=10, sliding_window_size=100)

    play(rig, "+" * (calls - failures))
    for _ in range(failures):
        if rig.state is State.CLOSED:
            play(rig, "-")

    assert (rig.state is State.OPEN) is opens


def test_polly_half_open_has_a_time_limit_of_the_break_duration() -> None:
    rig = Rig()
    rig.trip()
    rig.clock.advance(60)
    rig.begin()

    assert rig.breaker.snapshot().remaining_seconds == 60.0


def test_polly_the_first_call_after_the_break_is_let_in_and_the_next_is_not_with_one_permit() -> None:
    rig = Rig(permitted_calls_in_half_open_state=1)
    rig.trip()
    rig.clock.advance(60)
    rig.begin()

    assert rig.refused().state == "half_open"


def test_polly_a_failure_that_comes_in_while_it_is_open_or_isolated_changes_no_state() -> None:
    states = []
    for state in (State.OPEN, State.FORCED_OPEN):
        rig = Rig()
        permit = rig.begin()
        rig.breaker.transition_to(state)
        permit.fail(DownError())
        states.append(rig.state)

    assert states == [State.OPEN, State.FORCED_OPEN]


def test_polly_a_hundred_refusals_have_one_and_the_same_short_traceback() -> None:
    rig = Rig()
    rig.trip()
    depths, causes = set(), set()

    for _ in range(100):
        try:
            rig.call(lambda: None)
        except CallNotPermittedError as refusal:
            depths.add(len(traceback.extract_tb(refusal.__traceback__)))
            causes.add(len(traceback.extract_tb(refusal.__cause__.__traceback__ if refusal.__cause__ else None)))

    assert len(depths) == 1
    assert causes == {0}, "a cause that is raised again and again must not grow"


def test_polly_an_isolated_breaker_passes_calls_again_when_it_is_closed_by_hand() -> None:
    rig = Rig()
    rig.breaker.transition_to(State.FORCED_OPEN)
    isolated = rig.is_refused()

    rig.breaker.transition_to(State.CLOSED)

    assert isolated
    assert not rig.is_refused()


def test_polly_the_error_that_broke_it_is_inside_of_the_refusal() -> None:
    rig = Rig()
    rig.fail(4, error=InterruptedError("broken"))

    assert isinstance(rig.refused().__cause__, InterruptedError)


def test_polly_ten_results_a_second_apart_leave_a_window_of_ten_seconds_one_by_one() -> None:
    window = TimeWindow(10)
    for second in range(10):
        fill(window, [True], float(second))

    held = []
    for now in (10.0, 11.0):
        window.advance(now)
        held.append(window.results)

    assert held == [9, 8]


@pytest.mark.parametrize("seconds", [10.0, 10.001])
def test_polly_a_window_is_empty_at_its_full_length(seconds: float) -> None:
    window = TimeWindow(10)
    fill(window, [True, True])

    window.advance(seconds)

    assert window.results == 0


def test_polly_the_rate_falls_as_old_failures_leave() -> None:
    window = TimeWindow(10)
    seen = []
    for step in range(5):
        fill(window, [step >= 2, True], 2.0 * step)
        window.advance(2.0 * step + 2)
        seen.append((window.results, window.failures))
    window.advance(12.0)
    seen.append((window.results, window.failures))

    assert seen == [(2, 1), (4, 2), (6, 2), (8, 2), (8, 1), (6, 0)]
