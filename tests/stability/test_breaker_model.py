"""A circuit breaker against a model of it: lists and plain arithmetic, written from the specification alone.

Time goes in eighths of a second, and all limits are sums of powers of two, so that no rounding hides a mistake.
The model lets time do its part at every question; the breaker skips that where it thinks it can.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.stability.breaker import Permit
from app.stability.breaker_events import BreakerReset, StateTransitioned, ThresholdCrossed
from app.stability.breaker_states import State
from app.stability.errors import CallNotPermittedError, IllegalTransitionError
from app.stability.events import Event
from tests.fakes.breakers import AbsentError, BusyError, DownError, Rig

STATES = ("closed", "open", "half_open", "disabled", "metrics_only", "forced_open", "forced_half_open")
SLOW = 2.0
ORDERED_MAX = 8.0
KINDS = ("success", "failure", "ignored", "interrupt", "busy")
ERRORS: dict[str, Callable[[], BaseException]] = {
    "failure": DownError,
    "ignored": AbsentError,
    "interrupt": KeyboardInterrupt,
    "busy": lambda: BusyError(4.0),
}
WAITS = {"fixed": 4.0, "growing": lambda attempt: 2.0 * attempt}
SECONDS = st.sampled_from([0.0, 0.125, 0.5, 1.0, SLOW, SLOW + 0.125, 4.0, 16.0])
OUTCOMES = st.tuples(
    st.sampled_from(["success", "failure", "success", "failure", "busy", *KINDS]),
    st.sampled_from([0.0, 0.0, SLOW, SLOW + 0.125]),
)
PAUSES = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.5])
DRIZZLE = st.lists(st.tuples(PAUSES, st.sampled_from(["success", "success", "failure"])), min_size=1, max_size=8)
PATHS = st.lists(st.sampled_from(STATES), min_size=1, max_size=3)
OPTIONS = st.fixed_dictionaries(
    {
        "failure_rate_threshold": st.sampled_from([0.25, 0.5, 0.75, 1.0]),
        "slow_call_rate_threshold": st.sampled_from([0.25, 0.5, 1.0]),
        "sliding_window_type": st.sampled_from(["count_based", "time_based"]),
        "sliding_window_size": st.sampled_from([5, 5, 10, 20]),
        "minimum_number_of_calls": st.integers(1, 5),
        "permitted_calls_in_half_open_state": st.integers(1, 5),
        "wait_duration_in_open_state_seconds": st.sampled_from(["fixed", "growing"]),
        "max_wait_duration_in_half_open_state_seconds": st.sampled_from([None, 3.0]),
        "automatic_transition_from_open_to_half_open": st.booleans(),
        "count_calls_in_flight_as_slow": st.sampled_from([True, True, False]),
        "open_on_retry_after": st.booleans(),
    }
)
NOT_BY_HAND = {("closed", "half_open"), ("metrics_only", "open"), ("metrics_only", "half_open")}


@dataclass
class Result:
    """One finished call."""

    at: float
    failed: bool
    slow: bool


@dataclass
class Flight:
    """One call that runs."""

    era: int
    state: str
    began: float


@dataclass
class Figures:
    """What is shown of a window."""

    results: int = 0
    failures: int = 0
    slow: int = 0
    failure_rate: float = -1.0
    slow_rate: float = -1.0


@dataclass
class Model:
    """The specification, the slow and plain way."""

    options: dict[str, Any]
    state: str = "closed"
    era: int = 0
    attempt: int = 0
    until: float = math.inf
    taken: int = 0
    results: list[Result] = field(default_factory=list)
    kept: Figures = field(default_factory=Figures)
    crossed: set[str] = field(default_factory=set)
    flying: dict[int, Flight] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    told: list[tuple[str, ...]] = field(default_factory=list)

    # --- figures

    def in_window(self, now: float) -> list[Result]:
        """Return the results that count now."""
        if self.state in {"half_open", "forced_half_open"}:
            return self.results[-self.options["permitted_calls_in_half_open_state"] :]
        size = self.options["sliding_window_size"]
        if self.options["sliding_window_type"] == "count_based":
            return self.results[-size:]
        bucket = min(Fraction(1), Fraction(size, 10))
        buckets = size / bucket
        current = math.floor(Fraction(now) / bucket)
        return [one for one in self.results if math.floor(Fraction(one.at) / bucket) > current - buckets]

    def needed(self) -> int:
        minimum: int = self.options["minimum_number_of_calls"]
        permits: int = self.options["permitted_calls_in_half_open_state"]
        return min(minimum, permits) if self.state in {"half_open", "forced_half_open"} else minimum

    def in_flight(self) -> list[Flight]:
        """Return the calls that run and were admitted in this very stay."""
        return [one for one in self.flying.values() if one.era == self.era and self.state != "disabled"]

    def hanging(self, now: float) -> int:
        """Return how many calls in flight count as slow."""
        if not self.options["count_calls_in_flight_as_slow"]:
            return 0
        return sum(now - one.began > SLOW for one in self.in_flight())

    def figures(self, now: float) -> Figures:
        if self.state in {"open", "forced_open"}:
            return self.kept
        if self.state == "disabled":
            return Figures()
        held, hanging = self.in_window(now), self.hanging(now)
        results, failures, slow = len(held), sum(one.failed for one in held), sum(one.slow for one in held)
        return Figures(
            results,
            failures,
            slow,
            failures / results if results >= self.needed() else -1.0,
            (slow + hanging) / (results + hanging) if results + hanging >= self.needed() else -1.0,
        )

    # --- states

    def enter(self, target: str, now: float, cause: str, *, until: float | None = None) -> None:
        """Begin a stay."""
        kept = self.figures(now)
        if target == "closed":
            self.attempt = 0
        if target == "open" and until is None:
            self.attempt += 1
        if target != self.state or cause == "manual":  # an operator may give an opening another end
            self.told.append((self.state, target, cause))
        self.state, self.kept = target, kept
        self.era += 1
        self.taken, self.results, self.crossed = 0, [], set()
        self.until = math.inf
        if target == "open":
            self.until = now + self.wait(self.attempt) if until is None else until
        if target == "half_open":
            limit = self.options["max_wait_duration_in_half_open_state_seconds"]
            self.until = now + (self.wait(max(1, self.attempt)) if limit is None else limit)

    def wait(self, attempt: int) -> float:
        wait = self.options["wait_duration_in_open_state_seconds"]
        return float(wait(attempt)) if callable(wait) else float(wait)

    def pass_time(self, now: float) -> None:
        """Let time do its part."""
        if self.state == "open":
            if self.options["automatic_transition_from_open_to_half_open"] and now >= self.until:
                self.enter("half_open", now, "wait_over")
        elif self.state == "half_open":
            if now >= self.until:
                self.enter("open", now, "time_limit")
            elif self.hanging(now):
                self.give_verdict(now)
        elif self.state in {"closed", "metrics_only"} and self.hanging(now):
            self.judge(now, by_result=False)

    def judge(self, now: float, *, by_result: bool) -> None:
        """Look whether a threshold is reached."""
        figures = self.figures(now)
        reached = []
        if by_result and figures.failure_rate >= self.options["failure_rate_threshold"]:
            reached.append("failure_rate")
        if figures.slow_rate >= self.options["slow_call_rate_threshold"]:
            reached.append("slow_call_rate")
        if self.state == "metrics_only":
            for cause in reached:
                if cause not in self.crossed:
                    self.crossed.add(cause)
                    self.told.append(("crossed", cause))
        elif reached:
            self.enter("open", now, reached[0])

    def give_verdict(self, now: float) -> None:
        """Decide half-open, if every way in which the missing results could come out leads to the same."""
        needed, hanging = self.needed(), self.hanging(now)
        missing = max(0, needed - len(self.results))
        failures, slow = sum(one.failed for one in self.results), sum(one.slow for one in self.results)
        limits = [Fraction(self.options[name]) for name in ("failure_rate_threshold", "slow_call_rate_threshold")]
        if Fraction(failures, needed) >= limits[0]:
            self.enter("open", now, "failure_rate")
        elif Fraction(slow + hanging, needed) >= limits[1]:
            self.enter("open", now, "slow_call_rate")
        elif Fraction(failures + missing, needed) < limits[0] and Fraction(slow + missing, needed) < limits[1]:
            self.enter("closed", now, "verdict")

    # --- traffic

    def begin(self, number: int, now: float) -> bool:
        """Ask for a call; return whether it may run."""
        self.pass_time(now)
        if self.state == "open" and now >= self.until:
            self.enter("half_open", now, "wait_over")
        permits = self.options["permitted_calls_in_half_open_state"]
        if (
            self.state in {"open", "forced_open"}
            or (self.state == "half_open" and self.taken >= permits)
            or (self.state == "forced_half_open" and len(self.in_flight()) >= permits)
        ):
            self.calls["not_permitted"] += 1
            return False
        self.taken += 1
        self.flying[number] = Flight(self.era, self.state, now)
        return True

    def finish(self, number: int, now: float, kind: str) -> str:
        """End a call; return what became of it."""
        flight = self.flying.pop(number)
        if flight.state == "disabled":
            return "unrecorded"
        self.pass_time(now)
        if kind in {"ignored", "interrupt"}:
            self.calls["ignored"] += kind == "ignored"
            if flight.era == self.era:
                self.taken -= 1
            return kind
        if flight.era != self.era:
            self.calls["late"] += 1
            return f"late in {self.state}"
        failed = kind != "success"
        self.calls["failed" if failed else "successful"] += 1
        self.results.append(Result(now, failed, now - flight.began > SLOW))
        before = self.state
        if self.state == "half_open":
            self.give_verdict(now)
        elif self.state != "forced_half_open":
            self.judge(now, by_result=True)
        is_order = kind == "busy" and self.options["open_on_retry_after"]
        if is_order and before in {"closed", "half_open"} and self.state in {"closed", "open", "half_open"}:
            self.enter("open", now, "ordered", until=now + min(4.0, ORDERED_MAX))
        return kind

    # --- by hand

    def move(self, target: str, now: float) -> bool:
        """Move it; return whether that is allowed."""
        self.pass_time(now)
        if (self.state, target) in NOT_BY_HAND:
            return False
        if target != self.state:
            self.enter(target, now, "manual")
        return True

    def open_for(self, seconds: float, now: float) -> bool:
        self.pass_time(now)
        if (self.state, "open") in NOT_BY_HAND:
            return False
        self.enter("open", now, "manual", until=now + seconds)
        return True

    def reset(self, now: float) -> None:
        self.pass_time(now)
        told = len(self.told)
        self.enter("closed", now, "reset")
        self.told[told:] = [("reset",)]


def as_told(event: Event) -> tuple[str, ...]:
    if isinstance(event, StateTransitioned):
        return event.source.value, event.target.value, event.cause
    if isinstance(event, ThresholdCrossed):
        return "crossed", event.cause
    assert isinstance(event, BreakerReset)
    return ("reset",)


class BreakerAgainstModel(RuleBasedStateMachine):
    """Does the same to both and compares them."""

    seen: ClassVar[Counter[tuple[str, ...]]] = Counter()
    """What the examples have come across: transitions, kinds of ends, refusals by state."""

    @initialize(options=OPTIONS)
    def make(self, options: dict[str, Any]) -> None:
        wait = WAITS[options["wait_duration_in_open_state_seconds"]]
        options = {
            **options,
            "wait_duration_in_open_state_seconds": wait,
            "slow_call_duration_threshold_seconds": SLOW,
            "max_ordered_open_seconds": ORDERED_MAX,
        }
        self.rig = Rig(**options)
        self.model = Model(options)
        self.permits: dict[int, Permit] = {}
        self.number = 0

    @property
    def now(self) -> float:
        return self.rig.clock.monotonic()

    def note(self, *what: str) -> None:
        self.seen[what] += 1

    @rule(outcomes=st.lists(OUTCOMES, min_size=1, max_size=6))
    def call(self, outcomes: list[tuple[str, float]]) -> None:
        """Make calls, one after the other."""
        for kind, seconds in outcomes:
            self.number += 1
            state = self.model.state
            if not self.model.begin(self.number, self.now):
                self.note("refused", self.model.state)
                assert self.rig.refused().state == self.model.state
                continue
            self.note("admitted", self.model.state)
            error = ERRORS[kind]() if kind in ERRORS else None
            try:
                if error is None:
                    self.rig.succeed(seconds=seconds)
                else:
                    self.rig.fail(seconds=seconds, error=error)
            except CallNotPermittedError as refusal:
                message = f"refused in {refusal.state}; the model was {state} and lets it in"
                raise AssertionError(message) from None
            self.note("ended", self.model.finish(self.number, self.now, kind))

    @rule(times=st.integers(1, 3))
    def begin(self, times: int) -> None:
        """Begin calls that end later or never."""
        for _ in range(times):
            self.begin_one()

    def begin_one(self) -> None:
        self.number += 1
        admitted = self.model.begin(self.number, self.now)
        permit = self.rig.breaker.try_acquire()
        assert (permit is not None) is admitted
        self.note("admitted" if admitted else "refused", self.model.state)
        if permit is not None:
            self.permits[self.number] = permit

    @precondition(lambda self: bool(self.permits))
    @rule(index=st.integers(0, 50), kind=st.sampled_from(KINDS))
    def finish(self, index: int, kind: str) -> None:
        """End one of the calls that run."""
        self.finish_one(sorted(self.permits)[index % len(self.permits)], kind)

    def finish_one(self, number: int, kind: str) -> None:
        permit = self.permits.pop(number)
        if kind == "success":
            permit.succeed()
        else:
            permit.fail(ERRORS[kind]())
        self.note("ended", self.model.finish(number, self.now, kind))

    @rule(path=PATHS, seconds=SECONDS, kind=st.sampled_from(KINDS))
    def be_overtaken(self, path: list[str], seconds: float, kind: str) -> None:
        """Make a call during which it is moved by hand and time passes."""
        self.begin_one()
        self.move(path)
        self.wait(seconds)
        if self.number in self.permits:
            self.finish_one(self.number, kind)

    @rule(steps=DRIZZLE, hanging=st.integers(0, 2), looks=st.booleans())
    def drizzle(self, steps: list[tuple[float, str]], hanging: int, looks: bool) -> None:
        """Make quick calls with pauses between, while some hang: results leave a time window."""
        self.call([("success", 0.0)] * 3)
        for _ in range(hanging):
            self.begin_one()
        for pause, kind in steps:
            self.wait(pause)
            if looks:
                self.look()
            self.call([(kind, 0.0)])

    @rule(outcomes=st.lists(OUTCOMES, min_size=1, max_size=6))
    def try_again(self, outcomes: list[tuple[str, float]]) -> None:
        """Make trial calls."""
        self.move(["open", "half_open"])
        self.call(outcomes)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.rig.clock.advance(seconds)

    @precondition(lambda self: self.now < self.model.until < math.inf)
    @rule(early=st.sampled_from([0.0, 0.125]))
    def wait_for_the_end(self, early: float) -> None:
        """Let time pass to the very end of a state, or to the moment before."""
        self.rig.clock.advance(self.model.until - self.now - early)

    @rule(path=PATHS)
    def move(self, path: list[str]) -> None:
        """Move it by hand, from one state to another."""
        for target in path:
            self.move_to(target)

    def move_to(self, target: str) -> None:
        before = self.model.state
        allowed = self.model.move(target, self.now)
        self.note("by hand" if allowed else "not by hand", before, target)
        if allowed:
            self.rig.breaker.transition_to(State(target))
        else:
            with pytest.raises(IllegalTransitionError):
                self.rig.breaker.transition_to(State(target))

    @rule(seconds=st.sampled_from([0.125, 1.0, 8.0]))
    def open_for(self, seconds: float) -> None:
        """Open it for a time."""
        if self.model.open_for(seconds, self.now):
            self.rig.breaker.open_for(seconds)
        else:
            with pytest.raises(IllegalTransitionError):
                self.rig.breaker.open_for(seconds)

    @rule()
    def reset(self) -> None:
        """Close it with fresh figures."""
        self.model.reset(self.now)
        self.rig.breaker.reset()

    @rule()
    def look(self) -> None:
        """Compare everything that can be seen."""
        self.model.pass_time(self.now)
        snapshot, model, figures = self.rig.breaker.snapshot(), self.model, self.model.figures(self.now)
        assert snapshot.state.value == model.state
        assert (snapshot.results, snapshot.failures, snapshot.slow_calls) == (
            figures.results,
            figures.failures,
            figures.slow,
        )
        assert (snapshot.failure_rate, snapshot.slow_call_rate) == (figures.failure_rate, figures.slow_rate)
        assert (snapshot.calls_in_flight, snapshot.slow_calls_in_flight) == (
            len(model.in_flight()),
            model.hanging(self.now),
        )
        assert snapshot.attempt == model.attempt
        remaining = None if model.until == math.inf else max(0.0, model.until - self.now)
        assert snapshot.remaining_seconds == remaining
        assert {kind: count for kind, count in snapshot.calls.items() if count} == +model.calls

    @invariant()
    def agree(self) -> None:
        """Compare what can be seen without asking: asking would let time do its part."""
        machine = self.rig.breaker._machine
        assert (machine.visit.state.value, machine.attempt) == (self.model.state, self.model.attempt)
        assert [as_told(event) for event in self.rig.told] == self.model.told

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.look()
            self.seen.update(self.model.told)


ENOUGH = settings(
    max_examples=500,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
BY_ITSELF = [
    ("closed", "open", "failure_rate"),
    ("closed", "open", "slow_call_rate"),
    ("closed", "open", "ordered"),
    ("open", "half_open", "wait_over"),
    ("half_open", "closed", "verdict"),
    ("half_open", "open", "failure_rate"),
    ("half_open", "open", "slow_call_rate"),
    ("half_open", "open", "ordered"),
    ("half_open", "open", "time_limit"),
    ("crossed", "failure_rate"),
    ("crossed", "slow_call_rate"),
    ("reset",),
]


def unseen() -> list[tuple[str, ...]]:
    """Return what the examples should have come across and have not."""
    wanted = [
        *BY_ITSELF,
        *(
            ("by hand", source, target)
            for source in STATES
            for target in STATES
            if (source, target) not in NOT_BY_HAND
        ),
        *(("not by hand", *pair) for pair in NOT_BY_HAND),
        *(("refused", state) for state in ("open", "half_open", "forced_open", "forced_half_open")),
        *(("admitted", state) for state in STATES if state not in {"open", "forced_open"}),
        *(("ended", f"late in {state}") for state in STATES),
        *(("ended", kind) for kind in KINDS),
        ("ended", "unrecorded"),
    ]
    return [what for what in wanted if not BreakerAgainstModel.seen[what]]


def test_a_breaker_does_what_the_model_does_and_the_examples_go_everywhere() -> None:
    BreakerAgainstModel.seen.clear()

    run_state_machine_as_test(BreakerAgainstModel, settings=ENOUGH)

    assert unseen() == []


@pytest.mark.extended
def test_a_breaker_does_what_the_model_does_in_many_more_examples() -> None:
    BreakerAgainstModel.seen.clear()

    run_state_machine_as_test(
        BreakerAgainstModel,
        settings=settings(ENOUGH, derandomize=False, max_examples=3000, stateful_step_count=80),
    )

    assert unseen() == []
