"""Interrupts at every point where CPython lets one in: nothing leaks, totals stay true, decisions are made up for."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from math import inf
from types import CodeType, FrameType
from typing import Any

import pytest

from app.stability import breaker, breaker_machine, breaker_tally, breaker_visits, probes, windows
from app.stability.board import Decision
from app.stability.breaker_states import State
from app.stability.breaker_tally import LockFreeCounter
from app.stability.outcome import Classification
from app.stability.windows import CountWindow, TimeWindow, Window
from tests.fakes.board import MemoryBoard
from tests.fakes.breakers import AbsentError, BusyError, DownError, Rig, places, rig_in

OURS = {module.__file__ for module in (breaker, breaker_machine, breaker_tally, breaker_visits, probes, windows)}
LETTING_IN = ("RESUME", "CALL", "JUMP_BACKWARD")
"""Beginnings of the names of the instructions after which CPython runs signal handlers."""


class Interrupter:
    """Raises ``KeyboardInterrupt`` at the n-th point of a run at which a signal handler can."""

    def __init__(self, at: int) -> None:
        self.left = at
        self._names: dict[CodeType, dict[int, str]] = {}
        self._last: dict[FrameType, str] = {}

    def run(self, function: Callable[[], Any]) -> BaseException | None:
        """Run a function; return what it raises."""
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            function()
        except BaseException as error:  # noqa: BLE001  # the interrupt is what this is about
            return error
        finally:
            sys.settrace(before)
        return None

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename not in OURS:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            last, self._last[frame] = self._last.get(frame, ""), self._name_at(frame)
            if last.startswith(LETTING_IN):
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
        elif event == "exception":
            self._last[frame] = ""  # a call that raises lets nothing in
        return self._trace

    def _name_at(self, frame: FrameType) -> str:
        code = frame.f_code
        if code not in self._names:
            self._names[code] = {one.offset: one.opname for one in dis.get_instructions(code)}
        return self._names[code][frame.f_lasti]


def interrupted(make: Callable[[], Rig], act: Callable[[Rig], Any]) -> Iterator[Rig]:
    """Yield a rig for each point at which the act can be interrupted, after that."""
    for at in range(1, 1000):
        rig = make()
        interrupter = Interrupter(at)
        error = interrupter.run(lambda rig=rig: act(rig))  # type: ignore[misc]  # binds the loop's value
        if interrupter.left > 0:
            assert at > 2, "the act has no points"
            return
        assert isinstance(error, KeyboardInterrupt)
        yield rig


def held(window: Window | None) -> tuple[int, int, int] | None:
    """Count what a window holds, result by result."""
    if isinstance(window, CountWindow):
        ring = window._ring
        return (sum(one > 0 for one in ring), sum(one & 2 > 0 for one in ring), sum(one & 4 > 0 for one in ring))
    if isinstance(window, TimeWindow):
        results, failures, slow = (sum(bucket[place] for bucket in window._buckets) for place in (1, 2, 3))
        return results, failures, slow
    return None


def totals(window: Window | None) -> tuple[int, int, int] | None:
    return None if window is None else (window.results, window.failures, window.slow)


def raising(error: BaseException) -> Callable[[Rig], Any]:
    def broken() -> None:
        raise error

    return lambda rig: rig.call(broken)


def with_permit(rig: Rig) -> None:
    with rig.breaker.acquire():
        rig.clock.advance(6.0)


ACTS: dict[str, Callable[[Rig], Any]] = {
    "success": lambda rig: rig.call(int),
    "slow success": lambda rig: rig.call(lambda: rig.clock.advance(6.0)),
    "failure": raising(DownError()),
    "ordering failure": raising(BusyError(5.0)),
    "ignored": raising(AbsentError()),
    "permit": with_permit,
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (State.CLOSED, "count_based"),
        (State.CLOSED, "time_based"),
        (State.HALF_OPEN, "count_based"),
        (State.FORCED_HALF_OPEN, "count_based"),
    ],
)
def test_an_interrupted_call_leaves_no_place_taken_and_no_total_wrong(state: State, act: str, kind: str) -> None:
    judging = Classification(ignored=(AbsentError,), failing_result=lambda value: value == 1)

    def make() -> Rig:
        rig = rig_in(state, sliding_window_type=kind, open_on_retry_after=True, classification=judging)
        rig.succeed()
        rig.fail()
        return rig

    for rig in interrupted(make, ACTS[act]):
        snapshot = rig.breaker.snapshot()
        window = rig.breaker._machine.visit.window

        assert snapshot.calls_in_flight == 0
        assert totals(window) == held(window)
        if snapshot.state is State.FORCED_HALF_OPEN:
            assert places(rig) == 4
        elif snapshot.state is State.HALF_OPEN:
            assert places(rig) in {
                2,
                4 - snapshot.results,
            }  # what did not come to the verdict is tried again


def test_an_interrupted_quick_success_in_a_calm_window_is_in_flight_no_more() -> None:
    def make() -> Rig:
        rig = Rig()
        rig.succeed(4)
        return rig

    for rig in interrupted(make, lambda rig: rig.call(int)):
        assert rig.breaker.snapshot().calls_in_flight == 0


def test_an_opening_that_is_interrupted_is_made_up_for_by_the_next_failure() -> None:
    def make() -> Rig:
        rig = Rig()
        rig.fail(3)
        return rig

    for rig in interrupted(make, ACTS["failure"]):
        if rig.state is not State.OPEN:
            rig.fail()

        assert rig.state is State.OPEN
        assert rig.breaker.snapshot().attempt == 1


@pytest.mark.parametrize("target", [State.OPEN, State.DISABLED, State.FORCED_OPEN])
def test_an_interrupted_decision_is_what_the_board_says_in_the_end(target: State) -> None:
    boards: list[MemoryBoard] = []

    def make() -> Rig:
        boards.append(MemoryBoard())
        return Rig(board=boards[-1])

    for rig in interrupted(make, lambda rig: rig.breaker.transition_to(target)):
        rig.clock.advance(1.0)
        decision = boards[-1].read("storage")

        assert rig.state.value == ("closed" if decision is None else decision.state)
        assert decision is None or (decision.until < inf) is (target is State.OPEN)
        era = 1 if decision is None else decision.era + 1
        boards[-1].decide("storage", Decision(era, "metrics_only", 0, inf))
        rig.clock.advance(1.0)
        rig.is_refused()
        assert rig.state is State.METRICS_ONLY, "it goes on looking at the board"


def test_a_read_of_refusals_that_is_interrupted_leaves_their_number_true() -> None:
    counter = LockFreeCounter()
    for at in range(1, 4):
        counter.add()
        Interrupter(at).run(counter.read)

    count = counter.read()

    assert count == 3


def test_what_copying_a_failure_raises_goes_on_and_the_failure_counts() -> None:
    class UncopyableError(Exception):
        def __reduce_ex__(self, _protocol: Any) -> Any:
            raise SystemExit

    rig = Rig()

    for _ in range(4):
        with pytest.raises(SystemExit):
            raising(UncopyableError())(rig)

    snapshot = rig.breaker.snapshot()
    assert (snapshot.state, snapshot.failures, snapshot.calls_in_flight) == (State.OPEN, 4, 0)
