"""What policies count is what a scrape shows, whoever publishes and however often."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from app.stability import CircuitBreaker, Distribution, Figure, Pipeline, State
from app.stability.integrations.prometheus import SPECS, PrometheusExporter
from tests.house.source import ROOT


def breaker_with_calls() -> CircuitBreaker:
    """Return a breaker that has seen two successes and a failure."""
    breaker = CircuitBreaker("storage")
    guarded = Pipeline("storage", [breaker])
    guarded.call(int)
    guarded.call(int)
    with pytest.raises(ZeroDivisionError):
        guarded.call(lambda: 1 / 0)
    return breaker


def test_a_breaker_is_shown_with_its_state_calls_and_durations() -> None:
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry, prefix="photo_api_")
    exporter.add_source(breaker_with_calls().figures)

    exporter.publish()

    name = {"name": "storage"}
    calls = "photo_api_circuit_breaker_calls_total"
    seconds = "photo_api_circuit_breaker_call_duration_seconds"
    assert registry.get_sample_value(calls, {**name, "kind": "successful"}) == 2
    assert registry.get_sample_value(calls, {**name, "kind": "failed"}) == 1
    assert registry.get_sample_value(f"{seconds}_count", {**name, "kind": "successful"}) == 2
    assert registry.get_sample_value(f"{seconds}_bucket", {**name, "kind": "successful", "le": "60.0"}) == 2
    assert registry.get_sample_value("photo_api_circuit_breaker_failure_rate", name) == -1
    states = {
        state.value: registry.get_sample_value("photo_api_circuit_breaker_state", {**name, "state": state.value})
        for state in State
    }
    assert states == {state.value: float(state is State.CLOSED) for state in State}


def test_publishing_again_counts_nothing_twice() -> None:
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    exporter.add_source(breaker_with_calls().figures)

    for _ in range(3):
        exporter.publish()

    kind = {"name": "storage", "kind": "successful"}
    assert registry.get_sample_value("stability_circuit_breaker_calls_total", kind) == 2
    assert registry.get_sample_value("stability_circuit_breaker_call_duration_seconds_count", kind) == 2


def test_what_grew_since_the_last_time_is_added_to_each_metric_of_its_own() -> None:
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    things = {"a": 1.0, "b": 10.0}

    def source() -> Iterator[Figure | Distribution]:
        for name, value in things.items():
            yield Figure("shed", "counter", value, {"name": name, "reason": "queue_full"})
            yield Distribution("plug_in_seconds", (1.0,), (0, int(value)), value * 2, {"name": name})

    exporter.add_source(source)
    exporter.publish()
    things.update(a=4.0, b=12.0)

    exporter.publish()

    for name, value in things.items():
        labels = {"name": name}
        assert registry.get_sample_value("stability_shed_total", {**labels, "reason": "queue_full"}) == value
        assert registry.get_sample_value("stability_plug_in_seconds_sum", labels) == value * 2
        assert registry.get_sample_value("stability_plug_in_seconds_count", labels) == value


def test_a_transition_is_counted() -> None:
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    breaker = CircuitBreaker("x")
    exporter.add_source(breaker.figures)
    breaker.transition_to(State.FORCED_OPEN)

    exporter.publish()

    labels = {"name": "x", "from": "closed", "to": "forced_open"}
    assert registry.get_sample_value("stability_circuit_breaker_transitions_total", labels) == 1


def test_a_plug_ins_figures_get_metrics_of_their_own() -> None:
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    exporter.add_source(
        lambda: [
            Figure("plug_in_things", "counter", 3, {"name": "a"}),
            Figure("plug_in_depth", "gauge", 5),
            Distribution("plug_in_seconds", (1.0,), (2, 1), 9.0, {"name": "a"}),
        ]
    )

    exporter.publish()

    assert registry.get_sample_value("stability_plug_in_things_total", {"name": "a"}) == 3
    assert registry.get_sample_value("stability_plug_in_depth") == 5
    assert registry.get_sample_value("stability_plug_in_seconds_sum", {"name": "a"}) == 9
    assert registry.get_sample_value("stability_plug_in_seconds_bucket", {"name": "a", "le": "+Inf"}) == 3
    plug_in = [family for family in registry.collect() if family.name.startswith("stability_plug_in_")]
    assert len(plug_in) == 3
    assert all(family.documentation for family in plug_in)


def test_a_source_that_raises_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterator[Figure]:
        yield Figure("shed", "counter", 1, {"name": "a", "reason": "queue_full"})
        raise RuntimeError("no more")

    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    exporter.add_source(broken)
    exporter.add_source(lambda: [Figure("bulkhead_in_use", "gauge", 2, {"name": "a"})])

    exporter.publish()

    assert registry.get_sample_value("stability_shed_total", {"name": "a", "reason": "queue_full"}) == 1
    assert registry.get_sample_value("stability_bulkhead_in_use", {"name": "a"}) == 2
    assert "figures could not be published" in caplog.text


def test_a_counter_whose_policy_began_anew_does_not_fall() -> None:
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    value = [5.0]
    exporter.add_source(lambda: [Figure("retries", "counter", value[0], {"name": "a", "outcome": "scheduled"})])
    exporter.publish()
    value[0] = 1.0

    exporter.publish()

    labels = {"name": "a", "outcome": "scheduled"}
    assert registry.get_sample_value("stability_retries_total", labels) == 5


def test_the_thread_publishes_by_itself_and_closing_publishes_the_last() -> None:
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    published = threading.Event()
    depth = [1.0]

    def source() -> list[Figure]:
        published.set()
        return [Figure("bulkhead_in_use", "gauge", depth[0], {"name": "a"})]

    exporter.add_source(source)
    exporter.start(every_seconds=0.001)
    assert published.wait(10)
    daemons = {thread.name for thread in threading.enumerate() if thread.daemon}

    depth[0] = 7.0
    exporter.close()

    assert registry.get_sample_value("stability_bulkhead_in_use", {"name": "a"}) == 7
    assert "stability-figures" in daemons  # it keeps no process alive


def test_every_metric_of_the_library_is_there_before_anything_is_counted() -> None:
    registry = CollectorRegistry()
    PrometheusExporter(registry)

    assert {family.name: family.documentation for family in registry.collect()} == {
        f"stability_{name}": spec.meaning for name, spec in SPECS.items()
    }


TWO_PROCESSES = """
import os
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from app.stability import Figure
from app.stability.integrations.prometheus import PrometheusExporter

child = os.fork()
exporter = PrometheusExporter(CollectorRegistry())
exporter.add_source(lambda: [
    Figure("bulkhead_in_use", "gauge", 2 if child else 3, {"name": "a"}),
    Figure("chaos_active", "gauge", 1, {"name": "a"}),
])
exporter.publish()
if not child:
    os._exit(0)
os.waitpid(child, 0)
for family in MultiProcessCollector(CollectorRegistry()).collect():
    for sample in family.samples:
        if family.name in {"stability_bulkhead_in_use", "stability_chaos_active"}:
            print(family.name, sample.labels, sample.value)
"""


def test_the_gauges_of_several_processes_become_one_sum_or_the_greatest(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", TWO_PROCESSES],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert sorted(done.stdout.splitlines()) == [
        "stability_bulkhead_in_use {'name': 'a'} 5.0",
        "stability_chaos_active {'name': 'a'} 1.0",
    ]
