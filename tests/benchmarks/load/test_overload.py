"""What a measurement says: goodput, recovery, probes, and which goals are missed."""

from __future__ import annotations

import math
from array import array

import pytest

from benchmarks.load.goals import caution, missed
from benchmarks.load.overload import Finding, Plan, Work, judge, measure_capacity, overload, recovery
from benchmarks.load.records import Outcome, Record
from benchmarks.load.traffic import Traffic
from tests.benchmarks.load.scripted import answer, scripted

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
PLAN = Plan(capacity_seconds=2, warm_seconds=1, overload_seconds=5, recovery_seconds=2)
WORK = Work("waiting", ((Traffic("read", "/", ()), 1.0),), at_once=4)


def a_record(began: float, *rows: tuple[float, float, Outcome]) -> Record:
    record = Record("reads", began=began)
    for due, seconds, outcome in rows:
        record.add(due=due, seconds=seconds, outcome=outcome, status=200)
        record.late.append(0.0)
    return record


def a_finding(*, goodput: float = 1.0, factor: float = 10, computing: bool = False, **changes: float) -> Finding:
    load = a_record(
        0, *[(3.0, 0.01, Outcome.GOOD)] * round(goodput * 400), (3.0, changes.get("refused", 0.001), Outcome.REFUSED)
    )
    load.add(due=6 + changes.get("recovery", 0.0), seconds=0.0, outcome=Outcome.LOST, status=0)
    load.late[:] = array("d", [changes.get("generator", 0.0)] * len(load.late))
    asked = Outcome(round(changes.get("outcome", Outcome.GOOD)))
    probes = a_record(0, (3.0, changes.get("probe", 0.005), asked), (3.1, 0.001, Outcome.GOOD))
    work = Work("x", WORK.mix, 4, is_computing=computing)
    return judge([load], [probes], work=work, way="direct", factor=factor, plan=PLAN, capacity=100.0)


def test_goodput_is_judged_once_the_overload_has_settled_and_until_it_ends() -> None:
    counted = [(due, 0.01, Outcome.GOOD) for due in (2.0, 3.0, 5.9)]
    load = a_record(50, (1.5, 0.01, Outcome.GOOD), *counted, (6.1, 0.01, Outcome.GOOD))
    probes = a_record(49, (1.9, 0.01, Outcome.GOOD), (2.1, 0.002, Outcome.GOOD), (6.9, 9, Outcome.TIMED_OUT))

    finding = judge([load], [probes], work=WORK, way="direct", factor=2, plan=PLAN, capacity=10.0)

    assert (finding.load.good, finding.good_per_second, finding.goodput) == (3, 0.75, 0.075)
    assert finding.classes == {"reads": 0.75}
    assert (finding.probes.offered, finding.probes.good, finding.probes.good_ms.p99) == (2, 1, 2)


def test_recovery_lasts_until_the_last_request_that_was_not_as_before() -> None:
    usual = (0.5, 0.010, Outcome.GOOD)
    in_the_overload = (5.9, 1.0, Outcome.TIMED_OUT)

    at_once = recovery(a_record(0, usual, in_the_overload, (6.2, 0.06, Outcome.GOOD)), PLAN)
    by_refusals = recovery(a_record(0, usual, (6.5, 0.001, Outcome.REFUSED), (7.0, 0.01, Outcome.GOOD)), PLAN)
    by_slowness = recovery(a_record(0, usual, (7.25, 0.08, Outcome.GOOD), (7.5, 0.01, Outcome.GOOD)), PLAN)

    assert (at_once, by_refusals, by_slowness) == (0, 0.5, 1.25)


@pytest.mark.parametrize(
    ("changes", "goals"),
    [
        ({}, []),
        ({"goodput": 0.97, "refused": 0.0099, "probe": 0.0199, "recovery": 0.9}, []),
        ({"goodput": 0.95}, ["goodput"]),
        ({"goodput": 0.86, "computing": True, "probe": 0.09}, []),
        ({"goodput": 0.84, "computing": True}, ["goodput"]),
        ({"refused": 0.011}, ["refusals"]),
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


def test_a_finding_can_be_written_down() -> None:
    facts = a_finding(goodput=0.5).facts()

    assert facts["goodput"] == 0.5
    assert isinstance(facts["load"], dict)


def test_a_server_is_measured_from_capacity_to_recovery() -> None:
    plan = Plan(capacity_seconds=1.5, warm_seconds=0.5, overload_seconds=1.5, recovery_seconds=0.5)
    script = {path: answer(GOOD) for path in (b"/", b"/health", b"/health/readiness")}
    with scripted(script) as server:
        capacity = measure_capacity(server.target, WORK, plan.capacity_seconds)
        finding = overload(server.target, WORK, 2, plan, way="direct", capacity=100)

    assert capacity > 4
    assert finding.load.good == finding.load.offered > 50
    assert finding.goodput > 1.5
    assert finding.probes.good == finding.probes.offered > 20
    assert not math.isnan(finding.probes.good_ms.p99)
    assert {b"GET /health HTTP/1.1", b"GET /health/readiness HTTP/1.1"} <= {
        request.partition(b"\r\n")[0] for request in server.requests
    }
