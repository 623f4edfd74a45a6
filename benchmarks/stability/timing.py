"""Time per call, calls per second and calls at once; contenders take turns, so that noise hits all of them alike.

A round is made of turns: in each turn every contender runs one short batch. What a contender costs in a round is its
fastest batch, because noise only ever adds; what eight threads reach in a round is their best stretch. The spread
shown with a ratio is that of the rounds.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter
from typing import Final

from benchmarks.stability.dependency import Function, blocks

THREADS: Final = 8

_CALLS_TO_SIZE_A_BATCH = 20
_CALLS_BETWEEN_LOOKS = 50


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: How many costs of each contender.
        turns: How many batches per round.
        batch_seconds: About how long a batch takes.
        stretches: How often many threads are counted, per round.
        stretch_seconds: How long each time.
        blocked_calls: How many blocking calls each of many threads makes, per round.
    """

    rounds: int = 9
    turns: int = 25
    batch_seconds: float = 0.002
    stretches: int = 4
    stretch_seconds: float = 0.07
    blocked_calls: int = 40


QUICK: Final = Effort(rounds=3, turns=8, stretches=2, stretch_seconds=0.05, blocked_calls=15)


def seconds_per_call(
    functions: Mapping[str, Function], effort: Effort, clock: Callable[[], float] = perf_counter
) -> dict[str, list[float]]:
    """Return what a call costs, by contender and round.

    Args:
        functions: The contenders.
        effort: How much is measured.
        clock: A cost is the difference of two readings; ``process_time`` leaves out what others do meanwhile.
    """
    sizes = {name: _batch_size(function, effort.batch_seconds, clock) for name, function in functions.items()}
    costs: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    gc.freeze()  # the collector stays on, and need not look at what was there before
    for _ in range(effort.rounds):
        fastest = dict.fromkeys(functions, float("inf"))
        for _ in range(effort.turns):
            for name, function in functions.items():
                fastest[name] = min(fastest[name], _batch(function, sizes[name], clock))
        for name, seconds in fastest.items():
            costs[name].append(seconds)
    gc.unfreeze()
    return costs


def _batch_size(function: Function, batch_seconds: float, clock: Callable[[], float]) -> int:
    return max(_CALLS_TO_SIZE_A_BATCH, int(batch_seconds / _batch(function, _CALLS_TO_SIZE_A_BATCH, clock)))


def _batch(function: Function, calls: int, clock: Callable[[], float]) -> float:
    began = clock()
    for _ in repeat(None, calls):
        function()
    return (clock() - began) / calls


def calls_per_second(functions: Mapping[str, Function], effort: Effort) -> dict[str, list[float]]:
    """Return how many calls eight threads make in a second, by contender and round: in their fastest stretch."""
    rates: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(effort.rounds):
        fastest = dict.fromkeys(functions, 0.0)
        for _ in range(effort.stretches):
            for name, function in functions.items():
                fastest[name] = max(fastest[name], _rate(function, effort.stretch_seconds))
        for name, rate in fastest.items():
            rates[name].append(rate)
    return rates


def _rate(function: Function, seconds: float) -> float:
    began: list[float] = []
    gate, over = threading.Barrier(THREADS + 1, lambda: began.append(perf_counter())), threading.Event()
    counts = [0] * THREADS

    def work(number: int) -> None:
        gate.wait()
        while True:  # once at least, on a machine whose other work leaves no turn before it is over
            for _ in repeat(None, _CALLS_BETWEEN_LOOKS):
                function()
            counts[number] += _CALLS_BETWEEN_LOOKS
            if over.is_set():
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    gate.wait()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (perf_counter() - began[0])


def running_at_once(guarded: Mapping[str, tuple[Function, list[float]]], effort: Effort) -> dict[str, list[float]]:
    """Return how many of eight threads' blocking calls ran at once on average, by contender and round.

    Args:
        guarded: A guarded function made of :func:`blocking`, and the list it notes its durations in.
        effort: How much is measured.
    """
    found: dict[str, list[float]] = {name: [] for name in guarded}
    for _ in range(effort.rounds):
        for name, (function, durations) in guarded.items():
            durations.clear()
            elapsed = _together(function, effort.blocked_calls)
            found[name].append(sum(durations) / elapsed)
    return found


def _together(function: Function, calls: int) -> float:
    began: list[float] = []
    gate = threading.Barrier(THREADS + 1, lambda: began.append(perf_counter()))  # before anybody goes through

    def work() -> None:
        gate.wait()
        for _ in repeat(None, calls):
            function()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    gate.wait()
    for thread in threads:
        thread.join()
    return perf_counter() - began[0]


def blocking(seconds: float) -> tuple[Function, list[float]]:
    """Return a function that blocks, and the list it notes its durations in."""
    durations: list[float] = []
    return blocks(seconds, durations), durations
