"""Calls that wait for a place: how long, who gives up, who is refused early, and that no place is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.stability import bulkhead as module
from app.stability.bulkhead import CODEL, DEADLINE, WAIT_TIMEOUT, Bulkhead
from app.stability.deadline import Deadline, deadline_scope
from app.stability.pipeline import Pipeline
from tests.fakes.callers import BrokenClock, Caller, bulkhead_of, enter, refusal, shed, until
from tests.fakes.clocks import HandClock

# --- Giving up ------------------------------------------------------------------------------------------------------


class Wake:
    """Stands for the lock that a waiter waits on: what happens meanwhile is written down beforehand."""

    def __init__(self, meanwhile: Callable[[], bool]) -> None:
        self.meanwhile = meanwhile
        self.timeouts: list[float] = []

    def acquire(self, timeout: float) -> bool:
        self.timeouts.append(timeout)
        return self.meanwhile()

    def release(self) -> None:
        """Nobody waits."""


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], bool]], Wake]:
    """Say what happens while the next calls wait, in this very thread."""
    original = module._Waiter

    def install(happens: Callable[[], bool]) -> Wake:
        wake = Wake(happens)

        def make() -> module._Waiter:
            waiter = original()
            waiter.wake = wake  # type: ignore[assignment]  # what the bulkhead asks of a lock, it does
            return waiter

        monkeypatch.setattr(module, "_Waiter", make)
        return wake

    return install


Meanwhile = Callable[[Callable[[], bool]], Wake]


def test_a_call_waits_for_its_longest_wait(meanwhile: Meanwhile) -> None:
    bulkhead = bulkhead_of(1, max_wait_duration_seconds=7.0)
    bulkhead.try_acquire()
    wake = meanwhile(lambda: False)

    error = refusal(bulkhead)

    assert wake.timeouts == [7.0]
    assert error.reason == WAIT_TIMEOUT
    assert (bulkhead.in_use, bulkhead.queue_size) == (1, 0)


@pytest.mark.parametrize(("left", "reason", "waited"), [(5.0, DEADLINE, 5.0), (7.0, WAIT_TIMEOUT, 7.0)])
def test_a_sooner_deadline_is_as_far_as_a_call_waits(
    meanwhile: Meanwhile, left: float, reason: str, waited: float
) -> None:
    clock = HandClock()
    bulkhead = bulkhead_of(1, clock=clock, max_wait_duration_seconds=7.0)
    bulkhead.try_acquire()
    wake = meanwhile(lambda: False)

    with deadline_scope(Deadline(left, clock)):
        error = refusal(bulkhead)

    assert wake.timeouts == [waited]
    assert error.reason == reason


def test_a_place_handed_over_as_a_call_gives_up_is_used(meanwhile: Meanwhile) -> None:
    bulkhead = bulkhead_of(1)
    bulkhead.try_acquire()

    def too_late() -> bool:
        bulkhead.release()
        return False

    meanwhile(too_late)

    result = Pipeline("storage", [bulkhead]).call(lambda: bulkhead.in_use)

    assert result == 1
    assert (bulkhead.in_use, bulkhead.queue_size, shed(bulkhead)) == (0, 0, {})


def test_a_place_that_nobody_could_hand_over_is_found_by_the_call_that_gives_up(meanwhile: Meanwhile) -> None:
    bulkhead = bulkhead_of(1)
    bulkhead.try_acquire()

    def interrupted_release() -> bool:
        bulkhead._places.append(None)
        return False

    meanwhile(interrupted_release)

    result = Pipeline("storage", [bulkhead]).call(lambda: bulkhead.in_use)

    assert result == 1
    assert (bulkhead.in_use, bulkhead.queue_size) == (0, 0)


def test_an_interrupted_wait_leaves_the_queue(meanwhile: Meanwhile) -> None:
    bulkhead = bulkhead_of(1)
    bulkhead.try_acquire()

    def interrupt() -> bool:
        raise KeyboardInterrupt

    meanwhile(interrupt)

    with pytest.raises(KeyboardInterrupt):
        Pipeline("storage", [bulkhead]).call(int)

    assert (bulkhead.in_use, bulkhead.queue_size) == (1, 0)
    bulkhead.release()
    assert bulkhead.in_use == 0


def test_a_place_handed_over_as_a_wait_is_interrupted_goes_to_the_next_one(meanwhile: Meanwhile) -> None:
    bulkhead = bulkhead_of(1)
    bulkhead.try_acquire()
    behind: list[Caller] = []

    def interrupt() -> bool:
        bulkhead.release()
        behind.append(enter(bulkhead))
        assert bulkhead.queue_size == 1
        raise KeyboardInterrupt

    original = module._Waiter
    meanwhile(interrupt)
    mine = module._Waiter()
    waiters = iter([mine])
    module._Waiter = lambda: next(waiters, None) or original()  # type: ignore[assignment, misc]  # undone by the fixture

    with pytest.raises(KeyboardInterrupt):
        Pipeline("storage", [bulkhead]).call(int)

    until(lambda: behind[0].is_inside)
    behind[0].leave()
    assert (bulkhead.in_use, bulkhead.queue_size) == (0, 0)


def test_an_interrupt_before_a_place_was_looked_for_takes_none() -> None:
    class Interrupting(HandClock):
        def monotonic(self) -> float:
            raise KeyboardInterrupt

    bulkhead = bulkhead_of(1, clock=Interrupting())
    bulkhead.try_acquire()

    with pytest.raises(KeyboardInterrupt):
        Pipeline("storage", [bulkhead]).call(int)

    assert (bulkhead.in_use, bulkhead.queue_size) == (1, 0)


def test_a_place_that_came_free_after_the_first_look_is_taken_without_waiting(meanwhile: Meanwhile) -> None:
    class Freeing(HandClock):
        def monotonic(self) -> float:
            bulkhead._places.append(None)
            return super().monotonic()

    bulkhead = bulkhead_of(1, clock=Freeing(), max_queue_length=0)
    bulkhead.try_acquire()
    wake = meanwhile(lambda: False)

    result = Pipeline("storage", [bulkhead]).call(lambda: "inside")

    assert (result, wake.timeouts) == ("inside", [])


def test_a_place_that_another_thread_was_faster_to_take_is_waited_for(meanwhile: Meanwhile) -> None:
    class Hurried(list[None]):
        """Has a place when it is looked at, and none when it is taken."""

        looks = 0

        def __bool__(self) -> bool:
            self.looks += 1
            return self.looks == 1

    bulkhead = bulkhead_of(1)
    bulkhead._places = places = Hurried()
    meanwhile(lambda: False)

    error = refusal(bulkhead)

    assert error.reason == WAIT_TIMEOUT
    assert places.looks > 1
    assert bulkhead.queue_size == 0


def test_a_deadline_whose_clock_raises_does_not_count(meanwhile: Meanwhile, caplog: pytest.LogCaptureFixture) -> None:
    clock = BrokenClock(0.0)
    bulkhead = bulkhead_of(1, max_wait_duration_seconds=3.0)
    bulkhead.try_acquire()
    wake = meanwhile(lambda: False)

    with deadline_scope(Deadline(1.0, clock)):
        clock.reading = None
        error = refusal(bulkhead)

    assert (error.reason, wake.timeouts) == (WAIT_TIMEOUT, [3.0])
    assert {vars(record)["policy"] for record in caplog.records} == {"storage"}


# --- Refused early --------------------------------------------------------------------------------------------------


def moving_queue(clock: HandClock, **options: Any) -> tuple[Bulkhead, list[Caller]]:
    """Return a bulkhead of one place, with one call inside and two waiting, that serves one in two seconds."""
    bulkhead = bulkhead_of(1, clock=clock, queue_discipline="fifo", **options)
    callers = [enter(bulkhead) for _ in range(4)]
    clock.advance(2.0)
    callers[0].leave()
    until(lambda: callers[1].is_inside)
    return bulkhead, callers[1:]


@pytest.mark.parametrize(("left", "reason"), [(5.9, DEADLINE), (6.0, ""), (6.1, "")])
def test_a_call_whose_deadline_comes_before_its_turn_does_not_wait(left: float, reason: str) -> None:
    clock = HandClock()
    bulkhead, callers = moving_queue(clock)

    with deadline_scope(Deadline(left, clock)):
        found = bulkhead._reason_not_to_wait(*bulkhead._longest_wait())

    assert found == reason  # two wait, and one is served in two seconds: the turn of a third one is in six
    for caller in callers:
        caller.leave()


def test_a_refused_call_is_told_when_those_before_it_are_served() -> None:
    clock = HandClock()
    bulkhead, callers = moving_queue(clock, max_queue_length=3)

    with deadline_scope(Deadline(5.0, clock)):
        error = refusal(bulkhead)

    assert (error.reason, error.retry_after_seconds) == (DEADLINE, 6.0)
    for caller in callers:
        caller.leave()


def test_the_pace_of_a_queue_is_a_moving_mean() -> None:
    clock = HandClock()
    bulkhead, callers = moving_queue(clock)

    clock.advance(10.0)
    callers[0].leave()
    until(lambda: callers[1].is_inside)

    assert bulkhead._pace.seconds_for(1) == 3.0  # 2 + (10 - 2) / 8
    for caller in callers:
        caller.leave()


def test_calls_that_leave_at_one_instant_count_as_no_time_in_the_pace() -> None:
    pace = module._Pace()
    pace.begin(1.0)

    pace.served(1.0)
    at_once = pace.seconds_for(3)
    pace.served(1.8)

    assert at_once == 0.0
    assert pace.seconds_for(1) == pytest.approx(0.1)  # 0 + 0.8 / 8


def test_a_time_without_end_is_no_pace() -> None:
    pace = module._Pace()
    pace.begin(1.0)

    pace.served(float("inf"))

    assert pace.seconds_for(1) is None


def test_the_pace_of_bad_times_is_forgotten_with_the_queue(meanwhile: Meanwhile) -> None:
    clock = HandClock()
    bulkhead, callers = moving_queue(clock)
    for caller in callers:
        caller.leave()
    bulkhead.try_acquire()
    wake = meanwhile(lambda: False)

    with deadline_scope(Deadline(0.5, clock)):
        error = refusal(bulkhead)

    assert wake.timeouts == [0.5], "it was refused on the memory of another queue"
    assert error.retry_after_seconds is None


def test_codel_drops_calls_of_a_queue_that_stands() -> None:
    clock = HandClock()
    bulkhead = bulkhead_of(1, clock=clock, codel_target_seconds=0.005, codel_interval_seconds=0.1)
    callers = [enter(bulkhead) for _ in range(5)]

    clock.advance(1.0)
    callers[0].leave()
    until(lambda: callers[1].is_inside)  # waited a second: the interval begins
    clock.advance(0.1)
    callers[1].leave()
    until(lambda: callers[3].is_inside)  # the interval is over: the first one is dropped
    dropped = callers[2]
    until(lambda: dropped.is_done)
    clock.advance(0.1)
    callers[3].leave()
    until(lambda: callers[4].is_inside)  # another one is due, but nobody waits behind it

    assert dropped.refused is not None
    assert (dropped.refused.reason, shed(bulkhead)) == (CODEL, {CODEL: 1})
    assert [caller.refused for caller in callers if caller is not dropped] == [None] * 4
    callers[4].leave()
    assert (bulkhead.in_use, bulkhead.queue_size) == (0, 0)


def test_of_two_that_wait_in_a_queue_that_stands_the_first_is_dropped() -> None:
    clock = HandClock()
    bulkhead = bulkhead_of(1, clock=clock, codel_target_seconds=1.0, codel_interval_seconds=2.0)
    callers = [enter(bulkhead) for _ in range(5)]

    clock.advance(1.5)
    callers[0].leave()
    until(lambda: callers[1].is_inside)  # waited for more than the target: the interval begins
    clock.advance(1.9375)
    callers[1].leave()
    until(lambda: callers[2].is_inside)  # and is not over
    clock.advance(0.0625)
    callers[2].leave()
    until(lambda: callers[4].is_inside)

    callers[4].leave()
    callers[3].leave()

    assert callers[3].refused is not None
    assert shed(bulkhead) == {CODEL: 1}


def test_waits_below_the_target_drop_nobody_though_the_queue_is_never_empty() -> None:
    clock = HandClock()
    bulkhead = bulkhead_of(1, clock=clock, codel_target_seconds=1.0, codel_interval_seconds=2.0)
    callers = [enter(bulkhead) for _ in range(3)]

    for _ in range(8):  # two wait all the time, for 0.8 s each, for 3.2 s in all
        clock.advance(0.4)
        served = callers.pop(0)
        served.leave()
        until(lambda: callers[0].is_inside or callers[0].is_done)
        callers.append(enter(bulkhead))

    assert shed(bulkhead) == {}
    for caller in callers:
        caller.leave()


def test_fifo_drops_nobody() -> None:
    clock = HandClock()
    bulkhead = bulkhead_of(1, clock=clock, queue_discipline="fifo")
    callers = [enter(bulkhead) for _ in range(5)]

    for caller in callers:
        clock.advance(1.0)
        until(lambda caller=caller: caller.is_inside)  # type: ignore[misc]  # bound now, not when it is asked
        caller.leave()

    assert [caller.refused for caller in callers] == [None] * 5
    assert shed(bulkhead) == {}


def test_a_queue_that_was_empty_does_not_stand() -> None:
    clock = HandClock()
    bulkhead = bulkhead_of(1, clock=clock)
    for _ in range(3):
        callers = [enter(bulkhead) for _ in range(3)]
        clock.advance(0.09)  # above the target, and never for an interval
        for caller in callers:
            until(lambda caller=caller: caller.is_inside)  # type: ignore[misc]  # bound now, not when it is asked
            caller.leave()

    assert shed(bulkhead) == {}
