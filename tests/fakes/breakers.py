"""A circuit breaker with a clock in hand and a list of what it told: one line of a test drives one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.stability.board import Board
from app.stability.breaker import CircuitBreaker, Permit
from app.stability.breaker_options import CircuitBreakerOptions
from app.stability.breaker_states import State
from app.stability.call import Call
from app.stability.errors import CallNotPermittedError
from app.stability.events import Event, EventBus
from app.stability.outcome import Classification
from app.stability.pipeline import Pipeline
from tests.fakes.clocks import HandClock

SMALL = {
    "minimum_number_of_calls": 4,
    "sliding_window_size": 4,
    "slow_call_duration_threshold_seconds": 5.0,
    "permitted_calls_in_half_open_state": 4,
}
"""Options of a breaker that two failures of four calls open."""


ADMITTED_OF_TEN = {
    State.CLOSED: 10,
    State.OPEN: 0,
    State.HALF_OPEN: 4,
    State.DISABLED: 10,
    State.METRICS_ONLY: 10,
    State.FORCED_OPEN: 0,
    State.FORCED_HALF_OPEN: 4,
}
"""How many of ten calls that begin at once such a breaker lets in."""


class DownError(Exception):
    """A failure."""


class AbsentError(Exception):
    """Says nothing about the dependency."""


class BusyError(Exception):
    """A failure that says when to come back."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(retry_after_seconds)
        self.retry_after_seconds = retry_after_seconds


class ToldBus(EventBus):
    """Keeps events in a list, in the order of their publishing."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Event] = []

    def publish(self, event: Event) -> None:
        self.told.append(event)


class Rig:
    """A breaker and everything around it."""

    def __init__(
        self,
        *,
        clock: Any = None,
        board: Board | None = None,
        classification: Classification | None = None,
        **options: Any,
    ) -> None:
        self.clock = HandClock() if clock is None else clock
        self.bus = ToldBus()
        self.breaker = CircuitBreaker(
            "storage",
            CircuitBreakerOptions(**{**SMALL, **options}),
            classification=classification or Classification(ignored=(AbsentError,)),
            clock=self.clock,
            bus=self.bus,
            board=board,
        )
        self.pipeline = Pipeline("storage", [self.breaker])

    @property
    def told(self) -> list[Event]:
        return self.bus.told

    @property
    def state(self) -> State:
        return self.breaker.state

    @property
    def calls(self) -> dict[str, int]:
        """Calls by kind, those that were never made left out."""
        return {kind: count for kind, count in self.breaker.snapshot().calls.items() if count}

    def call(self, function: Callable[[], Any]) -> Any:
        return self.pipeline.call(function)

    def succeed(self, times: int = 1, *, seconds: float = 0.0) -> None:
        for _ in range(times):
            self.call(lambda: self.clock.advance(seconds))

    def fail(self, times: int = 1, *, seconds: float = 0.0, error: BaseException | None = None) -> None:
        """Make calls that raise, and take what they raise."""
        for _ in range(times):
            raised = DownError("down") if error is None else error

            def broken(raised: BaseException = raised) -> None:
                self.clock.advance(seconds)
                raise raised

            try:
                self.call(broken)
            except type(raised) as seen:
                assert seen is raised  # noqa: PT017  # what comes out has to be the very error

    def refused(self) -> CallNotPermittedError:
        """Make a call that has to be refused, and return the refusal."""
        ran: list[int] = []
        try:
            self.call(lambda: ran.append(1))
        except CallNotPermittedError as refusal:
            assert ran == []
            return refusal
        raise AssertionError("the call was let in")

    def is_refused(self) -> bool:
        """Tell whether a call would be refused, by making it; a success if it is not."""
        try:
            self.succeed()
        except CallNotPermittedError:
            return True
        return False

    def begin(self) -> Permit:
        """Begin a call that the test ends."""
        return self.breaker.acquire()

    def trip(self) -> None:
        """Open it by as many failures as that needs, ten at most."""
        for _ in range(10):
            if self.state is State.OPEN:
                return
            self.fail()
        raise AssertionError("it did not open")

    def half_open(self) -> None:
        """Open it, and move it on by hand so that no permit is taken."""
        self.breaker.transition_to(State.OPEN)
        self.breaker.transition_to(State.HALF_OPEN)

    def run(self, call: Call[Any]) -> Any:
        return self.pipeline.run(call)


def rig_in(state: State, **options: Any) -> Rig:
    """Return a breaker that has been brought to a state by hand and has told nothing yet."""
    rig = Rig(**options)
    if state is State.HALF_OPEN:
        rig.breaker.transition_to(State.OPEN)
    rig.breaker.transition_to(state)
    rig.told.clear()
    return rig


def places(rig: Rig) -> int:
    """Return how many of ten calls that begin now are let in; they are given back."""
    permits = [rig.breaker.try_acquire() for _ in range(10)]
    for permit in permits:
        if permit is not None:
            permit.release()
    return sum(permit is not None for permit in permits)
