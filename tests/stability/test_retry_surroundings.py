"""The retry among others: its budget, its clock, its chance, its rules, its listeners, its options."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability.call import Call
from app.stability.context import PolicyContext
from app.stability.deadline import (
    Deadline,
    current_deadline,
    deadline_scope,
)
from app.stability.errors import OptionError
from app.stability.events import EventBus
from app.stability.outcome import Classification, Outcome
from app.stability.pipeline import Pipeline
from app.stability.retry import RetriesExhausted, Retry, RetryBudgetSpent, RetryOptions, RetryScheduled
from app.stability.retry_budget import RetryBudget
from tests.fakes.clocks import HandClock
from tests.fakes.retries import Answer, Dependency, FixedRandom, Listener, ThrottledError, counts, retry_of, run


@pytest.fixture
def clock() -> Iterator[HandClock]:
    yield HandClock()
    assert current_deadline() is None, "a deadline outlived its scope"


@pytest.fixture
def bus() -> Iterator[EventBus]:
    bus = EventBus()
    yield bus
    bus.close()


# The budget


def storm(policy: Retry, requests: int) -> int:
    """Send requests to a dependency that is fully down, and return how many calls it gets."""
    dependency = Dependency(ConnectionError())
    for _ in range(requests):
        with pytest.raises(ConnectionError):
            run(policy, dependency)
    return dependency.calls


@pytest.mark.parametrize("good_calls_before", [0, 5_000])
def test_a_thousand_requests_in_an_outage_make_twelve_hundred_calls_and_the_floor(
    clock: HandClock, good_calls_before: int
) -> None:
    policy = retry_of(clock)
    for _ in range(good_calls_before):
        run(policy, lambda: "content")

    calls = storm(policy, 1_000)

    assert 1_200 <= calls <= 1_203
    assert counts(policy)["budget_spent"] > 0


def test_without_a_budget_the_same_storm_is_three_times_the_requests(clock: HandClock) -> None:
    unbounded = RetryBudget(ratio=1.0, floor=1_000_000)

    calls = storm(retry_of(clock, budget=unbounded), 1_000)

    assert calls == 3_000


@given(
    outcomes=st.lists(st.booleans(), max_size=120),
    ratio=st.floats(0.01, 1.0),
    floor=st.integers(1, 6),
    attempts=st.integers(1, 6),
)
def test_no_sequence_of_successes_and_failures_makes_more_calls_than_the_budget_allows(
    outcomes: list[bool], ratio: float, floor: int, attempts: int
) -> None:
    options = RetryOptions(max_attempts=attempts, budget_ratio=ratio, budget_floor=floor)
    policy = retry_of(HandClock(), options)
    calls = 0

    for succeeds in outcomes:
        dependency = Dependency("content" if succeeds else ConnectionError())
        try:
            run(policy, dependency)
        except ConnectionError:
            assert not succeeds
        calls += dependency.calls

    assert len(outcomes) <= calls <= len(outcomes) * (1 + ratio) + floor


def test_a_spent_budget_gives_up_without_a_wait_and_with_the_call_s_own_error(clock: HandClock) -> None:
    policy = retry_of(clock, RetryOptions(budget_floor=1))
    storm(policy, 1)
    waits = len(clock.slept)
    error = ConnectionError("the call's own")
    dependency = Dependency(error)

    with pytest.raises(ConnectionError) as raised:
        run(policy, dependency)

    assert raised.value is error
    assert dependency.calls == 1
    assert len(clock.slept) == waits


def test_a_budget_that_is_spent_during_the_wait_allows_no_attempt() -> None:
    budget = RetryBudget(floor=1)

    class Meanwhile(HandClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            budget.take()  # another thread's retry

    clock = Meanwhile()
    policy, dependency = retry_of(clock, budget=budget), Dependency(ConnectionError())

    with pytest.raises(ConnectionError):
        run(policy, dependency)

    assert dependency.calls == 1
    assert counts(policy) == {"scheduled": 1, "budget_spent": 1}


def test_threads_that_wait_at_once_do_not_share_one_retry() -> None:
    everybody_waits = threading.Barrier(8)

    class Together(HandClock):
        def sleep(self, _seconds: float) -> None:
            everybody_waits.wait(10)

    policy = retry_of(Together(), RetryOptions(max_attempts=2, budget_ratio=0.001))
    dependencies = [Dependency(ConnectionError()) for _ in range(8)]

    def request(dependency: Dependency) -> None:
        with pytest.raises(ConnectionError):
            run(policy, dependency)

    threads = [threading.Thread(target=request, args=(dependency,)) for dependency in dependencies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(dependency.calls for dependency in dependencies) == 8 + 3
    assert counts(policy) == {"scheduled": 8, "exhausted": 3, "budget_spent": 5}


def test_policies_of_one_dependency_can_share_a_budget(clock: HandClock) -> None:
    budget = RetryBudget(floor=2)
    reads, writes = retry_of(clock, budget=budget), retry_of(clock, budget=budget)

    storm(reads, 1)
    calls = storm(writes, 1)

    assert calls == 1
    assert counts(writes) == {"budget_spent": 1}


def test_an_interrupted_wait_has_taken_nothing_from_the_budget() -> None:
    class Interrupted(HandClock):
        def sleep(self, _seconds: float) -> None:
            raise KeyboardInterrupt

    policy, call = retry_of(Interrupted()), Call(Dependency(ConnectionError()))

    with pytest.raises(KeyboardInterrupt):
        Pipeline("storage", [policy]).run(call)

    assert policy.budget.remaining == 3
    assert call.attempt == 1


# Surroundings that misbehave


class _BrokenRandom(random.Random):
    def random(self) -> float:
        raise OSError("no chance")


class _BrokenSleep(HandClock):
    def sleep(self, _seconds: float) -> None:
        raise OSError("no sleep")


@pytest.mark.parametrize(
    "surroundings", [{"random": _BrokenRandom()}, {"clock": _BrokenSleep()}], ids=["random", "clock"]
)
def test_surroundings_that_raise_end_the_retries_with_the_call_s_own_error(
    surroundings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    error = ConnectionError("the call's own")
    policy, dependency = Retry("storage", **surroundings), Dependency(error)

    with pytest.raises(ConnectionError) as raised:
        run(policy, dependency)

    assert raised.value is error
    assert dependency.calls == 1
    assert counts(policy)["stopped"] == 1
    assert policy.budget.remaining == 3
    assert "the surroundings of a retry raised" in caplog.text
    assert [vars(record)["policy"] for record in caplog.records] == ["storage"]


@pytest.mark.parametrize("number", [float("nan"), -0.5, 1.5, float("inf"), float("-inf")])
def test_chance_outside_its_range_becomes_the_longest_wait(clock: HandClock, number: float) -> None:
    policy = retry_of(clock, random=FixedRandom(number))

    run(policy, Dependency(ConnectionError(), ConnectionError(), "content"))

    assert clock.slept == [1.0, 2.0]


def test_a_clock_without_a_number_ends_the_retries_with_the_call_s_own_error() -> None:
    class NoNumber(HandClock):
        def monotonic(self) -> float:
            return float("nan")

    policy, dependency = retry_of(HandClock()), Dependency(ConnectionError())

    with deadline_scope(Deadline(5.0, NoNumber())), pytest.raises(ConnectionError):
        run(policy, dependency)

    assert dependency.calls == 1
    assert counts(policy) == {"no_time": 1}


def _broken_rule(_value: object) -> Any:
    raise OSError("a rule's mistake")


@pytest.mark.parametrize("asked", [float("nan"), -3.0, float("inf"), 0.0])
def test_a_wait_that_nobody_can_mean_is_not_taken_from_the_other_side(clock: HandClock, asked: float) -> None:
    policy = retry_of(clock)

    run(policy, Dependency(ThrottledError(asked), "content"))

    assert clock.slept == [0.5]


def test_a_classification_that_raises_ends_the_retries_with_the_call_s_own_error(clock: HandClock) -> None:
    policy = retry_of(clock, classification=Classification(failures=(), failure_when=_broken_rule))
    dependency = Dependency(ConnectionError("the call's own"))

    with pytest.raises(ConnectionError, match="the call's own"):
        run(policy, dependency)

    assert dependency.calls == 1


def test_a_classification_that_raises_on_a_result_returns_the_result(clock: HandClock) -> None:
    policy = retry_of(clock, classification=Classification(failing_result=_broken_rule))

    assert run(policy, Dependency("content")) == "content"
    assert policy._classification.of_result("content") is Outcome.IGNORED


def test_a_rule_for_retry_after_that_raises_leaves_the_backoff_alone(clock: HandClock) -> None:
    policy = retry_of(clock, classification=Classification(retry_after_of=_broken_rule))

    run(policy, Dependency(ThrottledError(5.0), "content"))

    assert clock.slept == [0.5]


# What is told and counted


def test_a_listener_hears_of_each_wait_and_of_the_end(clock: HandClock, bus: EventBus) -> None:
    listener = Listener(bus)
    policy = retry_of(clock, RetryOptions(max_attempts=3), bus=bus)
    call = Call(Dependency(ConnectionError(), TimeoutError(), ValueError())).describe(operation="put")

    with pytest.raises(ValueError):  # noqa: PT011  # it has no words
        Pipeline("storage", [policy]).run(call)

    assert listener.events == [
        RetryScheduled(name="storage", operation="put", attempt=1, wait_seconds=0.5, error="ConnectionError"),
        RetryScheduled(name="storage", operation="put", attempt=2, wait_seconds=1.0, error="TimeoutError"),
        RetriesExhausted(name="storage", operation="put", attempts=3, error="ValueError"),
    ]
    assert [event.level for event in listener.events] == [logging.INFO, logging.INFO, logging.WARNING]


def test_a_returned_failure_is_told_as_a_result(clock: HandClock, bus: EventBus) -> None:
    listener = Listener(bus)
    statuses = Classification(failing_statuses=frozenset({503}))
    policy = retry_of(clock, RetryOptions(max_attempts=2), bus=bus, classification=statuses)

    run(policy, Dependency(Answer(503)))

    assert listener.events == [
        RetryScheduled(name="storage", operation="", attempt=1, wait_seconds=0.5, error="result"),
        RetriesExhausted(name="storage", operation="", attempts=2, error="result"),
    ]


def test_a_spent_budget_is_told_once_until_a_retry_is_granted_again(clock: HandClock, bus: EventBus) -> None:
    listener = Listener(bus)
    policy = retry_of(clock, RetryOptions(max_attempts=2, budget_floor=1), bus=bus)

    storm(policy, 5)
    before = [type(event) for event in listener.events].count(RetryBudgetSpent)
    storm(policy, 5)
    after = [type(event) for event in listener.events].count(RetryBudgetSpent)

    assert (before, after) == (1, 2)
    assert counts(policy) == {"scheduled": 2, "exhausted": 2, "budget_spent": 8}


def test_a_budget_that_others_have_spent_is_told_with_the_first_call_that_got_none(
    clock: HandClock, bus: EventBus
) -> None:
    listener = Listener(bus)
    budget = RetryBudget(floor=1)
    budget.take()

    policy = retry_of(clock, bus=bus, budget=budget)
    with pytest.raises(ConnectionError):
        Pipeline("storage", [policy]).run(Call(Dependency(ConnectionError())).describe(operation="put"))

    assert listener.events == [RetryBudgetSpent(name="storage", operation="put", error="ConnectionError")]


def test_counters_begin_at_zero_and_the_budget_at_its_floor(clock: HandClock) -> None:
    figures = {(f.metric, f.kind, f.labels.get("outcome")): f.value for f in retry_of(clock).figures()}

    assert figures == {
        ("retries", "counter", "scheduled"): 0,
        ("retries", "counter", "succeeded_after_retry"): 0,
        ("retries", "counter", "exhausted"): 0,
        ("retries", "counter", "not_repeatable"): 0,
        ("retries", "counter", "budget_spent"): 0,
        ("retries", "counter", "retry_after_too_long"): 0,
        ("retries", "counter", "no_time"): 0,
        ("retries", "counter", "stopped"): 0,
        ("retry_budget_remaining", "gauge", None): 3.0,
    }
    assert {f.labels["name"] for f in retry_of(clock).figures()} == {"storage"}


# How it is made


def test_it_is_built_from_its_context(clock: HandClock, bus: EventBus) -> None:
    listener = Listener(bus)
    ignoring = Classification(ignored=(LookupError,))
    context = PolicyContext("cdn", classification=ignoring, clock=clock, bus=bus, random=FixedRandom(0.25))
    budget = RetryBudget(floor=7)

    policy = Retry.build(Retry.Options(max_attempts=2), context, budget)
    with pytest.raises(ConnectionError):
        run(policy, Dependency(ConnectionError()))
    with pytest.raises(LookupError):
        run(policy, Dependency(LookupError()))

    assert policy.name == "cdn"
    assert policy.budget is budget
    assert clock.slept == [0.25]
    assert [type(event) for event in listener.events] == [RetryScheduled, RetriesExhausted]


def test_a_retry_without_a_shared_budget_has_one_of_its_options(clock: HandClock) -> None:
    policy = Retry.build(RetryOptions(budget_floor=9), PolicyContext("cdn", clock=clock))

    assert policy.budget.remaining == 9
    assert Retry("plain").options == RetryOptions()


def test_a_first_wait_above_the_cap_is_a_contradiction() -> None:
    with pytest.raises(OptionError, match=r"base_seconds \(5\) must not exceed cap_seconds \(2\)"):
        RetryOptions(base_seconds=5.0, cap_seconds=2.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": 2.5},
        {"base_seconds": 0.0},
        {"cap_seconds": float("nan")},
        {"budget_ratio": 0.0},
        {"budget_ratio": 1.1},
        {"budget_floor": 0},
        {"retry_after_limit_seconds": -1.0},
        {"minimum_attempt_seconds": -0.1},
    ],
    ids=str,
)
def test_an_option_outside_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        RetryOptions(**wrong)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (RetryOptions(max_attempts=1), "nothing is retried"),
        (RetryOptions(max_attempts=5, budget_floor=3), "budget_floor (3) is less than the 4 retries"),
        (RetryOptions(max_attempts=4, budget_floor=3), None),
    ],
)
def test_what_is_probably_not_meant_is_said(options: RetryOptions, word: str | None) -> None:
    cautions = list(options.cautions())

    assert len(cautions) == (word is not None)
    assert word is None or word in cautions[0]


def test_the_longest_waits_of_a_call_add_up() -> None:
    options = RetryOptions(max_attempts=5, base_seconds=1.0, cap_seconds=5.0)

    assert options.longest_waits_seconds == 1 + 2 + 4 + 5
