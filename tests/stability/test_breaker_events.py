"""What a breaker tells is plain, frozen, and loud enough for an operator."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from app.stability.breaker_events import BreakerReset, StateTransitioned, ThresholdCrossed
from app.stability.breaker_states import State
from app.stability.events import Event

EVENTS = [
    StateTransitioned(name="storage", source=State.CLOSED, target=State.OPEN, cause="failure_rate", rate=0.5),
    ThresholdCrossed(name="storage", cause="slow_call_rate", rate=1.0),
    BreakerReset(name="storage", by="ada", reason="drill"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_is_a_warning_with_the_breakers_name(event: Event) -> None:
    assert (event.level, event.name) == (logging.WARNING, "storage")


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_cannot_be_changed(event: Event) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, "name", "another")  # noqa: B010  # mypy would see the assignment


def test_a_transition_is_the_breakers_own_unless_someone_is_named() -> None:
    event = StateTransitioned(name="storage", source=State.OPEN, target=State.HALF_OPEN, cause="wait_over")

    assert (event.by, event.reason, event.rate) == ("breaker", "", None)
