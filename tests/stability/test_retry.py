"""The retry: what is done again, when, how often, and what never is."""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability.call import Call
from app.stability.deadline import (
    Deadline,
    DeadlineExceededError,
    current_deadline,
    deadline_scope,
    remaining_seconds,
)
from app.stability.errors import CallNotPermittedError, CallRefusedError
from app.stability.outcome import Classification, Outcome
from app.stability.pipeline import Pipeline
from app.stability.retry import RetryOptions
from app.stability.timeout import Timeout, TimeoutOptions
from tests.fakes.clocks import HandClock
from tests.fakes.memory_body import MemoryBody
from tests.fakes.retries import Answer, Dependency, FixedRandom, ThrottledError, counts, retry_of, run


@pytest.fixture
def clock() -> Iterator[HandClock]:
    yield HandClock()
    assert current_deadline() is None, "a deadline outlived its scope"


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


def test_the_call_counts_its_attempts_each_time_that_it_is_run(clock: HandClock) -> None:
    seen: list[int] = []
    dependency = Dependency(*[ConnectionError()] * 6)
    options = RetryOptions(budget_floor=10)

    def attempt() -> Any:
        seen.append(call.attempt)
        return dependency()

    call: Call[Any] = Call(attempt)
    pipeline = Pipeline("storage", [retry_of(clock, options)])

    for _ in range(2):
        with pytest.raises(ConnectionError):
            pipeline.run(call)

    assert seen == [1, 2, 3, 1, 2, 3]
    assert call.attempt == 1


def test_a_retry_inside_a_retry_has_all_its_attempts_and_counts_on_from_the_outer_number(clock: HandClock) -> None:
    options = RetryOptions(max_attempts=2)
    seen: list[int] = []
    dependency = Dependency(*[ConnectionError()] * 3, "content")

    def attempt() -> Any:
        seen.append(call.attempt)
        return dependency()

    call: Call[Any] = Call(attempt)

    result = Pipeline("storage", [retry_of(clock, options), retry_of(clock, options)]).run(call)

    assert (result, dependency.calls, seen, call.attempt) == ("content", 4, [1, 2, 2, 3], 1)


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


class _EverythingFails(Classification):
    def of_error(self, error: BaseException) -> Outcome:  # noqa: ARG002  # whatever it is
        return Outcome.FAILURE


@pytest.mark.parametrize("error", [CallRefusedError("storage", "full"), DeadlineExceededError()], ids=repr)
def test_no_classification_makes_a_refusal_repeatable(clock: HandClock, error: Exception) -> None:
    policy, dependency = retry_of(clock, classification=_EverythingFails()), Dependency(error)

    with pytest.raises(type(error)):
        run(policy, dependency)

    assert dependency.calls == 1


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


def test_what_the_other_side_asks_for_holds_after_any_attempt(clock: HandClock) -> None:
    policy = retry_of(clock, classification=Classification(failing_statuses=frozenset({503})))

    run(policy, Dependency(Answer(503), Answer(503, retry_after_seconds=5.0), Answer(200)))

    assert clock.slept == [0.5, 5.0]


def test_a_wait_of_nothing_can_be_drawn(clock: HandClock) -> None:
    policy = retry_of(clock, random=FixedRandom(0.0))

    run(policy, Dependency(ConnectionError(), "content"))

    assert clock.slept == [0.0]


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

    policy = retry_of(clock)
    with deadline_scope(Deadline(5.0, clock)), pytest.raises(DeadlineExceededError):
        run(policy, dawdle)

    assert calls == [1]
    assert counts(policy) == {}


def test_the_end_of_a_time_that_nobody_knows_is_not_repeated(clock: HandClock) -> None:
    policy, dependency = retry_of(clock), Dependency(DeadlineExceededError("somewhere"))

    with deadline_scope(Deadline(60.0, clock)), pytest.raises(DeadlineExceededError):
        run(policy, dependency)

    assert dependency.calls == 1


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
