"""How a run is told: a table for a person, a document for the next run."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.load.burst import PLACES, REQUESTS, Burst
from benchmarks.load.goals import caution, missed
from benchmarks.load.overload import Finding
from benchmarks.load.records import Spread

RESULTS: Final = Path("var/bench/load.json")
_COLUMNS: Final = (
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
    ("each us", 8),
    ("probes", 12),
    ("missed", 7),
    ("recovery", 9),
)


def table(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, with the goals that it misses; times in ms, the recovery in seconds."""
    header = "".join(f"{title:>{width}}" for title, width in _COLUMNS)
    lines = [f"{'work':<25}{'through':<20}{header}  goals missed"]
    for finding in findings:
        cells = zip(_cells(finding), _COLUMNS, strict=True)
        line = "".join(f"{cell:>{width}}" for cell, (_, width) in cells)
        remarks = ", ".join(filter(None, [*missed(finding), caution(finding)]))
        lines.append(f"{finding.work:<25}{finding.way:<20}{line}  {remarks}".rstrip())
    return "\n".join(lines)


def _cells(finding: Finding) -> list[str]:
    load, probes = finding.load, finding.probes
    counts = (load.offered, load.good, load.refused, load.other, load.timed_out, load.lost)
    return [
        f"{finding.factor:g}x",
        f"{finding.capacity_per_second:.0f}",
        f"{finding.good_per_second:.0f}",
        f"{finding.goodput:.2f}",
        *map(str, counts),
        _spread(load.good_ms),
        _spread(load.refused_ms),
        "-" if math.isnan(finding.refusal_cpu_us) else f"{finding.refusal_cpu_us:.0f}",
        _spread(probes.good_ms),
        str(probes.offered - probes.good),
        f"{finding.recovery_seconds:.2f}",
    ]


def _spread(spread: Spread) -> str:
    return "-" if math.isnan(spread.p50) else f"{spread.p50:.1f}/{spread.p99:.1f}"


def sentence(burst: Burst) -> str:
    """Return what came of a burst."""
    tally = burst.tally
    parts = [f"{tally.good} good within {tally.good_ms.longest:.0f} ms"]
    if tally.refused:
        parts.append(f"{tally.refused} refused within {tally.refused_ms.longest:.0f} ms")
    parts += [f"{tally.other} other", f"{tally.timed_out} timed out", f"{tally.lost} lost"]
    verdict = "every one answered" if burst.holds else "NOT every one answered"
    return f"{REQUESTS} at once, {PLACES} places, a queue of {burst.max_queue}: {', '.join(parts)}: {verdict}"


def write(findings: Sequence[Finding], bursts: Sequence[Burst], path: Path = RESULTS) -> None:
    """Write everything as JSON; what has no value is null."""
    document = {
        "at": dt.datetime.now(dt.UTC).isoformat(),
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()},
        "overload": [{**finding.facts(), "missed": missed(finding)} for finding in findings],
        "bursts": [one.facts() for one in bursts],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_without_nan(document), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
