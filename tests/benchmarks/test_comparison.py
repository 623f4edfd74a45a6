"""What docs/stability/comparison.md says of the peers is so, with the versions that are installed here."""

from __future__ import annotations

import contextlib
import re
import threading
from importlib.metadata import version
from pathlib import Path

import circuitbreaker
import interlock
import purgatory
import purgatory.domain.model
import pybreaker
import pyresilience
import pytest
import redress

from benchmarks.stability.dependency import Function, Guard, UnavailableError
from tests.fakes.clocks import HandClock

PAGE = Path(__file__).parents[2] / "docs/stability/comparison.md"
PACKAGES = (
    "circuitbreaker",
    "interlock-cb",
    "purgatory",
    "pybreaker",
    "pyresilience",
    "redress",
    "stamina",
    "tenacity",
)
DEPTH = 20
WAIT_SECONDS = 10.0


def guards(clock: HandClock, monkeypatch: pytest.MonkeyPatch, permits: int = DEPTH) -> dict[str, Guard]:
    """Return a breaker of each peer that opens at the second failure, for ten seconds of a clock moved by hand."""
    monkeypatch.setattr(circuitbreaker, "monotonic", clock.monotonic)
    monkeypatch.setattr("pyresilience._circuit_breaker._monotonic", clock.monotonic)
    monkeypatch.setattr("purgatory.domain.model.time.time", clock.monotonic)
    config = interlock.Config(
        minimum_number_of_calls=2, wait_duration_in_open=WAIT_SECONDS, permitted_calls_in_half_open=permits
    )
    counted = pyresilience.CircuitBreakerConfig(failure_threshold=2, recovery_timeout=WAIT_SECONDS)

    def with_redress(function: Function) -> Function:
        breaker = redress.CircuitBreaker(failure_threshold=2, recovery_timeout_s=WAIT_SECONDS, clock=clock.monotonic)
        policy = redress.Policy(circuit_breaker=breaker)
        return lambda: policy.call(function)

    return {
        "interlock-cb": interlock.CircuitBreaker(name="x", config=config, clock=clock),
        "redress": with_redress,
        "pyresilience": pyresilience.resilient(circuit_breaker=counted),
        "circuitbreaker": circuitbreaker.CircuitBreaker(failure_threshold=2, recovery_timeout=int(WAIT_SECONDS)),
        "purgatory": purgatory.SyncCircuitBreakerFactory(default_threshold=2, default_ttl=WAIT_SECONDS)("x"),
    }


class Play:
    """A guarded function that does what the test says at each of its calls."""

    def __init__(self, guard: Guard) -> None:
        self.calls = 0
        self.act: Function = self.fail
        self.guarded = guard(self._run)

    def attempt(self) -> None:
        with contextlib.suppress(Exception):
            self.guarded()

    def fail(self) -> None:
        raise UnavailableError

    def fail_twice(self) -> None:
        self.act = self.fail
        self.attempt()
        self.attempt()

    def is_refused(self) -> bool:
        reached = self.calls
        self.attempt()
        return self.calls == reached

    def _run(self) -> None:
        self.calls += 1
        self.act()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def test_the_page_names_the_versions_that_are_pinned() -> None:
    text = PAGE.read_text(encoding="utf-8")

    missing = [name for name in PACKAGES if not re.search(rf"{name} {re.escape(version(name))}(?![\w.])", text)]

    assert missing == []


@pytest.mark.parametrize(
    ("name", "at_once"),
    [("interlock-cb", 1), ("redress", 1), ("pyresilience", DEPTH), ("circuitbreaker", DEPTH), ("purgatory", DEPTH)],
)
def test_so_many_trial_calls_run_at_once_when_half_open(
    name: str, at_once: int, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(guards(clock, monkeypatch)[name])
    play.fail_twice()
    assert play.is_refused()
    before = play.calls
    play.act = lambda: play.attempt() if play.calls - before < DEPTH else None  # each calls the next from inside

    clock.advance(WAIT_SECONDS + 1)
    play.attempt()

    assert play.calls - before == at_once


@pytest.mark.parametrize(
    ("name", "closes"),
    [("interlock-cb", False), ("redress", False), ("pyresilience", False), ("circuitbreaker", True)],
)
def test_a_success_that_began_before_the_opening_closes_an_open_breaker_or_not(
    name: str, *, closes: bool, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(guards(clock, monkeypatch)[name])

    play.act = play.fail_twice  # while the first call is in flight two others fail, then it returns
    play.attempt()

    assert play.is_refused() is not closes


def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "trial", "closes"),
    [("interlock-cb", interrupted, False), ("redress", interrupted, True), ("pyresilience", int, True)],
)
def test_a_success_that_began_before_the_opening_counts_as_a_trial_or_not(
    name: str, trial: Function, *, closes: bool, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(guards(clock, monkeypatch, permits=1)[name])

    def trip_and_try() -> None:
        play.fail_twice()
        clock.advance(WAIT_SECONDS + 1)
        play.act = trial  # it leads to half-open and no further
        with contextlib.suppress(KeyboardInterrupt):
            play.attempt()

    play.act = trip_and_try
    play.attempt()

    play.act = play.fail  # one failure opens a half-open breaker, not a closed one
    play.attempt()
    assert play.is_refused() is not closes


@pytest.mark.parametrize(("name", "recovers"), [("interlock-cb", False), ("redress", False), ("pyresilience", True)])
def test_a_trial_that_hangs_keeps_all_others_out_or_not(
    name: str, *, recovers: bool, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(guards(clock, monkeypatch)[name])
    play.fail_twice()
    clock.advance(WAIT_SECONDS + 1)
    refused: list[bool] = []

    def hang() -> None:
        clock.advance(1_000 * WAIT_SECONDS)
        play.act = int
        refused.append(play.is_refused())

    play.act = hang
    play.attempt()

    assert refused == [not recovers]


def test_pybreaker_lets_nobody_else_in_while_a_call_runs() -> None:
    breaker = pybreaker.CircuitBreaker()
    inside, let_go = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        let_go.wait(10)

    thread = threading.Thread(target=breaker.call, args=(wait,))
    thread.start()
    assert inside.wait(10)

    is_free = breaker._lock.acquire(blocking=False)
    let_go.set()
    thread.join(10)

    assert not is_free


def test_purgatory_raises_one_object_whose_traceback_grows(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals: list[tuple[int, int]] = []

    def attempt() -> None:
        try:
            guarded()
        except purgatory.domain.model.OpenedState as refusal:
            refusals.append((id(refusal), traceback_length(refusal)))

    play = Play(guards(clock, monkeypatch)["purgatory"])
    guarded = play.guarded
    play.fail_twice()
    attempt()
    attempt()

    (first, length), (second, longer) = refusals
    assert first == second
    assert longer > length


def traceback_length(error: BaseException) -> int:
    length, entry = 0, error.__traceback__
    while entry is not None:
        length, entry = length + 1, entry.tb_next
    return length
