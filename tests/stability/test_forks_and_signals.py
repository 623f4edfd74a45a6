"""Policies in a forked child, and in a function that a signal calls in the midst of them."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.stability import bulkhead as bulkhead_module
from app.stability.adaptive_limit import AdaptiveLimit, AdaptiveLimitOptions
from app.stability.bulkhead import CODEL, WAIT_TIMEOUT, Bulkhead, BulkheadOptions
from app.stability.cache_stack import Lifetimes, TierStack
from app.stability.cache_tiers import MemoryTier
from app.stability.call import Call
from app.stability.chaos import Chaos
from app.stability.errors import BulkheadFullError, LimitExceededError
from app.stability.fallback import Alternative, Fallback
from app.stability.figures import Counts
from app.stability.partitions import Partition, Partitions
from app.stability.pipeline import Pipeline
from app.stability.rate_limit import MemoryRateStore, Rate, RateLimit, RateLimitOptions
from app.stability.retry import Retry
from app.stability.retry_budget import RetryBudget
from app.stability.shedding import Shedding
from app.stability.timeout import Timeout
from tests.fakes.callers import bulkhead_of
from tests.fakes.clocks import HandClock

ROOT = Path(__file__).resolve().parents[2]

# --- A fork ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import logging, os, signal, threading, warnings
from contextlib import ExitStack
warnings.simplefilter("ignore", DeprecationWarning)  # later Pythons warn of forks beside threads, which is the point
logging.disable()
from app.stability.adaptive_limit import AdaptiveLimit, AdaptiveLimitOptions
from app.stability.bulkhead import Bulkhead, BulkheadOptions
from app.stability.chaos import Chaos, ChaosOptions
from app.stability.fallback import Alternative, Fallback
from app.stability.pipeline import Pipeline
from app.stability.rate_limit import RateLimit
from app.stability.retry import Retry, RetryOptions
from app.stability.timeout import Timeout

retry = Retry("r", RetryOptions(base_seconds=1e-6, cap_seconds=1e-6))
adaptive = AdaptiveLimit("a", AdaptiveLimitOptions(initial_limit=1, min_limit=1))
bulkhead = Bulkhead("b", BulkheadOptions(max_concurrent_calls=1, max_queue_length=1, max_wait_duration_seconds=20.0))
rate, timeout = RateLimit("l"), Timeout("t")
fallback = Fallback("f", [Alternative("other", lambda call, error: "answer")])
chaos = Chaos("c", ChaosOptions(outcome_rate=1.0), allowed=True, outcome="false")
locks = [adaptive._lock, bulkhead._lock, rate._lock, rate._store._lock, retry._counts._lock, retry.budget._lock,
         timeout._counts._lock, fallback._lock, chaos._lock, adaptive._shedding._lock, bulkhead._shedding._lock]
inside, waiting, held, done = (threading.Event() for _ in range(4))


def stay():
    inside.set()
    done.wait(20)


def hold():
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        held.set()
        done.wait(20)


threads = [threading.Thread(target=Pipeline("stay", [adaptive, bulkhead]).call, args=(stay,), daemon=True)]
threads[0].start()
inside.wait(20)
threads.append(threading.Thread(target=Pipeline("wait", [bulkhead]).call, args=(int,), daemon=True))
threads[1].start()
while not bulkhead.queue_size:
    pass
threads.append(threading.Thread(target=hold, daemon=True))
threads[2].start()
held.wait(20)
child = os.fork()
if child == 0:
    signal.alarm(10)
    result = Pipeline("all", [timeout, fallback, retry, rate, adaptive, bulkhead]).call(lambda: 1 / 0)
    result += " " + Pipeline("chaos", [chaos]).call(int)
    os.write(1, f"{result} {bulkhead.in_use} {bulkhead.queue_size} {adaptive.in_use}".encode())
    os._exit(0)
os.waitpid(child, 0)
os.write(1, f" {bulkhead.in_use} {bulkhead.queue_size}".encode())
done.set()
"""


def test_whatever_threads_of_the_parent_hold_a_child_has_all_places_and_open_locks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout == "answer false 0 0 0 1 1", done.stderr


@pytest.mark.parametrize("discipline", ["codel", "fifo"])
def test_a_bulkhead_that_begins_anew_in_a_call_gets_no_place_too_many(discipline: str) -> None:
    bulkhead = bulkhead_of(2, queue_discipline=discipline)

    def fork() -> tuple[int, int]:
        before = bulkhead.in_use
        bulkhead._begin_anew()
        return before, bulkhead.in_use

    result = Pipeline("storage", [bulkhead]).call(fork)

    assert result == (1, 0)
    assert bulkhead.in_use == 0
    assert len(bulkhead._places) == 2


def test_a_call_that_waits_as_its_bulkhead_begins_anew_gives_up_and_breaks_nothing() -> None:
    bulkhead = bulkhead_of(1, max_wait_duration_seconds=0.0)
    waiter = bulkhead_module._Waiter()
    bulkhead._waiting.append(waiter)
    bulkhead._begin_anew()

    bulkhead._give_up(waiter, WAIT_TIMEOUT)

    assert (waiter.reason, bulkhead.queue_size, bulkhead.in_use) == (WAIT_TIMEOUT, 0, 0)


def test_an_adaptive_limit_that_begins_anew_in_a_call_counts_neither_it_nor_the_others() -> None:
    options = AdaptiveLimitOptions(initial_limit=5, min_limit=5, partitions={"read": 0.4})
    policy = AdaptiveLimit("storage", options)
    pipeline = Pipeline("storage", [policy])

    def fork() -> tuple[int, int]:
        before = policy.in_use
        policy._partitions.begin_anew()
        return before, policy.in_use

    result = pipeline.run(Call(fork).describe(partition="read"))
    pipeline.run(Call(int).describe(partition="read"))

    assert result == (1, 0)
    assert policy.in_use == 0
    assert [figure.value for figure in policy.figures() if figure.metric == "adaptive_limit_in_use"] == [0, 0]


def test_partitions_that_begin_anew_keep_limit_and_guarantees_that_a_thread_was_about_to_set() -> None:
    partitions = Partitions({"read": 0.5, "upload": 0.2}, 20)
    partitions.take(partitions.find("read"), 0.0)
    partitions.take(partitions.find("else"), 0.0)
    partitions.limit = 10  # the guarantees are still those of 20

    partitions.begin_anew()

    assert (partitions.limit, partitions.in_use) == (10, 0)
    assert [(name, p.guaranteed, p.in_use) for name, p in partitions.named.items()] == [
        ("read", 5, 0),
        ("upload", 2, 0),
    ]
    assert partitions.others.in_use == 0


# --- A signal -------------------------------------------------------------------------------------------------------


def locks() -> Iterator[tuple[str, Any]]:
    yield "adaptive limit", AdaptiveLimit("x")._lock
    yield "bulkhead", Bulkhead("x")._lock
    yield "rate limit", RateLimit("x")._lock
    yield "rate store", MemoryRateStore()._lock
    yield "retry", Retry("x")._counts._lock
    yield "retry budget", RetryBudget()._lock
    yield "timeout", Timeout("x")._counts._lock
    yield "counts", Counts("x", "x", "x", ())._lock
    yield "shedding", Shedding("x", ())._lock
    yield "chaos", Chaos("x")._lock
    yield "fallback", Fallback("x", [Alternative("y", lambda _call, _error: 1)])._lock
    yield "cache", TierStack("x", [MemoryTier()], Lifetimes(1.0, 0.0, 0.0))._reading


@pytest.mark.parametrize("lock", [pytest.param(lock, id=name) for name, lock in locks()])
def test_a_signal_s_function_gets_the_lock_that_its_thread_has(lock: Any) -> None:
    with lock:
        gets_it = lock.acquire(blocking=False)

    assert gets_it
    lock.release()


class Interrupted(HandClock):
    """Calls a function once, where it is asked for the time."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], object] = int

    def monotonic(self) -> float:
        then, self.then = self.then, int
        then()
        return super().monotonic()


def test_a_rate_limit_that_is_used_in_the_midst_of_itself_counts_both_calls() -> None:
    clock = Interrupted()
    pipeline = Pipeline("uploads", [RateLimit("uploads", RateLimitOptions(limit=1, burst=3), clock=clock)])
    clock.then = lambda: pipeline.call(int)

    results = [pipeline.call(lambda: "done") for _ in range(2)]

    assert results == ["done", "done"]
    with pytest.raises(Exception, match="rate_exceeded"):
        pipeline.call(int)


@pytest.mark.parametrize("table", ["emptied", "changed"])
def test_room_that_a_signal_s_function_made_meanwhile_is_no_failure_of_the_store(table: str) -> None:
    class Shared(OrderedDict[str, int]):
        def __iter__(self) -> Iterator[str]:
            key = next(super().__iter__())
            if table == "emptied":
                self.clear()
                return iter([key])
            return iter([])

    store = MemoryRateStore()
    store._even = Shared()

    seconds = store.take("a", Rate(1, 1_000_000_000, 1))

    assert seconds == 0.0


def test_a_key_that_a_signal_s_function_forgot_meanwhile_is_refused_all_the_same() -> None:
    class Forgetful(OrderedDict[str, int]):
        def get(self, key: str, default: Any = None) -> Any:
            return self.pop(key, default)

    store, rate = MemoryRateStore(clock=HandClock()), Rate(1, 1_000_000_000, 1)
    store._even = Forgetful()
    store.take("a", rate)

    seconds = store.take("a", rate)

    assert seconds == 1.0


def test_what_a_signal_s_function_took_in_is_not_taken_in_twice() -> None:
    class Shared(deque[Any]):
        """Is emptied after the look whether there is something in it."""

        def __bool__(self) -> bool:
            return True

    policy = AdaptiveLimit("storage")
    policy._finished = Shared()

    result = Pipeline("storage", [policy]).call(lambda: policy.in_use)

    assert (result, policy.in_use) == (1, 0)


def test_the_first_of_the_finished_is_removed_in_one_step_with_its_place() -> None:
    partitions = Partitions({}, 2)
    finished: deque[tuple[Partition, str]] = deque()
    for name in ("first", "second"):
        partitions.take(partitions.others, 0.0)
        finished.append((partitions.others, name))

    entry = partitions.give_back(finished)

    assert entry == (partitions.others, "first")
    assert (partitions.in_use, partitions.others.in_use, len(finished)) == (1, 1, 1)


class Judging:
    """A CoDel in the midst of which something happens to the queue."""

    def __init__(self, *, drops: bool, then: Callable[[], object]) -> None:
        self.answer = drops
        self.then = then

    def empty(self) -> None:
        """Nothing is kept."""

    def drops(self, *_: object, **__: object) -> bool:
        self.then()
        return self.answer


@pytest.mark.parametrize("drops", [True, False])
def test_a_place_that_a_signal_s_function_handed_on_is_handed_on_once(*, drops: bool) -> None:
    bulkhead = Bulkhead("storage", BulkheadOptions(max_concurrent_calls=2))
    waiter, next_one = bulkhead_module._Waiter(), bulkhead_module._Waiter()
    bulkhead._waiting.extend([waiter, next_one])

    def hand_on() -> None:
        bulkhead._codel = None
        bulkhead._serve()

    bulkhead._codel = Judging(drops=drops, then=hand_on)  # type: ignore[assignment]  # all that is asked of it

    bulkhead._serve()

    assert (waiter.reason, next_one.reason) == ("", "")
    assert waiter.places is next_one.places is bulkhead._places
    assert (bulkhead.in_use, bulkhead.queue_size) == (2, 0)


def test_a_call_that_a_signal_s_function_dropped_gets_no_place() -> None:
    bulkhead = Bulkhead("storage")
    waiter = bulkhead_module._Waiter()
    waiter.reason = CODEL

    is_granted = bulkhead._grant(waiter)

    assert not is_granted
    assert bulkhead.in_use == 0


@pytest.mark.parametrize("value", [None, "x", float("nan"), [], 10**400], ids=lambda value: str(value)[:8])
def test_a_clock_that_gives_no_number_loses_neither_results_nor_refusals(value: Any) -> None:
    class NoNumber(HandClock):
        def monotonic(self) -> Any:
            return value

    clock = NoNumber()
    adaptive = AdaptiveLimit("a", AdaptiveLimitOptions(initial_limit=1, min_limit=1), clock=clock)
    bulkhead = Bulkhead("b", BulkheadOptions(max_concurrent_calls=1, max_queue_length=0), clock=clock)
    rate = RateLimit("l", clock=clock)
    inner = Pipeline("inner", [bulkhead])

    results = [Pipeline("all", [adaptive, bulkhead, rate]).call(lambda: "stored") for _ in range(30)]
    with pytest.raises(LimitExceededError):
        Pipeline("a", [adaptive]).call(Pipeline("a", [adaptive]).call, int)
    with pytest.raises(BulkheadFullError):
        inner.call(inner.call, int)

    assert results == ["stored"] * 30
    assert (adaptive.in_use, bulkhead.in_use) == (0, 0)


def test_a_refusal_stays_one_when_the_clock_gives_no_number_and_the_store_another() -> None:
    class NoNumber(HandClock):
        def monotonic(self) -> Any:
            return "x"

    class Full:
        def take(self, _key: str, _rate: Rate, /) -> float:
            return 1.0

    policy = RateLimit("l", clock=NoNumber(), store=Full())

    with pytest.raises(Exception, match="rate_exceeded") as caught:
        Pipeline("l", [policy]).call(int)

    assert type(caught.value).__name__ == "RateLimitExceededError"


def test_a_clock_that_gives_text_is_not_multiplied() -> None:
    class Text(str):
        __slots__ = ()

        def __mul__(self, other: Any) -> str:
            multiplied.append(other)
            return super().__mul__(other) if other < 2 else ""

    class Clock(HandClock):
        def monotonic(self) -> Any:
            return Text("x")

    multiplied: list[Any] = []

    with pytest.raises(TypeError):
        MemoryRateStore(clock=Clock()).take("a", Rate(1, 1, 1))

    assert all(isinstance(number, float) for number in multiplied)
