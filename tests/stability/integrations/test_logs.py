"""An event is one log line: a fixed message, one field for each fact."""

from __future__ import annotations

import logging

import pytest

from app.stability import StateTransitioned
from app.stability.breaker_states import State
from app.stability.integrations.logs import EventLog, facts_of

EVENT = StateTransitioned(
    name="storage_read", source=State.CLOSED, target=State.OPEN, cause="failure_rate", rate=2 / 3, by="breaker"
)


def test_facts_are_plain_values_and_say_nothing_of_what_is_empty() -> None:
    assert facts_of(EVENT) == {
        "policy": "storage_read",
        "source": "closed",
        "target": "open",
        "cause": "failure_rate",
        "rate": 0.6667,
        "by": "breaker",
    }


def test_an_event_is_logged_at_its_own_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="stability"):
        EventLog()(EVENT)

    (record,) = caplog.records
    assert (record.name, record.levelno, record.message) == ("stability", logging.WARNING, "state transitioned")
    assert vars(record)["target"] == "open"


def test_the_logger_can_be_chosen(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="mine"):
        EventLog(logging.getLogger("mine"))(EVENT)

    assert [record.name for record in caplog.records] == ["mine"]
