"""The tiers: memory that forgets in order and in time, and any tier behind policies."""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability.breaker import CircuitBreaker
from app.stability.breaker_options import CircuitBreakerOptions
from app.stability.cache_tiers import Entry, GuardedTier, MemoryCounts, MemoryTier, Tier, size_in_bytes
from app.stability.errors import CallNotPermittedError, OptionError
from app.stability.pipeline import Pipeline
from tests.fakes.clocks import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def entry(key: str, value: Any = None, fresh_seconds: float = 10.0, *, is_negative: bool = False) -> Entry:
    return Entry(key, value, fresh_seconds, is_negative)


def put(tier: Tier, key: str, value: Any = None, fresh_seconds: float = 10.0, keep_seconds: float = 10.0) -> None:
    tier.put(key, entry(key, value, fresh_seconds), keep_seconds)


def test_what_was_put_is_found_with_what_is_left_of_its_freshness(clock: HandClock) -> None:
    tier = MemoryTier(clock=clock)
    tier.put("a", entry("a", b"1", 10.0, is_negative=True), 15.0)

    clock.advance(4.0)
    fresh = tier.get("a")
    clock.advance(8.0)
    stale = tier.get("a")

    assert fresh == Entry("a", b"1", 6.0, is_negative=True)
    assert stale == Entry("a", b"1", -2.0, is_negative=True)
    assert tier.get("b") is None


def test_an_entry_is_gone_exactly_when_its_time_is_over(clock: HandClock) -> None:
    tier = MemoryTier(clock=clock)
    put(tier, "a", keep_seconds=5.0)

    clock.advance(4.999)
    before = tier.get("a")
    clock.advance(0.001)

    assert before is not None
    assert tier.get("a") is None
    assert tier.counts == MemoryCounts(entries=0, hits=1, misses=1, expired=1)


def test_no_entry_is_kept_for_longer_than_the_tier_does(clock: HandClock) -> None:
    tier = MemoryTier(ttl_seconds=3.0, clock=clock)
    put(tier, "a", keep_seconds=10.0)

    clock.advance(3.0)

    assert tier.get("a") is None


def test_the_entry_that_was_not_used_for_longest_goes_first() -> None:
    tier = MemoryTier(2)
    put(tier, "a")
    put(tier, "b")
    tier.get("a")

    put(tier, "c")

    assert [key for key in "abc" if tier.get(key)] == ["a", "c"]
    assert tier.counts.evicted == 1
    assert len(tier) == 2


def test_putting_is_using_too() -> None:
    tier = MemoryTier(2)
    put(tier, "a", 1)
    put(tier, "b")
    put(tier, "a", 2)

    put(tier, "c")

    assert [key for key in "abc" if tier.get(key)] == ["a", "c"]


def test_an_entry_that_is_too_large_is_not_kept_and_ends_the_one_before_it() -> None:
    tier = MemoryTier(max_entry_bytes=3)
    put(tier, "a", b"123")

    kept = tier.get("a")
    put(tier, "a", b"1234")

    assert kept is not None
    assert tier.get("a") is None
    assert tier.counts == MemoryCounts(entries=0, hits=1, misses=1, oversized=1)


def test_each_time_counts(clock: HandClock) -> None:
    tier = MemoryTier(1, max_entry_bytes=3, clock=clock)
    for _ in range(2):
        put(tier, "a", b"1", keep_seconds=5.0)
        put(tier, "b", b"1", keep_seconds=5.0)  # in the place of the one before
        clock.advance(5.0)
        tier.get("b")
        put(tier, "b", b"1234")

    assert tier.counts == MemoryCounts(entries=0, misses=2, evicted=2, expired=2, oversized=2)


def test_the_size_of_a_value_may_be_told() -> None:
    tier = MemoryTier(max_entry_bytes=3, size_of=lambda value: value["size"])

    put(tier, "small", {"size": 3})
    put(tier, "large", {"size": 4})

    assert [key for key in ("small", "large") if tier.get(key)] == ["small"]


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (b"12345", 5),
        (bytearray(5), 5),
        (memoryview(b"12345678").cast("Q"), 8),
        ("text", sys.getsizeof("text")),
        (None, sys.getsizeof(None)),
    ],
)
def test_sizes_are_lengths_of_bytes_and_what_python_says_of_the_rest(value: Any, size: int) -> None:
    assert size_in_bytes(value) == size


def test_a_removed_key_is_gone_and_removing_it_again_is_no_error() -> None:
    tier = MemoryTier()
    put(tier, "a")
    put(tier, "b")

    tier.remove("a")
    tier.remove("a")

    assert tier.get("a") is None
    assert tier.get("b") is not None


def test_all_keys_can_be_forgotten() -> None:
    tier = MemoryTier()
    put(tier, "a")

    tier.clear()

    assert len(tier) == 0


@pytest.mark.parametrize(
    "limits", [{"max_entries": 0}, {"max_entry_bytes": 0}, {"ttl_seconds": -1.0}, {"ttl_seconds": float("nan")}]
)
def test_limits_of_nothing_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        MemoryTier(**limits)

    assert [mistake.split()[0] for mistake in caught.value.mistakes] == list(limits)


def test_a_clock_without_a_number_ends_entries(clock: HandClock) -> None:
    class NoNumberClock(HandClock):
        def monotonic(self) -> float:
            return float("nan")

    tier = MemoryTier(clock=NoNumberClock())
    put(tier, "a")

    assert tier.get("a") is None


def test_counts_are_exact_whatever_the_threads_do() -> None:
    tier, together = MemoryTier(8), threading.Barrier(8)

    def use(number: int) -> None:
        together.wait(30)
        for turn in range(500):
            key = str((turn * 7 + number) % 12)
            if tier.get(key) is None:
                put(tier, key)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    counts = tier.counts

    assert counts.hits + counts.misses == 8 * 500
    assert counts.entries == len(tier) == 8
    assert 0 < counts.evicted <= counts.misses - 8


def test_a_forked_child_begins_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tier = MemoryTier()
    put(tier, "a")
    monkeypatch.setattr(os, "getpid", lambda: -1)

    with tier._shelves[next(iter(tier._shelves))].lock:  # as a thread that reads in the moment of the fork
        found = tier.get("a")
        put(tier, "b")

    assert found is None
    assert tier.counts == MemoryCounts(entries=1, misses=1)
    assert len(tier._shelves) == 1


class Model:
    """The same in few words, and slow."""

    def __init__(self, size: int, clock: HandClock) -> None:
        self.size = size
        self.clock = clock
        self.kept: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def get(self, key: str) -> int | None:
        if key not in self.kept:
            return None
        value, ends_at = self.kept.pop(key)
        if ends_at <= self.clock.monotonic():
            return None
        self.kept[key] = value, ends_at
        return value

    def put(self, key: str, value: int, keep_seconds: float) -> None:
        self.kept.pop(key, None)
        self.kept[key] = value, self.clock.monotonic() + keep_seconds
        while len(self.kept) > self.size:
            self.kept.pop(next(iter(self.kept)))


KEYS = st.sampled_from("abcde")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), KEYS),
        st.tuples(st.just("put"), KEYS, st.integers(), st.integers(1, 8)),
        st.tuples(st.just("advance"), st.integers(0, 5)),
        st.tuples(st.just("remove"), KEYS),
    ),
    max_size=60,
)


@given(size=st.integers(1, 4), steps=STEPS)
def test_it_keeps_what_a_simple_model_keeps(size: int, steps: list[tuple[Any, ...]]) -> None:
    clock = HandClock()
    tier, model = MemoryTier(size, clock=clock), Model(size, clock)

    for step in steps:
        match step:
            case "get", key:
                found = tier.get(key)
                assert (None if found is None else found.value) == model.get(key)
            case "put", key, value, seconds:
                put(tier, key, value, float(seconds), float(seconds))
                model.put(key, value, float(seconds))
            case "advance", seconds:
                clock.advance(seconds)
            case "remove", key:
                tier.remove(key)
                model.kept.pop(key, None)
        assert len(tier) == len(model.kept)


class DeadTier(MemoryTier):
    """Counts in vain who asks."""

    asked = 0

    def get(self, key: str) -> Entry | None:
        self.asked += 1
        raise ConnectionError(key)


def test_a_guarded_tier_does_what_the_tier_does() -> None:
    inner = MemoryTier(name="remote")
    tier = GuardedTier(inner, Pipeline("remote"))

    put(tier, "a", 1)
    found = tier.get("a")
    tier.remove("a")

    assert tier.name == "remote"
    assert found is not None
    assert found.value == 1
    assert inner.get("a") is None


def test_a_dead_tier_behind_a_breaker_is_no_longer_asked() -> None:
    inner = DeadTier()
    options = CircuitBreakerOptions(minimum_number_of_calls=2, sliding_window_size=2)
    tier = GuardedTier(inner, Pipeline("remote", [CircuitBreaker("remote", options)]))
    for _ in range(2):
        with pytest.raises(ConnectionError):
            tier.get("a")

    with pytest.raises(CallNotPermittedError):
        tier.get("a")

    assert inner.asked == 2
