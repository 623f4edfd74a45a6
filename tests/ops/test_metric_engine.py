"""The image engine's metrics: known from the start, and moved by what it tells."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.images.build import Observer
from app.images.engine_process import Loss
from app.ops.metric_engine import EngineMetrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Observer:
    return EngineMetrics(
        lambda name, meaning, labels: Counter(name, meaning, labels, registry=registry),
        lambda name, meaning, labels: Gauge(name, meaning, labels, registry=registry),
        lambda name, meaning, labels, buckets: Histogram(name, meaning, labels, registry=registry, buckets=buckets),
    )


def test_every_reason_that_costs_a_job_is_there_before_it_happens(
    metrics: Observer, registry: CollectorRegistry
) -> None:
    seen = {loss: registry.get_sample_value("decode_killed_total", {"reason": loss.value}) for loss in Loss}

    assert seen == {loss: None if loss is Loss.GONE else 0 for loss in Loss}


def test_the_engine_moves_its_metrics(metrics: Observer, registry: CollectorRegistry) -> None:
    metrics.engine_job("done", 0.3)
    metrics.decode_killed("crash")
    metrics.engine_processes(5, 2)

    bucket = {"outcome": "done", "le": "0.5"}
    assert registry.get_sample_value("engine_job_duration_seconds_bucket", bucket) == 1
    assert registry.get_sample_value("decode_killed_total", {"reason": "crash"}) == 1
    assert registry.get_sample_value("engine_processes", {"state": "idle"}) == 3
    assert registry.get_sample_value("engine_processes", {"state": "working"}) == 2


def test_what_waits_and_what_is_taken_is_known_from_the_start_and_followed(
    metrics: Observer, registry: CollectorRegistry
) -> None:
    def seen() -> list[float | None]:
        waiting = [registry.get_sample_value("engine_waiting_jobs", {"queue": name}) for name in ("turn", "budget")]
        return [*waiting, registry.get_sample_value("engine_budget_in_use_bytes")]

    before = seen()
    metrics.engine_queue("turn", 1, 4)
    metrics.engine_queue("budget", 1000, 2)

    assert (before, seen()) == ([0, 0, 0], [4, 2, 1000])
