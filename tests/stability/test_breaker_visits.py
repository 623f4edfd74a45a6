"""What each stay in a state answers: admit, record, give back, tick."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability.breaker_options import CircuitBreakerOptions
from app.stability.breaker_states import State
from app.stability.breaker_visits import (
    UNKNOWN_RATE,
    Closed,
    Disabled,
    ForcedHalfOpen,
    ForcedOpen,
    HalfOpen,
    MetricsOnly,
    Move,
    Open,
    Visit,
)
from app.stability.probes import LocalProbes
from tests.fakes.breakers import SMALL


def options(**changed: Any) -> CircuitBreakerOptions:
    return CircuitBreakerOptions(**{**SMALL, **changed})


def closed(**changed: Any) -> Closed:
    return Closed(options(**changed), 0.0)


def half_open(ends_at: float = 60.0, **changed: Any) -> HalfOpen:
    return HalfOpen(options(**changed), ends_at, LocalProbes())


def admitted(visit: Visit) -> bool:
    if visit.admit(1.0):
        visit.running[object()] = 1.0
        return True
    return False


KINDS_OF_RESULTS = [(failed, slow) for failed in (False, True) for slow in (False, True)]


@pytest.fixture(params=State, ids=lambda state: state.value)
def visit(request: pytest.FixtureRequest) -> Visit:
    """Return a stay in each of the states."""
    before = closed()
    stays: dict[State, Visit] = {
        State.CLOSED: before,
        State.OPEN: Open(before, 60.0, automatic=False),
        State.HALF_OPEN: half_open(),
        State.DISABLED: Disabled(),
        State.METRICS_ONLY: MetricsOnly(options(), 0.0),
        State.FORCED_OPEN: ForcedOpen(before),
        State.FORCED_HALF_OPEN: ForcedHalfOpen(options()),
    }
    return stays[request.param]


ADMITTED_OF_TEN = {
    State.CLOSED: 10,
    State.OPEN: 0,
    State.HALF_OPEN: 4,
    State.DISABLED: 10,
    State.METRICS_ONLY: 10,
    State.FORCED_OPEN: 0,
    State.FORCED_HALF_OPEN: 4,
}


def test_a_state_admits_what_its_row_says(visit: Visit) -> None:
    let_in = 0

    for number in range(10):
        if visit.admit(1.0):
            visit.running[number] = 1.0
            let_in += 1

    assert let_in == ADMITTED_OF_TEN[visit.state]
    assert visit.word == visit.state.value


def test_only_open_knows_when_a_refused_call_may_come_again(visit: Visit) -> None:
    assert visit.retry_at == (60.0 if visit.state is State.OPEN else inf)


def test_a_state_records_what_its_row_says(visit: Visit) -> None:
    visit.record(1.0, True, True)

    recorded = visit.window.results if visit.window is not None else 0
    records = visit.state not in {State.OPEN, State.FORCED_OPEN, State.DISABLED}
    assert recorded == records


def test_a_visit_has_nothing_more_to_tell_until_something_happens(visit: Visit) -> None:
    assert visit.more() is None
    assert visit.in_flight_slow == 0


def test_no_visit_but_open_and_half_open_ends_by_time_alone(visit: Visit) -> None:
    move = visit.tick(1e6)

    assert move == (Move(State.OPEN, "time_limit") if visit.state is State.HALF_OPEN else None)


def test_a_tick_undoes_what_a_look_at_the_board_has_shortened(visit: Visit) -> None:
    due, refuses_until = visit.due, visit.refuses_until
    visit.due, visit.refuses_until = min(due, 0.5), min(refuses_until, 0.5)

    visit.tick(0.0)

    assert (visit.due, visit.refuses_until) == (due, refuses_until)


# --- closed ------------------------------------------------------------------------------------------------------


def test_closed_opens_at_the_failure_rate_threshold_with_the_result_that_reaches_it() -> None:
    visit = closed(failure_rate_threshold=0.5)

    moves = [visit.record(1.0, failed, False) for failed in (True, False, False, True)]

    assert moves == [None, None, None, Move(State.OPEN, "failure_rate", 0.5)]


def test_closed_stays_closed_below_the_threshold() -> None:
    visit = closed(failure_rate_threshold=0.5)

    moves = [visit.record(1.0, failed, False) for failed in (True, False, False, False, False, True)]

    assert moves == [None] * 6
    assert visit.rates() == (0.25, 0.0)


def test_closed_opens_at_the_slow_call_rate_threshold() -> None:
    visit = closed(slow_call_rate_threshold=0.75)

    moves = [visit.record(1.0, False, slow) for slow in (True, False, True, True)]

    assert moves == [None, None, None, Move(State.OPEN, "slow_call_rate", 0.75)]


def test_rates_are_unknown_below_the_minimum() -> None:
    visit = closed(minimum_number_of_calls=3)
    visit.record(1.0, True, True)
    visit.record(1.0, True, True)

    assert visit.rates() == (UNKNOWN_RATE, UNKNOWN_RATE) == (-1.0, -1.0)


def test_a_success_can_open_it_when_it_completes_the_minimum() -> None:
    visit = closed(minimum_number_of_calls=2)
    visit.record(1.0, True, False)

    assert visit.record(1.0, False, False) == Move(State.OPEN, "failure_rate", 0.5)


def test_a_time_window_forgets_before_it_judges() -> None:
    visit = closed(sliding_window_type="time_based", sliding_window_size=10, minimum_number_of_calls=2)
    visit.record(1.0, True, False)

    moves = [visit.record(20.0, False, False), visit.record(20.0, False, False), visit.record(20.0, True, False)]

    assert moves == [None, None, None]
    assert visit.rates() == (1 / 3, 0.0)


def test_a_window_that_is_full_of_quick_successes_takes_in_a_failure() -> None:
    visit = closed()
    for _ in range(9):
        visit.record(1.0, False, False)

    moves = [visit.record(1.0, True, False), visit.record(1.0, True, False)]

    assert moves == [None, Move(State.OPEN, "failure_rate", 0.5)]


# --- calls in flight ---------------------------------------------------------------------------------------------


def test_calls_in_flight_open_it_without_any_result() -> None:
    visit = closed()
    visit.running = dict.fromkeys(range(4), 0.0)

    assert visit.tick(5.0) is None, "slow is longer than 5 s, not 5 s"
    assert visit.tick(5.01) == Move(State.OPEN, "slow_call_rate", 1.0)


def test_calls_in_flight_are_no_failures() -> None:
    visit = closed(slow_call_rate_threshold=1.0)
    visit.running = {1: 0.0, 2: 0.0}
    visit.record(5.0, False, False)
    visit.record(5.0, False, False)

    visit.tick(6.0)

    assert visit.rates() == (UNKNOWN_RATE, 0.5)


def test_it_asks_again_when_the_next_call_in_flight_becomes_slow() -> None:
    visit = closed(slow_call_rate_threshold=1.0)
    visit.running = {1: 2.0, 2: 3.0}

    dues = []
    for now in (3.0, 7.5, 8.5):
        visit.tick(now)
        dues.append((visit.due, visit.in_flight_slow))

    assert dues == [(7.0, 0), (8.0, 1), (13.5, 2)]


def test_with_the_option_off_calls_in_flight_are_not_looked_at() -> None:
    visit = closed(count_calls_in_flight_as_slow=False)
    visit.running = dict.fromkeys(range(4), 0.0)

    assert visit.tick(1000.0) is None
    assert (visit.due, visit.in_flight_slow) == (inf, 0)


def test_a_call_that_is_no_longer_in_flight_counts_once_as_a_result() -> None:
    visit = closed(slow_call_rate_threshold=1.0)
    visit.running = {1: 0.0, 2: 0.0}
    visit.tick(6.0)
    del visit.running[1]

    visit.record(6.0, False, True)

    assert (visit.window.slow, visit.in_flight_slow) == (1, 1)


def test_while_calls_hang_each_one_asks_where_old_results_leave_by_time() -> None:
    visit = closed(sliding_window_type="time_based", sliding_window_size=10, slow_call_rate_threshold=0.4)
    for _ in range(4):
        visit.record(0.0, False, False)
    visit.running = dict.fromkeys(range(2), 4.0)

    moves = [visit.tick(9.0), visit.tick(9.5)]
    dues = visit.due
    visit.record(9.5, False, False)

    assert (moves, dues) == ([None, None], -inf)
    assert visit.tick(10.5) is None, "two of three are below the minimum"
    visit.record(10.5, False, False)
    assert visit.rates() == (UNKNOWN_RATE, 0.5)


def test_by_time_alone_no_failure_rate_opens_it() -> None:
    visit = closed(
        sliding_window_type="time_based",
        sliding_window_size=10,
        minimum_number_of_calls=1,
        failure_rate_threshold=0.5,
    )
    visit.record(0.0, False, False)
    visit.record(0.0, False, False)
    visit.record(5.0, True, False)
    visit.running = {1: 5.0}

    move = visit.tick(11.0)

    assert visit.rates() == (1.0, 0.5)
    assert move is None


# --- metrics only ------------------------------------------------------------------------------------------------


def test_metrics_only_tells_each_threshold_once() -> None:
    visit = MetricsOnly(options(slow_call_rate_threshold=0.5), 0.0)

    told = [visit.record(1.0, True, False) for _ in range(6)]
    told += [visit.record(1.0, False, True) for _ in range(6)]

    assert [move for move in told if move is not None] == [
        Move(State.METRICS_ONLY, "failure_rate", 1.0),
        Move(State.METRICS_ONLY, "slow_call_rate", 0.5),
    ]


def test_metrics_only_has_more_to_tell_when_one_result_reaches_both() -> None:
    visit = MetricsOnly(options(), 0.0)

    told = [visit.record(1.0, True, True) for _ in range(4)][-1]
    more = visit.more()

    assert (told, more) == (
        Move(State.METRICS_ONLY, "failure_rate", 1.0),
        Move(State.METRICS_ONLY, "slow_call_rate", 1.0),
    )
    assert visit.more() is None


# --- open and forced open ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["open", "forced_open"])
def test_figures_that_led_there_are_kept(after: str) -> None:
    before = closed(slow_call_rate_threshold=1.0)
    for failed in (True, False, True, True):
        before.record(1.0, failed, True)

    visit = Open(before, 60.0, automatic=False) if after == "open" else ForcedOpen(before)

    assert visit.rates() == (0.75, 1.0)
    assert visit.window is before.window


def test_the_wait_is_over_at_the_very_instant() -> None:
    visit = Open(closed(), 60.0, automatic=False)

    assert [visit.wait_is_over(now) for now in (59.999, 60.0, 60.001)] == [False, True, True]


def test_looking_ends_the_wait_only_where_that_is_asked_for() -> None:
    patient, automatic = (Open(closed(), 60.0, automatic=automatic) for automatic in (False, True))

    assert [patient.tick(60.0), automatic.tick(59.9), automatic.tick(60.0)] == [
        None,
        None,
        Move(State.HALF_OPEN, "wait_over"),
    ]


# --- half open ---------------------------------------------------------------------------------------------------


def test_a_returned_permit_can_be_given_out_again() -> None:
    visit = half_open()
    granted = [admitted(visit) for _ in range(5)]

    visit.running.popitem()
    visit.give_back()

    assert granted == [True] * 4 + [False]
    assert [admitted(visit), admitted(visit)] == [True, False]


def test_a_recorded_result_gives_no_permit_back() -> None:
    visit = half_open(failure_rate_threshold=1.0, slow_call_rate_threshold=1.0)
    granted = [admitted(visit) for _ in range(4)]

    visit.running.popitem()
    visit.record(1.0, True, False)

    assert all(granted)
    assert not visit.admit(1.0)


@pytest.mark.parametrize(("minimum", "permits"), [(4, 4), (2, 4), (4, 2), (1, 10), (100, 3)])
def test_the_verdict_needs_the_smaller_of_minimum_and_permits(minimum: int, permits: int) -> None:
    needed = min(minimum, permits)
    visit = half_open(
        minimum_number_of_calls=minimum,
        sliding_window_size=100,
        permitted_calls_in_half_open_state=permits,
        failure_rate_threshold=1 / needed,  # one failure decides, so that successes have to be complete
        slow_call_rate_threshold=1.0,
    )

    moves = [visit.record(1.0, False, False) for _ in range(needed)]

    assert moves == [None] * (needed - 1) + [Move(State.CLOSED, "verdict", 0.0)]


@given(
    st.integers(1, 7),
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=7, max_size=7),
    st.sampled_from([0.01, 0.2, 0.25, 1 / 3, 0.5, 0.6, 2 / 3, 0.75, 1.0]),
    st.sampled_from([0.01, 0.2, 0.5, 0.75, 1.0]),
)
def test_the_verdict_comes_as_soon_as_the_rest_cannot_change_it_and_no_sooner(
    needed: int, results: list[tuple[bool, bool]], failure_threshold: float, slow_threshold: float
) -> None:
    results = results[:needed]
    visit = half_open(
        minimum_number_of_calls=needed,
        sliding_window_size=10,
        permitted_calls_in_half_open_state=needed,
        failure_rate_threshold=failure_threshold,
        slow_call_rate_threshold=slow_threshold,
    )

    def opens(complete: list[tuple[bool, bool]]) -> bool:
        failures, slow = (sum(one[place] for one in complete) for place in (0, 1))
        return failures / needed >= failure_threshold or slow / needed >= slow_threshold

    for made, (failed, slow) in enumerate(results, start=1):
        move = visit.record(1.0, failed, slow)
        rest = product(KINDS_OF_RESULTS, repeat=needed - made)
        possible = {opens([*results[:made], *endings]) for endings in rest}
        if move is not None:
            assert possible == {move.target is State.OPEN}
            return
        assert len(possible) == 2, "it was decided and nothing followed"
    raise AssertionError("all results were in and there was no verdict")


def test_the_rate_of_a_verdict_is_that_of_all_that_are_needed() -> None:
    visit = half_open()
    visit.record(1.0, True, False)

    move = visit.record(1.0, True, False)

    assert move == Move(State.OPEN, "failure_rate", float(Fraction(2, 4)))


def test_slow_trial_calls_open_it_again() -> None:
    visit = half_open(slow_call_rate_threshold=0.5)
    visit.record(1.0, False, True)

    assert visit.record(1.0, False, True) == Move(State.OPEN, "slow_call_rate", 0.5)


def test_trial_calls_that_hang_open_it_before_its_time_is_up() -> None:
    visit = half_open(slow_call_rate_threshold=0.5)
    visit.running = {1: 0.0, 2: 0.0}

    assert visit.tick(5.0) is None
    assert visit.tick(5.1) == Move(State.OPEN, "slow_call_rate", 0.5)


def test_hanging_trial_calls_count_beside_slow_results_in_the_verdict() -> None:
    visit = half_open(slow_call_rate_threshold=0.5)
    visit.running = {1: 0.0}

    assert visit.record(6.0, False, True) == Move(State.OPEN, "slow_call_rate", 0.5)


def test_more_hanging_trial_calls_than_are_needed_are_a_rate_of_1() -> None:
    visit = half_open(minimum_number_of_calls=2, permitted_calls_in_half_open_state=4)
    visit.running = dict.fromkeys(range(4), 0.0)

    assert visit.tick(6.0) == Move(State.OPEN, "slow_call_rate", 1.0)


def test_half_open_ends_at_its_limit_to_the_instant() -> None:
    visit = half_open(ends_at=60.0)

    assert visit.tick(59.999) is None
    assert visit.tick(60.0) == Move(State.OPEN, "time_limit")


# --- disabled and forced half open -------------------------------------------------------------------------------


def test_disabled_does_not_even_know_what_runs() -> None:
    visit = Disabled()

    visit.running[1] = 1.0

    assert visit.running == {}
    assert visit.rates() == (UNKNOWN_RATE, UNKNOWN_RATE)


def test_forced_half_open_gives_a_place_back_with_each_call_that_ends() -> None:
    visit = ForcedHalfOpen(options())
    visit.running = dict.fromkeys(range(4), 0.0)
    full = visit.admit(1.0)

    visit.running.popitem()

    assert not full
    assert visit.admit(1.0)


def test_forced_half_open_judges_the_last_n_and_decides_nothing() -> None:
    visit = ForcedHalfOpen(options(minimum_number_of_calls=2))
    moves = [visit.record(1.0, True, True) for _ in range(10)]

    moves += [visit.record(1.0, False, False) for _ in range(3)]

    assert moves == [None] * 13
    assert visit.rates() == (0.25, 0.25)


def test_forced_half_open_shows_what_hangs() -> None:
    visit = ForcedHalfOpen(options())
    visit.running = dict.fromkeys(range(4), 0.0)

    move = visit.tick(6.0)

    assert move is None
    assert (visit.in_flight_slow, visit.rates()) == (4, (UNKNOWN_RATE, 1.0))
