"""Sliding windows against naive lists, and what they cost."""

from __future__ import annotations

import dis
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability import windows
from app.stability.windows import CountWindow, TimeWindow, Window

RESULTS = st.tuples(st.booleans(), st.booleans())


def totals(window: Window) -> tuple[int, int, int]:
    return window.results, window.failures, window.slow


def lines_run(function: Callable[[], Any]) -> int:
    """Return how many lines of the module a call runs: its work, whatever the machine."""
    lines = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        lines += event == "line" and frame.f_code.co_filename == windows.__file__
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return lines


@given(st.integers(1, 12), st.lists(RESULTS, max_size=60))
def test_a_count_window_holds_the_last_results_as_a_list_would(size: int, results: list[tuple[bool, bool]]) -> None:
    window = CountWindow(size)
    naive: deque[tuple[bool, bool]] = deque(maxlen=size)

    for failed, slow in results:
        window.record(0.0, failed, slow)
        naive.append((failed, slow))

        assert totals(window) == (len(naive), sum(f for f, _ in naive), sum(s for _, s in naive))
        assert window.calm == (len(naive) == size and not any(f or s for f, s in naive))


def test_time_changes_nothing_in_a_count_window() -> None:
    window = CountWindow(3)
    window.record(0.0, True, False)

    window.advance(1e9)

    assert totals(window) == (1, 1, 0)


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.floats(0, 20), st.booleans(), st.booleans()), max_size=60),
)
def test_a_time_window_holds_each_result_to_a_bucket_exactly(
    seconds: int, steps: list[tuple[float, bool, bool]]
) -> None:
    window = TimeWindow(seconds)
    bucket = min(1.0, seconds / 10)
    now, made = 1000.0, list[tuple[float, bool, bool]]()

    for pause, failed, slow in steps:
        now += pause
        window.record(now, failed, slow)
        made.append((now, failed, slow))

        surely = [one for one in made if now - one[0] < seconds - bucket - 1e-6]
        perhaps = [one for one in made if now - one[0] <= seconds + 1e-6]
        for place, count in enumerate(totals(window)):
            least, most = (sum(1 if place == 0 else one[place] for one in held) for held in (surely, perhaps))
            assert least <= count <= most
        assert window.failures <= window.results
        assert window.slow <= window.results


def test_a_time_window_is_never_calm_because_its_results_leave_by_themselves() -> None:
    window = TimeWindow(10)

    window.record(0.0, False, False)

    assert window.calm is False


def test_results_leave_a_time_window_without_a_new_one() -> None:
    window = TimeWindow(10)
    window.record(0.0, True, True)
    window.record(5.0, True, False)

    held = []
    for now in (9.9, 10.0, 14.9, 15.0):
        window.advance(now)
        held.append(totals(window))

    assert held == [(2, 2, 1), (1, 1, 0), (1, 1, 0), (0, 0, 0)]


def test_a_window_of_two_seconds_is_finer_than_two_buckets() -> None:
    window = TimeWindow(2)
    for tenth in range(20):
        window.record(tenth / 10 + 0.05, True, False)

    held = []
    for now in (2.01, 2.21, 2.41, 3.01):
        window.advance(now)
        held.append(window.results)

    assert held == [18, 16, 14, 8], "two results leave each fifth of a second"


@pytest.mark.parametrize("seconds", [60, 3600])
def test_buckets_of_a_long_window_are_a_second(seconds: int) -> None:
    window = TimeWindow(seconds)
    window.record(0.5, True, False)
    window.record(1.5, True, False)

    window.advance(seconds + 0.5)

    assert window.results == 1


def test_a_result_of_the_past_counts_with_the_newest() -> None:
    window = TimeWindow(10)
    window.record(100.0, False, False)
    window.record(95.0, True, False)

    window.advance(109.0)

    assert totals(window) == (2, 1, 0)


@pytest.mark.parametrize("make", [CountWindow, TimeWindow])
def test_recording_is_the_same_work_whatever_the_length(make: Callable[[int], Window]) -> None:
    work = []
    for size in (100, 10_000):
        window = make(size)
        for now in range(2 * size):
            window.record(float(now), now % 2 == 0, now % 3 == 0)
        work.append(lines_run(partial(window.record, 2.0 * size, True, True)))

    assert work[0] == work[1]


def test_a_long_rest_costs_a_time_window_no_more_than_what_it_holds() -> None:
    both = [TimeWindow(1_000_000) for _ in range(2)]
    for window in both:
        window.record(0.0, True, False)

    work = [lines_run(partial(w.advance, t)) for w, t in zip(both, (1e6 + 1, 1e9), strict=True)]

    assert work[0] == work[1] < 20


def test_a_time_window_keeps_no_more_buckets_than_its_length() -> None:
    window = TimeWindow(10)

    for now in range(1000):
        window.record(float(now), False, False)

    assert len(window._buckets) == 10


def test_a_count_window_stays_one_byte_per_result() -> None:
    window = CountWindow(1000)
    ring = window._ring

    for _ in range(5000):
        window.record(0.0, True, True)

    assert window._ring is ring
    assert len(ring) == 1000


@pytest.mark.parametrize("now", [1e308, -1e308])
def test_a_time_window_takes_in_what_comes_at_an_instant_too_far_to_count(now: float) -> None:
    window = TimeWindow(1.0)

    window.record(now, True, False)
    window.record(now, False, True)

    assert totals(window) == (2, 1, 1)


def changes_together(function: Callable[..., Any]) -> list[str]:
    """Return the instructions of a method, but for its beginning, at which a signal or a fork can come in."""
    names = [instruction.opname for instruction in dis.get_instructions(function)]
    return [name for name in names if name.startswith(("CALL", "JUMP_BACKWARD")) and "INTRINSIC" not in name]


def test_nothing_can_come_in_while_a_count_window_takes_in_a_result() -> None:
    assert changes_together(CountWindow.record) == []
