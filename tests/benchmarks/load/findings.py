"""Findings with wanted figures, for tests of those who judge and print them."""

from __future__ import annotations

import math
from array import array
from dataclasses import replace

from benchmarks.load.overload import Finding, Plan, Work, judge
from benchmarks.load.records import Outcome, Record
from benchmarks.load.traffic import Traffic

PLAN = Plan(capacity_seconds=2, warm_seconds=1, overload_seconds=5, recovery_seconds=2)
WORK = Work("waiting", ((Traffic("read", "/", ()), 1.0),), at_once=4)


def a_record(began: float, *rows: tuple[float, float, Outcome]) -> Record:
    record = Record("reads", began=began)
    for due, seconds, outcome in rows:
        record.add(due=due, seconds=seconds, outcome=outcome, status=200)
        record.late.append(0.0)
    return record


def a_finding(*, goodput: float = 1.0, factor: float = 10, computing: bool = False, **changes: float) -> Finding:
    """Return a finding that reaches every goal but for the changes; a capacity of 100 a second."""
    load = a_record(
        0, *[(3.0, 0.01, Outcome.GOOD)] * round(goodput * 400), (3.0, changes.get("refused", 0.001), Outcome.REFUSED)
    )
    load.add(due=6 + changes.get("recovery", 0.0), seconds=0.0, outcome=Outcome.LOST, status=0)
    load.late[:] = array("d", [changes.get("generator", 0.0)] * len(load.late))
    asked = Outcome(round(changes.get("outcome", Outcome.GOOD)))
    probes = a_record(0, (3.0, changes.get("probe", 0.005), asked), (3.1, 0.001, Outcome.GOOD))
    work = Work("x", WORK.mix, 4, is_computing=computing)
    finding = judge([load], [probes], work=work, way="direct", factor=factor, plan=PLAN, capacity=100.0)
    return replace(finding, refusal_cpu_us=changes.get("cost", math.nan))
