"""One deadline per request: what every layer below may still take."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from app.stability import (
    Deadline,
    DeadlineExceededError,
    SystemClock,
    current_deadline,
    deadline_scope,
    remaining_seconds,
)
from tests.fakes.clocks import HandClock


@pytest.fixture
def clock() -> Iterator[HandClock]:
    yield HandClock()
    assert current_deadline() is None, "a deadline outlived its scope"


def test_the_rest_of_a_deadline_shrinks_with_time_and_goes_below_zero(clock: HandClock) -> None:
    deadline = Deadline(10.0, clock)

    clock.advance(4)
    after_four = deadline.remaining_seconds()
    clock.advance(7)

    assert after_four == 6.0
    assert deadline.remaining_seconds() == -1.0


def test_a_deadline_is_over_at_its_instant_and_not_before(clock: HandClock) -> None:
    deadline = Deadline(10.0, clock)

    clock.advance(9.5)
    deadline.check()
    clock.advance(0.5)

    with pytest.raises(DeadlineExceededError):
        deadline.check()


def test_without_a_deadline_a_layer_takes_its_own_cap() -> None:
    assert current_deadline() is None
    assert remaining_seconds(60.0) == 60.0


def test_a_layer_takes_the_smaller_of_its_cap_and_the_rest(clock: HandClock) -> None:
    with deadline_scope(Deadline(10.0, clock)):
        early = (remaining_seconds(60.0), remaining_seconds(3.0))
        clock.advance(8)
        late = (remaining_seconds(60.0), remaining_seconds(3.0))

    assert early == (10.0, 3.0)
    assert late == (2.0, 2.0)


def test_a_layer_does_not_start_when_no_time_is_left(clock: HandClock) -> None:
    with deadline_scope(Deadline(10.0, clock)):
        clock.advance(10)

        with pytest.raises(DeadlineExceededError):
            remaining_seconds(60.0)


def test_the_outer_deadline_returns_after_an_inner_one_also_when_it_fails(clock: HandClock) -> None:
    outer = Deadline(10.0, clock)

    with deadline_scope(outer):
        with pytest.raises(ValueError, match="inside"), deadline_scope(Deadline(1.0, clock)):
            raise ValueError("inside")
        after = current_deadline()

    assert after is outer


def test_a_deadline_is_seen_by_its_own_thread_only(clock: HandClock) -> None:
    seen: list[Deadline | None] = []

    with deadline_scope(Deadline(10.0, clock)):
        other = threading.Thread(target=lambda: seen.append(current_deadline()))
        other.start()
        other.join()

    assert seen == [None]


def test_a_passed_deadline_is_a_timeout_to_whoever_knows_no_better() -> None:
    assert issubclass(DeadlineExceededError, TimeoutError)


def test_the_system_clock_never_goes_back() -> None:
    clock = SystemClock()

    times = [clock.monotonic() for _ in range(1000)]

    assert times == sorted(times)
