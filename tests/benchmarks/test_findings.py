"""The line of the table: a ratio of rounds, its spread, and whether its goal was reached."""

from __future__ import annotations

import pytest

from benchmarks.stability.findings import Finding, finding, print_table


def line(goal: float | None, *, at_least: bool) -> Finding:
    return finding("case", "peer", "µs", [1.0, 2.0, 6.0], [2.0, 4.0, 2.0], goal=goal, at_least=at_least)


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    found = line(None, at_least=False)

    assert (found.ours, found.theirs) == (2.0, 2.0)
    assert (found.ratio, found.ratio_min, found.ratio_max) == (0.5, 0.5, 3.0)


@pytest.mark.parametrize(
    ("goal", "at_least", "verdict"),
    [
        (None, False, ""),
        (0.5, False, "reached"),
        (0.4, False, "missed"),
        (0.5, True, "reached"),
        (0.6, True, "missed"),
    ],
)
def test_a_goal_is_a_bound_and_includes_itself(goal: float | None, *, at_least: bool, verdict: str) -> None:
    found = line(goal, at_least=at_least)

    assert found.verdict == verdict
    assert found.facts()["verdict"] == verdict


def test_the_table_shows_ratio_spread_and_goal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([line(0.4, at_least=False)])

    (_, _, shown) = capsys.readouterr().out.splitlines()
    assert " ".join(shown.split()) == "case peer 2.000 2.000 µs 0.500 (0.500 to 3.000) ≤ 0.4 missed"
