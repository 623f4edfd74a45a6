"""``make load``: the server under 1, 2, 5 and 10 times its capacity, direct and behind nginx.

It prints a table and writes ``var/bench/load.json``; ``docs/operations/overload.md`` says how to read it. It takes a
quarter of an hour, or with ``ARGS=--quick`` three minutes that say less. Everything runs on 127.0.0.0/8 and ends with
the run.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import servers
from benchmarks.load.burst import PLACES, REQUESTS, Burst, burst
from benchmarks.load.goals import caution, missed
from benchmarks.load.overload import Finding, Plan, Work, measure_capacity, overload
from benchmarks.load.traffic import Target
from benchmarks.report import say

_RESULTS = Path("var/bench/load.json")
_FACTORS, _QUICK_FACTORS = (1.0, 2.0, 5.0, 10.0), (1.0, 10.0)
_QUICK = Plan(capacity_seconds=3, warm_seconds=1.5, overload_seconds=4, recovery_seconds=2.5)
_QUEUES = (1000, 100)
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

    def measure(self, target: Target, work: Work, way: str, factors: tuple[float, ...] = ()) -> Iterator[Finding]:
        """Measure one kind of work over one way at every factor."""
        for factor in factors or self.factors:
            capacity = measure_capacity(target, work, self.plan.capacity_seconds)
            say(f"{work.name}, {way}: {factor:g} times {capacity:.0f} requests a second")
            yield overload(target, work, factor, self.plan, way=way, capacity=capacity)


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
    _print_findings(findings)
    _print_bursts(bursts)
    _write(findings, bursts)
    return 0


def _findings(run: _Run) -> Iterator[Finding]:
    waiting, computing = servers.waiting_work(), servers.computing_work()
    for work, threads in ((waiting, servers.WAITING_THREADS), (computing, servers.COMPUTING_THREADS)):
        if run.wants(work.name):
            with servers.protected(run.folder / f"threads-{threads}", threads) as target:
                yield from _both_ways(run, target, work)
    if run.wants(servers.METADATA, servers.UPLOAD):
        with servers.photos(run.folder / "photos") as (target, works):
            for work in works:
                if run.wants(work.name):
                    yield from _both_ways(run, target, work)
    if run.wants(_CONTROL):
        with servers.unprotected(run.folder / "unprotected", servers.WAITING_THREADS) as target:
            yield from run.measure(target, waiting, _CONTROL, (_CONTROL_FACTOR,))


def _both_ways(run: _Run, target: Target, work: Work) -> Iterator[Finding]:
    yield from run.measure(target, work, "direct")
    with servers.behind_nginx(run.folder / f"edge-{target.port}", target) as edge:
        yield from run.measure(edge, work, "nginx")


def _bursts(run: _Run) -> Iterator[Burst]:
    if not run.wants("burst"):
        return
    for max_queue in _QUEUES:
        say(f"{REQUESTS} requests at once, a queue of {max_queue}")
        folder = run.folder / f"burst-{max_queue}"
        with servers.protected(folder, PLACES // servers.WORKERS, max_queue=max_queue) as target:
            yield burst(target, max_queue)


def _print_findings(findings: list[Finding]) -> None:
    header = "".join(f"{title:>{width}}" for title, width in _COLUMNS)
    print(f"\n{'work':<25}{'through':<20}{header}  goals missed")
    for finding in findings:
        cells = zip(_cells(finding), _COLUMNS, strict=True)
        line = "".join(f"{cell:>{width}}" for cell, (_, width) in cells)
        remarks = ", ".join(filter(None, [*missed(finding), caution(finding)]))
        print(f"{finding.work:<25}{finding.way:<20}{line}  {remarks}")


_COLUMNS = (
    ("load", 5),
    ("capacity", 9),
    ("good/s", 8),
    ("goodput", 8),
    ("offered", 8),
    ("good", 7),
    ("refused", 8),
    ("other", 6),
    ("timed out", 10),
    ("lost", 5),
    ("good p50/p99", 14),
    ("refused", 12),
    ("probes", 12),
    ("missed", 7),
    ("recovery", 9),
)


def _cells(finding: Finding) -> list[str]:
    load, probes = finding.load, finding.probes
    counts = (load.offered, load.good, load.refused, load.other, load.timed_out, load.lost)
    spreads = (load.good_ms, load.refused_ms, probes.good_ms)
    return [
        f"{finding.factor:g}x",
        f"{finding.capacity_per_second:.0f}",
        f"{finding.good_per_second:.0f}",
        f"{finding.goodput:.2f}",
        *map(str, counts),
        *(f"{spread.p50:.1f}/{spread.p99:.1f}" for spread in spreads),
        str(probes.offered - probes.good),
        f"{finding.recovery_seconds:.2f}",
    ]


def _print_bursts(bursts: list[Burst]) -> None:
    for one in bursts:
        tally, verdict = one.tally, "every one answered" if one.holds else "NOT every one answered"
        print(
            f"\n{REQUESTS} at once, {PLACES} places, a queue of {one.max_queue}: {tally.good} good within "
            f"{tally.good_ms.longest:.0f} ms, {tally.refused} refused within {tally.refused_ms.longest:.0f} ms, "
            f"{tally.other} other, {tally.timed_out} timed out, {tally.lost} lost: {verdict}"
        )


def _write(findings: list[Finding], bursts: list[Burst]) -> None:
    machine = {"cores": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()}
    document = {
        "at": dt.datetime.now(dt.UTC).isoformat(),
        "machine": machine,
        "overload": [{**finding.facts(), "missed": missed(finding)} for finding in findings],
        "bursts": [one.facts() for one in bursts],
    }
    _RESULTS.parent.mkdir(parents=True, exist_ok=True)
    _RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"\nWritten to {_RESULTS}.")


if __name__ == "__main__":
    sys.exit(main())
