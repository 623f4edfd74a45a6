"""Two things in turn, A B A B …, and the ratio pair by pair: what a noisy machine does to one, it does to both."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.wrk import Load, Request, measure


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: What is measured.
        ours: The product.
        theirs: What stands beside it.
        beside: What that is, in words.
        goal: The ratio of ``docs/performance.md``; None where there is none.
        connections: How many requests at once.
        patience: How many times as long as others its rounds take, so that enough is answered in each.
    """

    name: str
    ours: Request
    theirs: Request
    beside: str
    goal: float | None
    connections: int = 8
    patience: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """The result of a case: medians; the ratio is the median of the pairs' ratios.

    ``processor_ratio`` is how many requests ours answers in the processor time in which theirs answers one; 0 where
    it was not counted. Neighbours on the machine disturb it less.
    """

    name: str
    beside: str
    ours_per_second: float
    theirs_per_second: float
    ours_p99_seconds: float
    ratio: float
    ratio_min: float
    ratio_max: float
    goal: float | None
    ours_processor_seconds: float = 0.0
    theirs_processor_seconds: float = 0.0

    @property
    def processor_ratio(self) -> float:
        """Return their processor time for a request in units of ours, 0 where it was not counted."""
        if not self.ours_processor_seconds:
            return 0.0
        return self.theirs_processor_seconds / self.ours_processor_seconds

    @property
    def verdict(self) -> str:
        """Return whether the goal was reached in this run."""
        if self.goal is None:
            return ""
        return "reached" if self.ratio >= self.goal else "missed"

    def facts(self) -> dict[str, object]:
        """Return everything for JSON."""
        return {**asdict(self), "verdict": self.verdict, "processor_ratio": self.processor_ratio}


def compare(case: Case, *, rounds: int, seconds: float, say: Callable[[str], None]) -> Comparison:
    """Measure both sides of a case in turn, after one short warm-up of each.

    Args:
        case: What to measure.
        rounds: How many pairs.
        seconds: How long one side of a pair takes, as the case's patience asks for.
        say: Told of progress.
    """
    for side in (case.ours, case.theirs):
        measure(side, seconds=1, connections=case.connections, run=f"warm {case.name}")
    seconds *= case.patience
    pairs: list[tuple[Load, Load]] = []
    for number in range(rounds):
        run = f"{case.name} {number}"
        pairs.append(
            (
                measure(case.ours, seconds=seconds, connections=case.connections, run=run),
                measure(case.theirs, seconds=seconds, connections=case.connections, run=run),
            )
        )
        say(f"{case.name}: round {number + 1} of {rounds}")
    ratios = [ours.per_second / theirs.per_second for ours, theirs in pairs]
    return Comparison(
        name=case.name,
        beside=case.beside,
        ours_per_second=statistics.median(ours.per_second for ours, _ in pairs),
        theirs_per_second=statistics.median(theirs.per_second for _, theirs in pairs),
        ours_p99_seconds=statistics.median(ours.p99_seconds for ours, _ in pairs),
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        goal=case.goal,
        ours_processor_seconds=statistics.median(ours.processor_seconds for ours, _ in pairs),
        theirs_processor_seconds=statistics.median(theirs.processor_seconds for _, theirs in pairs),
    )
