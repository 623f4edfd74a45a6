"""What the policies have counted, as Prometheus metrics (``prometheus_client``).

The policies count in plain numbers; :meth:`PrometheusExporter.publish` carries what is new to the registry. It is
called before each scrape and once a second by a thread of its own, because with several processes the one that is
scraped reads what the others have written last. Nothing here is called per guarded call.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ..breaker_tally import BOUNDS_SECONDS
from ..figures import Distribution, Figure

_log = logging.getLogger(__name__)

Source: TypeAlias = Callable[[], Iterable[Figure | Distribution]]
"""Returns everything that was counted so far, for example ``Pipelines.figures``."""

_Across: TypeAlias = Literal["livesum", "livemax"]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric of this library.

    Attributes:
        kind: ``counter``, ``gauge`` or ``histogram``.
        labels: In their order.
        meaning: One line.
        across: How the values of several processes become one: the sum, or the greatest.
        bounds: Upper bounds of a histogram's buckets, in seconds.
    """

    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    across: _Across = "livesum"
    bounds: tuple[float, ...] = ()


SPECS: Final[Mapping[str, MetricSpec]] = {
    "circuit_breaker_state": MetricSpec("gauge", ("name", "state"), "1 in the breaker's state, 0 else.", "livemax"),
    "circuit_breaker_calls": MetricSpec("counter", ("name", "kind"), "Calls by what became of them."),
    "circuit_breaker_call_duration_seconds": MetricSpec(
        "histogram", ("name", "kind"), "How long recorded calls took.", bounds=BOUNDS_SECONDS
    ),
    "circuit_breaker_failure_rate": MetricSpec(
        "gauge", ("name",), "Share of failed calls in the window; -1 while there are too few.", "livemax"
    ),
    "circuit_breaker_slow_call_rate": MetricSpec(
        "gauge", ("name",), "Share of slow calls in the window; -1 while there are too few.", "livemax"
    ),
    "circuit_breaker_transitions": MetricSpec("counter", ("name", "from", "to"), "Changes of state decided here."),
    "retries": MetricSpec("counter", ("name", "outcome"), "What became of failed attempts."),
    "retry_budget_remaining": MetricSpec("gauge", ("name",), "Retries that may still be made."),
    "timeouts": MetricSpec("counter", ("name", "outcome"), "Calls that had no time, or took too long."),
    "bulkhead_in_use": MetricSpec("gauge", ("name",), "Places taken."),
    "bulkhead_queue_size": MetricSpec("gauge", ("name",), "Calls that wait for a place."),
    "shed": MetricSpec("counter", ("name", "reason"), "Calls refused because there were too many."),
    "adaptive_limit": MetricSpec("gauge", ("name",), "Calls that may be at work at once, as found out."),
    "adaptive_limit_in_use": MetricSpec("gauge", ("name", "partition"), "Places taken, by whose they are."),
    "rate_limit_keys": MetricSpec("gauge", ("name",), "Keys that are remembered."),
    "rate_limit_keys_forgotten_early": MetricSpec(
        "counter", ("name",), "Keys forgotten before their time, because there were too many."
    ),
    "rate_limit_store_failures": MetricSpec("counter", ("name",), "Calls let through because the store failed."),
    "fallback": MetricSpec("counter", ("name", "from", "to"), "Answers that came from an alternative."),
    "cache_requests": MetricSpec("counter", ("name", "tier", "result"), "Look-ups in caches."),
    "cache_entries": MetricSpec("gauge", ("name", "tier"), "Entries kept in memory."),
    "chaos_injected": MetricSpec("counter", ("name", "kind"), "Faults made on purpose."),
    "chaos_active": MetricSpec("gauge", ("name",), "1 while faults are made on purpose.", "livemax"),
}
"""The metrics of the policies in this library, without prefix and ``_total``; a plug-in's are added as they come."""


class PrometheusExporter:
    """Carries figures to a registry. Thread-safe; made once per process, after the fork.

    Args:
        registry: Where the metrics are registered.
        prefix: Before every name, for example ``photo_api_``.
    """

    def __init__(self, registry: CollectorRegistry, *, prefix: str = "stability_") -> None:
        self._registry = registry
        self._prefix = prefix
        self._lock = threading.Lock()
        self._sources: tuple[Source, ...] = ()
        self._metrics: dict[str, Any] = {}
        self._seen: dict[tuple[str, tuple[str, ...]], float] = {}
        self._stop = threading.Event()
        for name, spec in SPECS.items():
            self._metrics[name] = self._define(name, spec)

    def add_source(self, source: Source) -> None:
        """Publish what a source returns, from the next time on."""
        with self._lock:
            self._sources = (*self._sources, source)

    def publish(self) -> None:
        """Bring the registry up to date; a source that raises is logged, and the others go on."""
        with self._lock:
            for source in self._sources:
                try:
                    for figure in source():
                        self._publish(figure)
                except Exception:  # noqa: BLE001  # a scrape must not fail because of one figure
                    _log.exception("figures could not be published")

    def start(self, every_seconds: float = 1.0) -> None:
        """Publish again and again in a daemon thread, until :meth:`close`."""

        def run() -> None:
            while not self._stop.wait(every_seconds):
                self.publish()

        threading.Thread(target=run, name="stability-figures", daemon=True).start()

    def close(self) -> None:
        """Publish once more and end the thread."""
        self._stop.set()
        self.publish()

    def _publish(self, figure: Figure | Distribution) -> None:
        names = tuple(figure.labels)
        key = (figure.metric, tuple(figure.labels.values()))
        metric = self._metrics.get(figure.metric)
        if metric is None:
            metric = self._metrics[figure.metric] = self._define_for(figure, names)
        child = metric.labels(**figure.labels) if names else metric
        if isinstance(figure, Distribution):
            self._add_durations(child, key, figure)
        elif figure.kind == "gauge":
            child.set(figure.value)
        else:
            child.inc(self._growth(key, figure.value))

    def _add_durations(self, child: Any, key: tuple[str, tuple[str, ...]], figure: Distribution) -> None:
        # A histogram of the client takes single observations only; these two are what observe() itself adds to.
        name, labels = key
        for index, count in enumerate(figure.counts):
            child._buckets[index].inc(self._growth((f"{name}#{index}", labels), count))  # noqa: SLF001  # no public way
        child._sum.inc(self._growth((f"{name}#sum", labels), figure.sum_seconds))  # noqa: SLF001  # no public way

    def _growth(self, key: tuple[str, tuple[str, ...]], value: float) -> float:
        grown = value - self._seen.get(key, 0.0)
        self._seen[key] = value
        return max(0.0, grown)

    def _define_for(self, figure: Figure | Distribution, labels: tuple[str, ...]) -> Any:
        meaning = "A figure of a plug-in."
        if isinstance(figure, Distribution):
            return self._define(figure.metric, MetricSpec("histogram", labels, meaning, bounds=figure.bounds))
        return self._define(figure.metric, MetricSpec(figure.kind, labels, meaning))

    def _define(self, name: str, spec: MetricSpec) -> Any:
        full = self._prefix + name
        if spec.kind == "counter":
            return Counter(full, spec.meaning, spec.labels, registry=self._registry)
        if spec.kind == "gauge":
            return Gauge(full, spec.meaning, spec.labels, registry=self._registry, multiprocess_mode=spec.across)
        return Histogram(full, spec.meaning, spec.labels, registry=self._registry, buckets=spec.bounds)
