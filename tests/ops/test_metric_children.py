"""The short ways move exactly what the client's own methods move."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app.ops.metric_children import ShortCounter, ShortGauge, ShortHistogram

BOUNDS = (0.1, 0.5, 1.0)


def exposed(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


@pytest.mark.parametrize("value", [0.0, 0.05, 0.1, 0.100001, 0.5, 0.7, 1.0, 1.1, 1e9])
def test_a_value_is_counted_as_the_client_counts_it(value: float) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    short = ShortHistogram(Histogram("h", "H.", ["a"], buckets=BOUNDS, registry=ours).labels("x"))
    child = Histogram("h", "H.", ["a"], buckets=BOUNDS, registry=theirs).labels("x")

    short.observe(value)
    child.observe(value)

    assert exposed(ours) == exposed(theirs)


def test_one_is_added_as_the_client_adds_it() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    short = ShortCounter(Counter("c", "C.", ["a"], registry=ours).labels("x"))
    child = Counter("c", "C.", ["a"], registry=theirs).labels("x")

    for counted in (short, child):
        counted.inc()
        counted.inc()

    assert exposed(ours) == exposed(theirs)


def test_a_gauge_is_set_as_the_client_sets_it() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    short, gauge = ShortGauge(Gauge("g", "G.", registry=ours)), Gauge("g", "G.", registry=theirs)

    for either in (short, gauge):
        either.set(3)
        either.set(-2.5)

    assert exposed(ours) == exposed(theirs)
