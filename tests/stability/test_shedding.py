"""Refusals are counted one by one and told in bundles."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from math import nan

import pytest

from app.stability.events import Event, EventBus
from app.stability.shedding import CallsShed, Shedding


@pytest.fixture
def bus() -> Iterator[EventBus]:
    bus = EventBus()
    yield bus
    bus.close()


def heard(bus: EventBus) -> list[Event]:
    events: list[Event] = []
    bus.subscribe(events.append)
    return events


def counts(shedding: Shedding) -> dict[str, float]:
    return {figure.labels["reason"]: figure.value for figure in shedding.figures()}


def test_every_reason_has_a_counter_from_the_start() -> None:
    shedding = Shedding("storage", ("queue_full", "deadline"))

    shedding.add("deadline", 1.0)

    assert counts(shedding) == {"queue_full": 0, "deadline": 1}
    assert {(figure.metric, figure.kind, figure.labels["name"]) for figure in shedding.figures()} == {
        ("shed", "counter", "storage")
    }


def test_the_first_refusal_is_told_at_once_and_the_next_ones_in_a_bundle(bus: EventBus) -> None:
    events = heard(bus)
    shedding = Shedding("storage", ("queue_full",), bus)

    for now in (100.0, 100.0, 109.9, 110.0, 110.1):
        shedding.add("queue_full", now)
    bus.flush()

    assert events == [
        CallsShed(name="storage", reason="queue_full", shed=1),
        CallsShed(name="storage", reason="queue_full", shed=3),
    ]
    assert counts(shedding) == {"queue_full": 5}


def test_each_reason_is_told_by_itself(bus: EventBus) -> None:
    events = heard(bus)
    shedding = Shedding("storage", ("queue_full", "codel"), bus)

    shedding.add("queue_full", 100.0)
    shedding.add("codel", 100.0)
    bus.flush()

    assert [event.reason for event in events if isinstance(event, CallsShed)] == ["queue_full", "codel"]


def test_an_operator_wants_to_know_it() -> None:
    assert CallsShed(name="storage", reason="codel", shed=1).level == logging.WARNING


def test_a_time_that_is_no_number_is_counted_and_not_told(bus: EventBus) -> None:
    events = heard(bus)
    shedding = Shedding("storage", ("queue_full",), bus)

    shedding.add("queue_full", nan)
    bus.flush()

    assert counts(shedding) == {"queue_full": 1}
    assert events == []


def test_a_reason_that_is_none_of_the_set_is_a_mistake() -> None:
    shedding = Shedding("storage", ("queue_full",))

    with pytest.raises(KeyError):
        shedding.add("full", 1.0)


def test_threads_lose_no_refusal() -> None:
    shedding = Shedding("storage", ("queue_full",))
    begin = threading.Barrier(8)

    def refuse() -> None:
        begin.wait()
        for number in range(2_000):
            shedding.add("queue_full", float(number))

    workers = [threading.Thread(target=refuse) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert counts(shedding) == {"queue_full": 16_000}
