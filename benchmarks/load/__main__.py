"""``make load``: the server under 1, 2, 5 and 10 times its capacity, direct and behind nginx.

It prints a table and writes ``var/bench/load.json``; ``docs/operations/overload.md`` says how to read it. It takes a
quarter of an hour, or with ``ARGS=--quick`` three minutes that say less. Everything runs on 127.0.0.0/8 and ends with
the run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import servers
from benchmarks.load.burst import PLACES, REQUESTS, Burst, burst
from benchmarks.load.overload import Finding, Plan, Served, Work, measure_capacity, overload
from benchmarks.load.report import RESULTS, sentence, table, write
from benchmarks.report import say

_FACTORS, _QUICK_FACTORS = (1.0, 2.0, 5.0, 10.0), (1.0, 10.0)
_QUICK = Plan(capacity_seconds=2.5, warm_seconds=1.5, overload_seconds=4, recovery_seconds=2.5)
_QUEUES = (1000, 100)
MOST_PER_SECOND = 5000.0
"""What the generator offers without taking from the server so much that it measures itself."""
_CONTROL = "gunicorn's gthread"
_CONTROL_FACTOR = 2.0


@dataclass(frozen=True)
class _Run:
    plan: Plan
    factors: tuple[float, ...]
    word: str
    folder: Path

    def wants(self, *names: str) -> bool:
        """Tell whether the person asked for one of these lines."""
        return any(self.word in name for name in names)

    def measure(self, served: Served, work: Work, way: str, factors: tuple[float, ...] = ()) -> Iterator[Finding]:
        """Measure one kind of work over one way at every factor."""
        for factor in factors or self.factors:
            capacity = measure_capacity(served, work, self.plan.capacity_seconds)
            if factor * capacity.per_second > MOST_PER_SECOND:
                say(f"{work.name}, {way}: {factor:g} times {capacity.per_second:.0f} is more than one core can offer")
                continue
            say(f"{work.name}, {way}: {factor:g} times {capacity.per_second:.0f} requests a second")
            yield overload(served, work, factor, self.plan, way=way, capacity=capacity)


def main() -> int:
    """Measure and return the exit code; a missed goal is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 and 10 times the capacity only, and shorter")
    parser.add_argument("--only", default="", metavar="WORD", help="only the work with this word in its name")
    arguments = parser.parse_args()
    plan, factors = (_QUICK, _QUICK_FACTORS) if arguments.quick else (Plan(), _FACTORS)
    with tempfile.TemporaryDirectory(prefix="photo-api-load-") as folder:
        run = _Run(plan, factors, arguments.only, Path(folder))
        findings = list(_findings(run))
        bursts = list(_bursts(run))
    print("", table(findings), *map(sentence, bursts), sep="\n")
    write(findings, bursts)
    print(f"\nWritten to {RESULTS}.")
    return 0


def _findings(run: _Run) -> Iterator[Finding]:
    waiting, computing = servers.waiting_work(), servers.computing_work()
    for work, threads in ((waiting, servers.WAITING_THREADS), (computing, servers.COMPUTING_THREADS)):
        if run.wants(work.name):
            with servers.protected(run.folder / f"threads-{threads}", threads) as served:
                yield from _both_ways(run, served, work)
    if run.wants(servers.METADATA, servers.UPLOAD):
        with servers.photos(run.folder / "photos") as (served, works):
            for work in works:
                if run.wants(work.name):
                    yield from _both_ways(run, served, work)
    if run.wants(_CONTROL):
        with servers.unprotected(run.folder / "unprotected", servers.WAITING_THREADS) as served:
            yield from run.measure(served, waiting, _CONTROL, (_CONTROL_FACTOR,))


def _both_ways(run: _Run, served: Served, work: Work) -> Iterator[Finding]:
    yield from run.measure(served, work, "direct")
    with servers.behind_nginx(run.folder / f"edge-{served.target.port}", served) as edge:
        yield from run.measure(edge, work, "nginx")


def _bursts(run: _Run) -> Iterator[Burst]:
    if not run.wants("burst"):
        return
    for max_queue in _QUEUES:
        say(f"{REQUESTS} requests at once, a queue of {max_queue}")
        folder = run.folder / f"burst-{max_queue}"
        with servers.protected(folder, PLACES // servers.WORKERS, max_queue=max_queue) as served:
            yield burst(served.target, max_queue)


if __name__ == "__main__":
    sys.exit(main())
