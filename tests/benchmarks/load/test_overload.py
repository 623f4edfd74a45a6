"""What a measurement says: goodput, recovery, probes, and which goals are missed."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.load.overload import (
    Capacity,
    Plan,
    Served,
    judge,
    measure_capacity,
    overload,
    recovery,
    refusal_cpu_us,
)
from benchmarks.load.records import Outcome
from benchmarks.load.traffic import Target, Traffic
from tests.benchmarks.load.findings import PLAN, WORK, a_finding, a_record
from tests.benchmarks.load.scripted import answer, scripted
from tests.servers.product import until

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
PATIENCE_SECONDS = 20.0


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


def test_a_finding_can_be_written_down() -> None:
    facts = a_finding(goodput=0.5).facts()

    assert facts["goodput"] == 0.5
    assert isinstance(facts["load"], dict)


def test_a_refusal_costs_what_the_good_answers_do_not_account_for() -> None:
    some_good = [(0.0, 0.01, Outcome.GOOD)] * 100
    refused = a_record(0, *some_good, *[(0.0, 0.001, Outcome.REFUSED)] * 1000).tally()
    few_refused = a_record(0, *some_good, *[(0.0, 0.001, Outcome.REFUSED)] * 399).tally()

    capacity = Capacity(100, cpu_seconds=0.001)

    assert refusal_cpu_us(refused, 0.13, capacity) == pytest.approx(30)
    assert math.isnan(refusal_cpu_us(few_refused, 0.13, capacity))


def test_the_processor_time_of_a_server_is_that_of_the_processes_that_work() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\ninput()"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as master:
        served = Served(Target("127.0.0.1", 1), master.pid)
        until(lambda: served.cpu_seconds() >= 0.2, "the child to have worked")
        assert served.cpu_seconds() < 5
        master.communicate(b"\n")

    assert math.isnan(Served(Target("127.0.0.1", 1)).cpu_seconds())


def test_a_server_is_measured_from_capacity_to_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.load.overload._SETTLING_SECONDS", 0.1)
    # The machine may stand still for some seconds: a part of the capacity is seen, and every answer is waited for.
    plan = Plan(
        capacity_seconds=3.5,
        warm_seconds=0.5,
        overload_seconds=1.5,
        recovery_seconds=0.5,
        probe_timeout_seconds=PATIENCE_SECONDS,
    )
    work = replace(WORK, mix=((Traffic("read", "/", (), timeout_seconds=PATIENCE_SECONDS), 1.0),))
    script = {path: answer(GOOD) for path in (b"/", b"/health", b"/health/readiness")}
    with scripted(script) as server:
        served = Served(server.target)
        capacity = measure_capacity(served, work, plan.capacity_seconds)
        finding = overload(served, work, 2, plan, way="direct", capacity=Capacity(100))

    assert capacity.per_second > 4
    assert finding.load.good == finding.load.offered > 50
    assert finding.goodput > 1.5
    assert finding.probes.good == finding.probes.offered > 20
    assert not math.isnan(finding.probes.good_ms.p99)
    assert {b"GET /health HTTP/1.1", b"GET /health/readiness HTTP/1.1"} <= {
        request.partition(b"\r\n")[0] for request in server.requests
    }
