"""One flight: many callers, one call; and what becomes of those who wait when the one who flies does not arrive."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

import pytest

from app.stability.deadline import Deadline, DeadlineExceededError, deadline_scope
from app.stability.single_flight import Flight, SingleFlight, ends_with_caller, fresh_copy
from tests.fakes.clocks import HandClock
from tests.fakes.gates import PATIENCE, Flights
from tests.house.source import ROOT


class Source:
    """A function that returns how often it was called, once it is released."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls = 0
        self.release = threading.Event()
        self.reached = threading.Event()
        self.error = error

    def __call__(self) -> int:
        self.calls += 1
        self.reached.set()
        assert self.release.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return self.calls


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(200) as pool:
        yield pool


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def test_many_callers_make_one_call(pool: ThreadPoolExecutor) -> None:
    flights, source = Flights(), Source()

    futures = [pool.submit(flights.run, "a", source) for _ in range(200)]
    flights.wait_for_boardings(200)
    source.release.set()

    assert [future.result(PATIENCE) for future in futures] == [1] * 200
    assert source.calls == 1


def test_other_keys_are_other_flights(pool: ThreadPoolExecutor) -> None:
    flights, source = Flights(), Source()
    future = pool.submit(flights.run, "a", source)
    flights.wait_for_boardings(1)

    other = flights.run("b", lambda: "b")
    source.release.set()

    assert other == "b"
    assert future.result(PATIENCE) == 1


def test_a_flight_is_over_when_it_has_landed() -> None:
    flights = SingleFlight()

    results = [flights.run("a", partial(int, value)) for value in (1, 2)]

    assert results == [1, 2]


def test_followers_get_copies_of_the_leaders_error_with_that_one_as_cause(pool: ThreadPoolExecutor) -> None:
    error = ConnectionError("down", 7)
    error.add_note("a note")
    flights, source = Flights(), Source(error)

    futures = [pool.submit(flights.run, "a", source) for _ in range(3)]
    flights.wait_for_boardings(3)
    source.release.set()
    raised = [future.exception(PATIENCE) for future in futures]

    assert source.calls == 1
    assert len({id(one) for one in raised}) == 3
    followers = [one for one in raised if one is not error]
    assert len(followers) == 2
    for one in followers:
        assert isinstance(one, ConnectionError)
        assert one.args == ("down", 7)
        assert one.__cause__ is error
        one.add_note("of one follower")
    assert error.__notes__ == ["a note"]


class TwoArgumentsError(Exception):
    """Can be made, and not copied."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one + two)


def test_followers_share_an_error_that_cannot_be_copied(pool: ThreadPoolExecutor) -> None:
    error = TwoArgumentsError(1, 2)
    flights, source = Flights(), Source(error)

    futures = [pool.submit(flights.run, "a", source) for _ in range(3)]
    flights.wait_for_boardings(3)
    source.release.set()

    assert [future.exception(PATIENCE) for future in futures] == [error] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_a_follower_takes_over_from_a_leader_that_was_interrupted(
    pool: ThreadPoolExecutor, error: BaseException
) -> None:
    flights, source = Flights(), Source(error)
    leader = pool.submit(flights.run, "a", source)
    flights.wait_for_boardings(1)

    followers = [pool.submit(flights.run, "a", lambda: "taken over") for _ in range(3)]
    flights.wait_for_boardings(3)
    source.release.set()

    assert leader.exception(PATIENCE) is error
    assert [follower.result(PATIENCE) for follower in followers] == ["taken over"] * 3


def test_a_follower_takes_over_from_a_leader_whose_own_time_is_over(pool: ThreadPoolExecutor) -> None:
    flights, source, clock = Flights(), Source(TimeoutError("of the client")), HandClock()

    def lead() -> None:
        with deadline_scope(Deadline(1.0, clock)):
            flights.run("a", source)

    leader = pool.submit(lead)
    flights.wait_for_boardings(1)
    follower = pool.submit(flights.run, "a", lambda: "taken over")
    flights.wait_for_boardings(1)
    clock.advance(1.0)
    source.release.set()

    assert isinstance(leader.exception(PATIENCE), TimeoutError)
    assert follower.result(PATIENCE) == "taken over"


def test_a_follower_takes_over_from_a_leader_that_was_refused_for_its_own_lack_of_time(
    pool: ThreadPoolExecutor,
) -> None:
    flights, source, clock = Flights(), Source(DeadlineExceededError()), HandClock()

    def lead() -> None:
        with deadline_scope(Deadline(1.0, clock)):  # not over yet, and too short for the call
            flights.run("a", source)

    leader = pool.submit(lead)
    flights.wait_for_boardings(1)
    follower = pool.submit(flights.run, "a", lambda: "taken over")
    flights.wait_for_boardings(1)
    source.release.set()

    assert leader.exception(PATIENCE) is source.error
    assert follower.result(PATIENCE) == "taken over"


class EndlessFlight(Flight):
    """Is not waited for in truth: remembers how long it was to be."""

    waits: ClassVar[list[float]] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return False


@pytest.mark.parametrize(
    ("left_seconds", "waited", "gives_up"),
    [(-1.0, 0.0, True), (0.5, 0.5, True), (30.0, 30.0, True), (60.0, 30.0, False)],
)
def test_a_follower_waits_for_what_is_left_of_its_time_and_then_gives_up(
    monkeypatch: pytest.MonkeyPatch,
    left_seconds: float,
    waited: float,
    gives_up: bool,
) -> None:
    monkeypatch.setattr(EndlessFlight, "waits", [])
    flights, flight, clock = SingleFlight(30.0), EndlessFlight("a"), HandClock()
    raised = False

    with deadline_scope(Deadline(100.0, clock)):
        clock.advance(100.0 - left_seconds)
        try:
            has_answer = flights.follow(flight)
        except DeadlineExceededError:
            raised = True
        else:
            assert not has_answer

    assert flight.waits == [waited]
    assert raised is gives_up


def test_a_leader_that_hangs_holds_no_follower_beyond_its_own_deadline(pool: ThreadPoolExecutor) -> None:
    flights, source = Flights(), Source()
    leader = pool.submit(flights.run, "a", source)
    flights.wait_for_boardings(1)

    with deadline_scope(Deadline(0.02)) as deadline, pytest.raises(DeadlineExceededError) as raised:
        flights.run("a", lambda: "never")
    source.release.set()

    assert raised.value.deadline is deadline
    assert leader.result(PATIENCE) == 1


def test_a_follower_without_time_does_not_wait(pool: ThreadPoolExecutor) -> None:
    flights, source, clock = Flights(), Source(), HandClock()
    leader = pool.submit(flights.run, "a", source)
    flights.wait_for_boardings(1)

    with deadline_scope(Deadline(1.0, clock)):
        clock.advance(2.0)
        with pytest.raises(DeadlineExceededError):
            flights.run("a", lambda: "never")
    source.release.set()

    assert leader.result(PATIENCE) == 1


def test_one_of_those_who_waited_too_long_flies_in_the_place_of_a_leader_that_hangs(pool: ThreadPoolExecutor) -> None:
    flights, hanging = Flights(0.02), Source()
    leader = pool.submit(flights.run, "a", hanging)
    flights.wait_for_boardings(1)
    lost, _ = flights.board("a")

    result = flights.run("a", lambda: "taken over")
    hanging.release.set()

    assert result == "taken over"
    assert lost.is_replaced
    assert not flights.begin_write(lost)
    assert leader.result(PATIENCE) == 1


def test_a_flight_is_replaced_once_however_many_have_waited() -> None:
    flights = SingleFlight(0.001)
    lost, _ = flights.board("a")
    assert not flights.follow(lost)
    second, leads = flights.board("a")

    again = flights.follow(lost)

    assert leads
    assert not again
    assert flights.board("a") == (second, False)


def test_a_flight_that_lands_in_the_moment_of_giving_up_is_not_replaced() -> None:
    class LateFlights(SingleFlight):
        def _supersede(self, flight: Flight) -> None:
            flight.land("just in time")
            super()._supersede(flight)

    flights = LateFlights(0.001)
    flight, _ = flights.board("a")

    has_answer = flights.follow(flight)

    assert not has_answer
    assert not flight.is_replaced
    assert flights.board("a") == (flight, False)
    assert flights.follow(flight)
    assert flight.answer() == "just in time"


def test_a_deadline_whose_clock_is_broken_does_not_lose_the_call(
    pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenClock(HandClock):
        reading = 0.0

        def monotonic(self) -> float:
            if self.reading:
                raise OSError
            return self.reading

    class NoNumberClock(HandClock):
        def monotonic(self) -> float:
            return float("nan")

    broken = BrokenClock()
    flights, source = Flights(), Source()
    leader = pool.submit(flights.run, "a", source)
    flights.wait_for_boardings(1)

    def follow(deadline: Deadline) -> int:
        with deadline_scope(deadline):
            return flights.run("a", lambda: -1)

    deadlines = [Deadline(1.0, broken), Deadline(1.0, NoNumberClock())]
    broken.reading = 1.0
    followers = [pool.submit(follow, deadline) for deadline in deadlines]
    flights.wait_for_boardings(2)
    source.release.set()

    assert [leader.result(PATIENCE), *(follower.result(PATIENCE) for follower in followers)] == [1, 1, 1]
    assert "a clock raised" in caplog.text


class NeverFollowed(SingleFlight):
    """Fails where a caller would wait."""

    def follow(self, flight: Flight) -> bool:
        raise AssertionError(flight.key)


def test_a_leader_that_comes_by_its_own_key_again_does_not_wait_for_itself() -> None:
    flights = NeverFollowed()

    result = flights.run("a", lambda: flights.run("a", lambda: "inner") + " and outer")

    assert result == "inner and outer"


def test_after_an_error_the_next_caller_calls_again() -> None:
    flights = SingleFlight()
    with pytest.raises(OSError, match="down"):
        flights.run("a", raising(OSError("down")))

    assert flights.run("a", lambda: 2) == 2


def test_only_the_first_end_of_a_flight_counts() -> None:
    flight = Flight("a")

    flight.land(1)
    flight.fail(OSError())
    flight.abandon()

    assert flight.answer() == 1
    assert flight.is_over
    assert not flight.is_abandoned


def test_later_callers_do_not_follow_a_flight_that_was_made_void() -> None:
    flights = SingleFlight()
    old, _ = flights.board("a")

    flights.void("a")
    new, leads = flights.board("a")

    assert leads
    assert new is not old
    assert (old.is_void, new.is_void) == (True, False)


def test_what_a_void_flight_brings_is_not_written() -> None:
    flights = SingleFlight()
    flight, _ = flights.board("a")

    flights.void("a")

    assert not flights.begin_write(flight)
    assert not flights.end_write(flight)
    assert not flights.is_doomed("a")


def test_a_write_that_is_overtaken_has_to_be_taken_back_and_its_key_is_doomed_until_then() -> None:
    flights = SingleFlight()
    flight, _ = flights.board("a")
    assert flights.begin_write(flight)

    flights.void("a")
    while_writing = flights.is_doomed("a")
    is_overtaken = flights.end_write(flight)
    after_writing = flights.is_doomed("a")
    flights.take_back(flight)

    assert (while_writing, is_overtaken, after_writing) == (True, True, True)
    assert not flights.is_doomed("a")
    assert not flights.is_doomed("b")


def test_a_key_is_doomed_until_the_last_of_several_writes_is_taken_back() -> None:
    flights = SingleFlight()
    flying = []
    for _ in range(2):
        flight, _ = flights.board("a")
        flights.begin_write(flight)
        flights.void("a")
        flying.append(flight)

    seen = []
    for flight in flying:
        flights.end_write(flight)
        flights.take_back(flight)
        seen.append(flights.is_doomed("a"))

    assert seen == [True, False]


def test_a_write_that_nobody_overtook_stays() -> None:
    flights = SingleFlight()
    flight, _ = flights.board("a")

    assert flights.begin_write(flight)
    assert not flights.end_write(flight)
    flights.leave(flight)
    flights.void("a")
    assert not flights.is_doomed("a")


def test_an_invalidation_after_a_write_has_nothing_to_take_back() -> None:
    flights = SingleFlight()
    flight, _ = flights.board("a")
    flights.begin_write(flight)
    flights.end_write(flight)

    flights.void("a")

    assert flight.is_void
    assert not flights.is_doomed("a")


def test_a_child_that_ends_the_write_of_its_parent_dooms_nothing() -> None:
    of_parent, of_child = SingleFlight(), SingleFlight()
    flight, _ = of_parent.board("a")
    of_parent.begin_write(flight)
    of_parent.void("a")

    assert of_child.end_write(flight)
    of_child.take_back(flight)

    assert not of_child.is_doomed("a")


def test_leaving_a_flight_that_was_replaced_leaves_the_other_one_alone() -> None:
    flights = SingleFlight()
    old, _ = flights.board("a")
    flights.void("a")
    new, _ = flights.board("a")

    flights.leave(old)

    assert flights.board("a") == (new, False)
    assert old.is_abandoned


class SelfishError(Exception):
    def __copy__(self) -> SelfishError:
        return self


class ChangingError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return ValueError, ("another class",)


@pytest.mark.parametrize("error", [TwoArgumentsError(1, 2), SelfishError(), ChangingError()])
def test_an_error_that_gives_no_true_copy_has_none(error: Exception) -> None:
    assert fresh_copy(error) is None


def test_why_an_error_cannot_be_copied_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="app.stability.single_flight")

    fresh_copy(TwoArgumentsError(1, 2))

    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [TypeError]


def test_a_copy_has_arguments_and_attributes_and_no_history() -> None:
    error = ConnectionError("down")
    with pytest.raises(ConnectionError):
        raise error from OSError()
    error.retry_after_seconds = 3.0  # type: ignore[attr-defined]  # as clients set it

    again = fresh_copy(error)

    assert isinstance(again, ConnectionError)
    assert vars(again) == {"retry_after_seconds": 3.0}
    assert again.args == ("down",)
    assert (again.__traceback__, again.__cause__, again.__context__) == (None, None, None)


def test_an_error_ends_with_its_caller_when_that_ones_deadline_has_passed() -> None:
    clock = HandClock()
    inner = Deadline(1.0, clock).exceeded()

    without = ends_with_caller(DeadlineExceededError())
    with deadline_scope(Deadline(5.0, clock)) as own:
        unnamed, named = ends_with_caller(DeadlineExceededError()), ends_with_caller(own.exceeded())
        clock.advance(4.5)
        of_an_attempt, other = ends_with_caller(inner), ends_with_caller(OSError())
        clock.advance(0.5)
        late = ends_with_caller(OSError())

    assert (without, unnamed, named, of_an_attempt, other, late) == (False, True, True, False, False, True)


def test_the_flights_of_another_process_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    flights = SingleFlight()
    of_parent, _ = flights.board("a")
    monkeypatch.setattr(os, "getpid", lambda: -1)

    of_child, leads = flights.board("a")
    monkeypatch.undo()
    of_grandchild, _ = flights.board("a")

    assert leads
    assert len({of_parent, of_child, of_grandchild}) == 3


FORK = """
import os, threading
from app.stability.single_flight import SingleFlight

flights = SingleFlight()
reached, release = threading.Event(), threading.Event()
def hang():
    with flights._table().lock:  # as a thread that boards in the moment of the fork
        reached.set()
        release.wait()
flights.board("a")  # a flight that never lands in the child
holder = threading.Thread(target=hang)
holder.start()
reached.wait()

child = os.fork()
if child == 0:
    os._exit(0 if flights.run("a", lambda: "of the child") == "of the child" else 1)
print("child ended with", os.waitpid(child, 0)[1])
release.set()
holder.join()
print("parent still flies", not flights.board("a")[1])
"""


def test_a_forked_child_waits_for_no_flight_of_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.splitlines() == ["child ended with 0", "parent still flies True"]
