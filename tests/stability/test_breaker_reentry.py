"""A breaker that is used from within itself: by a wait function, a log handler, a signal, a forked child."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.stability.breaker_states import State
from app.stability.breaker_visits import Move
from app.stability.outcome import Classification, Outcome
from tests.fakes.board import NaughtyBoard
from tests.fakes.breakers import BusyError, Rig, places, rig_in
from tests.fakes.clocks import HandClock

ROOT = Path(__file__).resolve().parents[2]


def rig_whose_wait(uses: Callable[[Rig], Any], **options: Any) -> Rig:
    """Return a breaker whose open wait is 30 s and uses it first."""
    rigs: list[Rig] = []

    def wait(_attempt: int) -> float:
        uses(rigs[0])
        return 30.0

    rigs.append(Rig(wait_duration_in_open_state_seconds=wait, **options))
    return rigs[0]


# --- a wait function ----------------------------------------------------------------------------------------------


def test_a_wait_function_sees_the_state_that_ends() -> None:
    seen: list[State] = []
    rig = rig_whose_wait(lambda rig: seen.append(rig.breaker.snapshot().state))

    rig.fail(4)

    assert seen == [State.CLOSED]
    assert rig.breaker.snapshot().remaining_seconds == 30.0


def test_failures_in_a_wait_function_count_and_open_nothing_a_second_time() -> None:
    rig = rig_whose_wait(lambda rig: rig.fail())

    rig.fail(4)

    snapshot = rig.breaker.snapshot()
    assert (snapshot.state, snapshot.attempt, snapshot.calls["failed"]) == (State.OPEN, 1, 5)
    assert len(rig.told) == 1


@pytest.mark.parametrize(
    ("moved", "remaining"),
    [
        (lambda breaker: breaker.transition_to(State.FORCED_OPEN), None),
        (lambda breaker: breaker.open_for(5.0), 5.0),
        (lambda breaker: breaker.transition_to(State.OPEN), 60.0),
        (lambda breaker: breaker.reset(), None),
    ],
)
def test_where_a_wait_function_moves_the_breaker_that_move_holds(
    moved: Callable[[Any], None], remaining: float | None
) -> None:
    rig = rig_whose_wait(lambda rig: moved(rig.breaker))

    rig.fail(4)

    assert rig.breaker.snapshot().remaining_seconds == remaining
    assert len(rig.told) == 1


def test_where_a_wait_function_is_interrupted_after_its_own_move_that_move_holds() -> None:
    def move_and_end(rig: Rig) -> None:
        rig.breaker.transition_to(State.FORCED_OPEN)
        raise SystemExit

    rig = rig_whose_wait(move_and_end)
    rig.fail(3)

    with pytest.raises(SystemExit):
        rig.fail()

    assert (rig.state, len(rig.told)) == (State.FORCED_OPEN, 1)


def test_a_look_by_hand_at_calls_that_hang_opens_once_when_the_wait_looks_too() -> None:
    rig = rig_whose_wait(lambda rig: rig.breaker.snapshot(), slow_call_rate_threshold=0.5)
    for _ in range(4):
        rig.begin()
    rig.clock.advance(6.0)

    snapshot = rig.breaker.snapshot()

    assert (snapshot.state, snapshot.attempt) == (State.OPEN, 1)


# --- log handlers -------------------------------------------------------------------------------------------------


class Emitting(logging.Handler):
    """Does something with each record."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self.act = act
        self.records = 0

    def emit(self, _record: logging.LogRecord) -> None:
        self.records += 1
        self.act()


@pytest.fixture
def emitting() -> Iterator[Emitting]:
    def fail() -> None:
        raise RuntimeError("no log")

    handler = Emitting(fail)
    logger = logging.getLogger("app.stability")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def no_wait(_attempt: int) -> float:
    raise LookupError


@pytest.mark.parametrize("wait", [no_wait, lambda _attempt: -1.0])
def test_a_log_handler_that_raises_takes_no_error_away_and_no_opening(
    emitting: Emitting, wait: Callable[[int], float]
) -> None:
    rig = Rig(wait_duration_in_open_state_seconds=wait)

    rig.fail(4)

    assert rig.state is State.OPEN
    assert emitting.records == 1


def test_a_log_handler_that_raises_takes_no_result_of_a_mistaken_classification(emitting: Emitting) -> None:
    def mistaken(_value: object) -> Any:
        raise LookupError

    judging = Classification(failing_result=mistaken, ignored_when=mistaken, retry_after_of=mistaken)
    rig = Rig(classification=judging)

    result = rig.call(lambda: "stored")
    rig.fail()

    assert (result, rig.calls, emitting.records) == ("stored", {"ignored": 2}, 2)


def test_a_log_handler_that_raises_takes_no_failure_whose_order_cannot_be_read(emitting: Emitting) -> None:
    def mistaken(_value: object) -> Any:
        raise LookupError

    rig = Rig(classification=Classification(retry_after_of=mistaken), open_on_retry_after=True)

    rig.fail(error=BusyError(5.0))

    assert (rig.state, rig.calls, emitting.records) == (State.CLOSED, {"failed": 1}, 1)


def test_an_interrupt_in_a_classification_gives_the_place_back() -> None:
    class Interrupted(Classification):
        def of_result(self, value: Any) -> Outcome:  # noqa: ARG002  # the signature of its base
            raise KeyboardInterrupt

        def of_error(self, error: BaseException) -> Outcome:  # noqa: ARG002  # the port has it
            raise KeyboardInterrupt

    rig = rig_in(State.FORCED_HALF_OPEN, classification=Interrupted(failing_result=bool))

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            rig.call(int)
        with pytest.raises(KeyboardInterrupt):
            rig.call(lambda: 1 // 0)

    assert places(rig) == 4


def test_a_log_handler_that_raises_takes_no_result_of_a_clock_or_a_board(emitting: Emitting) -> None:
    class BrokenClock(HandClock):
        def monotonic(self) -> float:
            raise OSError

    rig = Rig(board=NaughtyBoard(OSError()))
    still = Rig(clock=BrokenClock())

    rig.succeed()
    still.succeed()

    assert rig.calls == still.calls == {"successful": 1}
    assert emitting.records > 1


def test_a_log_handler_may_call_through_the_breaker_that_logs(emitting: Emitting) -> None:
    rig = Rig(wait_duration_in_open_state_seconds=no_wait)
    emitting.act = rig.fail

    rig.fail(4)

    assert (rig.state, rig.calls) == (State.OPEN, {"failed": 5})
    assert emitting.records == 1


# --- signals and forks --------------------------------------------------------------------------------------------


def test_what_comes_of_a_visit_that_an_interruption_has_ended_leads_nowhere() -> None:
    rig = Rig()
    visit = rig.breaker._machine.visit
    rig.breaker.transition_to(State.DISABLED)
    rig.told.clear()

    rig.breaker._machine.follow(visit, Move(State.OPEN, "failure_rate", 1.0), rig.clock.monotonic())

    assert (rig.state, rig.told) == (State.DISABLED, [])


PROGRAM = """
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # later Pythons warn of forks beside threads, which is the point
from app.stability import CircuitBreaker, Pipeline

breaker = CircuitBreaker("storage")
pipeline = Pipeline("storage", [breaker])
held, done = threading.Event(), threading.Event()


def hold() -> None:
    breaker.acquire()
    with breaker._lock:
        held.set()
        done.wait(20)


threading.Thread(target=hold, daemon=True).start()
held.wait(20)
child = os.fork()
if child == 0:
    pipeline.call(int)
    snapshot = breaker.snapshot()
    os.write(1, f"{snapshot.results} {snapshot.calls_in_flight}".encode())
    os._exit(0)
os.waitpid(child, 0)
done.set()
"""


def test_a_child_goes_on_whoever_held_the_lock_and_has_none_of_the_parents_calls() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout == "1 0", done.stderr


@pytest.mark.parametrize("state", State)
def test_a_child_begins_with_the_state_and_all_places_free(state: State) -> None:
    rig, untouched = rig_in(state), rig_in(state)
    for _ in range(4):
        rig.breaker.try_acquire()

    rig.breaker._machine._begin_in_child()

    assert rig.state is state
    assert rig.breaker.snapshot().calls_in_flight == 0
    assert places(rig) == places(untouched)
