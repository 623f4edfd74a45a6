"""The retry: what is done again, when, how often, and what never is."""

from __future__ import annotations

import logging
import random
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability.call import Call
from app.stability.context import PolicyContext
from app.stability.deadline import (
    Deadline,
    DeadlineExceededError,
    current_deadline,
    deadline_scope,
    remaining_seconds,
)
from app.stability.errors import CallNotPermittedError, CallRefusedError, OptionError
from app.stability.events import Event, EventBus
from app.stability.outcome import Classification, Outcome
from app.stability.pipeline import Pipeline
from app.stability.retry import RetriesExhausted, Retry, RetryBudgetSpent, RetryOptions, RetryScheduled
from app.stability.retry_budget import RetryBudget
from app.stability.timeout import Timeout, TimeoutOptions
from tests.fakes.clocks import HandClock
from tests.fakes.memory_body import MemoryBody


class FixedRandom(random.Random):
    """Chance that always gives the same number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number


@dataclass
class Answer:
    """An answer as an HTTP client gives it."""

    status_code: int
    retry_after_seconds: float | None = None


class ThrottledError(Exception):
    """A failure that says when to come back."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("slow down")
        self.retry_after_seconds = retry_after_seconds


class Dependency:
    """Answers what it was told to, one after the other, and the last one for ever; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.calls = 0

    def __call__(self) -> Any:
        answer = self._answers[min(self.calls, len(self._answers) - 1)]
        self.calls += 1
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Listener:
    """Remembers events; give it a bus."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._events: list[Event] = []
        bus.subscribe(self._events.append)

    @property
    def events(self) -> list[Event]:
        assert self._bus.flush()
        return self._events


@pytest.fixture
def clock() -> Iterator[HandClock]:
    yield HandClock()
    assert current_deadline() is None, "a deadline outlived its scope"


@pytest.fixture
def bus() -> Iterator[EventBus]:
    bus = EventBus()
    yield bus
    bus.close()


def retry_of(clock: HandClock, options: RetryOptions | None = None, **surroundings: Any) -> Retry:
    surroundings.setdefault("random", FixedRandom(0.5))
    return Retry("storage", options, clock=clock, **surroundings)


def run(policy: Retry, function: Callable[[], Any]) -> Any:
    return Pipeline("storage", [policy]).call(function)


def counts(policy: Retry) -> dict[str, float]:
    return {f.labels["outcome"]: f.value for f in policy.figures() if f.metric == "retries" and f.value}


# What is done again


def test_a_success_is_called_once_and_waits_for_nothing(clock: HandClock) -> None:
    policy, dependency = retry_of(clock), Dependency("content")

    result = run(policy, dependency)

    assert (result, dependency.calls, clock.slept) == ("content", 1, [])
    assert counts(policy) == {}


def test_a_failure_is_done_again_until_it_succeeds(clock: HandClock) -> None:
    policy, dependency = retry_of(clock), Dependency(ConnectionError(), ConnectionError(), "content")

    result = run(policy, dependency)

    assert (result, dependency.calls) == ("content", 3)
    assert counts(policy) == {"scheduled": 2, "succeeded_after_retry": 1}


def test_the_last_error_comes_out_itself_with_its_own_traceback_and_no_context(clock: HandClock) -> None:
    errors = [ConnectionError("first"), ConnectionError("second"), ConnectionError("third")]
    policy, dependency = retry_of(clock), Dependency(*errors)

    with pytest.raises(ConnectionError) as raised:
        run(policy, dependency)

    assert raised.value is errors[2]
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert not hasattr(raised.value, "__notes__")
    assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "__call__"
    assert dependency.calls == 3
    assert counts(policy) == {"scheduled": 2, "exhausted": 1}


def test_a_returned_failure_is_done_again(clock: HandClock) -> None:
    statuses = Classification(failing_statuses=frozenset({503}))
    policy = retry_of(clock, classification=statuses)
    dependency = Dependency(Answer(503), Answer(503), Answer(200))

    result = run(policy, dependency)

    assert result == Answer(200)
    assert counts(policy) == {"scheduled": 2, "succeeded_after_retry": 1}


def test_the_last_returned_failure_is_returned(clock: HandClock) -> None:
    statuses = Classification(failing_statuses=frozenset({503}))
    policy = retry_of(clock, classification=statuses)
    answers = [Answer(503), Answer(503), Answer(503)]

    result = run(policy, Dependency(*answers))

    assert result is answers[2]
    assert counts(policy) == {"scheduled": 2, "exhausted": 1}


def test_a_returned_failure_that_must_not_be_repeated_is_returned(clock: HandClock) -> None:
    statuses = Classification(failing_statuses=frozenset({503}))
    policy, dependency = retry_of(clock, classification=statuses), Dependency(Answer(503))

    result = Pipeline("storage", [policy]).run(Call(dependency).describe(replayable=False))

    assert (result, dependency.calls) == (Answer(503), 1)


def test_the_call_counts_its_attempts_and_keeps_the_last_number(clock: HandClock) -> None:
    seen: list[int] = []
    dependency = Dependency(ConnectionError(), ConnectionError(), "content")

    def attempt() -> Any:
        seen.append(call.attempt)
        return dependency()

    call: Call[Any] = Call(attempt)

    Pipeline("storage", [retry_of(clock)]).run(call)

    assert seen == [1, 2, 3]
    assert call.attempt == 3


def test_a_retry_inside_a_retry_has_all_its_attempts_and_numbers_them_on(clock: HandClock) -> None:
    options = RetryOptions(max_attempts=2)
    dependency = Dependency(*[ConnectionError()] * 3, "content")
    call: Call[Any] = Call(dependency)

    result = Pipeline("storage", [retry_of(clock, options), retry_of(clock, options)]).run(call)

    assert (result, dependency.calls, call.attempt) == ("content", 4, 4)


# What is never done again


@pytest.mark.parametrize(
    "error",
    [
        CallNotPermittedError("storage", "open", 5.0),
        CallRefusedError("storage", "full"),
        DeadlineExceededError(),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_refusals_the_end_of_the_time_and_interrupts_are_not_repeated(clock: HandClock, error: BaseException) -> None:
    policy, dependency = retry_of(clock), Dependency(error)

    with pytest.raises(type(error)) as raised:
        run(policy, dependency)

    assert raised.value is error
    assert (dependency.calls, clock.slept) == (1, [])
    assert counts(policy) == {}


def test_an_ignored_error_is_not_repeated(clock: HandClock) -> None:
    policy = retry_of(clock, classification=Classification(ignored=(LookupError,)))
    dependency = Dependency(LookupError("no such key"))

    with pytest.raises(LookupError):
        run(policy, dependency)

    assert dependency.calls == 1
    assert counts(policy) == {}


def test_a_retry_that_meets_an_open_breaker_ends_with_its_refusal(clock: HandClock) -> None:
    refusal = CallNotPermittedError("storage", "open", 5.0)
    policy, dependency = retry_of(clock), Dependency(ConnectionError(), refusal)

    with pytest.raises(CallNotPermittedError) as raised:
        run(policy, dependency)

    assert raised.value is refusal
    assert raised.value.__context__ is None
    assert dependency.calls == 2
    assert counts(policy) == {"scheduled": 1, "stopped": 1}


@pytest.mark.parametrize(
    ("facts", "calls"),
    [
        ({"idempotent": False}, 1),
        ({"idempotent": False, "idempotency_key": "k-1"}, 3),
        ({"idempotent": True, "replayable": False}, 1),
        ({"idempotent": False, "idempotency_key": "k-1", "replayable": False}, 1),
    ],
)
def test_only_what_does_no_harm_twice_is_done_twice(clock: HandClock, facts: dict[str, Any], calls: int) -> None:
    policy, dependency = retry_of(clock), Dependency(ConnectionError())

    with pytest.raises(ConnectionError):
        Pipeline("storage", [policy]).run(Call(dependency).describe(**facts))

    assert dependency.calls == calls
    assert counts(policy).get("not_repeatable", 0) == (calls == 1)


def test_a_stream_that_was_read_is_not_sent_a_second_time_empty(clock: HandClock) -> None:
    received: list[bytes] = []
    body = MemoryBody(b"a photo").open()

    def put(stream: Any) -> None:
        received.append(stream.read())
        raise ConnectionError

    with pytest.raises(ConnectionError):
        Pipeline("storage", [retry_of(clock)]).run(Call(put, body).describe(replayable=False))

    assert received == [b"a photo"]


def test_a_body_that_can_be_opened_again_is_sent_whole_again(clock: HandClock) -> None:
    received: list[bytes] = []
    body = MemoryBody(b"a photo")

    def put(source: MemoryBody) -> str:
        with source.open() as reader:
            received.append(reader.read())
        if len(received) < 3:
            raise ConnectionError
        return "stored"

    result = Pipeline("storage", [retry_of(clock)]).call(put, body)

    assert result == "stored"
    assert received == [b"a photo"] * 3


# How long it waits


def test_waits_are_drawn_below_a_bound_that_doubles_up_to_the_cap(clock: HandClock) -> None:
    options = RetryOptions(max_attempts=6, base_seconds=1.0, cap_seconds=5.0, budget_floor=5)
    policy = retry_of(clock, options, random=FixedRandom(0.5))

    with pytest.raises(ConnectionError):
        run(policy, Dependency(ConnectionError()))

    assert clock.slept == [0.5, 1.0, 2.0, 2.5, 2.5]


@given(
    base=st.floats(0.001, 100),
    growth=st.floats(1, 1000),
    attempts=st.integers(2, 100),
    seed=st.integers(),
)
def test_every_wait_is_between_nothing_and_its_bound(base: float, growth: float, attempts: int, seed: int) -> None:
    clock = HandClock()
    cap = min(base * growth, 3600.0)
    options = RetryOptions(max_attempts=attempts, base_seconds=base, cap_seconds=cap, budget_floor=attempts)
    policy = retry_of(clock, options, random=random.Random(seed))

    with pytest.raises(ConnectionError):
        run(policy, Dependency(ConnectionError()))

    assert len(clock.slept) == attempts - 1
    for retry, wait in enumerate(clock.slept, 1):
        assert 0 <= wait <= min(cap, base * 2 ** (retry - 1))


@given(seed=st.integers(0, 2**32))
def test_jitter_is_full_it_fills_the_lower_half_as_well_as_the_upper(seed: int) -> None:
    clock = HandClock()
    options = RetryOptions(max_attempts=100, base_seconds=8.0, cap_seconds=8.0, budget_floor=99)

    with pytest.raises(ConnectionError):
        run(retry_of(clock, options, random=random.Random(seed)), Dependency(ConnectionError()))

    lower = sum(wait < 4.0 for wait in clock.slept)
    assert 15 <= lower <= 84  # 99 throws of a fair coin: outside this once in 10^12
    assert min(clock.slept) < 2.0
    assert max(clock.slept) > 6.0


@pytest.mark.parametrize("failure", [ThrottledError(4.0), Answer(503, 4.0)], ids=["error", "value"])
def test_what_the_other_side_asks_for_is_the_least_wait(clock: HandClock, failure: Any) -> None:
    policy = retry_of(clock, classification=Classification(failing_statuses=frozenset({503})))

    result = run(policy, Dependency(failure, "content"))

    assert result == "content"
    assert clock.slept == [4.0]


def test_a_longer_backoff_is_not_shortened_by_what_the_other_side_asks_for(clock: HandClock) -> None:
    policy = retry_of(clock, random=FixedRandom(0.9))

    run(policy, Dependency(ThrottledError(0.2), "content"))

    assert clock.slept == [0.9]


@pytest.mark.parametrize(("asked", "calls"), [(10.0, 2), (10.1, 1)])
def test_who_asks_for_more_than_the_limit_ends_the_call_at_once(clock: HandClock, asked: float, calls: int) -> None:
    policy = retry_of(clock, RetryOptions(max_attempts=2, retry_after_limit_seconds=10.0))
    error = ThrottledError(asked)
    dependency = Dependency(error)

    with pytest.raises(ThrottledError) as raised:
        run(policy, dependency)

    assert raised.value is error
    assert dependency.calls == calls
    assert counts(policy).get("retry_after_too_long", 0) == (calls == 1)


def test_who_asks_for_more_than_the_deadline_has_ends_the_call_at_once(clock: HandClock) -> None:
    policy, dependency = retry_of(clock), Dependency(ThrottledError(6.0))

    with deadline_scope(Deadline(5.0, clock)), pytest.raises(ThrottledError):
        run(policy, dependency)

    assert (dependency.calls, clock.slept) == (1, [])
    assert counts(policy) == {"no_time": 1}


# The deadline


@pytest.mark.parametrize(("remaining", "calls"), [(0.75, 2), (0.74, 1)])
def test_no_wait_begins_when_too_little_would_remain_for_an_attempt(
    clock: HandClock, remaining: float, calls: int
) -> None:
    options = RetryOptions(max_attempts=2, minimum_attempt_seconds=0.25)
    policy, dependency = retry_of(clock, options), Dependency(ConnectionError())

    with deadline_scope(Deadline(remaining, clock)), pytest.raises(ConnectionError):
        run(policy, dependency)

    assert dependency.calls == calls
    assert counts(policy).get("no_time", 0) == (calls == 1)


class _Oversleeping(HandClock):
    def sleep(self, seconds: float) -> None:
        super().sleep(seconds + 10)


def test_no_attempt_begins_after_a_wait_that_has_used_up_the_time() -> None:
    clock = _Oversleeping()
    error = ConnectionError()
    policy, dependency = retry_of(clock), Dependency(error)

    with deadline_scope(Deadline(8.0, clock)), pytest.raises(ConnectionError) as raised:
        run(policy, dependency)

    assert raised.value is error
    assert dependency.calls == 1
    assert counts(policy) == {"scheduled": 1, "no_time": 1}
    assert policy.budget.remaining == 3


def test_the_end_of_the_whole_time_is_not_repeated(clock: HandClock) -> None:
    calls: list[int] = []

    def dawdle() -> None:
        calls.append(1)
        clock.advance(6)
        remaining_seconds(1.0)

    with deadline_scope(Deadline(5.0, clock)), pytest.raises(DeadlineExceededError):
        run(retry_of(clock), dawdle)

    assert calls == [1]


def test_the_end_of_one_attempts_own_time_is_a_failure_like_others(clock: HandClock) -> None:
    attempts = Timeout("storage", TimeoutOptions(timeout_seconds=2.0), clock=clock)
    pipeline = Pipeline("storage", [retry_of(clock), attempts])
    left: list[float] = []

    def dawdle_once() -> str:
        left.append(remaining_seconds(60.0))
        clock.advance(3 if len(left) == 1 else 1)
        remaining_seconds(60.0)
        return "content"

    with deadline_scope(Deadline(20.0, clock)):
        result = pipeline.call(dawdle_once)

    assert result == "content"
    assert left == [2.0, 2.0]


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
    policy = retry_of(clock, RetryOptions(max_attempts=1), bus=bus, classification=statuses)

    run(policy, Dependency(Answer(503)))

    assert listener.events == [RetriesExhausted(name="storage", operation="", attempts=1, error="result")]


def test_a_spent_budget_is_told_once_until_a_retry_is_granted_again(clock: HandClock, bus: EventBus) -> None:
    listener = Listener(bus)
    policy = retry_of(clock, RetryOptions(max_attempts=2, budget_floor=1), bus=bus)

    storm(policy, 5)
    before = [type(event) for event in listener.events].count(RetryBudgetSpent)
    storm(policy, 5)
    after = [type(event) for event in listener.events].count(RetryBudgetSpent)

    assert (before, after) == (1, 2)
    assert counts(policy) == {"scheduled": 2, "exhausted": 2, "budget_spent": 8}


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
        (RetryOptions(max_attempts=5, budget_floor=3), "budget_floor"),
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
