"""Five times the load that the server can carry, and five hundred requests at once: the short form of `make load`."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.ops.admission import Reason
from benchmarks.load.application import WAITING_SECONDS
from benchmarks.load.burst import PLACES, REQUESTS, burst
from benchmarks.load.overload import Capacity, Finding, Plan, Served, measure_capacity, overload
from benchmarks.load.servers import WAITING_THREADS, WORKERS, protected, unprotected, waiting_work
from benchmarks.load.traffic import Target
from tests.server.running import running

FACTOR = 5
PLAN = Plan(capacity_seconds=2, warm_seconds=1, overload_seconds=3.5, recovery_seconds=1.5)
PATIENCE_SECONDS = 2.0
LEAST_GOODPUT = 0.8
ATTEMPTS = 5


def best_of(attempts: int, served: Served) -> Finding:
    """Return the first measurement that breaks no promise, else the last: other work of the machine only harms it."""
    work = waiting_work(PATIENCE_SECONDS)
    for _ in range(attempts):
        capacity = measure_capacity(served, work, PLAN.capacity_seconds)
        finding = overload(served, work, FACTOR, PLAN, way="direct", capacity=capacity)
        if not broken_promises(finding):
            break
    return finding


def broken_promises(finding: Finding) -> list[str]:
    """Name what does not hold; the times are loose, for a machine that runs other tests beside."""
    load, probes = finding.load, finding.probes
    promises = {
        "goodput": finding.goodput >= LEAST_GOODPUT,
        "every request is answered": load.good + load.refused == load.offered,
        "uploads get their share, too": min(finding.classes.values()) > 0,
        "no probe is missed": probes.good == probes.offered,
        "probes are fast": probes.good_ms.p50 <= 20,
        "refusals are fast": load.refused_ms.p50 <= 20 and load.refused_ms.p99 <= 200,
        "recovery": finding.recovery_seconds <= PLAN.recovery_seconds,
    }
    return [promise for promise, holds in promises.items() if not holds]


def test_under_five_times_the_load_the_server_does_what_it_can_and_refuses_the_rest_at_once(tmp_path: Path) -> None:
    with protected(tmp_path / "server", WAITING_THREADS) as served:
        finding = best_of(ATTEMPTS, served)

    assert broken_promises(finding) == [], finding
    assert finding.load.refused > finding.load.good


def test_gunicorn_s_own_threaded_worker_does_nothing_useful_under_that_load(tmp_path: Path) -> None:
    capacity = Capacity(WORKERS * WAITING_THREADS / WAITING_SECONDS)
    plan = Plan(warm_seconds=0.5, overload_seconds=3, recovery_seconds=0)

    with unprotected(tmp_path / "server", WAITING_THREADS) as served:
        work = waiting_work(PATIENCE_SECONDS)
        finding = overload(served, work, FACTOR, plan, way="direct", capacity=capacity)

    assert {"goodput", "every request is answered", "no probe is missed"} <= {*broken_promises(finding)}
    assert finding.load.timed_out > finding.load.good


@pytest.mark.parametrize("max_queue", [1000, 100])
def test_five_hundred_requests_at_once_are_all_answered(tmp_path: Path, max_queue: int) -> None:
    with running(
        tmp_path,
        workers=WORKERS,
        application="benchmarks.load.application:measured",
        PHOTO_API_SERVER__THREADS=str(PLACES // WORKERS),
        PHOTO_API_SERVER__MAX_CONCURRENT=str(PLACES),
        PHOTO_API_SERVER__MAX_QUEUE=str(max_queue),
    ) as server:
        result = burst(Target("127.0.0.1", server.public), max_queue)
        without_room = server.metric("photo_api_backpressure_rejected_total", reason=Reason.QUEUE_FULL)

    assert result.holds, result
    # A queue that stands longer than a moment loses some of those who wait, even if it has room for all.
    assert (without_room > 0) == (max_queue < REQUESTS - PLACES)
