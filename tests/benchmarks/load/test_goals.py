"""Which goals a finding misses."""

from __future__ import annotations

import pytest

from benchmarks.load.goals import caution, missed
from benchmarks.load.records import Outcome
from tests.benchmarks.load.findings import a_finding


@pytest.mark.parametrize(
    ("changes", "goals"),
    [
        ({}, []),
        ({"goodput": 0.97, "refused": 0.0099, "probe": 0.0199, "recovery": 0.9}, []),
        ({"goodput": 0.95}, ["goodput"]),
        ({"goodput": 0.86, "computing": True, "probe": 0.09}, []),
        ({"goodput": 0.84, "computing": True}, ["goodput"]),
        ({"refused": 0.011}, ["refusals"]),
        ({"cost": 39}, []),
        ({"cost": 41}, ["cost of a refusal"]),
        ({"probe": 0.021}, ["probes"]),
        ({"outcome": Outcome.TIMED_OUT}, ["probes missed"]),
        ({"recovery": 1.1}, ["recovery"]),
        ({"goodput": 0.1, "factor": 1}, []),
    ],
    ids=str,
)
def test_a_goal_that_is_not_reached_is_named(changes: dict[str, float], goals: list[str]) -> None:
    assert missed(a_finding(**changes)) == goals  # type: ignore[arg-type]  # a bool among the floats


def test_a_generator_that_was_late_itself_makes_a_line_doubtful() -> None:
    assert caution(a_finding()) == ""
    assert caution(a_finding(generator=0.02)) == "generator late by 20 ms"
