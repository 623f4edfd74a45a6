"""What the details say of pool, breakers and workers, and what they say when the page is lost."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from app.db.pool import PoolFigures
from app.ops.build import find_instance
from app.ops.details import (
    HealthDetails,
    LastFigures,
    breaker_section,
    host_caches,
    host_pool,
    host_sections,
    pool_section,
)
from app.ops.health import HealthMonitor
from app.ops.lifecycle import HostReport, Lifecycle, Phase, ServerWord, State, WorkerWord
from app.ops.metrics import Metrics
from app.ops.probes import ProbeAnswers
from app.stability import CircuitBreaker
from tests.fakes.clocks import HandClock


def test_a_breaker_is_shown_as_it_stands_on_this_host_and_without_counts_that_are_no_worker_s() -> None:
    breaker = CircuitBreaker("storage_read", clock=HandClock())
    breaker.open_for(30, by="somebody", reason="a test")

    shown = breaker_section({"storage_read": breaker})()

    assert shown["storage_read"]["state"] == "open"
    assert shown["storage_read"].pop("ends_in_seconds") == 30
    assert shown["storage_read"] == {"state": "open", "openings": 0}


def test_a_pool_is_shown_with_what_it_holds() -> None:
    figures = PoolFigures(active=2, idle=1, waiting=3, max_connections=4, timeouts=5)

    assert pool_section(lambda: figures)() == {
        "active": 2,
        "idle": 1,
        "waiting": 3,
        "max_connections": 4,
        "timeouts": 5,
    }


def test_the_pools_of_all_workers_are_shown_together() -> None:
    metrics = Metrics(version="1")
    metrics.pool(3, 2, 1)
    metrics.db_pool_max.set(40)
    metrics.pool_timeout()

    assert host_pool(metrics)() == PoolFigures(active=3, idle=2, waiting=1, max_connections=40, timeouts=1)


def test_pools_of_which_nothing_is_known_are_no_fault_of_the_details() -> None:
    nothing = Metrics(version="1", role="management")

    assert pool_section(host_pool(nothing))() is None


def test_workers_are_shown_each_with_its_heartbeat_and_together_with_what_they_do() -> None:
    clock = HandClock()
    now = clock.monotonic()
    report = HostReport(
        (ServerWord(7, State.DRAINING, now - 5, "SIGTERM", now + 15),),
        (
            WorkerWord(8, 7, State.READY, Phase.READY, 3, 1, now - 60, now - 0.5),
            WorkerWord(9, 7, State.READY, Phase.RETIRING, 2, 0, now - 90, now - 12),
        ),
    )

    sections = {name: section() for name, section in host_sections(lambda: report, clock).items()}

    assert (sections["in_flight"], sections["queue"]) == (5, {"waiting": 1})
    assert sections["servers"] == [
        {
            "pid": 7,
            "state": "draining",
            "since_seconds": 5.0,
            "by": "SIGTERM",
            "lame_duck_ends_in_seconds": 15.0,
        }
    ]
    assert [(worker["pid"], worker["phase"], worker["heartbeat_age_seconds"]) for worker in sections["workers"]] == [
        (8, "ready", 0.5),
        (9, "retiring", 12.0),
    ]


def test_without_the_page_the_parts_about_workers_are_unknown_and_not_zero() -> None:
    monitor, instance = HealthMonitor(Lifecycle()), find_instance("10.0.0.7", "node-7")
    details = HealthDetails(ProbeAnswers(monitor, instance), instance, host_sections(lambda: None))

    document = details.document(monitor.report())

    assert [document[name] for name in ("in_flight", "queue", "workers", "servers")] == [None] * 4


def test_the_pool_is_shown_as_its_check_has_read_it() -> None:
    read = [PoolFigures(active=each, idle=0, waiting=0, max_connections=1, timeouts=0) for each in (0, 1)]
    figures = LastFigures(lambda: read.pop(0))
    section = pool_section(figures.last)
    before = section()

    seen = [(figures.read().active, section()["active"], section()["active"]) for _ in range(2)]

    assert before is None
    assert seen == [(0, 0, 0), (1, 1, 1)]


def test_a_pool_that_cannot_be_read_any_more_is_unknown() -> None:
    read = [PoolFigures(active=1, idle=0, waiting=0, max_connections=1, timeouts=0)]
    figures = LastFigures(lambda: read.pop(0))
    figures.read()

    with pytest.raises(IndexError):
        figures.read()

    assert pool_section(figures.last)() is None


def test_caches_are_told_by_name_tier_and_result() -> None:
    lines = (
        "# TYPE photo_api_cache_requests_total counter\n"
        'photo_api_cache_requests_total{name="photos",result="hit",tier="memory"} 7.0\n'
        'photo_api_cache_requests_total{name="photos",result="miss",tier="memory"} 2.0\n'
        'photo_api_cache_requests_total{name="photos",result="error",tier="redis"} 1.0\n'
    )

    class Told:
        def exposition(self, accept: str | None = None, names: Iterable[str] = ()) -> tuple[bytes, str]:
            assert (accept, [*names]) == (None, ["photo_api_cache_requests_total"])
            return lines.encode(), "text/plain"

    assert host_caches(Told())() == {"photos": {"memory": {"hit": 7, "miss": 2}, "redis": {"error": 1}}}
