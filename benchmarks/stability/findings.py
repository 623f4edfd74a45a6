"""One line of the table: ours, what stands beside it, their ratio, and the goal where there is one."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Finding:
    """The result of a line.

    Attributes:
        name: What is measured.
        beside: What stands beside ours.
        unit: Of ``ours`` and ``theirs``.
        ours: The median of the rounds.
        theirs: The same.
        ratio: The median of the rounds' ratios, ours to theirs.
        ratio_min: The smallest of them.
        ratio_max: The largest of them.
        goal: What the ratio is to be; None where there is no goal.
        at_least: Whether the goal is a lower bound; it is an upper one else.
    """

    name: str
    beside: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    ratio_min: float
    ratio_max: float
    goal: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """Return whether the goal was reached in this run."""
        if self.goal is None:
            return ""
        is_reached = self.ratio >= self.goal if self.at_least else self.ratio <= self.goal
        return "reached" if is_reached else "missed"

    def facts(self) -> dict[str, object]:
        """Return everything for JSON."""
        return {**asdict(self), "verdict": self.verdict}


def finding(
    name: str,
    beside: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    goal: float | None = None,
    at_least: bool = False,
) -> Finding:
    """Compare two series of rounds, round by round.

    Args:
        name: What is measured.
        beside: What stands beside ours.
        unit: Of the series.
        ours: One number per round.
        theirs: As many.
        goal: What the ratio is to be.
        at_least: Whether that is a lower bound.
    """
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Finding(
        name,
        beside,
        unit,
        statistics.median(ours),
        statistics.median(theirs),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        goal,
        at_least,
    )


def print_table(findings: Iterable[Finding]) -> None:
    """Print findings, one a line."""
    print(
        f"\n{'case':<38}{'beside':<32}{'ours':>12}{'theirs':>12} {'':<14}{'ratio':>8}{'(min to max)':>19}{'goal':>9}"
    )
    for line in findings:
        goal = f"{'≥' if line.at_least else '≤'} {line.goal:.4g}" if line.goal is not None else ""
        spread = f"({line.ratio_min:.3f} to {line.ratio_max:.3f})"
        print(
            f"{line.name:<38}{line.beside:<32}{line.ours:>12,.3f}{line.theirs:>12,.3f} {line.unit:<14}"
            f"{line.ratio:>8.3f}{spread:>19}{goal:>9} {line.verdict}"
        )
