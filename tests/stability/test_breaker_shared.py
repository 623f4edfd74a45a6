"""Breakers that share a board, as if each were in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from app.stability.board import Decision, ProbeCounts
from app.stability.breaker_events import BreakerReset, StateTransitioned
from app.stability.breaker_machine import LOOK_SECONDS
from app.stability.breaker_states import State
from app.stability.errors import IllegalTransitionError
from tests.fakes.board import MemoryBoard, NaughtyBoard
from tests.fakes.breakers import BusyError, DownError, Rig
from tests.fakes.clocks import HandClock

NAME = "storage"


class Host:
    """Some processes with one clock and one board."""

    def __init__(self, processes: int = 3, **options: Any) -> None:
        self.clock = HandClock()
        self.board = MemoryBoard()
        self.rigs = [Rig(clock=self.clock, board=self.board, **options) for _ in range(processes)]

    @property
    def states(self) -> list[State]:
        return [rig.state for rig in self.rigs]

    def look(self) -> None:
        """Let the next look of each be due."""
        self.clock.advance(LOOK_SECONDS)


def causes(rig: Rig) -> list[tuple[str, str]]:
    return [(event.target.value, event.cause) for event in rig.told if isinstance(event, StateTransitioned)]


def test_another_end_of_an_opening_is_told_in_every_process_when_an_operator_chose_it() -> None:
    host = Host()
    host.rigs[0].trip()
    host.look()
    assert host.states == [State.OPEN] * 3
    told = len(host.rigs[1].told)

    host.rigs[0].breaker.open_for(600, by="ada", reason="it is moved")
    host.look()

    assert host.rigs[1].breaker.snapshot().remaining_seconds == pytest.approx(600, abs=1)
    (event,) = host.rigs[1].told[told:]
    assert isinstance(event, StateTransitioned)
    assert (event.cause, event.by, event.reason) == ("adopted", "ada", "it is moved")


# --- decisions ---------------------------------------------------------------------------------------------------


def test_a_trip_in_one_opens_all_at_their_next_look() -> None:
    host = Host()
    for rig in host.rigs:
        rig.succeed()
    host.rigs[0].fail(3)
    before = [rig.is_refused() for rig in host.rigs[1:]]

    host.look()

    assert before == [False, False], "nobody looks at the board with every call"
    assert [rig.is_refused() for rig in host.rigs] == [True, True, True]
    assert [causes(rig) for rig in host.rigs] == [
        [("open", "failure_rate")],
        [("open", "adopted")],
        [("open", "adopted")],
    ]


def test_an_idle_breaker_learns_with_its_next_call() -> None:
    host = Host(2)
    host.rigs[0].trip()

    host.clock.advance(30)

    assert host.rigs[1].refused().retry_after_seconds == 30.0


def test_a_process_that_starts_later_begins_with_what_holds() -> None:
    host = Host(1)
    host.rigs[0].breaker.transition_to(State.FORCED_OPEN, by="ada", reason="drill")

    late = Rig(clock=host.clock, board=host.board)

    assert late.is_refused()
    assert late.told == [
        StateTransitioned(
            name=NAME,
            source=State.CLOSED,
            target=State.FORCED_OPEN,
            cause="adopted",
            by="ada",
            reason="drill",
        )
    ]


def test_the_end_of_the_wait_and_the_attempt_are_shared() -> None:
    host = Host(2)
    host.rigs[0].trip()
    host.look()

    one, other = (rig.breaker.snapshot() for rig in host.rigs)

    assert (one.remaining_seconds, one.attempt) == (other.remaining_seconds, other.attempt)
    assert one.attempt == 1


@pytest.mark.parametrize("state", [state for state in State if state is not State.HALF_OPEN])
def test_a_state_set_by_hand_in_one_holds_in_all(state: State) -> None:
    host = Host()

    host.rigs[0].breaker.transition_to(state)
    host.look()

    assert host.states == [state] * 3


def test_a_reset_in_one_gives_all_fresh_figures() -> None:
    host = Host(2)
    host.rigs[1].fail(3)

    host.rigs[0].breaker.reset()
    host.look()
    host.rigs[1].fail(1)

    assert host.states == [State.CLOSED, State.CLOSED]
    assert host.rigs[1].breaker.snapshot().results == 1


def test_an_operator_elsewhere_is_heard_by_a_breaker_in_any_state() -> None:
    host = Host(1)
    (rig,) = host.rigs

    seen = []
    for state in (State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY, State.FORCED_HALF_OPEN, State.CLOSED):
        host.board.put(NAME, state.value)
        host.look()
        rig.is_refused()
        seen.append(rig.state)

    assert seen == [State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY, State.FORCED_HALF_OPEN, State.CLOSED]


@pytest.mark.parametrize("state", ["closed", "metrics_only"])
def test_a_decision_is_adopted_once(state: str) -> None:
    host = Host(1)
    (rig,) = host.rigs
    host.board.put(NAME, state)
    for _ in range(3):
        host.look()
        rig.fail()

    assert rig.breaker.snapshot().results == 3


def test_a_result_that_comes_back_after_another_process_decided_is_late() -> None:
    host = Host(2)
    permit = host.rigs[1].begin()
    host.rigs[0].trip()
    host.look()

    permit.fail(DownError())

    assert host.rigs[1].calls == {"late": 1}


# --- races -------------------------------------------------------------------------------------------------------


def test_of_two_that_decide_at_once_one_wins_and_the_other_adopts_it() -> None:
    host = Host(2)
    one, other = host.rigs
    one.fail(3)
    other.fail(3)
    host.board.interfere = lambda: other.fail(seconds=0.01)

    one.fail()

    assert causes(one) == [("open", "adopted")]
    assert causes(other) == [("open", "failure_rate")]
    assert host.board.standing[NAME].era == 1
    assert one.breaker._machine.transitions == {}


def test_an_operator_overrules_a_breaker_that_was_a_moment_faster() -> None:
    host = Host(2)
    one, other = host.rigs
    other.fail(3)
    host.board.interfere = other.fail

    one.breaker.transition_to(State.FORCED_OPEN, by="ada", reason="drill")
    host.look()

    assert host.states == [State.FORCED_OPEN, State.FORCED_OPEN]
    assert one.told == [
        StateTransitioned(
            name=NAME, source=State.CLOSED, target=State.FORCED_OPEN, cause="manual", by="ada", reason="drill"
        )
    ]
    assert one.breaker._machine.transitions == {(State.CLOSED, State.FORCED_OPEN): 1}


def test_a_reset_that_had_to_be_repeated_is_told_as_a_reset() -> None:
    host = Host(2)
    one, other = host.rigs
    other.fail(3)
    host.board.interfere = other.fail

    one.breaker.reset(by="ada", reason="drill")

    assert one.told == [BreakerReset(name=NAME, by="ada", reason="drill")]
    assert host.board.standing[NAME].state == "closed"


def test_an_operator_who_is_overruled_again_and_again_gives_way_and_holds_what_holds() -> None:
    host = Host(1)
    (rig,) = host.rigs
    decisions: list[Decision] = []

    def faster() -> None:
        host.board.put(NAME, "disabled")
        decisions.append(host.board.standing[NAME])
        host.board.interfere = faster

    host.board.interfere = faster

    rig.breaker.transition_to(State.FORCED_OPEN)

    assert len(decisions) == 6
    assert causes(rig) == [("disabled", "adopted")]


def test_an_operator_acts_on_what_holds_and_not_on_the_last_look() -> None:
    host = Host(2)
    one, other = host.rigs
    other.succeed()
    one.breaker.transition_to(State.METRICS_ONLY)

    with pytest.raises(IllegalTransitionError):
        other.breaker.transition_to(State.OPEN)
    with pytest.raises(IllegalTransitionError):
        other.breaker.open_for(5)

    assert host.states == [State.METRICS_ONLY] * 2


def test_a_board_that_cuts_words_short_is_not_taken_for_another_operator() -> None:
    class Short(MemoryBoard):
        def decide(self, name: str, decision: Decision) -> Decision | None:
            written = super().decide(name, decision)
            return None if written is None else self._cut(written)

        def read(self, name: str) -> Decision | None:
            standing = super().read(name)
            return None if standing is None else self._cut(standing)

        def _cut(self, decision: Decision) -> Decision:
            return Decision(decision.era, decision.state, decision.attempt, decision.until, decision.by, "")

    clock = HandClock()
    rig = Rig(clock=clock, board=Short())

    rig.breaker.transition_to(State.METRICS_ONLY, by="ada", reason="a long story")
    rig.fail(3)
    clock.advance(LOOK_SECONDS)

    assert causes(rig) == [("metrics_only", "manual")]
    assert rig.breaker.snapshot().results == 3, "the look began no new visit"


# --- trial calls -------------------------------------------------------------------------------------------------


def half_open(host: Host) -> None:
    host.rigs[0].half_open()
    host.look()
    assert host.states == [State.HALF_OPEN] * len(host.rigs)


def test_trial_calls_are_limited_for_all_together() -> None:
    host = Host()
    half_open(host)

    permits = [rig.breaker.try_acquire() for _ in range(4) for rig in host.rigs]

    assert sum(permit is not None for permit in permits) == 4


def test_a_trial_call_that_came_to_nothing_is_free_for_another_process() -> None:
    host = Host(2)
    half_open(host)
    permits = [host.rigs[0].begin() for _ in range(4)]
    before = host.rigs[1].breaker.try_acquire()

    permits[0].release()

    assert before is None
    assert host.rigs[1].breaker.try_acquire() is not None


def test_the_verdict_is_made_of_the_results_of_all() -> None:
    host = Host()
    half_open(host)
    for rig in host.rigs:
        rig.succeed()

    assert causes(host.rigs[2])[-1] == ("closed", "verdict")
    host.look()
    assert host.states == [State.CLOSED] * 3


def test_failures_of_two_processes_open_it_for_all() -> None:
    host = Host()
    half_open(host)
    host.rigs[0].fail()
    host.rigs[1].fail()
    host.look()

    assert host.states == [State.OPEN] * 3
    assert host.rigs[2].breaker.snapshot().attempt == 2


def test_no_trial_call_begins_once_another_process_has_its_verdict() -> None:
    host = Host(2)
    half_open(host)
    host.rigs[0].fail(2)

    assert host.rigs[1].is_refused(), "without waiting for the next look"


def test_the_wait_ends_once_for_all() -> None:
    host = Host()
    host.rigs[0].trip()
    host.look()
    host.rigs[1].is_refused()
    host.rigs[2].is_refused()
    host.clock.advance(60)

    permits = [rig.breaker.try_acquire() for _ in range(4) for rig in host.rigs]

    assert sum(permit is not None for permit in permits) == 4
    assert host.board.standing[NAME].state == "half_open"


def test_a_half_open_without_an_end_gets_the_limit_of_its_own() -> None:
    host = Host(1)
    host.board.put(NAME, "half_open", until=math.inf, attempt=1)
    host.look()

    assert host.rigs[0].breaker.snapshot().remaining_seconds == pytest.approx(60.0)


# --- boards that are lost ----------------------------------------------------------------------------------------


def test_a_lost_board_leaves_each_process_to_itself() -> None:
    host = Host(2)
    host.board.is_lost = True

    host.rigs[0].trip()
    host.look()

    assert host.states == [State.OPEN, State.CLOSED]
    host.clock.advance(60)
    host.rigs[0].succeed(3)
    assert host.states == [State.CLOSED, State.CLOSED]


@pytest.mark.parametrize("steps", range(9))
def test_a_board_that_is_lost_at_any_moment_stops_no_circle(steps: int) -> None:
    host = Host(1)
    (rig,) = host.rigs
    circle: list[Callable[[], object]] = [
        rig.succeed,
        rig.trip,
        rig.refused,
        lambda: host.clock.advance(60),
        rig.fail,
        rig.fail,
        lambda: host.clock.advance(60),
        rig.succeed,
        lambda: rig.succeed(2),
    ]

    for number, step in enumerate(circle):
        host.board.is_lost = number >= steps
        step()

    assert rig.state is State.CLOSED
    assert [target for target, _ in causes(rig)] == ["open", "half_open", "open", "half_open", "closed"]


def test_a_board_that_comes_back_with_nothing_is_written_anew() -> None:
    host = Host(2)
    host.rigs[0].trip()
    host.board.forget()

    host.clock.advance(60)
    host.rigs[0].succeed(3)
    host.rigs[1].breaker.transition_to(State.FORCED_OPEN)
    host.look()

    assert host.states == [State.FORCED_OPEN] * 2


def test_a_decision_with_a_number_that_is_known_but_another_meaning_is_heard() -> None:
    host = Host(1)
    (rig,) = host.rigs
    rig.trip()
    host.board.forget()
    host.board.put(NAME, "forced_open")

    host.look()

    assert rig.state is State.FORCED_OPEN


RUBBISH = [
    OSError("no page"),
    "open",
    NotImplemented,
    Decision(1, "ajar", 0, 1.0),
    Decision(7, "open", 0, math.nan),
    Decision(-1, "open", 0, 1e9),
    ProbeCounts(-5, 9, 9),
    True,
]


@pytest.mark.parametrize("answer", RUBBISH, ids=repr)
def test_a_board_that_answers_rubbish_or_raises_is_no_board(answer: object) -> None:
    rig = Rig(board=NaughtyBoard(answer))

    for _ in range(2):
        rig.trip()
        rig.refused()
        rig.clock.advance(60)
        rig.fail(2)
        rig.clock.advance(60)
        rig.succeed(3)
    rig.breaker.transition_to(State.FORCED_HALF_OPEN)
    rig.succeed(5)
    rig.breaker.reset()

    assert rig.state is State.CLOSED
    assert rig.calls == {"successful": 11, "failed": 12, "not_permitted": 2}


def test_a_huge_run_of_openings_is_no_longer_than_a_wait_can_take() -> None:
    asked: list[int] = []

    def wait(attempt: int) -> float:
        asked.append(attempt)
        return min(60.0, 2.0 * attempt)

    host = Host(1, wait_duration_in_open_state_seconds=wait)
    host.board.put(NAME, "half_open", until=2000.0, attempt=10**30)
    host.look()
    host.rigs[0].fail(2)

    assert asked == [1_000_001]
    assert host.states == [State.OPEN]


@pytest.mark.parametrize("until", [-math.inf, 0.0])
def test_an_opening_that_is_over_already_lets_the_next_call_try(until: float) -> None:
    host = Host(1)
    host.board.put(NAME, "open", until=until)
    host.look()

    host.rigs[0].succeed()

    assert host.states == [State.HALF_OPEN]


def test_an_operators_opening_without_an_end_has_none() -> None:
    host = Host(1)
    host.board.put(NAME, "open", until=math.inf)
    host.clock.advance(1e6)

    assert host.rigs[0].refused().retry_after_seconds is None


# --- what it costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.CLOSED, State.OPEN, State.DISABLED, State.METRICS_ONLY, State.FORCED_OPEN])
def test_the_board_is_looked_at_ten_times_a_second_and_not_with_every_call(state: State) -> None:
    host = Host(1, wait_duration_in_open_state_seconds=1000)
    (rig,) = host.rigs
    rig.breaker.transition_to(state)
    host.board.reads = 0

    for _ in range(20):
        host.clock.advance(LOOK_SECONDS / 4)
        for _ in range(10):
            rig.is_refused()

    assert 4 <= host.board.reads <= 6


@pytest.mark.parametrize("state", [State.CLOSED, State.OPEN, State.DISABLED, State.METRICS_ONLY, State.FORCED_OPEN])
def test_between_two_looks_a_call_asks_nobody(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(1, wait_duration_in_open_state_seconds=1000)
    (rig,) = host.rigs
    rig.breaker.transition_to(state)
    for _ in range(3):
        host.look()
        rig.is_refused()
    attended: list[float] = []
    monkeypatch.setattr(rig.breaker._machine, "attend", attended.append)

    for _ in range(10):
        rig.is_refused()

    assert attended == []


def test_an_order_of_a_failure_opens_all() -> None:
    host = Host(2, open_on_retry_after=True)
    host.rigs[0].fail(error=BusyError(7))

    host.look()

    assert host.states == [State.OPEN] * 2
    assert host.rigs[1].breaker.snapshot().attempt == 0


def test_a_slow_result_does_not_put_off_the_next_look() -> None:
    host = Host(2)
    host.rigs[1].succeed(seconds=6)
    host.rigs[0].breaker.transition_to(State.FORCED_OPEN)

    host.look()

    assert host.rigs[1].is_refused()
