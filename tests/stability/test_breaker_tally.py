"""What a breaker counts, and how the counts leave it."""

from __future__ import annotations

import threading

import pytest

from app.stability.breaker_tally import BOUNDS_SECONDS, KINDS, LockFreeCounter, Tally
from app.stability.figures import Distribution, Figure
from tests.fakes.breakers import Rig


def test_looking_at_a_counter_counts_nothing() -> None:
    counter = LockFreeCounter()
    counter.add()

    looks = [counter.read() for _ in range(3)]
    counter.add()

    assert [*looks, counter.read()] == [1, 1, 1, 2]


def test_a_counter_loses_no_count_of_many_threads() -> None:
    counter = LockFreeCounter()
    together = threading.Barrier(8)

    def count() -> None:
        together.wait()
        for _ in range(5000):
            counter.add()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    looks = [counter.read() for _ in range(50)]
    for thread in threads:
        thread.join()

    assert counter.read() == 40_000
    assert looks == sorted(looks)


def test_a_tally_begins_with_nothing_of_each_kind() -> None:
    assert Tally("storage").counts() == dict.fromkeys(KINDS, 0)


def test_every_kind_is_a_series_of_its_own() -> None:
    tally = Tally("storage")
    tally.successful[0], tally.failed[3], tally.ignored, tally.late = 5, 4, 3, 2
    tally.not_permitted.add()

    figures = [figure for figure in tally.figures() if isinstance(figure, Figure)]

    assert {figure.metric for figure in figures} == {"circuit_breaker_calls"}
    assert {figure.kind for figure in figures} == {"counter"}
    assert {figure.labels["kind"]: figure.value for figure in figures} == {
        "successful": 5,
        "failed": 4,
        "ignored": 3,
        "late": 2,
        "not_permitted": 1,
    }
    assert {figure.labels["name"] for figure in figures} == {"storage"}


def test_durations_are_told_for_successes_and_failures() -> None:
    rig = Rig()
    rig.succeed(2, seconds=0.3)
    rig.fail(seconds=4)

    durations = {
        figure.labels["kind"]: figure for figure in rig.breaker.figures() if isinstance(figure, Distribution)
    }

    assert set(durations) == {"successful", "failed"}
    assert durations["successful"].metric == "circuit_breaker_call_duration_seconds"
    assert durations["successful"].sum_seconds == pytest.approx(0.6)
    assert durations["failed"].sum_seconds == pytest.approx(4)
    assert [sum(one.counts) for one in durations.values()] == [2, 1]
    assert all(len(one.counts) == len(one.bounds) + 1 for one in durations.values())


@pytest.mark.parametrize("index", range(len(BOUNDS_SECONDS)))
def test_a_duration_as_long_as_a_bound_is_in_its_bucket(index: int) -> None:
    rig = Rig()
    rig.clock._monotonic = 0.0  # so that no rounding comes in

    rig.succeed(seconds=BOUNDS_SECONDS[index])

    (durations, _) = [figure for figure in rig.breaker.figures() if isinstance(figure, Distribution)]
    assert durations.counts.index(1) == index


def test_what_takes_longer_than_every_bound_is_in_the_last_bucket() -> None:
    rig = Rig()

    rig.succeed(seconds=BOUNDS_SECONDS[-1] + 1)

    (durations, _) = [figure for figure in rig.breaker.figures() if isinstance(figure, Distribution)]
    assert durations.counts[-1] == 1
