"""How a breaker stands at one moment, for commands, pages and exporters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .breaker_states import State
from .figures import Distribution, Figure

if TYPE_CHECKING:
    from .breaker_machine import StateMachine
    from .breaker_tally import Tally


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """Figures of one process.

    Attributes:
        name: Of the breaker.
        state: Its state.
        failure_rate: Share of failed calls in the window, 0 to 1; -1 while there are too few. In OPEN and FORCED_OPEN
            all window figures are those that led there.
        slow_call_rate: Share of slow calls, those in flight included; as above.
        results: Results in the window.
        failures: Failed ones among them.
        slow_calls: Slow ones among them.
        calls_in_flight: Admitted calls that have not ended.
        slow_calls_in_flight: Those of them that are slow already.
        attempt: How often it has opened since it was last closed.
        remaining_seconds: How long the state lasts if nothing else happens; None when it has no end.
        calls: All calls so far by kind: successful, failed, ignored, late, not_permitted.
    """

    name: str
    state: State
    failure_rate: float
    slow_call_rate: float
    results: int
    failures: int
    slow_calls: int
    calls_in_flight: int
    slow_calls_in_flight: int
    attempt: int
    remaining_seconds: float | None
    calls: dict[str, int]


def take_snapshot(name: str, machine: StateMachine, tally: Tally, now: float) -> BreakerSnapshot:
    """Return how a breaker stands; its lock is held, and time has done its part."""
    visit = machine.visit
    window = visit.window
    failure_rate, slow_call_rate = visit.rates()
    return BreakerSnapshot(
        name=name,
        state=visit.state,
        failure_rate=failure_rate,
        slow_call_rate=slow_call_rate,
        results=0 if window is None else window.results,
        failures=0 if window is None else window.failures,
        slow_calls=0 if window is None else window.slow,
        calls_in_flight=len(visit.running),
        slow_calls_in_flight=visit.in_flight_slow,
        attempt=machine.attempt,
        remaining_seconds=None if math.isinf(visit.ends_at) else max(0.0, visit.ends_at - now),
        calls=tally.counts(),
    )


def breaker_figures(
    snapshot: BreakerSnapshot, transitions: dict[tuple[State, State], int]
) -> Iterator[Figure | Distribution]:
    """Yield state (one 0/1 series for each), rates and transitions as metrics."""
    name = {"name": snapshot.name}
    for state in State:
        is_on = 1.0 if state is snapshot.state else 0.0
        yield Figure("circuit_breaker_state", "gauge", is_on, {**name, "state": state.value})
    yield Figure("circuit_breaker_failure_rate", "gauge", snapshot.failure_rate, name)
    yield Figure("circuit_breaker_slow_call_rate", "gauge", snapshot.slow_call_rate, name)
    for (source, target), count in transitions.items():
        labels = {**name, "from": source.value, "to": target.value}
        yield Figure("circuit_breaker_transitions", "counter", count, labels)
