"""The bulkhead: never more calls than places, first come first served."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from typing import Any

import pytest

import app.stability
from app.stability import bulkhead as module
from app.stability.bulkhead import DEADLINE, QUEUE_FULL, REASONS, WAIT_TIMEOUT, Bulkhead, BulkheadOptions
from app.stability.call import Call
from app.stability.context import PolicyContext
from app.stability.deadline import Deadline, deadline_scope
from app.stability.errors import OptionError
from app.stability.events import Event, EventBus
from app.stability.figures import Figure
from app.stability.pipeline import Pipeline
from app.stability.shedding import CallsShed
from tests.fakes.callers import BrokenClock, Caller, bulkhead_of, enter, refusal, shed, until
from tests.fakes.clocks import HandClock
from tests.house.source import ROOT

# --- With free places -----------------------------------------------------------------------------------------------


def test_a_call_that_finds_a_place_returns_what_the_function_returns() -> None:
    bulkhead = bulkhead_of(1)

    result = Pipeline("storage", [bulkhead]).call(lambda: (bulkhead.in_use, bulkhead.queue_size))

    assert result == (1, 0)
    assert bulkhead.in_use == 0


def test_execute_does_the_same_as_the_linked_way() -> None:
    bulkhead = bulkhead_of(1)

    result = bulkhead.execute(Call(int, "7"), lambda call: call() + bulkhead.in_use)

    assert result == 8
    assert bulkhead.in_use == 0


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_a_place_comes_back_whatever_the_function_raises(error: BaseException) -> None:
    bulkhead = bulkhead_of(1)

    def fail() -> None:
        raise error

    for _ in range(3):
        with pytest.raises(type(error)):
            Pipeline("storage", [bulkhead]).call(fail)

    assert bulkhead.in_use == 0


def test_a_call_that_finds_a_place_is_not_asked_for_its_deadline() -> None:
    clock = HandClock()
    bulkhead = bulkhead_of(1, clock=clock)

    with deadline_scope(Deadline(1.0, clock)):
        clock.advance(2.0)
        result = Pipeline("storage", [bulkhead]).call(lambda: "the timeout policy is for that")

    assert result


def test_it_is_built_from_what_surrounds_it() -> None:
    bus, events = EventBus(), list[Event]()
    bus.subscribe(events.append)
    clock = BrokenClock(7.0)
    context = PolicyContext("storage_read", clock=clock, bus=bus)

    built = Bulkhead.build(BulkheadOptions(max_concurrent_calls=3, max_queue_length=0), context)

    assert (built.name, built.options.max_concurrent_calls, built.in_use) == ("storage_read", 3, 0)
    assert built._now() == 7.0
    assert [built.try_acquire() for _ in range(3)] == [True] * 3
    assert refusal(built).reason == QUEUE_FULL
    bus.close()
    assert [(type(event), event.name) for event in events] == [(CallsShed, "storage_read")]
    assert Bulkhead("x").options == BulkheadOptions()


# --- Without --------------------------------------------------------------------------------------------------------


def test_without_a_queue_a_call_too_many_is_refused_at_once() -> None:
    bulkhead = bulkhead_of(1, max_queue_length=0)
    bulkhead.try_acquire()

    error = refusal(bulkhead)

    assert (error.name, error.reason, error.retry_after_seconds) == ("storage", QUEUE_FULL, None)
    assert shed(bulkhead) == {QUEUE_FULL: 1}


def test_a_call_is_refused_when_as_many_wait_as_may() -> None:
    bulkhead = bulkhead_of(1, max_queue_length=2)
    callers = [enter(bulkhead) for _ in range(3)]

    error = refusal(bulkhead)

    assert error.reason == QUEUE_FULL
    assert (bulkhead.in_use, bulkhead.queue_size) == (1, 2)
    for caller in callers:
        caller.leave()
    assert (bulkhead.in_use, bulkhead.queue_size) == (0, 0)


def test_a_call_that_may_not_wait_any_time_is_refused_for_it() -> None:
    bulkhead = bulkhead_of(1, max_wait_duration_seconds=0.0)
    bulkhead.try_acquire()

    error = refusal(bulkhead)

    assert error.reason == WAIT_TIMEOUT
    assert (bulkhead.in_use, bulkhead.queue_size) == (1, 0)


@pytest.mark.parametrize("passed_seconds", [1.0, 5.0])
def test_a_call_without_time_does_not_wait(passed_seconds: float) -> None:
    clock = HandClock()
    bulkhead = bulkhead_of(1, clock=clock, max_wait_duration_seconds=0.0)
    bulkhead.try_acquire()

    with deadline_scope(Deadline(1.0, clock)):
        clock.advance(passed_seconds)
        error = refusal(bulkhead)

    assert error.reason == DEADLINE
    assert shed(bulkhead) == {DEADLINE: 1}


def test_places_are_handed_on_in_the_order_of_arrival() -> None:
    bulkhead = bulkhead_of(1, queue_discipline="fifo")
    callers = [enter(bulkhead) for _ in range(5)]

    for first, second in pairwise(callers):
        assert first.is_inside
        assert not second.is_inside
        first.leave()
        until(lambda second=second: second.is_inside)  # type: ignore[misc]  # bound now, not when it is asked

    callers[-1].leave()
    assert bulkhead.in_use == 0


def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    bulkhead = bulkhead_of(1)
    callers = [enter(bulkhead) for _ in range(2)]
    bulkhead._places.append(None)  # a place that was given back, and is about to be handed on

    newcomer = Caller(bulkhead)

    until(lambda: callers[1].is_inside)
    until(lambda: bulkhead.queue_size == 1)
    assert not newcomer.is_inside
    assert not bulkhead.try_acquire()
    for caller in [*callers, newcomer]:
        caller.leave()


# --- Places for others ----------------------------------------------------------------------------------------------


def test_a_place_can_be_taken_and_given_back_without_a_call() -> None:
    bulkhead = bulkhead_of(2)

    taken = [bulkhead.try_acquire() for _ in range(3)]
    in_use = bulkhead.in_use
    bulkhead.release()
    bulkhead.release()

    assert (taken, in_use) == ([True, True, False], 2)
    assert bulkhead.in_use == 0
    assert shed(bulkhead) == {}


def test_a_place_too_many_is_not_taken_back() -> None:
    bulkhead = bulkhead_of(1)

    with pytest.raises(ValueError, match="'storage' has all its places already"):
        bulkhead.release()

    assert bulkhead.in_use == 0
    assert [bulkhead.try_acquire(), bulkhead.try_acquire()] == [True, False]


def test_a_place_given_back_goes_to_a_call_that_waits() -> None:
    bulkhead = bulkhead_of(1)
    bulkhead.try_acquire()
    caller = enter(bulkhead)

    bulkhead.release()

    until(lambda: caller.is_inside)
    caller.leave()
    assert bulkhead.in_use == 0


# --- Broken surroundings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", [None, float("nan"), float("inf")])
def test_a_broken_clock_loses_no_place_and_no_result(reading: float | None) -> None:
    bulkhead = bulkhead_of(1, clock=BrokenClock(reading), max_queue_length=3)
    callers = [enter(bulkhead) for _ in range(4)]

    error = refusal(bulkhead)
    for caller in callers:
        until(lambda caller=caller: caller.is_inside)  # type: ignore[misc]  # bound now, not when it is asked
        caller.leave()

    assert (error.reason, error.retry_after_seconds) == (QUEUE_FULL, None)
    assert [caller.refused for caller in callers] == [None] * 4
    assert bulkhead.in_use == 0


# --- Options, figures, events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.1, 0.2])
def test_a_target_as_long_as_its_interval_is_refused(target: float) -> None:
    with pytest.raises(OptionError, match="must be less than codel_interval_seconds"):
        BulkheadOptions(codel_target_seconds=target, codel_interval_seconds=0.1)


@pytest.mark.parametrize(
    ("options", "caution"),
    [
        ({}, ""),
        ({"max_queue_length": 0, "max_wait_duration_seconds": 0.0}, ""),
        ({"max_wait_duration_seconds": 0.0}, "no call waits"),
        ({"max_wait_duration_seconds": 0.1}, "before the queue is known to stand"),
        ({"max_wait_duration_seconds": 0.1, "queue_discipline": "fifo"}, ""),
        ({"max_wait_duration_seconds": 0.11}, ""),
    ],
)
def test_a_wait_that_cannot_be_meant_is_a_caution(options: dict[str, Any], caution: str) -> None:
    cautions = list(BulkheadOptions(**options).cautions())

    assert len(cautions) == bool(caution)
    assert caution in "".join(cautions)


def test_figures_say_who_is_inside_and_who_waits() -> None:
    bulkhead = bulkhead_of(2)
    callers = [enter(bulkhead) for _ in range(3)]

    figures = list(bulkhead.figures())

    assert figures[:2] == [
        Figure("bulkhead_in_use", "gauge", 2, {"name": "storage"}),
        Figure("bulkhead_queue_size", "gauge", 1, {"name": "storage"}),
    ]
    assert [figure.labels["reason"] for figure in figures[2:]] == list(REASONS)
    for caller in callers:
        caller.leave()


def test_the_first_refusal_is_an_event() -> None:
    bus, events = EventBus(), list[Event]()
    bus.subscribe(events.append)
    bulkhead = bulkhead_of(1, bus=bus, max_queue_length=0)
    bulkhead.try_acquire()

    for _ in range(5):
        refusal(bulkhead)
    bus.close()

    assert events == [CallsShed(name="storage", reason=QUEUE_FULL, shed=1)]
    assert shed(bulkhead) == {QUEUE_FULL: 5}


# --- The page -------------------------------------------------------------------------------------------------------


def test_the_page_names_every_reason_and_its_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/stability/bulkhead.md").read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "stability", app.stability)
    monkeypatch.setitem(sys.modules, "stability.bulkhead", module)

    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    assert [
        word for word in (*REASONS, "CallsShed", "bulkhead_in_use", "shed_total") if f"`{word}`" not in text
    ] == []
    assert examples
    for example in examples:
        exec(compile(example, "bulkhead.md", "exec"), {"__name__": "example"})  # noqa: S102  # it is our own page
