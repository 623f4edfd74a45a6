"""The rate limit: exact to the call and to the nanosecond, for each key, in bounded memory."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections import Counter
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import app.stability
from app.stability import rate_limit as module
from app.stability.call import Call
from app.stability.clock import Clock
from app.stability.context import PolicyContext
from app.stability.errors import OptionError, RateLimitExceededError
from app.stability.events import Event, EventBus
from app.stability.figures import Figure
from app.stability.pipeline import Pipeline
from app.stability.rate_limit import (
    RATE_EXCEEDED,
    MemoryRateStore,
    Rate,
    RateLimit,
    RateLimitOptions,
    RateStore,
    RateStoreFailed,
)
from app.stability.shedding import CallsShed
from tests.fakes.callers import BrokenClock
from tests.fakes.clocks import HandClock
from tests.house.source import ROOT

SECOND = 1_000_000_000


class NanosecondClock:
    """Stands still at a whole number of nanoseconds, so that a test and the limit speak of the same instant."""

    def __init__(self, nanoseconds: int = 1_000 * SECOND) -> None:
        self.nanoseconds = nanoseconds

    def monotonic(self) -> float:
        return self.nanoseconds / SECOND

    def sleep(self, seconds: float, /) -> None:
        self.nanoseconds += round(seconds * SECOND)


def limit_of(
    limit: int,
    *,
    clock: Clock | None = None,
    bus: EventBus | None = None,
    store: RateStore | None = None,
    **options: Any,
) -> RateLimit:
    given = RateLimitOptions(**({"limit": limit, "burst": 1} | options))
    return RateLimit("uploads", given, clock=clock or NanosecondClock(), bus=bus, store=store)


def run(policy: RateLimit, key: str = "") -> object:
    return Pipeline("uploads", [policy]).run(Call(lambda: "done").describe(key=key))


def refusal(policy: RateLimit, key: str = "") -> RateLimitExceededError:
    with pytest.raises(RateLimitExceededError) as caught:
        Pipeline("uploads", [policy]).run(Call(pytest.fail, "the function was called").describe(key=key))
    return caught.value


def burst_of(policy: RateLimit, key: str = "") -> int:
    """Call until it is refused, and return how often it was not."""
    for done in range(10_000):
        try:
            run(policy, key)
        except RateLimitExceededError:
            return done
    raise AssertionError


# --- How many -------------------------------------------------------------------------------------------------------


def test_a_call_within_the_rate_returns_what_the_function_returns() -> None:
    assert run(limit_of(1)) == "done"


def test_execute_does_the_same_as_the_linked_way() -> None:
    policy = limit_of(1)

    assert policy.execute(Call(int, "7"), lambda call: call() + 1) == 8
    with pytest.raises(RateLimitExceededError):
        policy.execute(Call(int, "7"), lambda call: call() + 1)


@pytest.mark.parametrize("burst", [1, 3, 100])
def test_after_a_rest_as_many_calls_as_the_burst_come_at_once(burst: int) -> None:
    clock = NanosecondClock()
    policy = limit_of(10, clock=clock, burst=burst)

    first = burst_of(policy)
    clock.sleep(3600.0)
    after_a_rest = burst_of(policy)

    assert (first, after_a_rest) == (burst, burst)


def test_each_interval_brings_one_more_call_and_not_before_its_end() -> None:
    clock = NanosecondClock()
    policy = limit_of(10, clock=clock, burst=2)
    burst_of(policy)

    clock.nanoseconds += SECOND // 10 - 1
    just_before = burst_of(policy)
    clock.nanoseconds += 1
    exactly_then = burst_of(policy)
    clock.nanoseconds += 2 * SECOND // 10
    twice_as_long = burst_of(policy)

    assert (just_before, exactly_then, twice_as_long) == (0, 1, 2)


def test_in_the_long_run_it_is_the_limit_and_not_one_call_more_or_less() -> None:
    clock = NanosecondClock()
    policy = limit_of(7, clock=clock, period_seconds=3.0, burst=2)  # an interval of 428,571,428.57… nanoseconds
    burst_of(policy)
    done = 0

    for _ in range(30_000):
        clock.nanoseconds += SECOND // 100
        done += burst_of(policy)

    assert done == 700  # 300 seconds, 7 in 3


def test_readings_that_binary_numbers_cannot_hold_are_taken_for_what_they_mean() -> None:
    clock = HandClock()
    policy = limit_of(10, clock=clock)
    done = []

    for _ in range(50):
        done.append(burst_of(policy))
        clock.advance(0.1)  # which adds up to 1000.3000000000001 and the like

    assert done == [1] * 50


def test_a_refused_call_takes_nothing() -> None:
    clock = NanosecondClock()
    policy = limit_of(10, clock=clock)
    run(policy)

    for _ in range(99):
        refusal(policy)
    clock.nanoseconds += SECOND // 10

    assert run(policy) == "done"


def test_keys_know_nothing_of_each_other() -> None:
    policy = limit_of(10, burst=3)

    done = [burst_of(policy, key) for key in ("a", "b", "", "a")]

    assert done == [3, 3, 3, 0]


# --- When again -----------------------------------------------------------------------------------------------------


def test_a_refusal_says_who_why_and_exactly_when_again() -> None:
    clock = NanosecondClock()
    policy = limit_of(4, clock=clock)
    run(policy)
    clock.nanoseconds += 1

    error = refusal(policy)

    assert (error.name, error.reason, error.retry_after_seconds) == ("uploads", RATE_EXCEEDED, 0.249999999)


def test_an_interval_that_is_no_whole_number_is_rounded_up_to_the_next_nanosecond() -> None:
    clock = NanosecondClock()
    policy = limit_of(3, clock=clock)
    run(policy)

    error = refusal(policy)
    clock.nanoseconds += 333_333_333
    too_soon = burst_of(policy)
    clock.nanoseconds += 1

    assert error.retry_after_seconds == 0.333333334
    assert too_soon == 0
    assert run(policy) == "done"


class Bucket:
    """The same in other words: tokens in exact fractions, filled up to the burst whenever somebody looks."""

    def __init__(self, limit: int, period_nanoseconds: int, burst: int) -> None:
        self.rate = Fraction(limit, period_nanoseconds)
        self.burst = burst
        self.tokens = Fraction(burst)
        self.looked_at = 0

    def take(self, now: int) -> int:
        """Take a token; return 0, or after how many whole nanoseconds there is one."""
        self.tokens = min(Fraction(self.burst), self.tokens + (now - self.looked_at) * self.rate)
        self.looked_at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0
        return ceil((1 - self.tokens) / self.rate)


@given(
    limit=st.integers(1, 1000),
    milliseconds=st.integers(1, 100_000),
    burst=st.integers(1, 20),
    start=st.integers(0, 10**15),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]), st.integers(0, 10**8) | st.sampled_from(["interval", "almost", "rest"])
        ),
        max_size=60,
    ),
)
def test_it_decides_every_call_as_a_bucket_of_exact_tokens_does(
    limit: int, milliseconds: int, burst: int, start: int, steps: list[tuple[str, int | str]]
) -> None:
    clock = NanosecondClock(start)
    policy = limit_of(limit, clock=clock, period_seconds=milliseconds / 1000, burst=burst)
    period = milliseconds * 1_000_000
    buckets = {key: Bucket(limit, period, burst) for key in "ab"}
    pauses = {"interval": ceil(period / limit), "almost": ceil(period / limit) - 1, "rest": period * burst}

    for key, pause in steps:
        clock.nanoseconds += pauses[pause] if isinstance(pause, str) else pause
        expected = buckets[key].take(clock.nanoseconds)
        if expected:
            assert refusal(policy, key).retry_after_seconds == expected / SECOND
        else:
            assert run(policy, key) == "done"


@given(
    limit=st.integers(1, 1000),
    milliseconds=st.integers(1, 10_000),
    burst=st.integers(1, 5),
    pauses=st.lists(st.integers(0, 10**9), max_size=20),
)
def test_a_call_that_waits_as_long_as_it_was_told_is_let_in_and_one_nanosecond_sooner_is_not(
    limit: int, milliseconds: int, burst: int, pauses: list[int]
) -> None:
    clock = NanosecondClock()
    policy = limit_of(limit, clock=clock, period_seconds=milliseconds / 1000, burst=burst)

    for pause in pauses:
        clock.nanoseconds += pause
        burst_of(policy)
        told = refusal(policy).retry_after_seconds
        assert told is not None

        clock.nanoseconds += round(told * SECOND) - 1
        assert refusal(policy).retry_after_seconds == 1e-9
        clock.nanoseconds += 1
        assert run(policy) == "done"


# --- Memory ---------------------------------------------------------------------------------------------------------

ONE_A_SECOND = Rate(1, SECOND, 1)


def test_keys_that_are_even_are_forgotten_when_others_come() -> None:
    clock = NanosecondClock()
    store = MemoryRateStore(100, clock)
    for number in range(10):
        store.take(f"old {number}", ONE_A_SECOND)
    clock.nanoseconds += SECOND - 1
    store.take("one nanosecond too soon", ONE_A_SECOND)
    before = len(store)
    clock.nanoseconds += 1

    sizes = []
    for number in range(7):
        store.take(f"new {number}", ONE_A_SECOND)
        sizes.append(len(store))

    assert before == 11
    assert sizes == [10, 9, 8, 7, 6, 7, 8]  # two for each new one, until no old one is left
    assert store.forgotten_early == 0


def test_there_are_never_more_keys_than_there_is_room() -> None:
    store = MemoryRateStore(3, NanosecondClock())

    for number in range(10):
        store.take(str(number), ONE_A_SECOND)

    assert len(store) == 3
    assert store.forgotten_early == 7


def test_who_asked_longest_ago_is_forgotten_first_and_a_refusal_is_asking_too() -> None:
    store = MemoryRateStore(2, NanosecondClock())
    store.take("greedy", ONE_A_SECOND)
    store.take("quiet", ONE_A_SECOND)

    refused = store.take("greedy", ONE_A_SECOND)
    store.take("new", ONE_A_SECOND)

    assert refused == 1.0
    assert store.take("greedy", ONE_A_SECOND) == 1.0
    assert store.take("quiet", ONE_A_SECOND) == 0.0, "it was forgotten, and has its burst again"


@given(
    steps=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3 * SECOND)), max_size=200),
    burst=st.integers(1, 3),
)
def test_what_is_forgotten_in_time_changes_no_decision(steps: list[tuple[int, int]], burst: int) -> None:
    clock, rate = NanosecondClock(), Rate(2, SECOND, burst)
    store = MemoryRateStore(31, clock)
    buckets = {number: Bucket(2, SECOND, burst) for number in range(31)}

    for number, pause in steps:
        clock.nanoseconds += pause

        assert store.take(str(number), rate) == buckets[number].take(clock.nanoseconds) / SECOND

    assert store.forgotten_early == 0


# --- A store that fails ---------------------------------------------------------------------------------------------


class Remote:
    """A store somewhere else."""

    def __init__(self, *answers: float | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Rate]] = []

    def take(self, key: str, rate: Rate, /) -> float:
        self.asked.append((key, rate))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_store_of_its_own_making_decides() -> None:
    remote = Remote(0.0, 2.5)
    policy = limit_of(7, store=remote, period_seconds=0.5, burst=3)

    first = run(policy, "a")
    error = refusal(policy, "b")

    assert (first, error.retry_after_seconds) == ("done", 2.5)
    assert remote.asked == [("a", Rate(7, SECOND // 2, 3)), ("b", Rate(7, SECOND // 2, 3))]


def test_while_a_store_fails_calls_pass_and_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    bus, events = EventBus(), list[Event]()
    bus.subscribe(events.append)
    errors = [OSError("lost"), ValueError(), OSError("lost again")]
    policy = limit_of(1, bus=bus, store=Remote(*errors[:2], 0.0, errors[2]))

    with caplog.at_level(logging.ERROR):
        results = [run(policy) for _ in range(4)]
    bus.close()

    assert results == ["done"] * 4
    assert events == [RateStoreFailed(name="uploads", error="OSError")] * 2
    assert [vars(record)["policy"] for record in caplog.records] == ["uploads"] * 2
    assert [record.exc_info and record.exc_info[1] for record in caplog.records] == [errors[0], errors[2]]
    assert Figure("rate_limit_store_failures", "counter", 3, {"name": "uploads"}) in list(policy.figures())


@pytest.mark.parametrize("answer", ["soon", None])
def test_a_store_that_answers_nonsense_has_failed(answer: Any) -> None:
    policy = limit_of(1, store=Remote(answer))

    assert run(policy) == "done"
    assert policy._store_failures == 1


@pytest.mark.parametrize("reading", [None, float("nan"), float("inf")])
def test_with_a_broken_clock_calls_pass(reading: float | None) -> None:
    policy = limit_of(1, clock=BrokenClock(reading))

    assert [run(policy) for _ in range(3)] == ["done"] * 3
    assert policy._store_failures == 3


def test_a_broken_clock_does_not_change_how_a_call_is_refused() -> None:
    policy = limit_of(1, clock=BrokenClock(None), store=Remote(4.0))

    assert refusal(policy).retry_after_seconds == 4.0


def test_what_the_function_raises_is_not_taken_for_the_stores() -> None:
    policy = limit_of(1)

    with pytest.raises(OSError, match="of its own"):
        Pipeline("uploads", [policy]).call(lambda: (_ for _ in ()).throw(OSError("of its own")))

    assert policy._store_failures == 0


# --- Options, figures, events ---------------------------------------------------------------------------------------


def test_it_is_built_from_what_surrounds_it() -> None:
    bus, events = EventBus(), list[Event]()
    bus.subscribe(events.append)
    context = PolicyContext("uploads", clock=NanosecondClock(), bus=bus)

    built = RateLimit.build(RateLimitOptions(limit=4, burst=1), context)

    assert (built.name, built.options.limit) == ("uploads", 4)
    assert run(built) == "done"
    assert refusal(built).retry_after_seconds == 0.25
    bus.close()
    assert [(type(event), event.name) for event in events] == [(CallsShed, "uploads")]
    assert RateLimit("x").options == RateLimitOptions()


@pytest.mark.parametrize(
    ("option", "value"), [("limit", 0), ("burst", 0), ("period_seconds", 0.0), ("max_keys", 0), ("limit", 1.5)]
)
def test_options_outside_their_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=option):
        RateLimitOptions(**{option: value})


@pytest.mark.parametrize(("burst", "cautions"), [(50, 0), (51, 1)])
def test_a_burst_beyond_the_limit_is_a_caution(burst: int, cautions: int) -> None:
    assert len(list(RateLimitOptions(limit=50, burst=burst).cautions())) == cautions


def test_figures_say_how_many_were_refused_and_how_full_the_store_is() -> None:
    policy = limit_of(1, max_keys=2)
    for key in ("a", "a", "b", "c"):
        burst_of(policy, key)

    labels = {"name": "uploads"}
    assert list(policy.figures()) == [
        Figure("shed", "counter", 5 - 1, labels | {"reason": RATE_EXCEEDED}),
        Figure("rate_limit_store_failures", "counter", 0, labels),
        Figure("rate_limit_keys", "gauge", 2, labels),
        Figure("rate_limit_keys_forgotten_early", "counter", 1, labels),
    ]
    assert [figure.metric for figure in limit_of(1, store=Remote()).figures()] == [
        "shed",
        "rate_limit_store_failures",
    ]


def test_the_first_refusal_is_an_event() -> None:
    bus, events = EventBus(), list[Event]()
    bus.subscribe(events.append)
    policy = limit_of(1, bus=bus)
    run(policy)

    for _ in range(5):
        refusal(policy)
    bus.close()

    assert events == [CallsShed(name="uploads", reason=RATE_EXCEEDED, shed=1)]


# --- Threads --------------------------------------------------------------------------------------------------------


def test_looking_and_taking_are_one_step_under_the_lock() -> None:
    class Watched(str):
        """Notes whether the lock is held whenever a table looks for it."""

        __slots__ = ()

        def __hash__(self) -> int:
            held.append(store._lock._is_owned())  # type: ignore[attr-defined]  # what conditions ask their lock
            return 7

        def __eq__(self, other: object) -> bool:
            return self is other

    held: list[bool] = []
    store = MemoryRateStore(3, NanosecondClock())

    key = Watched("a")
    waits = [store.take(key, ONE_A_SECOND), store.take(key, ONE_A_SECOND)]

    assert waits == [0.0, 1.0]
    assert len(held) >= 3
    assert all(held)


def test_eight_threads_get_exactly_what_each_key_may_have() -> None:
    threads, burst = 8, 250
    policy = limit_of(1, burst=burst, period_seconds=86_400.0)
    begin = threading.Barrier(threads)
    done: list[Counter[str]] = []

    def send() -> None:
        seen: Counter[str] = Counter()
        pipeline = Pipeline("uploads", [policy])
        begin.wait()
        for number in range(1_000):
            key = "abc"[number % 3]
            try:
                pipeline.run(Call(int).describe(key=key))
                seen[key] += 1
            except RateLimitExceededError:
                seen["refused"] += 1
        done.append(seen)

    workers = [threading.Thread(target=send) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    total = sum(done, Counter[str]())
    assert total == {"a": burst, "b": burst, "c": burst, "refused": threads * 1_000 - 3 * burst}
    assert next(iter(policy.figures())).value == total["refused"]


# --- The page -------------------------------------------------------------------------------------------------------


def test_the_page_names_everything_that_is_told_and_its_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/stability/rate_limit.md").read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "stability", app.stability)
    monkeypatch.setitem(sys.modules, "stability.rate_limit", module)

    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    words = [RATE_EXCEEDED, "CallsShed", "RateStoreFailed", "shed_total", "rate_limit_store_failures_total"]
    words += ["rate_limit_keys", "rate_limit_keys_forgotten_early_total"]
    assert [word for word in words if f"`{word}`" not in text] == []
    assert examples
    for example in examples:
        exec(compile(example, "rate_limit.md", "exec"), {"__name__": "example"})  # noqa: S102  # it is our own page
