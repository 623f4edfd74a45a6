"""How a breaker stands: for commands, pages and exporters."""

from __future__ import annotations

import pytest

from app.stability.breaker_snapshot import BreakerSnapshot
from app.stability.breaker_states import State
from app.stability.figures import Figure, Measured
from tests.fakes.breakers import Rig


def figures(rig: Rig, metric: str) -> list[Figure]:
    return [one for one in rig.breaker.figures() if isinstance(one, Figure) and one.metric == metric]


def move(rig: Rig, state: State) -> None:
    if state is State.HALF_OPEN:
        rig.half_open()
    else:
        rig.breaker.transition_to(state)


def test_a_new_breaker_is_closed_and_knows_no_rates() -> None:
    snapshot = Rig().breaker.snapshot()

    assert snapshot == BreakerSnapshot(
        name="storage",
        state=State.CLOSED,
        failure_rate=-1.0,
        slow_call_rate=-1.0,
        results=0,
        failures=0,
        slow_calls=0,
        calls_in_flight=0,
        slow_calls_in_flight=0,
        attempt=0,
        remaining_seconds=None,
        calls={"successful": 0, "failed": 0, "ignored": 0, "late": 0, "not_permitted": 0},
    )


def test_a_snapshot_tells_of_each_kind_of_call_and_of_the_window() -> None:
    rig = Rig(failure_rate_threshold=1.0, minimum_number_of_calls=4, sliding_window_size=6)
    rig.succeed(3)
    rig.fail(1)
    rig.succeed(1, seconds=6)
    hanging = [rig.begin(), rig.begin()]
    rig.clock.advance(5.1)
    hanging.append(rig.begin())

    snapshot = rig.breaker.snapshot()

    assert (snapshot.results, snapshot.failures, snapshot.slow_calls) == (5, 1, 1)
    assert (snapshot.calls_in_flight, snapshot.slow_calls_in_flight) == (3, 2)
    assert (snapshot.failure_rate, snapshot.slow_call_rate) == (1 / 5, 3 / 7)


@pytest.mark.parametrize("state", State)
def test_one_series_of_seven_is_on(state: State) -> None:
    rig = Rig()
    move(rig, state)

    series = {one.labels["state"]: (one.kind, one.value) for one in figures(rig, "circuit_breaker_state")}

    assert series == {one.value: ("gauge", float(one is state)) for one in State}


@pytest.mark.parametrize("state", State)
def test_what_remains_is_known_where_time_ends_the_state(state: State) -> None:
    rig = Rig(wait_duration_in_open_state_seconds=60, max_wait_duration_in_half_open_state_seconds=30)
    move(rig, state)

    rig.clock.advance(10)

    expected = {State.OPEN: 50.0, State.HALF_OPEN: 20.0}.get(state)
    assert rig.breaker.snapshot().remaining_seconds == expected


def test_what_remains_is_never_below_0() -> None:
    rig = Rig()
    rig.trip()

    rig.clock.advance(1000)

    assert rig.breaker.snapshot().remaining_seconds == 0.0
    assert rig.state is State.OPEN


def test_rates_are_gauges_that_say_minus_one_while_they_are_unknown() -> None:
    rig = Rig()
    unknown = [
        figures(rig, metric)[0] for metric in ("circuit_breaker_failure_rate", "circuit_breaker_slow_call_rate")
    ]
    rig.fail(1)
    rig.succeed(3)

    known = [figures(rig, metric)[0] for metric in ("circuit_breaker_failure_rate", "circuit_breaker_slow_call_rate")]

    assert [(one.kind, one.value) for one in unknown] == [("gauge", -1.0), ("gauge", -1.0)]
    assert [one.value for one in known] == [0.25, 0.0]


def test_transitions_are_counted_by_where_from_and_where_to() -> None:
    rig = Rig()
    for _ in range(2):
        rig.trip()
        rig.clock.advance(60)
        rig.succeed(4)
    rig.breaker.transition_to(State.DISABLED)

    counted = {
        (one.labels["from"], one.labels["to"]): one.value for one in figures(rig, "circuit_breaker_transitions")
    }

    assert counted == {
        ("closed", "open"): 2,
        ("open", "half_open"): 2,
        ("half_open", "closed"): 2,
        ("closed", "disabled"): 1,
    }


def test_a_reset_of_a_closed_breaker_is_counted_too() -> None:
    rig = Rig()

    rig.breaker.reset()

    (counted,) = figures(rig, "circuit_breaker_transitions")
    assert counted.labels == {"name": "storage", "from": "closed", "to": "closed"}
    assert counted.kind == "counter"


def test_every_metric_carries_the_breakers_name_and_looking_counts_nothing() -> None:
    rig = Rig()
    rig.trip()
    rig.refused()

    assert isinstance(rig.breaker, Measured)
    looks = [list(rig.breaker.figures()) for _ in range(3)]

    assert all(one.labels["name"] == "storage" for one in looks[0])
    assert looks[0] == looks[1] == looks[2]
    assert rig.calls == {"failed": 4, "not_permitted": 1}
