"""What is counted is counted right, whatever the time was."""

from __future__ import annotations

import threading

from benchmarks.stability.timing import THREADS, Effort, blocking, calls_per_second, running_at_once, seconds_per_call

LITTLE = Effort(rounds=2, turns=2, batch_seconds=0.0001, stretches=2, stretch_seconds=0.01, blocked_calls=2)


def test_every_contender_has_a_cost_per_round() -> None:
    costs = seconds_per_call({"a": int, "b": list}, LITTLE)

    assert {name: len(series) for name, series in costs.items()} == {"a": 2, "b": 2}
    assert all(cost > 0 for series in costs.values() for cost in series)


def test_eight_threads_call_and_all_of_them_end() -> None:
    seen: set[int] = set()
    before = set(threading.enumerate())

    rates = calls_per_second({"a": lambda: seen.add(threading.get_ident())}, LITTLE)

    assert all(rate > 0 for rate in rates["a"])
    assert set(threading.enumerate()) <= before  # others of this process may have ended, too


def test_calls_at_once_are_the_time_they_took_by_the_time_that_passed() -> None:
    lock = threading.Lock()
    function, durations = blocking(0.001)

    def one_at_a_time() -> None:
        with lock:
            function()

    found = running_at_once({"a": (one_at_a_time, durations)}, LITTLE)

    assert len(durations) == THREADS * LITTLE.blocked_calls
    assert all(0 < at_once <= 1 for at_once in found["a"])
