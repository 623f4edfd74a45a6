"""The words that breakers of several processes exchange are plain values."""

from __future__ import annotations

import dataclasses
import math

import pytest

from app.stability.board import Decision, ProbeCounts


def test_a_decision_is_the_breakers_own_unless_an_operator_is_named() -> None:
    decision = Decision(1, "open", 1, 12.5)

    assert (decision.by, decision.reason) == ("breaker", "")
    assert decision == Decision(era=1, state="open", attempt=1, until=12.5, by="breaker", reason="")
    assert decision != dataclasses.replace(decision, by="operator")


def test_a_state_without_an_end_lasts_for_ever() -> None:
    assert Decision(2, "forced_open", 0, math.inf).until > 1e300


@pytest.mark.parametrize("value", [Decision(1, "open", 1, 12.5), ProbeCounts(3, 1, 0)])
def test_what_was_decided_and_counted_cannot_be_changed(value: Decision | ProbeCounts) -> None:
    name = dataclasses.fields(value)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, 9)

    assert hash(value) == hash(dataclasses.replace(value))
