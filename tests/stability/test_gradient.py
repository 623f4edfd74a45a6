"""Gradient2: steps worked out by hand, and a dependency that is simulated."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability.gradient import Gradient2


def gradient(**given: Any) -> Gradient2:
    """A limit of 100 that moves at once, so that a step can be followed."""
    values: dict[str, Any] = {
        "initial": 100, "minimum": 10, "maximum": 1000, "smoothing": 1.0, "queue_size": 4, "long_window": 600,
        "tolerance": 1.5,
    }  # fmt: skip
    return Gradient2(**(values | given))


def settled(usual_seconds: float, **given: Any) -> Gradient2:
    """One that has learnt how long calls usually take, and has its first limit again."""
    limit = gradient(**given)
    for _ in range(11):
        limit.update(usual_seconds, 0.0, 0)
    return limit


def test_it_grows_by_the_queue_while_nothing_takes_longer() -> None:
    limit = settled(0.1)

    limit.update(0.1, 0.0, 100)

    assert limit.limit == 104


def test_calls_may_take_longer_as_far_as_is_tolerated() -> None:
    limit = settled(0.1)

    limit.update(0.14, 0.0, 100)

    assert limit.limit == 104


def test_it_shrinks_by_the_ratio_of_usual_and_now() -> None:
    limit = settled(0.1)

    limit.update(0.2, 0.0, 100)

    usual = 0.1 + (0.2 - 0.1) * 2 / 601
    assert limit.limit == pytest.approx(100 * 1.5 * usual / 0.2 + 4)  # about 79


def test_it_shrinks_by_no_more_than_half_in_one_step() -> None:
    limit = settled(0.1)

    limit.update(50.0, 0.0, 100)

    assert limit.limit == 54


def test_a_step_is_smoothed() -> None:
    limit = settled(0.1, smoothing=0.2)

    limit.update(50.0, 0.0, 100)

    assert limit.limit == pytest.approx(100 * 0.8 + 54 * 0.2)


@pytest.mark.parametrize(("minimum", "maximum", "mean", "expected"), [(60, 200, 50.0, 60), (10, 102, 0.1, 102)])
def test_it_stays_within_its_bounds(minimum: int, maximum: int, mean: float, expected: int) -> None:
    limit = settled(0.1, minimum=minimum, maximum=maximum)

    limit.update(mean, 0.0, 100)

    assert limit.limit == expected


@pytest.mark.parametrize(("most_in_flight", "expected"), [(49, 100), (50, 104)])
def test_it_does_not_grow_while_the_callers_are_the_limit(most_in_flight: int, expected: int) -> None:
    limit = settled(0.1)

    limit.update(0.1, 0.0, most_in_flight)

    assert limit.limit == expected


def test_it_does_not_shrink_for_slow_calls_while_the_callers_are_the_limit() -> None:
    limit = settled(0.1)

    limit.update(50.0, 0.0, 49)

    assert limit.limit == 100


@pytest.mark.parametrize(
    ("failed", "most_in_flight", "expected"),
    [(0.1, 100, 100 * 0.9 + 4 * 0.9), (0.1, 10, 100 * 0.9), (1.0, 100, 50), (1.0, 10, 50)],
)
def test_failed_calls_shrink_it_by_their_share(failed: float, most_in_flight: int, expected: float) -> None:
    limit = settled(0.1)

    limit.update(0.1, failed, most_in_flight)

    assert limit.limit == pytest.approx(expected)


def test_a_window_in_which_every_call_failed_says_nothing_about_time() -> None:
    limit = settled(0.1)

    limit.update(None, 1.0, 100)

    assert limit.limit == 50
    assert limit.usual_seconds == pytest.approx(0.1)


def test_the_first_windows_make_a_plain_mean() -> None:
    limit = gradient()

    for mean in (0.1, 0.2, 0.3):
        limit.update(mean, 0.0, 0)

    assert limit.usual_seconds == pytest.approx(0.2)


def test_nothing_is_usual_before_the_first_window() -> None:
    assert gradient().usual_seconds == 0


def test_the_plain_mean_is_that_of_the_first_ten_windows() -> None:
    limit = gradient(long_window=99)

    for mean in (*[0.1] * 9, 0.2):
        limit.update(mean, 0.0, 0)

    assert limit.usual_seconds == pytest.approx(0.11)


def test_later_windows_move_the_mean_by_the_weight_of_the_long_window() -> None:
    limit = settled(0.1, long_window=99)

    limit.update(0.15, 0.0, 0)

    assert limit.usual_seconds == pytest.approx(0.1 + 0.05 * 2 / 100)


def test_what_is_usual_comes_down_faster_after_a_long_overload() -> None:
    limit = settled(0.4, long_window=99)

    limit.update(0.1, 0.0, 100)

    assert limit.usual_seconds == pytest.approx((0.4 - 0.3 * 2 / 100) * 0.95)
    assert limit.limit == 104


def test_what_is_usual_does_not_come_down_faster_for_calls_half_as_long() -> None:
    limit = gradient()

    limit.update(3.0, 0.0, 100)
    limit.update(1.0, 0.0, 100)

    assert limit.usual_seconds == 2.0  # the mean of both, twice what is now and not more than twice


def test_calls_that_take_no_time_are_not_slow() -> None:
    limit = settled(0.0)

    limit.update(0.0, 0.0, 100)

    assert limit.limit == 104


@given(
    windows=st.lists(
        st.tuples(st.none() | st.floats(0, 1000), st.floats(0, 1), st.integers(0, 1000)), min_size=1, max_size=50
    ),
    smoothing=st.floats(0.01, 1),
)
def test_whatever_is_seen_it_stays_within_its_bounds_and_never_grows_without_need(
    windows: list[tuple[float | None, float, int]], smoothing: float
) -> None:
    limit = gradient(smoothing=smoothing)

    for mean, failed, most_in_flight in windows:
        before = limit.limit
        limit.update(mean, failed, most_in_flight)

        assert 10 <= limit.limit <= 1000
        assert limit.limit <= before + 4
        if most_in_flight < before / 2:
            assert limit.limit <= before * (1 + 1e-12)


class Limit(Protocol):
    """What the simulation asks."""

    limit: float

    def update(self, mean_seconds: float | None, failed: float, most_in_flight: int) -> None: ...


class Fixed:
    """A limit that somebody guessed."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def update(self, mean_seconds: float | None, failed: float, most_in_flight: int) -> None:
        """Stay."""


class Aimd(Fixed):
    """Adds one after a good window, takes a tenth away after a bad one: Netflix's AIMDLimit, window by window."""

    def update(self, mean_seconds: float | None, failed: float, most_in_flight: int) -> None:  # noqa: ARG002  # not asked
        if failed:
            self.limit *= 0.9
        elif most_in_flight >= self.limit / 2:
            self.limit += 1
        self.limit = max(5.0, min(200.0, self.limit))


Course = Callable[[float], float]


class Simulation:
    """A dependency of some servers with 20 ms of work per call, and callers who do not wait for each other.

    Attributes:
        durations: When each call ended that was in time, and how long it took.
        late: How many took longer than half a second, which is a failure.
        limits: When the limit moved, and where to.
    """

    def __init__(self, limit: Limit, servers: Course, calls_per_second: Course, seconds: float) -> None:
        self.durations: list[tuple[float, float]] = []
        self.late = 0
        self.limits: list[tuple[float, float]] = []
        self._limit, self._servers, self._rate = limit, servers, calls_per_second
        self._chance = random.Random(1)
        self._events: list[tuple[float, int, float | None]] = [(0.0, 0, None)]
        self._number = self._busy = self._in_flight = self._most = self._failures = 0
        self._queue: list[float] = []
        self._seen: list[float] = []
        self._window_ends = 1.0
        while (event := heapq.heappop(self._events))[0] < seconds:
            now, _, began = event
            if began is None:
                self._arrive(now)
            else:
                self._end(now, began)
            while self._queue and self._busy < self._servers(now):
                self._busy += 1
                self._plan(now + self._chance.expovariate(50), self._queue.pop(0))

    def _plan(self, at: float, began: float | None) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, began))

    def _arrive(self, now: float) -> None:
        self._plan(now + self._chance.expovariate(self._rate(now)), None)
        results = len(self._seen) + self._failures
        if now >= self._window_ends and results >= 10:
            mean = sum(self._seen) / len(self._seen) if self._seen else None
            self._limit.update(mean, self._failures / results, self._most)
            self.limits.append((now, self._limit.limit))
            self._window_ends, self._seen, self._failures, self._most = now + 1.0, [], 0, self._in_flight
        if self._in_flight < int(self._limit.limit):
            self._in_flight += 1
            self._most = max(self._most, self._in_flight)
            self._queue.append(now)

    def _end(self, now: float, began: float) -> None:
        self._busy -= 1
        self._in_flight -= 1
        if now - began > 0.5:
            self.late += 1
            self._failures += 1
        else:
            self._seen.append(now - began)
            self.durations.append((now, now - began))

    def between(self, start: float, end: float) -> tuple[float, float, float]:
        """Return calls per second in time, their median duration, and the highest limit."""
        durations = sorted(duration for at, duration in self.durations if start <= at < end)
        highest = max((limit for at, limit in self.limits if start <= at < end), default=0.0)
        return len(durations) / (end - start), durations[len(durations) // 2], highest


def found() -> Gradient2:
    """The policy's own defaults."""
    return Gradient2(initial=20, minimum=5, maximum=200, smoothing=0.2, queue_size=4, long_window=600, tolerance=1.5)


def overload(now: float) -> float:
    """Five eighths of what 16 servers bear, and after a minute twice as much as they bear."""
    return 500 if now < 60 else 1600


def halved(now: float) -> float:
    """Sixteen servers, half of which are away in the second minute."""
    return 8 if 60 <= now < 120 else 16


def test_under_twice_the_load_all_that_is_possible_is_done_and_none_of_it_late() -> None:
    simulation = Simulation(found(), lambda _: 16, overload, 180)

    rate, median, highest = simulation.between(60, 180)

    assert rate == pytest.approx(800, rel=0.02)  # 16 servers, 20 ms
    assert median < 0.06
    assert 16 <= highest < 60
    assert simulation.late == 0


def test_aimd_and_a_guess_let_the_queue_grow_until_calls_are_late() -> None:
    aimd = Simulation(Aimd(20), lambda _: 16, overload, 180).between(60, 180)
    guess = Simulation(Fixed(200), lambda _: 16, overload, 180).between(60, 180)

    assert (aimd[0], guess[0]) == pytest.approx((800, 800), rel=0.02)
    assert aimd[1] > 0.1
    assert guess[1] > 0.2


def test_it_follows_a_dependency_that_loses_half_of_itself_and_gets_it_back() -> None:
    simulation = Simulation(found(), halved, lambda _: 700, 180)

    halved_rate, halved_median, _ = simulation.between(60, 120)
    whole_rate, whole_median, _ = simulation.between(130, 180)

    assert halved_rate == pytest.approx(400, rel=0.03)
    assert halved_median < 0.1
    assert whole_rate == pytest.approx(700, rel=0.03)
    assert whole_median < 0.03
    assert simulation.late == 0


def test_a_guess_that_was_right_does_most_of_its_work_in_vain_when_half_is_lost() -> None:
    simulation = Simulation(Fixed(200), halved, lambda _: 700, 180)

    rate, _, _ = simulation.between(65, 120)

    assert rate < 300  # of 400
    assert simulation.late > 5_000
