"""The adaptive limit: places by partition, results by outcome, and nothing lost whatever is raised."""

from __future__ import annotations

import os
import re
import sys
import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import app.stability
from app.stability import adaptive_limit as module
from app.stability.adaptive_limit import (
    REASONS,
    AdaptiveLimit,
    AdaptiveLimitOptions,
)
from app.stability.call import Call
from app.stability.clock import Clock
from app.stability.configuration import build_pipelines
from app.stability.context import PolicyContext
from app.stability.errors import BulkheadFullError, LimitExceededError, OptionError
from app.stability.events import Event, EventBus
from app.stability.figures import Figure
from app.stability.outcome import Classification, Outcome
from app.stability.partitions import LIMIT_REACHED, PARTITION_REACHED
from app.stability.pipeline import Pipeline
from app.stability.shedding import CallsShed
from tests.fakes.callers import BrokenClock
from tests.fakes.clocks import HandClock
from tests.house.source import ROOT

SHARES = {"health": 0.1, "read": 0.5, "upload": 0.2}


class AbsentError(Exception):
    """Says nothing about the dependency."""


def limit_of(
    initial: int = 20,
    *,
    clock: Clock | None = None,
    bus: EventBus | None = None,
    classification: Classification | None = None,
    **options: Any,
) -> AdaptiveLimit:
    """Return one that moves at once, so that a step can be followed."""
    given = AdaptiveLimitOptions(
        **({"initial_limit": initial, "min_limit": min(initial, 5), "smoothing": 1.0} | options)
    )
    classification = classification or Classification(ignored=(AbsentError,))
    return AdaptiveLimit("storage", given, clock=clock or HandClock(), bus=bus, classification=classification)


def hold(policy: AdaptiveLimit, calls: int, partition: str = "") -> Callable[[], None]:
    """Let calls in and return what ends them without a result: the policy's two halves, without threads."""
    places = [policy._admit(partition, 0.0) for _ in range(calls)]

    def end() -> None:
        policy._finished.extend((place, Outcome.IGNORED, 0.0, 0.0) for place in places)

    return end


def run(policy: AdaptiveLimit, function: Callable[[], object] = int, *, partition: str = "") -> object:
    return Pipeline("storage", [policy]).run(Call(function).describe(partition=partition))


def refusal(policy: AdaptiveLimit, partition: str = "") -> LimitExceededError:
    with pytest.raises(LimitExceededError) as caught:
        run(policy, lambda: pytest.fail("the function was called"), partition=partition)
    return caught.value


def window(policy: AdaptiveLimit, clock: HandClock, function: Callable[[], object], *, busy: bool = True) -> int:
    """Make eleven calls, let the window end, and return the limit after it."""
    end = hold(policy, policy.limit - 1 if busy else 0)
    for _ in range(11):
        try:
            run(policy, function)
        except (OSError, AbsentError, BulkheadFullError, KeyboardInterrupt):
            continue
    end()
    clock.advance(1.0)
    run(policy)
    return policy.limit


def fail(error: BaseException) -> Callable[[], object]:
    def function() -> object:
        raise error

    return function


# --- Places ---------------------------------------------------------------------------------------------------------


def test_a_call_that_finds_a_place_returns_what_the_function_returns() -> None:
    policy = limit_of()

    result = run(policy, lambda: policy.in_use)

    assert result == 1
    assert policy.in_use == 0


def test_execute_does_the_same_as_the_linked_way() -> None:
    policy = limit_of()

    result = policy.execute(Call(int, "7"), lambda call: call() + policy.in_use)

    assert result == 8
    assert policy.in_use == 0


def test_a_call_too_many_is_refused() -> None:
    policy = limit_of(2)
    end = hold(policy, 2)

    error = refusal(policy)
    end()

    assert (error.name, error.reason, error.retry_after_seconds) == ("storage", LIMIT_REACHED, None)
    assert policy.in_use == 0
    assert run(policy) == 0


@pytest.mark.parametrize("error", [ValueError(), AbsentError(), KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_a_place_comes_back_whatever_the_function_raises(error: BaseException) -> None:
    policy = limit_of(1, min_limit=1)

    for _ in range(3):
        with pytest.raises(type(error)):
            run(policy, fail(error))

    assert policy.in_use == 0


def test_a_partition_that_comes_back_for_its_guarantee_is_the_next_one_in() -> None:
    policy = limit_of(20, partitions=SHARES)
    end = hold(policy, 20, "background")

    refused = refusal(policy, "read")
    policy._finished.append((policy._partitions.others, Outcome.IGNORED, 0.0, 0.0))
    borrower = refusal(policy, "background")
    owner = run(policy, lambda: "inside", partition="read")

    assert (refused.reason, borrower.reason, owner) == (LIMIT_REACHED, PARTITION_REACHED, "inside")
    end()


# --- What moves it --------------------------------------------------------------------------------------------------


def test_it_grows_after_a_window_in_which_it_was_used_and_nothing_was_slow() -> None:
    clock = HandClock()
    policy = limit_of(20, clock=clock)

    assert window(policy, clock, int) == 24


def test_it_does_not_grow_while_the_callers_are_the_limit() -> None:
    clock = HandClock()
    policy = limit_of(20, clock=clock)

    assert window(policy, clock, int, busy=False) == 20


def test_calls_that_take_longer_than_usual_shrink_it() -> None:
    clock = HandClock()
    policy = limit_of(100, clock=clock)
    for _ in range(3):
        window(policy, clock, lambda: clock.advance(0.001), busy=False)

    after = window(policy, clock, lambda: clock.advance(0.05))

    assert after < 80


def test_failed_calls_shrink_it() -> None:
    clock = HandClock()
    policy = limit_of(100, clock=clock)

    after = window(policy, clock, fail(OSError()))

    assert after == 50


def test_a_returned_value_can_be_a_failure() -> None:
    clock = HandClock()
    policy = limit_of(100, clock=clock, classification=Classification(failing_result=lambda value: value == "bad"))

    after = window(policy, clock, lambda: "bad")

    assert after == 50


@pytest.mark.parametrize("error", [AbsentError(), BulkheadFullError("inner", "queue_full"), KeyboardInterrupt()])
def test_an_ignored_outcome_says_nothing(error: BaseException) -> None:
    clock = HandClock()
    policy = limit_of(100, clock=clock)

    after = window(policy, clock, fail(error))

    assert after == 100
    assert (policy._successes, policy._failures) == (1, 0)  # the one after the window


def test_a_window_without_results_enough_goes_on() -> None:
    clock = HandClock()
    policy = limit_of(20, clock=clock)
    hold(policy, 15)

    for _ in range(10):
        clock.advance(2.0)
        run(policy)
    before = policy.limit
    run(policy)

    assert (before, policy.limit) == (20, 24)


def test_a_window_begins_with_the_calls_that_are_under_way() -> None:
    clock = HandClock()
    policy = limit_of(20, clock=clock)
    end = hold(policy, 15)
    clock.advance(1.0)
    for _ in range(11):
        run(policy)

    end()
    policy._settle()
    for _ in range(10):
        run(policy)
    clock.advance(1.0)
    run(policy)

    assert policy.limit == 28, "it was in use when the second window began"


def test_shares_follow_the_limit() -> None:
    clock = HandClock()
    policy = limit_of(20, clock=clock, partitions=SHARES)

    window(policy, clock, fail(OSError()))

    assert policy.limit == 10
    assert policy._partitions.find("read").guaranteed == 5


def test_the_share_of_failed_calls_is_that_of_all_calls_of_the_window() -> None:
    clock = HandClock()
    policy = limit_of(100, clock=clock)
    results = iter([OSError, *[int] * 10])

    def function() -> object:
        result = next(results)()
        if isinstance(result, OSError):
            raise result
        return result

    after = window(policy, clock, function)

    assert after == int(100 * 10 / 11 + 4 * 10 / 11)


def test_what_is_usual_is_the_mean_of_all_calls_of_a_window_and_then_of_the_long_window() -> None:
    clock = HandClock()
    policy = limit_of(100, clock=clock, long_window=99)
    usual = []

    for first, last in [(0.01, 0.09)] * 11 + [(0.02, 0.1)]:
        for seconds in [first] * 5 + [last] * 5 + [(first + last) / 2]:
            run(policy, lambda seconds=seconds: clock.advance(seconds))  # type: ignore[misc]  # binds the loop's value
        clock.advance(1.0)
        assert policy.in_use == 0
        policy._close_window(clock.monotonic())
        usual.append(policy._gradient.usual_seconds)

    assert usual[:11] == pytest.approx([0.05] * 11)
    assert usual[11] == pytest.approx(0.05 + 0.01 * 2 / 100)


# --- Broken surroundings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", [None, float("nan"), float("inf")])
def test_a_broken_clock_loses_no_place_and_no_result_and_moves_no_limit(reading: float | None) -> None:
    policy = limit_of(20, clock=BrokenClock(reading))

    results = [run(policy, lambda: "result") for _ in range(30)]

    assert results == ["result"] * 30
    assert (policy.limit, policy.in_use) == (20, 0)


def test_a_clock_that_goes_again_moves_the_limit_again() -> None:
    clock = BrokenClock(None)
    policy = limit_of(20, clock=clock)
    clock.reading = 5.0
    hold(policy, 15)

    for _ in range(11):
        run(policy)

    assert policy.limit == 24


def test_a_call_whose_end_no_clock_has_seen_says_nothing() -> None:
    clock = BrokenClock(5.0)
    policy = limit_of(20, clock=clock)

    for reading in (None, float("nan"), float("inf"), 4.0):
        clock.reading = 5.0
        run(policy, lambda reading=reading: setattr(clock, "reading", reading))  # type: ignore[misc]  # binds the loop's value

    assert policy.in_use == 0
    assert (policy._successes, policy._failures) == (0, 0)


def test_an_instant_without_end_does_not_hold_the_limit_for_ever() -> None:
    clock = BrokenClock(5.0)
    policy = limit_of(20, clock=clock)
    hold(policy, 15)
    for _ in range(11):
        run(policy)

    clock.reading = float("inf")
    run(policy)
    during = policy.limit
    for clock.reading in (7.0, 9.0):
        for _ in range(11):
            run(policy)

    assert (during, policy.limit) == (20, 28)


def test_a_clock_that_raises_at_the_start_is_told_with_the_name_of_the_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit_of(20, clock=BrokenClock(None))

    assert [vars(record)["policy"] for record in caplog.records] == ["storage"]


def test_an_interrupt_while_the_end_is_measured_loses_no_place() -> None:
    class Interrupting(HandClock):
        armed = False

        def monotonic(self) -> float:
            if self.armed:
                raise KeyboardInterrupt
            return super().monotonic()

    clock = Interrupting()
    policy = limit_of(20, clock=clock)

    with pytest.raises(KeyboardInterrupt):
        run(policy, lambda: setattr(clock, "armed", True))

    assert policy.in_use == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_around_the_lock_loses_no_place(when: str) -> None:
    class Interrupting:
        def __enter__(self) -> None:
            if when == "before":
                raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None:
            raise KeyboardInterrupt

    policy = limit_of(20)
    lock = policy._lock
    policy._lock = Interrupting()  # type: ignore[assignment]  # it is only entered and left

    with pytest.raises(KeyboardInterrupt):
        run(policy)

    policy._lock = lock
    assert policy.in_use == 0


# --- Options, figures, events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("partitions", "mistake"),
    [
        ([("read", 0.5)], "must be a table of shares"),
        ({"": 0.5}, "must be a table of shares"),
        ({1: 0.5}, "must be a table of shares"),
        ({"others": 0.5}, "must be a table without others"),
        ({"read": "half"}, "must be a table of ratios from 0 to 1, and read is 'half'"),
        ({"read": True}, "must be a table of ratios from 0 to 1, and read is True"),
        ({"read": 1.1}, "must be a table of ratios from 0 to 1, and read is 1.1"),
        ({"read": -0.1}, "must be a table of ratios from 0 to 1, and read is -0.1"),
        ({"read": float("nan")}, "must be a table of ratios from 0 to 1, and read is nan"),
        ({"read": 0.5, "health": 0.6}, "must be a table of ratios that come to at most 1, not 1.1"),
    ],
)
def test_shares_that_cannot_be_are_refused(partitions: Any, mistake: str) -> None:
    with pytest.raises(OptionError) as caught:
        AdaptiveLimitOptions(partitions=partitions)

    assert caught.value.mistakes[0].startswith(f"partitions {mistake}")


@pytest.mark.parametrize(
    "partitions", [None, {}, {"read": 1}, {"a": 0.1, "b": 0.2, "c": 0.7}, {"read": 0.0, "health": 1.0}]
)
def test_shares_that_come_to_at_most_one_are_right(partitions: Any) -> None:
    assert AdaptiveLimitOptions(partitions=partitions).partitions == partitions


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        ({"initial_limit": 4}, r"initial_limit \(4\) must be from min_limit \(5\) to max_limit \(200\)"),
        ({"initial_limit": 300}, r"initial_limit \(300\) must be from"),
        ({"partitions": dict.fromkeys("abcdef", 0.1)}, r"min_limit \(5\) must be at least the number of partitions"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], mistake: str) -> None:
    with pytest.raises(OptionError, match=mistake):
        AdaptiveLimitOptions(**options)


def test_partitions_without_a_share_need_no_place() -> None:
    options = AdaptiveLimitOptions(partitions=dict.fromkeys("abcde", 0.1) | dict.fromkeys("fgh", 0.0))

    assert list(options.cautions()) == []


def test_a_limit_that_never_moves_is_a_caution() -> None:
    options = AdaptiveLimitOptions(initial_limit=10, min_limit=10, max_limit=10)

    assert list(options.cautions()) == ["min_limit and max_limit are both 10: the limit never moves"]


def test_a_document_can_say_it_all() -> None:
    document = tomllib.loads("""
        [pipelines.storage]
        policies = ["adaptive_limit"]

        [pipelines.storage.adaptive_limit]
        initial_limit = 10

        [pipelines.storage.adaptive_limit.partitions]
        health = 0.1
        read = 0.5
    """)

    policy = build_pipelines(document)["storage"].find(AdaptiveLimit)

    assert policy is not None
    assert policy.options.partitions == {"health": 0.1, "read": 0.5}
    assert policy._partitions.find("read").guaranteed == 5


def test_it_is_built_from_what_surrounds_it() -> None:
    clock, bus, events = HandClock(), EventBus(), list[Event]()
    bus.subscribe(events.append)
    context = PolicyContext("storage_read", Classification(ignored=(AbsentError,)), clock, bus)

    built = AdaptiveLimit.build(AdaptiveLimitOptions(initial_limit=100, smoothing=1.0), context)

    assert (built.name, built.limit, built.in_use) == ("storage_read", 100, 0)
    assert AdaptiveLimit("x").options == AdaptiveLimitOptions()
    assert window(built, clock, fail(AbsentError())) == 100
    assert window(built, clock, int) == 104
    hold(built, 104)
    assert refusal(built).name == "storage_read"
    bus.close()
    assert [(type(event), event.name) for event in events] == [(CallsShed, "storage_read")]


def test_figures_say_the_limit_and_who_uses_it() -> None:
    policy = limit_of(20, partitions={"health": 0.1, "read": 0.5})
    hold(policy, 3, "read")
    hold(policy, 2, "stranger")

    figures = list(policy.figures())

    assert figures[:4] == [
        Figure("adaptive_limit", "gauge", 20, {"name": "storage"}),
        Figure("adaptive_limit_in_use", "gauge", 0, {"name": "storage", "partition": "health"}),
        Figure("adaptive_limit_in_use", "gauge", 3, {"name": "storage", "partition": "read"}),
        Figure("adaptive_limit_in_use", "gauge", 2, {"name": "storage", "partition": "others"}),
    ]
    assert [(figure.metric, figure.labels["reason"]) for figure in figures[4:]] == [("shed", r) for r in REASONS]


def test_refusals_are_counted_and_the_first_one_is_an_event() -> None:
    bus, events = EventBus(), list[Event]()
    bus.subscribe(events.append)
    policy = limit_of(1, bus=bus, min_limit=1)
    hold(policy, 1)

    for _ in range(5):
        refusal(policy)
    bus.close()

    assert events == [CallsShed(name="storage", reason=LIMIT_REACHED, shed=1)]
    assert {f.labels["reason"]: f.value for f in policy.figures() if f.metric == "shed"} == {
        LIMIT_REACHED: 5,
        PARTITION_REACHED: 0,
    }


# --- Threads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let threads take turns often, so that they meet in the middle of things."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.00005)
    yield
    sys.setswitchinterval(before)


def test_eight_threads_find_every_place_again_and_never_exceed_the_limit(frequent_switches: None) -> None:
    limit, threads, calls = 5, 8, 2_000
    policy = limit_of(
        limit, clock=app.stability.SYSTEM_CLOCK, max_limit=limit, partitions={"health": 0.2, "read": 0.4}
    )
    begin, inside, most = threading.Barrier(threads), list[None](), list[int]()
    counted: list[Counter[str]] = []

    def work(number: int) -> None:
        inside.append(None)
        most.append(len(inside))
        os.sched_yield()
        del inside[-1]
        if number % 97 == 0:
            raise KeyboardInterrupt
        if number % 89 == 0:
            raise OSError

    def send(partition: str) -> None:
        seen: Counter[str] = Counter()
        pipeline = Pipeline("storage", [policy])
        begin.wait()
        for number in range(calls):
            try:
                pipeline.run(Call(work, number).describe(partition=partition))
                seen["done"] += 1
            except LimitExceededError as error:
                seen[error.reason] += 1
            except (OSError, KeyboardInterrupt):
                seen["done"] += 1
        counted.append(seen)

    names = ["health", "read", "read", "upload"] * (threads // 4)
    workers = [threading.Thread(target=send, args=(name,)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    total = sum(counted, Counter[str]())
    figures = {f.labels["reason"]: f.value for f in policy.figures() if f.metric == "shed" and f.value}
    assert max(most) <= limit
    assert total["done"] == len(most)
    assert total.total() == threads * calls
    assert {reason: count for reason, count in total.items() if reason != "done"} == figures
    assert policy.in_use == 0
    assert [partition.in_use for partition in policy._partitions.named.values()] == [0, 0]


# --- The page -------------------------------------------------------------------------------------------------------


def test_the_page_names_every_reason_and_its_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/stability/adaptive_limit.md").read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "stability", app.stability)
    monkeypatch.setitem(sys.modules, "stability.adaptive_limit", module)

    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    words = (*REASONS, "CallsShed", "adaptive_limit", "adaptive_limit_in_use", "shed_total")
    assert [word for word in words if f"`{word}`" not in text] == []
    assert examples
    for example in examples:
        exec(compile(example, "adaptive_limit.md", "exec"), {"__name__": "example"})  # noqa: S102  # it is our own page
