"""A circuit breaker on clocks that raise, give no time or go back."""

from __future__ import annotations

import math
from typing import Any

import pytest

from app.stability.breaker_states import State
from app.stability.figures import Distribution
from tests.fakes.breakers import ADMITTED_OF_TEN, DownError, Rig, rig_in
from tests.fakes.clocks import HandClock


class NaughtyClock(HandClock):
    """Gives or raises what it is told to, else the time."""

    wrong: Any = None

    def monotonic(self) -> Any:
        if isinstance(self.wrong, BaseException):
            raise self.wrong
        return super().monotonic() if self.wrong is None else self.wrong


def summed_seconds(rig: Rig) -> list[float]:
    return [one.sum_seconds for one in rig.breaker.figures() if isinstance(one, Distribution)]


WRONG = [ValueError("no clock"), math.nan, math.inf, -math.inf, 10**400, -(10**400), "noon", NotImplemented]


def brief(value: object) -> str:
    return repr(value)[:24]


@pytest.mark.parametrize("wrong", WRONG, ids=brief)
@pytest.mark.parametrize("state", State)
def test_a_clock_without_time_lets_calls_through_as_the_state_says(wrong: Any, state: State) -> None:
    clock = NaughtyClock()
    rig = rig_in(state, clock=clock)
    clock.wrong = wrong

    for _ in range(3):
        assert rig.is_refused() is (ADMITTED_OF_TEN[state] == 0)

    clock.wrong = None
    snapshot = rig.breaker.snapshot()
    assert snapshot.calls_in_flight == 0
    assert snapshot.state is (State.CLOSED if state is State.HALF_OPEN else state)


@pytest.mark.parametrize("wrong", WRONG, ids=brief)
@pytest.mark.parametrize("state", [State.CLOSED, State.METRICS_ONLY, State.HALF_OPEN, State.FORCED_HALF_OPEN])
def test_a_clock_that_stops_giving_time_during_a_call_loses_no_result(wrong: Any, state: State) -> None:
    clock = NaughtyClock()
    rig = rig_in(state, clock=clock)
    rig.clock.advance(50)

    def stop() -> str:
        clock.wrong = wrong
        return "result"

    result = rig.call(stop)
    clock.wrong = None

    assert (result, rig.calls) == ("result", {"successful": 1})
    assert summed_seconds(rig) == [0.0, 0.0]


@pytest.mark.parametrize("wrong", WRONG[:3], ids=repr)
def test_a_wait_that_begins_without_time_begins_when_the_call_did(wrong: Any) -> None:
    clock = NaughtyClock()
    rig = Rig(clock=clock)
    rig.clock.advance(4)
    rig.fail(3)

    def stop() -> None:
        clock.wrong = wrong
        raise DownError

    with pytest.raises(DownError):
        rig.call(stop)
    clock.wrong = None

    assert rig.breaker.snapshot().remaining_seconds == 60.0


def test_a_clock_that_begins_without_time_is_followed_when_it_has_one() -> None:
    clock = NaughtyClock()
    clock.wrong = OSError("no clock")
    rig = Rig(clock=clock)
    clock.wrong = None

    rig.trip()

    assert rig.breaker.snapshot().remaining_seconds == 60.0


def test_a_clock_that_goes_back_makes_no_call_slow_and_no_duration_negative() -> None:
    rig = Rig(sliding_window_type="time_based", sliding_window_size=10)

    rig.succeed(3, seconds=-100)
    rig.fail(2, seconds=-100)

    snapshot = rig.breaker.snapshot()
    assert (snapshot.slow_calls, snapshot.results) == (0, 5)
    assert rig.calls == {"successful": 3, "failed": 2}
    assert summed_seconds(rig) == [0.0, 0.0]


def test_a_clock_that_goes_back_while_it_is_open_keeps_it_open_until_the_instant() -> None:
    rig = Rig()
    rig.trip()
    rig.clock.advance(-30)

    before = rig.refused().retry_after_seconds
    rig.clock.advance(90)

    assert before == 90.0
    assert not rig.is_refused()


@pytest.mark.parametrize("far", [1e308, -1e308, 10**400, -(10**400)], ids=["1e308", "-1e308", "10**400", "-10**400"])
@pytest.mark.parametrize("kind", ["count_based", "time_based"])
def test_a_clock_of_a_far_future_or_past_takes_no_result_and_opens_as_ever(far: float, kind: str) -> None:
    clock = NaughtyClock()
    clock.wrong = far
    rig = Rig(clock=clock, sliding_window_type=kind, count_calls_in_flight_as_slow=False)

    rig.succeed(2)
    rig.fail(2)

    assert rig.state is State.OPEN
    assert rig.calls == {"successful": 2, "failed": 2}
    rig.breaker.transition_to(State.FORCED_OPEN)
    assert rig.is_refused()
