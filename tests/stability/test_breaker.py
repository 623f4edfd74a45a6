"""The traffic through a circuit breaker: admitted, recorded, refused, late."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from app.stability.breaker import CircuitBreaker, Permit
from app.stability.breaker_options import CircuitBreakerOptions
from app.stability.breaker_states import State
from app.stability.call import Call, Proceed
from app.stability.context import PolicyContext
from app.stability.errors import BulkheadFullError, CallNotPermittedError
from app.stability.events import EventBus
from app.stability.outcome import Classification
from app.stability.pipeline import Pipeline
from tests.fakes.board import MemoryBoard
from tests.fakes.breakers import ADMITTED_OF_TEN, AbsentError, DownError, Rig, places, rig_in
from tests.fakes.clocks import HandClock

INTERRUPTS = [KeyboardInterrupt(), SystemExit(1), GeneratorExit()]


class Response:
    """Has an HTTP status."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


# --- what each state does with traffic ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
def test_a_state_admits_as_many_at_once_as_its_row_says(state: State) -> None:
    rig = rig_in(state)

    assert places(rig) == ADMITTED_OF_TEN[state]


@pytest.mark.parametrize("state", State)
def test_a_state_counts_what_it_refuses(state: State) -> None:
    rig = rig_in(state)

    permits = [rig.breaker.try_acquire() for _ in range(10)]

    assert rig.calls == ({"not_permitted": permits.count(None)} if None in permits else {})


@pytest.mark.parametrize("state", [State.CLOSED, State.METRICS_ONLY, State.FORCED_HALF_OPEN, State.HALF_OPEN])
def test_a_recording_state_shows_results_in_its_window_and_counts_them(state: State) -> None:
    rig = rig_in(state)
    rig.succeed()
    rig.fail()
    rig.fail(error=AbsentError())

    snapshot = rig.breaker.snapshot()

    assert (snapshot.results, snapshot.failures) == (2, 1)
    assert rig.calls == {"successful": 1, "failed": 1, "ignored": 1}


def test_disabled_records_nothing_at_all() -> None:
    rig = rig_in(State.DISABLED)
    rig.succeed(3)
    rig.fail(3)
    rig.fail(error=AbsentError())
    rig.begin()

    snapshot = rig.breaker.snapshot()

    assert (snapshot.results, snapshot.failure_rate, snapshot.calls_in_flight) == (0, -1.0, 0)
    assert rig.calls == {}


def test_a_call_that_began_in_disabled_says_nothing_later() -> None:
    rig = rig_in(State.DISABLED)
    permit = rig.begin()
    rig.breaker.transition_to(State.CLOSED)

    permit.fail(DownError())

    assert rig.calls == {}
    assert rig.breaker.snapshot().results == 0


@pytest.mark.parametrize("state", [State.CLOSED, State.METRICS_ONLY, State.DISABLED])
def test_calls_pass_with_their_arguments_and_results(state: State) -> None:
    rig = rig_in(state)

    assert rig.pipeline.call(divmod, 17, 5) == (3, 2)


def test_forced_half_open_gives_places_back_as_calls_end_however_they_end() -> None:
    rig = rig_in(State.FORCED_HALF_OPEN)

    rig.succeed(5)
    rig.fail(5)
    rig.fail(5, error=AbsentError())
    for interrupt in INTERRUPTS:
        rig.fail(error=interrupt)

    assert places(rig) == 4
    assert rig.state is State.FORCED_HALF_OPEN


def test_forced_half_open_shows_the_last_n() -> None:
    rig = rig_in(State.FORCED_HALF_OPEN)
    rig.fail(10)
    rig.succeed(3)

    snapshot = rig.breaker.snapshot()

    assert (snapshot.results, snapshot.failures, snapshot.failure_rate) == (4, 1, 0.25)


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_refusal_says_who_and_in_which_state_and_when_to_come_again() -> None:
    rig = Rig()
    rig.trip()
    rig.clock.advance(20)

    refusal = rig.refused()

    assert (refusal.name, refusal.state, refusal.retry_after_seconds) == ("storage", "open", 40.0)


@pytest.mark.parametrize("state", [State.HALF_OPEN, State.FORCED_OPEN, State.FORCED_HALF_OPEN])
def test_a_refusal_that_no_time_ends_says_no_time(state: State) -> None:
    rig = rig_in(state)
    for _ in range(ADMITTED_OF_TEN[state]):
        rig.begin()

    refusal = rig.refused()

    assert (refusal.state, refusal.retry_after_seconds) == (state.value, None)


def test_a_refusal_has_the_last_failure_as_its_cause_without_frames() -> None:
    rig = Rig()
    rig.fail(3)
    rig.fail(error=DownError("the last one"))

    cause = rig.refused().__cause__

    assert isinstance(cause, DownError)
    assert cause.args == ("the last one",)
    assert (cause.__traceback__, cause.__context__, cause.__cause__) == (None, None, None)


def test_every_refusal_is_a_fresh_object() -> None:
    rig = Rig()
    rig.trip()

    refusals = [rig.refused() for _ in range(3)]

    assert len({id(refusal) for refusal in refusals}) == 3


def test_a_refusal_can_be_pickled_and_copied() -> None:
    rig = Rig()
    rig.trip()
    refusal = rig.refused()

    copies = [copy.copy(refusal), pickle.loads(pickle.dumps(refusal))]  # noqa: S301  # dumped in this line

    assert [(one.name, one.state, one.retry_after_seconds) for one in copies] == [("storage", "open", 60.0)] * 2


def test_a_breaker_that_was_opened_by_hand_has_no_cause_to_give() -> None:
    rig = rig_in(State.FORCED_OPEN)

    assert rig.refused().__cause__ is None


def test_a_reset_forgets_the_last_failure() -> None:
    rig = Rig()
    rig.trip()
    rig.breaker.reset()
    rig.breaker.transition_to(State.FORCED_OPEN)

    assert rig.refused().__cause__ is None


class UncopiableError(Exception):
    """Its constructor wants more than it keeps."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class SelfCopyError(Exception):
    """Gives itself for a copy, frames and all."""

    def __copy__(self) -> SelfCopyError:
        return self


class OddCopyError(Exception):
    """Gives something else for a copy."""

    def __copy__(self) -> str:
        return "odd"


@pytest.mark.parametrize(
    "error", [UncopiableError("a", "b"), SelfCopyError(), OddCopyError(), ExceptionGroup("two", [DownError()])]
)
def test_an_error_that_cannot_be_copied_clean_is_no_cause(error: Exception) -> None:
    rig = Rig()

    rig.fail(4, error=error)

    assert rig.refused().__cause__ is None


def test_a_refused_call_does_not_run_and_is_counted() -> None:
    rig = Rig()
    rig.trip()

    for _ in range(3):
        rig.refused()

    assert rig.calls == {"failed": 4, "not_permitted": 3}


# --- classification -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classification", "error", "kind"),
    [
        (Classification(), ValueError(), "failed"),
        (Classification(ignored=(ValueError,)), ValueError(), "ignored"),
        (Classification(ignored=(ValueError,), failures=(ValueError,)), ValueError(), "ignored"),
        (Classification(ignored_when=lambda error: "404" in str(error)), DownError("404"), "ignored"),
        (Classification(ignored_when=lambda error: "404" in str(error)), DownError("500"), "failed"),
        (Classification(failures=(OSError,)), TimeoutError(), "failed"),
        (Classification(failures=(OSError,)), ValueError(), "successful"),
        (Classification(failures=(), failure_when=lambda error: "5" in str(error)), DownError("503"), "failed"),
        (Classification(failures=(), failure_when=lambda error: "5" in str(error)), DownError("404"), "successful"),
        (Classification(), BulkheadFullError("inner", "full"), "ignored"),
        (Classification(ignored_when=lambda _: 1 / 0 > 0), DownError(), "ignored"),
        (Classification(failures=(), failure_when=lambda _: 1 / 0 > 0), DownError(), "ignored"),
    ],
)
def test_an_error_is_ignored_first_then_a_failure_else_a_success(
    classification: Classification, error: Exception, kind: str
) -> None:
    rig = Rig(classification=classification)

    rig.fail(error=error)

    assert rig.calls == {kind: 1}


@pytest.mark.parametrize(
    ("classification", "result", "kind"),
    [
        (Classification(failing_result=lambda result: result is None), None, "failed"),
        (Classification(failing_result=lambda result: result is None), "", "successful"),
        (Classification(failing_statuses=frozenset({500, 503})), Response(503), "failed"),
        (Classification(failing_statuses=frozenset({500, 503})), Response(404), "successful"),
        (Classification(failing_statuses=frozenset({404})), Response(404), "failed"),
        (Classification(), Response(503), "successful"),
        (Classification(failing_result=lambda _: 1 / 0 > 0), "anything", "ignored"),
    ],
)
def test_a_returned_value_is_a_failure_by_predicate_or_status_and_is_returned_all_the_same(
    classification: Classification, result: object, kind: str
) -> None:
    rig = Rig(classification=classification)

    returned = rig.call(lambda: result)

    assert returned is result
    assert rig.calls == {kind: 1}


@pytest.mark.parametrize("state", [State.HALF_OPEN, State.FORCED_HALF_OPEN])
@pytest.mark.parametrize("error", [AbsentError(), *INTERRUPTS], ids=repr)
def test_what_is_no_outcome_returns_its_permit(state: State, error: BaseException) -> None:
    rig = rig_in(state)

    rig.fail(10, error=error)

    assert places(rig) == 4
    assert rig.breaker.snapshot().results == 0


@pytest.mark.parametrize("error", INTERRUPTS, ids=repr)
def test_an_interrupt_is_counted_as_nothing(error: BaseException) -> None:
    rig = Rig()

    rig.fail(error=error)

    assert rig.calls == {}
    assert rig.breaker.snapshot().calls_in_flight == 0


def interrupted(_judged: object) -> bool:
    raise KeyboardInterrupt


INTERRUPTED_RULES = Classification(ignored_when=interrupted, failing_result=interrupted)


@pytest.mark.parametrize("state", [State.HALF_OPEN, State.FORCED_HALF_OPEN])
@pytest.mark.parametrize("settle", [Permit.succeed, lambda permit: permit.fail(DownError())])
def test_an_interrupt_in_a_classification_returns_the_permit(state: State, settle: Callable[[Permit], None]) -> None:
    rig = rig_in(state, classification=INTERRUPTED_RULES)

    for _ in range(10):
        with pytest.raises(KeyboardInterrupt):
            settle(rig.begin())

    assert places(rig) == 4


@pytest.mark.parametrize("state", [State.HALF_OPEN, State.FORCED_HALF_OPEN])
@pytest.mark.parametrize("function", [lambda: None, lambda: 1 / 0])
def test_an_interrupt_while_a_call_is_judged_returns_its_permit(state: State, function: Callable[[], Any]) -> None:
    rig = rig_in(state, classification=INTERRUPTED_RULES)

    for _ in range(10):
        with pytest.raises(KeyboardInterrupt):
            rig.call(function)

    assert places(rig) == 4


# --- slow calls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "slow"), [(4.0, 0), (5.0, 0), (5.25, 1)])
def test_slow_is_longer_than_the_threshold_for_successes_and_failures_alike(seconds: float, slow: int) -> None:
    rig = Rig()

    rig.succeed(seconds=seconds)
    rig.fail(seconds=seconds)

    assert rig.breaker.snapshot().slow_calls == 2 * slow


def test_hanging_calls_open_it_before_any_of_them_has_a_result() -> None:
    rig = Rig()
    for _ in range(4):
        rig.begin()
    rig.clock.advance(5)
    early = rig.state
    rig.clock.advance(0.5)

    refusal = rig.refused()

    assert early is State.CLOSED
    assert refusal.state == "open"
    assert rig.breaker.snapshot().slow_call_rate == 1.0


def test_hanging_calls_open_nothing_with_the_option_off() -> None:
    rig = Rig(count_calls_in_flight_as_slow=False)
    for _ in range(4):
        rig.begin()

    rig.clock.advance(1000)

    assert not rig.is_refused()


def test_a_call_that_was_counted_in_flight_is_counted_once_when_it_ends() -> None:
    rig = Rig(slow_call_rate_threshold=1.0, failure_rate_threshold=1.0)
    permit = rig.begin()
    rig.clock.advance(6)
    rig.succeed(3)
    before = rig.breaker.snapshot().slow_call_rate

    permit.succeed()

    assert (before, rig.breaker.snapshot().slow_call_rate) == (0.25, 0.25)


def test_a_hanging_call_that_is_given_up_no_longer_counts_in_the_next_judgement() -> None:
    rig = Rig(slow_call_rate_threshold=0.25)
    permit = rig.begin()
    rig.clock.advance(6)
    rig.succeed(2)

    permit.release()
    rig.succeed(10)

    assert rig.state is State.CLOSED


# --- calls in calls -----------------------------------------------------------------------------------------------


def test_a_function_may_call_through_its_own_breaker() -> None:
    rig = Rig()

    result = rig.call(lambda: rig.call(lambda: rig.call(lambda: "inmost")))

    assert result == "inmost"
    assert rig.calls == {"successful": 3}


def test_a_trial_call_that_calls_through_its_own_breaker_uses_two_permits() -> None:
    rig = rig_in(State.HALF_OPEN, permitted_calls_in_half_open_state=1)

    with pytest.raises(CallNotPermittedError):
        rig.call(lambda: rig.call(lambda: "inner"))

    assert places(rig) == 1, "the outer call ended by a refusal, which is no outcome"


def test_a_call_can_run_again_and_is_counted_again() -> None:
    rig = Rig()
    call = Call(lambda: "again")

    results = [rig.run(call) for _ in range(3)]

    assert results == ["again"] * 3
    assert rig.calls == {"successful": 3}


class Twice:
    """Runs a call through another pipeline and then on."""

    def __init__(self, other: Pipeline) -> None:
        self._other = other

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        self._other.run(call)
        return proceed(call)


@pytest.mark.parametrize("state", [State.CLOSED, State.FORCED_HALF_OPEN])
def test_a_call_that_passes_twice_at_once_loses_no_place_and_no_count(state: State) -> None:
    rig = rig_in(state)
    outer = Pipeline("outer", [rig.breaker, Twice(rig.pipeline)])

    for _ in range(5):
        outer.run(Call(lambda: None))

    assert rig.calls == {"successful": 10}
    assert rig.breaker.snapshot().calls_in_flight == 0
    assert places(rig) == ADMITTED_OF_TEN[state]


def test_no_lock_is_held_while_the_function_runs() -> None:
    rig = Rig()
    inside, looked = threading.Barrier(2, timeout=10), threading.Event()
    seen: list[object] = []

    def look() -> None:
        inside.wait()
        seen.extend([rig.state, rig.breaker.snapshot().calls_in_flight, rig.call(lambda: "other")])
        looked.set()

    def run() -> bool:
        inside.wait()
        return looked.wait(10)

    looker = threading.Thread(target=look)
    looker.start()
    answered = rig.call(run)
    looker.join()

    assert answered, "the other thread could not look before this call ended"
    assert seen == [State.CLOSED, 1, "other"]


# --- how it is made -----------------------------------------------------------------------------------------------


def test_it_is_built_from_options_and_surroundings() -> None:
    clock, bus, rules, board = HandClock(), EventBus(), Classification(ignored=(AbsentError,)), MemoryBoard()
    told: list[str] = []
    bus.subscribe(lambda event: told.append(event.name))
    options = CircuitBreakerOptions(minimum_number_of_calls=1, sliding_window_size=1)

    breaker = CircuitBreaker.build(options, PolicyContext("storage", rules, clock, bus, board=board))
    with pytest.raises(AbsentError), breaker.acquire():
        raise AbsentError
    after_an_ignored_error = breaker.state
    with pytest.raises(DownError), breaker.acquire():
        raise DownError

    assert (breaker.name, breaker.options, breaker.state) == ("storage", options, State.OPEN)
    assert after_an_ignored_error is State.CLOSED
    assert breaker.snapshot().remaining_seconds == 60.0
    assert board.standing["storage"].state == State.OPEN.value
    bus.close()
    assert told == ["storage"]


def test_it_needs_nothing_but_a_name() -> None:
    breaker = CircuitBreaker("storage")

    assert breaker.options == CircuitBreakerOptions()
    assert breaker.execute(Call(lambda: "result"), lambda call: call()) == "result"
    assert breaker.snapshot().calls["successful"] == 1


def test_what_it_tells_reaches_listeners_in_order() -> None:
    bus = EventBus()
    told: list[str] = []
    bus.subscribe(lambda event: told.append(type(event).__name__))
    breaker = CircuitBreaker("storage", bus=bus)

    breaker.transition_to(State.FORCED_OPEN)
    breaker.reset()

    assert bus.flush()
    bus.close()
    assert told == ["StateTransitioned", "BreakerReset"]
