"""The seven states and the table of manual transitions."""

from __future__ import annotations

import pytest

from app.stability.breaker_states import MANUAL_TRANSITIONS, State, can_move

PAIRS = [(source, target) for source in State for target in State]
REFUSED = {
    (State.CLOSED, State.HALF_OPEN),
    (State.METRICS_ONLY, State.OPEN),
    (State.METRICS_ONLY, State.HALF_OPEN),
}


def test_there_are_seven_states_with_the_words_of_the_metrics() -> None:
    assert [state.value for state in State] == [
        "closed",
        "open",
        "half_open",
        "disabled",
        "metrics_only",
        "forced_open",
        "forced_half_open",
    ]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_of_the_49_pairs_three_are_refused(source: State, target: State) -> None:
    assert can_move(source, target) is ((source, target) not in REFUSED)


def test_the_table_has_a_row_for_each_state() -> None:
    assert set(MANUAL_TRANSITIONS) == set(State)
    assert sum(len(targets) for targets in MANUAL_TRANSITIONS.values()) == 49 - len(REFUSED)
