"""How the states follow each other: by hand, by results, by time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from app.stability.breaker_events import BreakerReset, StateTransitioned, ThresholdCrossed
from app.stability.breaker_states import State
from app.stability.errors import IllegalTransitionError
from app.stability.events import Event
from app.stability.outcome import Classification
from tests.fakes.breakers import AbsentError, BusyError, Rig, rig_in
from tests.stability.test_breaker_states import PAIRS, REFUSED


def path(rig: Rig) -> list[tuple[str, str, str]]:
    """Return where from, where to and why of each transition that was told."""
    return [
        (event.source.value, event.target.value, event.cause)
        for event in rig.told
        if isinstance(event, StateTransitioned)
    ]


# --- by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_each_of_the_49_pairs_is_moved_or_silent_or_refused(source: State, target: State) -> None:
    rig = rig_in(source)
    before = rig.breaker.snapshot()

    if (source, target) in REFUSED:
        with pytest.raises(IllegalTransitionError) as refused:
            rig.breaker.transition_to(target)

        assert (refused.value.name, refused.value.source, refused.value.target) == (
            "storage",
            source.value,
            target.value,
        )
        assert (rig.breaker.snapshot(), rig.told) == (before, [])
    elif source is target:
        rig.breaker.transition_to(target)

        assert (rig.breaker.snapshot(), rig.told) == (before, [])
    else:
        rig.breaker.transition_to(target, by="ada", reason="drill")

        assert rig.state is target
        assert rig.told == [
            StateTransitioned(name="storage", source=source, target=target, cause="manual", by="ada", reason="drill")
        ]


@pytest.mark.parametrize("state", State)
def test_a_move_to_the_same_state_keeps_its_figures(state: State) -> None:
    rig = rig_in(state)
    visit = rig.breaker._machine.visit

    rig.breaker.transition_to(state)

    assert rig.breaker._machine.visit is visit


@pytest.mark.parametrize("state", State)
def test_a_reset_closes_it_from_whatever_state_with_fresh_figures(state: State) -> None:
    rig = rig_in(state)
    rig.breaker.try_acquire()
    rig.clock.advance(1)

    rig.breaker.reset(by="ada", reason="drill")

    snapshot = rig.breaker.snapshot()
    assert (snapshot.state, snapshot.results, snapshot.calls_in_flight, snapshot.attempt) == (State.CLOSED, 0, 0, 0)
    assert rig.told == [BreakerReset(name="storage", by="ada", reason="drill")]


def test_a_reset_of_a_closed_breaker_forgets_its_window() -> None:
    rig = Rig()
    rig.fail(3)

    rig.breaker.reset()
    rig.fail(3)

    assert rig.state is State.CLOSED


@pytest.mark.parametrize("source", [state for state in State if (state, State.OPEN) not in REFUSED])
def test_open_for_opens_it_for_that_long_without_raising_the_attempt_count(source: State) -> None:
    rig = rig_in(source)
    attempt = rig.breaker.snapshot().attempt

    rig.breaker.open_for(7, by="ada", reason="drill")

    snapshot = rig.breaker.snapshot()
    assert (snapshot.state, snapshot.remaining_seconds, snapshot.attempt) == (State.OPEN, 7.0, attempt)


def test_open_until_opens_it_until_an_instant() -> None:
    rig = Rig()
    instant = rig.clock.monotonic() + 30

    rig.breaker.open_until(instant)
    rig.clock.advance(29)
    late = rig.refused().retry_after_seconds
    rig.clock.advance(1)
    rig.succeed()

    assert late == 1.0
    assert rig.state is State.HALF_OPEN


def test_open_for_makes_an_opening_longer_or_shorter() -> None:
    rig = Rig()
    rig.trip()

    rig.breaker.open_for(5)
    rig.clock.advance(5)
    rig.succeed()

    assert rig.state is State.HALF_OPEN


def test_an_operator_who_changes_the_end_of_an_opening_is_told_and_it_counts_as_no_transition() -> None:
    rig = Rig()
    rig.trip()
    told, transitions = len(rig.told), dict(rig.breaker._machine.transitions)

    rig.breaker.open_for(5, by="ada", reason="they said so")

    (event,) = rig.told[told:]
    assert isinstance(event, StateTransitioned)
    assert (event.source, event.target, event.by, event.reason) == (State.OPEN, State.OPEN, "ada", "they said so")
    assert rig.breaker._machine.transitions == transitions


def test_what_only_metrics_are_kept_of_cannot_be_opened_for_a_time() -> None:
    rig = rig_in(State.METRICS_ONLY)

    with pytest.raises(IllegalTransitionError):
        rig.breaker.open_for(5)

    assert rig.state is State.METRICS_ONLY


@pytest.mark.parametrize("instant", [math.nan, math.inf, -math.inf])
def test_open_until_wants_a_finite_instant(instant: float) -> None:
    rig = Rig()

    with pytest.raises(ValueError, match="finite instant"):
        rig.breaker.open_until(instant)

    assert rig.state is State.CLOSED


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, pytest.param(10**400, id="10**400")])
def test_open_for_wants_a_finite_time_above_0(seconds: float) -> None:
    rig = Rig()

    with pytest.raises(ValueError, match="for a finite time above 0 s, not for"):
        rig.breaker.open_for(seconds)

    assert rig.state is State.CLOSED


# --- by itself ---------------------------------------------------------------------------------------------------


def test_the_whole_circle_is_told_in_order() -> None:
    rig = Rig(slow_call_rate_threshold=0.75)
    rig.trip()
    rig.clock.advance(60)
    rig.fail(2)
    rig.clock.advance(60)
    rig.succeed(3, seconds=6)
    rig.clock.advance(60)
    rig.begin()
    rig.clock.advance(60)
    rig.breaker.state  # noqa: B018  # a look lets time do its part
    rig.clock.advance(60)
    rig.succeed(3)

    assert path(rig) == [
        ("closed", "open", "failure_rate"),
        ("open", "half_open", "wait_over"),
        ("half_open", "open", "failure_rate"),
        ("open", "half_open", "wait_over"),
        ("half_open", "open", "slow_call_rate"),
        ("open", "half_open", "wait_over"),
        ("half_open", "open", "time_limit"),
        ("open", "half_open", "wait_over"),
        ("half_open", "closed", "verdict"),
    ]


def test_a_transition_tells_the_rate_that_decided() -> None:
    rig = Rig(failure_rate_threshold=0.4)
    rig.succeed(2)
    rig.fail(2)

    assert rig.told == [
        StateTransitioned(
            name="storage", source=State.CLOSED, target=State.OPEN, cause="failure_rate", rate=0.5, by="breaker"
        )
    ]


def test_open_keeps_the_figures_that_tripped_it() -> None:
    rig = Rig()
    rig.succeed(1)
    rig.fail(3)
    rig.clock.advance(30)

    snapshot = rig.breaker.snapshot()

    assert (snapshot.failure_rate, snapshot.results, snapshot.failures) == (0.75, 4, 3)


def test_closed_begins_with_fresh_figures_after_half_open() -> None:
    rig = Rig()
    rig.trip()
    rig.clock.advance(60)
    rig.succeed(3)

    snapshot = rig.breaker.snapshot()

    assert (snapshot.state, snapshot.results, snapshot.failure_rate) == (State.CLOSED, 0, -1.0)


def test_no_call_is_let_in_before_the_deadline_and_one_is_exactly_at_it() -> None:
    rig = Rig()
    rig.breaker.open_until(1064.0)
    refused_at = []
    for instant in (1000.0, 1063.0, math.nextafter(1064.0, 0)):
        rig.clock._monotonic = instant
        if rig.is_refused():
            refused_at.append(instant)

    rig.clock._monotonic = 1064.0

    assert len(refused_at) == 3
    assert not rig.is_refused()


@pytest.mark.parametrize(("automatic", "seen"), [(False, State.OPEN), (True, State.HALF_OPEN)])
def test_a_look_after_the_wait_moves_it_only_where_that_is_asked_for(automatic: Any, seen: State) -> None:
    rig = Rig(automatic_transition_from_open_to_half_open=automatic)
    rig.trip()

    rig.clock.advance(60)

    assert rig.state is seen


def test_attempt_counts_openings_in_a_row_and_starts_anew_after_closed() -> None:
    rig = Rig()
    attempts = []
    for _ in range(3):
        rig.trip()
        attempts.append(rig.breaker.snapshot().attempt)
        rig.clock.advance(60)
        rig.fail(2)
        attempts.append(rig.breaker.snapshot().attempt)
        rig.clock.advance(60)
        rig.succeed(3)
        attempts.append(rig.breaker.snapshot().attempt)

    assert attempts == [1, 2, 0] * 3


def test_the_open_wait_can_depend_on_the_attempt() -> None:
    asked: list[int] = []

    def wait(attempt: int) -> float:
        asked.append(attempt)
        return 10.0 * float(2 ** (attempt - 1))

    rig = Rig(wait_duration_in_open_state_seconds=wait, max_wait_duration_in_half_open_state_seconds=1)
    waits = []
    for _ in range(4):
        rig.fail(4) if rig.state is State.CLOSED else rig.fail(2)
        remaining = rig.breaker.snapshot().remaining_seconds
        assert remaining is not None
        waits.append(remaining)
        rig.clock.advance(remaining)

    assert waits == [10.0, 20.0, 40.0, 80.0]
    assert asked == [1, 2, 3, 4]


def test_half_open_may_last_as_long_as_it_was_open_unless_said_otherwise() -> None:
    rig = Rig(wait_duration_in_open_state_seconds=lambda attempt: 10.0 * attempt)
    rig.trip()
    rig.clock.advance(10)
    rig.fail(2)
    rig.clock.advance(20)
    rig.begin()

    assert rig.breaker.snapshot().remaining_seconds == 20.0


def test_half_open_after_an_opening_for_a_time_has_a_limit_too() -> None:
    rig = Rig(wait_duration_in_open_state_seconds=lambda attempt: 10.0 * attempt)
    rig.breaker.open_for(3)
    rig.clock.advance(3)
    rig.begin()

    assert (rig.state, rig.breaker.snapshot().remaining_seconds) == (State.HALF_OPEN, 10.0)


def test_a_limit_of_half_open_can_be_set() -> None:
    rig = Rig(max_wait_duration_in_half_open_state_seconds=5)
    rig.half_open()
    rig.begin()
    rig.clock.advance(4.9)
    before = rig.state
    rig.clock.advance(0.2)

    assert (before, rig.state) == (State.HALF_OPEN, State.OPEN)


def raising(_attempt: int) -> float:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "wait",
    [raising, *(lambda _attempt, wrong=wrong: wrong for wrong in (math.nan, math.inf, -1.0, 0.0, 86_401.0, "soon"))],
)
def test_an_open_wait_that_is_no_time_is_a_minute(
    wait: Callable[[int], float], caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(wait_duration_in_open_state_seconds=wait)

    rig.trip()

    assert rig.breaker.snapshot().remaining_seconds == 60.0
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    rig.clock.advance(60)
    rig.succeed(3)
    assert rig.state is State.CLOSED


def test_an_interrupt_in_an_open_wait_opens_it_for_a_minute_and_goes_on() -> None:
    interrupts = [KeyboardInterrupt()]

    def wait(_attempt: int) -> float:
        if interrupts:
            raise interrupts.pop()
        return 30.0

    rig = Rig(wait_duration_in_open_state_seconds=wait)
    rig.fail(3)
    with pytest.raises(KeyboardInterrupt):
        rig.fail()

    snapshot = rig.breaker.snapshot()
    assert (snapshot.state, snapshot.calls_in_flight, snapshot.results) == (State.OPEN, 0, 4)
    assert (snapshot.remaining_seconds, snapshot.attempt) == (60.0, 1)
    assert path(rig) == [("closed", "open", "failure_rate")]


# --- metrics only ------------------------------------------------------------------------------------------------


def crossings(told: list[Event]) -> list[tuple[str, float]]:
    return [(event.cause, event.rate) for event in told if isinstance(event, ThresholdCrossed)]


def test_metrics_only_tells_each_threshold_once_per_visit() -> None:
    rig = rig_in(State.METRICS_ONLY)
    rig.fail(10)
    first = crossings(rig.told)
    rig.breaker.transition_to(State.CLOSED)
    rig.breaker.transition_to(State.METRICS_ONLY)
    rig.fail(10)

    assert first == [("failure_rate", 1.0)]
    assert crossings(rig.told) == first * 2
    assert rig.state is State.METRICS_ONLY


def test_metrics_only_tells_both_thresholds_when_one_result_reaches_both() -> None:
    rig = rig_in(State.METRICS_ONLY)

    rig.fail(4, seconds=6)

    assert crossings(rig.told) == [("failure_rate", 1.0), ("slow_call_rate", 1.0)]


def test_metrics_only_tells_of_calls_that_hang() -> None:
    rig = rig_in(State.METRICS_ONLY)
    for _ in range(4):
        rig.begin()
    rig.clock.advance(6)

    rig.begin()

    assert crossings(rig.told) == [("slow_call_rate", 1.0)]


# --- ordered -----------------------------------------------------------------------------------------------------

ORDERED: dict[str, Any] = {"open_on_retry_after": True, "max_ordered_open_seconds": 100.0}


def test_a_failure_that_says_when_to_come_back_opens_it_for_that_long() -> None:
    rig = Rig(**ORDERED)

    rig.fail(error=BusyError(7))

    snapshot = rig.breaker.snapshot()
    assert (snapshot.state, snapshot.remaining_seconds, snapshot.attempt) == (State.OPEN, 7.0, 0)
    assert path(rig) == [("closed", "open", "ordered")]


def test_a_returned_failure_orders_as_a_raised_one_does() -> None:
    rig = Rig(**ORDERED, classification=Classification(failing_result=lambda result: result is not None))
    rig.call(lambda: BusyError(7))

    assert rig.breaker.snapshot().remaining_seconds == 7.0


@pytest.mark.parametrize(
    "error", [BusyError(0), BusyError(-1), BusyError(math.nan), BusyError(math.inf), AbsentError()]
)
def test_a_failure_that_orders_no_time_opens_nothing(error: Exception) -> None:
    rig = Rig(**ORDERED)

    rig.fail(error=error)

    assert rig.state is State.CLOSED


def test_an_order_is_cut_at_its_maximum() -> None:
    rig = Rig(**ORDERED)

    rig.fail(error=BusyError(1e9))

    assert rig.breaker.snapshot().remaining_seconds == 100.0


def test_orders_are_followed_only_where_that_is_asked_for() -> None:
    rig = Rig()

    rig.fail(error=BusyError(7))

    assert rig.state is State.CLOSED


def test_a_success_orders_nothing() -> None:
    rig = Rig(**ORDERED, classification=Classification(failing_result=lambda _: False))

    rig.call(lambda: BusyError(7))

    assert rig.state is State.CLOSED


def test_the_failure_that_opens_it_says_for_how_long() -> None:
    rig = Rig(**ORDERED)
    rig.fail(3)

    rig.fail(error=BusyError(7))

    snapshot = rig.breaker.snapshot()
    assert (snapshot.remaining_seconds, snapshot.attempt) == (7.0, 1)
    assert path(rig) == [("closed", "open", "failure_rate")]


def test_an_order_ends_a_half_open_visit() -> None:
    rig = Rig(**ORDERED)
    rig.half_open()

    rig.fail(error=BusyError(7))

    assert (rig.state, rig.breaker.snapshot().remaining_seconds) == (State.OPEN, 7.0)


@pytest.mark.parametrize("state", [State.METRICS_ONLY, State.DISABLED, State.FORCED_HALF_OPEN])
def test_an_order_moves_no_state_that_an_operator_has_chosen(state: State) -> None:
    rig = rig_in(state, **ORDERED)

    rig.fail(error=BusyError(7))

    assert rig.state is state


def test_a_late_order_does_not_shorten_what_an_operator_has_said() -> None:
    rig = Rig(**ORDERED)
    permit = rig.begin()
    rig.breaker.open_for(600)

    permit.fail(BusyError(7))

    assert rig.breaker.snapshot().remaining_seconds == 600.0


def test_an_operator_between_a_result_and_its_order_is_not_overruled() -> None:
    def meddle(_failure: object) -> float:
        rig.breaker.open_for(600)
        return 7.0

    rig = Rig(**ORDERED, classification=Classification(retry_after_of=meddle))

    rig.fail()

    assert rig.breaker.snapshot().remaining_seconds == 600.0
