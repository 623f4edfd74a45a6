"""The lines of the table of costs, each with its goal; docs/performance.md shows one run of them.

"What it adds" is the time of a guarded call less the time of the same call without a guard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from benchmarks.stability.contenders import Contender, Watched, bare_closure
from benchmarks.stability.dependency import Dependency, Function, Guard, answer, fails_sometimes, forgiving, tripped
from benchmarks.stability.findings import Finding, finding
from benchmarks.stability.peers import (
    ALL_FOUR,
    BREAKERS,
    IMPATIENT,
    INTERLOCK,
    RETRIES,
    interlock_breaker,
    pyresilience_breaker,
)
from benchmarks.stability.timing import THREADS, Effort, blocking, calls_per_second, running_at_once, seconds_per_call

REQUESTS: Final = 1_000
"""While the dependency is down."""
BUDGET_CALLS: Final = 1.2 + 3 / REQUESTS
"""How many calls a request may cause then: itself, its share of the budget, and of the budget's floor of 3."""

_BARE, _OURS, _CLOSURE = "bare", "ours", "bare closure"
_ADDED, _CALL_RATE, _AT_ONCE, _CALLS = "µs added", "calls/s", "at once", "calls/request"
_BLOCK_SECONDS = 0.005
_SMALL, _LARGE = 100, 10_000
_CALLS_PER_FAILURE = 50
# It raises one and the same exception object each time, whose traceback grows by six entries per refusal and holds
# their frames: a few hundred thousand refusals would take the machine's memory.
_WITHOUT_REFUSALS = frozenset({"purgatory"})

Costs = Mapping[str, list[float]]


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Finding]:
    """Measure every line.

    Args:
        effort: How much.
        say: Told of progress.
    """
    watched = Watched()
    with watched.scraped():
        for part in (
            guarded_calls,
            refused_calls,
            window_sizes,
            many_threads,
            blocking_calls,
            retries,
            all_together,
            dependency_down,
        ):
            say(part.__name__.replace("_", " "))
            yield from part(watched, effort)


def guarded_calls(watched: Watched, effort: Effort) -> Iterator[Finding]:
    """A call that returns at once, breaker closed: a listener hears our events, our figures are read."""
    contenders = [Contender(_OURS, watched.breaker), Contender(_CLOSURE, bare_closure), *BREAKERS]
    added = _added({_BARE: answer, **{each.name: each.guard(answer) for each in contenders}}, effort)
    goals = {INTERLOCK: 1 / 5, _CLOSURE: 2.0}
    yield from _beside_ours("guarded call, closed", added, goals)


def refused_calls(watched: Watched, effort: Effort) -> Iterator[Finding]:
    """A call that an open breaker refuses, and that its caller catches."""
    contenders = [Contender(_OURS, watched.breaker), Contender(_CLOSURE, bare_closure), *BREAKERS]
    functions = {
        each.name: forgiving(tripped(each.guard)[0]) for each in contenders if each.name not in _WITHOUT_REFUSALS
    }
    added = _added({_BARE: forgiving(answer), **functions}, effort)
    yield from _beside_ours("refused call", added, {INTERLOCK: 1 / 3})


def window_sizes(watched: Watched, effort: Effort) -> Iterator[Finding]:
    """A window of 10,000 against one of 100, full, with a failure among any fifty results."""
    guards: dict[tuple[str, str], Callable[[int], Guard]] = {
        (_OURS, "count"): lambda size: watched.breaker_with("count_based", size),
        (_OURS, "time"): lambda size: watched.breaker_with("time_based", size),
        (INTERLOCK, "count"): lambda size: interlock_breaker("count", size),
        (INTERLOCK, "time"): lambda size: interlock_breaker("time", size),
        ("pyresilience", "count"): pyresilience_breaker,
    }
    functions = {_BARE: forgiving(fails_sometimes(_CALLS_PER_FAILURE))}
    for (name, kind), guard in guards.items():
        for size in (_SMALL, _LARGE):
            guarded = forgiving(guard(size)(fails_sometimes(_CALLS_PER_FAILURE)))
            if kind == "count":
                _repeat(guarded, size)
            functions[f"{name} {kind} {size}"] = guarded
    added = _added(functions, effort)
    for name, kind in guards:
        large, small = added[f"{name} {kind} {_LARGE}"], added[f"{name} {kind} {_SMALL}"]
        label = f"{kind} window {_LARGE:,}" + ("" if name == _OURS else f", {name}")
        goal = 1.1 if name == _OURS else None
        yield finding(label, f"its own of {_SMALL}", _ADDED, large, small, goal=goal)


def many_threads(watched: Watched, effort: Effort) -> Iterator[Finding]:
    """Eight threads that call as fast as they can."""
    contenders = [Contender(_OURS, watched.breaker), Contender(_CLOSURE, bare_closure), *BREAKERS]
    rates = calls_per_second({each.name: each.guard(answer) for each in contenders}, effort)
    yield from _beside_ours(f"{THREADS} threads, calls that return", rates, {INTERLOCK: 5.0}, _CALL_RATE)


def blocking_calls(watched: Watched, effort: Effort) -> Iterator[Finding]:
    """Eight threads whose calls block for 5 ms: how many run at once."""
    contenders = [Contender(_OURS, watched.breaker), Contender(_CLOSURE, bare_closure), *BREAKERS]
    guarded = {}
    for each in contenders:
        function, durations = blocking(_BLOCK_SECONDS)
        guarded[each.name] = (each.guard(function), durations)
    found = running_at_once(guarded, effort)
    name = f"{THREADS} threads, calls that block 5 ms"
    ones = [1.0] * effort.rounds
    yield finding(name, "one at a time", _AT_ONCE, found[_OURS], ones, goal=7.5, at_least=True)
    yield from _beside_ours(name, found, {}, _AT_ONCE)


def retries(watched: Watched, effort: Effort) -> Iterator[Finding]:
    """A call that returns at once, with retries around it."""
    contenders = [Contender(_OURS, watched.retry), *RETRIES]
    added = _added({_BARE: answer, **{each.name: each.guard(answer) for each in contenders}}, effort)
    yield from _beside_ours("call with retries", added, {})


def all_together(watched: Watched, effort: Effort) -> Iterator[Finding]:
    """Retry, breaker, bulkhead and timeout around a call that returns at once."""
    alone = "our breaker alone"
    contenders = [Contender(_OURS, watched.all_four), Contender(alone, watched.breaker), *ALL_FOUR]
    added = _added({_BARE: answer, **{each.name: each.guard(answer) for each in contenders}}, effort)
    yield from _beside_ours("retry, breaker, bulkhead, timeout", added, {alone: 4.0})


def dependency_down(watched: Watched, effort: Effort) -> Iterator[Finding]:
    """A thousand requests while everything fails: how many calls reach the dependency for each."""
    del effort  # it is counted, not timed
    alone, both = calls_while_down(watched.patient_retry), calls_while_down(watched.patient_retry_and_breaker)
    for name, calls in (("down, retry", alone), ("down, retry and breaker", both)):
        yield finding(name, "a call per request", _CALLS, [calls], [1.0], goal=BUDGET_CALLS)
    for each in IMPATIENT:
        yield finding("down, retry", each.name, _CALLS, [alone], [calls_while_down(each.guard)])


def calls_while_down(guard: Guard) -> float:
    """Return how many calls each of a thousand requests caused while all of them failed."""
    dependency = Dependency()
    dependency.is_down = True
    _repeat(forgiving(guard(dependency.answer_or_fail)), REQUESTS)
    return dependency.calls / REQUESTS


def _repeat(function: Function, calls: int) -> None:
    for _ in range(calls):
        function()


def _added(functions: Mapping[str, Function], effort: Effort) -> Costs:
    """Return what each contender adds to the bare one, in microseconds by round."""
    costs = seconds_per_call(functions, effort)
    bare = costs.pop(_BARE)
    return {
        name: [(cost - least) * 1e6 for cost, least in zip(series, bare, strict=True)]
        for name, series in costs.items()
    }


def _beside_ours(name: str, series: Costs, goals: Mapping[str, float], unit: str = _ADDED) -> Iterable[Finding]:
    for beside, theirs in series.items():
        if beside != _OURS:
            goal = goals.get(beside)
            yield finding(name, beside, unit, series[_OURS], theirs, goal=goal, at_least=unit == _CALL_RATE)
