"""Permits of a circuit breaker: who gets one, when it is late, and that none is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.stability.breaker import Permit
from app.stability.breaker_states import State
from app.stability.errors import CallNotPermittedError
from app.stability.outcome import Classification
from tests.fakes.breakers import ADMITTED_OF_TEN, AbsentError, DownError, Rig, places, rig_in


class Response:
    """Has an HTTP status."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


# --- late results -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("admitting", [state for state in State if ADMITTED_OF_TEN[state]])
@pytest.mark.parametrize("receiving", State)
@pytest.mark.parametrize(
    "settle", [Permit.succeed, lambda permit: permit.fail(DownError())], ids=["success", "failure"]
)
def test_a_late_result_changes_no_window_permit_or_state(
    admitting: State, receiving: State, settle: Callable[[Permit], None]
) -> None:
    rig = rig_in(admitting)
    permits = [rig.begin() for _ in range(4)]
    rig.breaker.reset()
    if receiving in {State.HALF_OPEN, State.OPEN}:
        rig.breaker.transition_to(State.OPEN)
    rig.breaker.transition_to(receiving)
    before = rig.breaker.snapshot()
    told = list(rig.told)

    for permit in permits:
        settle(permit)

    late = {} if admitting is State.DISABLED else {"late": 4}
    after = rig.breaker.snapshot()
    assert rig.calls == late
    assert (after.state, after.results, after.attempt) == (before.state, before.results, before.attempt)
    assert rig.told == told
    assert places(rig) == ADMITTED_OF_TEN[receiving]


@pytest.mark.parametrize("error", [AbsentError(), KeyboardInterrupt()], ids=repr)
def test_a_late_end_without_a_result_gives_no_permit_to_another_visit(error: BaseException) -> None:
    rig = Rig()
    permit = rig.begin()
    rig.half_open()
    for _ in range(4):
        rig.begin()

    permit.fail(error)

    assert rig.is_refused()


def test_a_late_success_does_not_close_a_reopened_breaker() -> None:
    rig = Rig()
    rig.half_open()
    permits = [rig.begin() for _ in range(4)]
    permits[0].fail(DownError())
    permits[1].fail(DownError())

    permits[2].succeed()
    permits[3].succeed()

    assert (rig.state, rig.calls) == (State.OPEN, {"failed": 2, "late": 2})


def test_a_late_result_lets_time_do_its_part() -> None:
    rig = Rig(count_calls_in_flight_as_slow=False)
    permit = rig.begin()
    rig.half_open()
    rig.clock.advance(60)
    told = len(rig.told)

    permit.succeed()

    assert len(rig.told) == told + 1, "the time limit of half-open"


def test_a_late_failure_is_no_cause_of_later_refusals() -> None:
    rig = Rig()
    permit = rig.begin()
    rig.breaker.reset()
    rig.breaker.transition_to(State.FORCED_OPEN)

    permit.fail(DownError())

    assert rig.refused().__cause__ is None


# --- permits ------------------------------------------------------------------------------------------------------


def test_a_permit_as_a_context_is_a_success_without_an_error_and_judged_with_one() -> None:
    rig = Rig()

    with rig.breaker.acquire() as permit:
        assert isinstance(permit, Permit)
    with pytest.raises(DownError), rig.breaker.acquire():
        raise DownError
    with pytest.raises(AbsentError), rig.breaker.acquire():
        raise AbsentError
    with pytest.raises(KeyboardInterrupt), rig.breaker.acquire():
        raise KeyboardInterrupt

    assert rig.calls == {"successful": 1, "failed": 1, "ignored": 1}


def test_acquire_raises_what_a_call_would() -> None:
    rig = Rig()
    rig.trip()

    with pytest.raises(CallNotPermittedError) as refused:
        rig.breaker.acquire()

    assert (refused.value.state, refused.value.retry_after_seconds) == ("open", 60.0)
    assert isinstance(refused.value.__cause__, DownError)


def test_try_acquire_raises_nothing_and_counts_the_refusal() -> None:
    rig = Rig()
    rig.trip()

    assert rig.breaker.try_acquire() is None
    assert rig.calls == {"failed": 4, "not_permitted": 1}


def test_try_acquire_moves_on_when_the_wait_is_over() -> None:
    rig = Rig()
    rig.trip()
    rig.clock.advance(60)

    permit = rig.breaker.try_acquire()

    assert permit is not None
    assert rig.state is State.HALF_OPEN


def test_a_permit_is_judged_with_its_result() -> None:
    rig = Rig(classification=Classification(failing_statuses=frozenset({503})))

    rig.begin().succeed(Response(503))
    rig.begin().succeed(Response(200))

    assert rig.calls == {"successful": 1, "failed": 1}


def test_a_released_permit_counts_as_nothing() -> None:
    rig = rig_in(State.HALF_OPEN)
    for _ in range(10):
        rig.begin().release()

    assert rig.calls == {}
    assert places(rig) == 4


@pytest.mark.parametrize("state", [State.CLOSED, State.HALF_OPEN, State.FORCED_HALF_OPEN])
def test_only_the_first_settling_of_a_permit_counts(state: State) -> None:
    rig = rig_in(state)
    permit = rig.begin()
    others = [rig.begin() for _ in range(3)]
    permit.succeed()
    before = rig.breaker.snapshot()

    permit.succeed()
    permit.fail(DownError())
    permit.fail(AbsentError())
    permit.fail(KeyboardInterrupt())
    permit.release()

    assert rig.breaker.snapshot() == before
    assert len(others) == before.calls_in_flight


def test_a_second_settling_orders_nothing_and_is_no_cause() -> None:
    rig = Rig(open_on_retry_after=True)
    permit = rig.begin()
    permit.succeed()
    error = DownError()
    error.retry_after_seconds = 7.0  # type: ignore[attr-defined]  # as a client's error may have it

    permit.fail(error)

    assert rig.state is State.CLOSED
    rig.breaker.transition_to(State.FORCED_OPEN)
    assert rig.refused().__cause__ is None
