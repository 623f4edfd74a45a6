"""One deadline per request: what every layer below may still take."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from app.stability.clock import SystemClock
from app.stability.deadline import (
    Deadline,
    DeadlineExceededError,
    current_deadline,
    deadline_header_value,
    deadline_scope,
    leave_deadline,
    narrow_deadline,
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


def test_a_passed_deadline_says_which_one_it_was(clock: HandClock) -> None:
    deadline = Deadline(10.0, clock)
    clock.advance(10)

    with pytest.raises(DeadlineExceededError) as raised:
        deadline.check()

    assert raised.value.deadline is deadline


def test_an_error_that_somebody_else_raised_names_no_deadline() -> None:
    assert DeadlineExceededError("by hand").deadline is None


def test_a_deadline_is_narrowed_to_a_sooner_one_and_returns(clock: HandClock) -> None:
    outer, inner = Deadline(10.0, clock), Deadline(3.0, clock)

    with deadline_scope(outer):
        token = narrow_deadline(inner)
        during = current_deadline()
        assert token is not None
        leave_deadline(token)
        after = current_deadline()

    assert (during, after) == (inner, outer)


@pytest.mark.parametrize("seconds", [10.0, 10.5, float("inf")])
def test_a_deadline_is_never_extended(clock: HandClock, seconds: float) -> None:
    outer = Deadline(10.0, clock)

    with deadline_scope(outer):
        token = narrow_deadline(Deadline(seconds, clock))

        assert token is None
        assert current_deadline() is outer


def test_where_there_is_no_deadline_every_one_is_sooner(clock: HandClock) -> None:
    deadline = Deadline(10.0, clock)

    token = narrow_deadline(deadline)
    during = current_deadline()
    assert token is not None
    leave_deadline(token)

    assert during is deadline


def test_a_deadline_that_has_passed_cannot_be_narrowed(clock: HandClock) -> None:
    outer = Deadline(10.0, clock)

    with deadline_scope(outer):
        clock.advance(10)

        with pytest.raises(DeadlineExceededError) as raised:
            narrow_deadline(Deadline(1.0, clock))

        assert raised.value.deadline is outer
        assert current_deadline() is outer


@pytest.mark.parametrize(("seconds", "entered"), [(9.0, 1), (10.0, 0), (11.0, 0)])
def test_deadlines_on_two_clocks_are_compared_by_what_remains(clock: HandClock, seconds: float, entered: int) -> None:
    other = HandClock()
    other.advance(500)

    with deadline_scope(Deadline(10.0, clock)):
        token = narrow_deadline(Deadline(seconds, other))
        if token is not None:
            leave_deadline(token)

    assert (token is not None) == entered


def test_a_passed_deadline_on_another_clock_cannot_be_narrowed_either(clock: HandClock) -> None:
    with deadline_scope(Deadline(10.0, clock)):
        clock.advance(10)

        with pytest.raises(DeadlineExceededError):
            narrow_deadline(Deadline(1.0, HandClock()))


def test_time_that_passes_during_the_comparison_extends_nothing() -> None:
    outer_clock = HandClock()

    class Dragging(HandClock):
        def monotonic(self) -> float:
            outer_clock.advance(1)  # each look at this clock takes a second of the other one
            return super().monotonic()

    with deadline_scope(Deadline(10.0, outer_clock)) as outer:
        token = narrow_deadline(Deadline(8.5, Dragging()))

        assert token is None, "8.5 s were entered, and only 8 s were left"
        assert current_deadline() is outer


def test_an_upstream_is_told_the_rest_in_whole_milliseconds_rounded_down(clock: HandClock) -> None:
    with deadline_scope(Deadline(10.0, clock)):
        clock.advance(7.7505)

        assert deadline_header_value() == "2249"


def test_an_upstream_is_asked_as_long_as_a_whole_millisecond_is_left(clock: HandClock) -> None:
    clock.advance(-1000)  # to 0, where a millisecond is one to the last bit
    told = []

    for seconds in (0.001, 0.0015):
        with deadline_scope(Deadline(seconds, clock)):
            told.append(deadline_header_value())

    assert told == ["1", "1"]


def test_an_upstream_is_told_nothing_where_there_is_no_deadline() -> None:
    assert deadline_header_value() is None


def test_an_upstream_is_told_nothing_of_a_deadline_without_an_end(clock: HandClock) -> None:
    with deadline_scope(Deadline(float("inf"), clock)):
        assert deadline_header_value() is None


@pytest.mark.parametrize("seconds", [9.9995, 10.0, 11.0])
def test_an_upstream_is_not_asked_when_less_than_a_millisecond_is_left(clock: HandClock, seconds: float) -> None:
    with deadline_scope(Deadline(10.0, clock)):
        clock.advance(seconds)

        with pytest.raises(DeadlineExceededError):
            deadline_header_value()


@pytest.mark.parametrize("seconds", [float("nan"), True, False], ids=str)
def test_a_deadline_under_which_nothing_would_end_is_refused(clock: HandClock, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"a number of seconds from now, not {seconds}"):
        Deadline(seconds, clock)
