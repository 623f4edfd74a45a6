"""The goals of a server under more load than it can carry (docs/operations/overload.md), and who misses them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from benchmarks.load.overload import Finding

LEAST_GOODPUT, LEAST_GOODPUT_COMPUTING = 0.96, 0.85
"""Of the capacity, at ten times of it."""
REFUSAL_P99_MS: Final = 10.0
REFUSAL_CPU_US: Final = 40.0
PROBE_P99_MS, PROBE_P99_MS_COMPUTING = 20.0, 100.0
RECOVERY_SECONDS: Final = 1.0
_JUDGED_FROM: Final = 2.0
_GENERATOR_LATE_MS: Final = 5.0


def missed(finding: Finding) -> list[str]:
    """Return the goals that a line of the table does not reach; none are asked of less than twice the capacity."""
    if finding.factor < _JUDGED_FROM:
        return []
    return [name for name, holds in _goals(finding) if not holds]


def _goals(finding: Finding) -> Iterator[tuple[str, bool]]:
    computing = finding.is_computing
    yield "goodput", finding.goodput >= (LEAST_GOODPUT_COMPUTING if computing else LEAST_GOODPUT)
    yield "refusals", _within(finding.load.refused_ms.p99, REFUSAL_P99_MS)
    yield "cost of a refusal", _within(finding.refusal_cpu_us, REFUSAL_CPU_US)
    yield "probes", _within(finding.probes.good_ms.p99, PROBE_P99_MS_COMPUTING if computing else PROBE_P99_MS)
    yield "probes missed", finding.probes.good == finding.probes.offered
    yield "recovery", finding.recovery_seconds <= RECOVERY_SECONDS


def caution(finding: Finding) -> str:
    """Return what makes a line's times doubtful: a generator that was itself late; else nothing."""
    return f"generator late by {finding.late_ms:.0f} ms" if finding.late_ms > _GENERATOR_LATE_MS else ""


def _within(value: float, limit: float) -> bool:
    return math.isnan(value) or value <= limit
