"""Many threads through one pipeline: no call is lost, none is counted twice."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from app.stability.breaker import CircuitBreaker
from app.stability.breaker_options import CircuitBreakerOptions
from app.stability.breaker_states import State
from app.stability.errors import CallNotPermittedError
from app.stability.figures import Figure
from app.stability.outcome import Classification
from app.stability.pipeline import Pipeline

THREADS = 8
OPTIONS = CircuitBreakerOptions(
    failure_rate_threshold=0.5,
    minimum_number_of_calls=10,
    sliding_window_size=20,
    wait_duration_in_open_state_seconds=0.0005,
    permitted_calls_in_half_open_state=5,
)


class DownError(Exception):
    """A failure."""


class AbsentError(Exception):
    """Says nothing about the dependency."""


def answer(number: int) -> int:
    """Fail in runs that open the breaker, be ignored now and then, else succeed."""
    if number % 16 == 5:
        raise AbsentError
    if number // 32 % 64 == 0:
        raise DownError
    if number % 997 == 0:
        raise KeyboardInterrupt
    return number


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let threads take turns fifty times as often, so that they meet in the middle of things."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(before)


def answer_one_in_three_with_failure(number: int) -> int:
    """Fail often, and never often enough to open."""
    if number % 3 == 0:
        raise DownError
    return number


def hammer(pipeline: Pipeline, calls: int, function: Callable[[int], int] = answer) -> Counter[str]:
    """Send so many calls from :data:`THREADS` threads at once and return what their callers saw."""
    together = threading.Barrier(THREADS)
    counted: list[Counter[str]] = []

    def send(first: int) -> None:
        seen = Counter({"returned": 0, "failed": 0, "ignored": 0, "interrupted": 0, "refused": 0})
        call = pipeline.call
        together.wait()
        for number in range(first, first + calls // THREADS):
            try:
                assert call(function, number) == number
                seen["returned"] += 1
            except CallNotPermittedError:
                seen["refused"] += 1
            except DownError:
                seen["failed"] += 1
            except AbsentError:
                seen["ignored"] += 1
            except KeyboardInterrupt:
                seen["interrupted"] += 1
        counted.append(seen)

    threads = [threading.Thread(target=send, args=(1_000_003 * index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counted[1:], start=counted[0])


@pytest.mark.usefixtures("frequent_switches")
def test_each_of_a_million_calls_of_many_threads_is_counted_exactly_once() -> None:
    calls = 1_000_000
    breaker = CircuitBreaker("hammer", OPTIONS, classification=Classification(ignored=(AbsentError,)))

    seen = hammer(Pipeline("hammer", [breaker]), calls)

    kinds = {
        figure.labels["kind"]: figure.value
        for figure in breaker.figures()
        if isinstance(figure, Figure) and figure.metric == "circuit_breaker_calls"
    }
    assert seen.total() == calls
    assert kinds["not_permitted"] == seen["refused"]
    assert kinds["ignored"] == seen["ignored"]
    assert kinds["successful"] + kinds["failed"] + kinds["late"] == seen["returned"] + seen["failed"]
    assert kinds["successful"] <= seen["returned"]
    assert kinds["failed"] <= seen["failed"]
    assert sum(kinds.values()) + seen["interrupted"] == calls
    assert min(seen.values()) > 0, "the hammer has missed a kind of call"


@pytest.mark.usefixtures("frequent_switches")
def test_a_breaker_that_was_hammered_has_all_its_places_back() -> None:
    patient = dataclasses.replace(OPTIONS, max_wait_duration_in_half_open_state_seconds=60.0)  # for the calls below
    breaker = CircuitBreaker("hammer", patient, classification=Classification(ignored=(AbsentError,)))
    pipeline = Pipeline("hammer", [breaker])

    hammer(pipeline, 40_000)
    breaker.transition_to(State.OPEN)
    breaker.transition_to(State.HALF_OPEN)
    results = [pipeline.call(answer, 100) for _ in range(OPTIONS.permitted_calls_in_half_open_state)]

    assert results == [100] * OPTIONS.permitted_calls_in_half_open_state
    assert breaker.state is State.CLOSED
    assert breaker._machine.visit.running == {}


@pytest.mark.usefixtures("frequent_switches")
def test_a_window_that_was_hammered_forgets_every_failure_in_the_end() -> None:
    options = CircuitBreakerOptions(failure_rate_threshold=1, sliding_window_size=50, minimum_number_of_calls=50)
    breaker = CircuitBreaker("hammer", options)
    pipeline = Pipeline("hammer", [breaker])

    seen = hammer(pipeline, 200_000, answer_one_in_three_with_failure)
    for number in range(options.sliding_window_size):
        pipeline.call(answer_one_in_three_with_failure, 3 * number + 1)
    window = breaker._machine.visit.window

    assert seen["refused"] == 0
    assert window is not None
    assert (window.results, window.failures, window.slow) == (50, 0, 0)
