"""Every metric of the product, as attributes of one object, and the exposition of all workers together.

Names are the contract's; ``docs/metrics.md`` says what each means and what to do when it moves, and a test
compares the two. Route templates only become labels, never paths; what is not known becomes one word.

Several processes: each keeps its numbers in a file of its own (:mod:`app.ops.metric_values`) in the folder that
``PROMETHEUS_MULTIPROC_DIR`` names (:mod:`app.server.metrics_folder` sets it), and whoever is scraped adds them up
(:mod:`app.ops.metric_collector`): counters and histograms of all that ever ran, gauges of those that live. Without
the variable (tests, ``flask run``) the same object counts in this process alone, and so does a process that cannot
make its file: photos can be read on a full disk, and no count is worth more than that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from flask import Flask, Request, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_flask_exporter import PrometheusMetrics

from app.ops.admission import Reason
from app.ops.metric_children import ShortCounter, ShortGauge, ShortHistogram
from app.ops.metric_engine import EngineMetrics
from app.ops.metric_files import Role
from app.ops.metric_folder import open_folder
from app.ops.metric_processes import PROCESS_LABEL, PROCESS_METRICS, ProcessCollector
from app.ops.metric_workers import READY_METRIC, STATE_LABEL, WORKERS_METRIC, WorkerCollector
from app.stability.integrations.prometheus import SPECS, PrometheusExporter

UNMATCHED_ROUTE: Final = "unmatched"
"""The ``route`` of a request that no route template matched."""

OTHER_EXCEPTION: Final = "other"
"""The ``exception`` of a class that is not among the usual ones; the log has its name."""

_EXCEPTIONS = (
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "IndexError",
    "KeyError",
    "LookupError",
    "MemoryError",
    "NotImplementedError",
    "OSError",
    "RecursionError",
    "RuntimeError",
    "TimeoutError",
    "TypeError",
    "UnicodeDecodeError",
    "UnicodeEncodeError",
    "ValueError",
    "ValidationError",
)

STORAGE_OPERATIONS: Final = ("put", "head", "get", "delete", "list")
STORAGE_FAILURES: Final = (
    "StorageUnavailableError",
    "StorageThrottledError",
    "StorageTimeoutError",
    "StorageTokenError",
    "StorageDeniedError",
    "StorageFullError",
    "ObjectCorruptError",
    "ObjectExistsError",
)
DATABASE_FAILURES: Final = ("pool_timeout", "disconnect", "statement", "client")

MULTIPROCESS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

_PREFIX = "photo_api_"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD = "OTHER"
_REQUEST_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_EXTERNAL_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_QUERY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)

SampleOutcome = Literal["sound", "damaged", "missing"]
"""What the daily sample finds of a photo."""

_Across = Literal["livesum", "livemin", "livemax", "livemostrecent"]
_SKIPPED = "metric_files_skipped_total"


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """What the exposition and the documentation agree on.

    Attributes:
        name: As exposed, with ``_total`` for counters.
        kind: ``counter``, ``gauge`` or ``histogram``.
        labels: In their order.
    """

    name: str
    kind: str
    labels: tuple[str, ...]


_MANAGEMENT = f"{_PREFIX}management"
_MANAGEMENT_FACTS = (
    MetricFacts(f"{_MANAGEMENT}_http_request_duration_seconds", "histogram", ("method", "route", "status")),
    MetricFacts(f"{_MANAGEMENT}_http_request_total", "counter", ("method", "status")),
    MetricFacts(f"{_MANAGEMENT}_http_request_exceptions_total", "counter", ("method", "status")),
    MetricFacts(f"{_MANAGEMENT}_exporter_info", "gauge", ("version",)),
)


class Metrics:
    """All metrics of one process. Thread-safe; made once per process, after the fork.

    Args:
        version: What ``photo_api_build_info`` says.
        registry: Where they are registered; a new one by default.
        role: What this process does. The gauges of the management process are seen nowhere: it is not among those
            that have to be ready, and its connections serve no requests.

    Attributes:
        engine: Listens to the image engine.
        stability: Publishes what the policies of pipelines have counted.
    """

    def __init__(self, *, version: str, registry: CollectorRegistry | None = None, role: Role = "worker") -> None:
        self._role = role
        folder = os.environ.get(MULTIPROCESS_VARIABLE)
        self._folder, self._file = open_folder(Path(folder) if folder else None, role)
        self._registry = registry or CollectorRegistry()
        self._facts: list[MetricFacts] = []
        self._processes = ProcessCollector(_PREFIX, Path(folder) if folder else None)
        self._workers: WorkerCollector | None = None
        self._scraping = threading.Lock()
        self._answered: dict[tuple[str, str, int], tuple[ShortCounter, ShortHistogram]] = {}
        self._external: dict[tuple[str, str, str], ShortHistogram] = {}
        self._exporter = PrometheusMetrics.for_app_factory(path=None, export_defaults=False, registry=self._registry)
        self._define_http()
        self._define_dependencies()
        self._define_process()
        self._define_photos()
        self.engine = EngineMetrics(self._counter, self._gauge, self._histogram)
        self.stability = PrometheusExporter(self._registry, prefix=_PREFIX)
        self.stability.add_source(self._restore_file)
        self._facts += [
            MetricFacts(f"{_PREFIX}{name}{'_total' * (spec.kind == 'counter')}", spec.kind, spec.labels)
            for name, spec in SPECS.items()
        ]
        self._exporter.info("photo_api_build_info", "Always 1; its label says what runs.", version=version)
        self._facts.append(MetricFacts("photo_api_build_info", "gauge", ("version",)))
        for name, (kind, _) in PROCESS_METRICS.items():
            self._noted(name, kind, (PROCESS_LABEL,))
        self._noted(_SKIPPED, "counter", ())
        self._noted(WORKERS_METRIC[0], "gauge", (STATE_LABEL,))
        self._facts += _MANAGEMENT_FACTS
        self._query = ShortHistogram(self.db_query_duration)
        self._pool = [ShortGauge(gauge) for gauge in (self.db_pool_active, self.db_pool_idle, self.db_pool_waiting)]
        self._log_queue = ShortGauge(self.log_queue_size)
        self._begin_at_zero()

    def _define_http(self) -> None:
        self.http_requests = self._counter(
            "http_requests_total", "Requests answered, but for health and metrics.", ("method", "route", "code")
        )
        self.http_request_duration = self._histogram(
            "http_request_duration_seconds",
            "From the request's head to the answer's head.",
            ("method", "route"),
            _REQUEST_BUCKETS,
        )
        self.in_flight_requests = self._gauge("in_flight_requests", "Requests whose response is not closed yet.")
        self.exceptions = self._counter(
            "exceptions_total", "Exceptions nobody expected, by class; each was a 500.", ("exception",)
        )
        self.client_disconnects = self._counter(
            "client_disconnect_total", "Clients that left before the end.", ("during",)
        )
        self.etag_requests = self._counter(
            "etag_requests_total", "Conditional requests, by whether the client's copy was current.", ("result",)
        )
        self.backpressure_queue_size = self._gauge("backpressure_queue_size", "Requests that wait for a place.")
        self.backpressure_rejected = self._counter(
            "backpressure_rejected_total", "Requests that waited or came in vain.", ("reason",)
        )
        self.drain_timeouts = self._counter(
            "drain_timeout_total", "Requests cut off because they outlasted the graceful time-out."
        )

    def _define_dependencies(self) -> None:
        self.external_request_duration = self._histogram(
            "external_request_duration_seconds",
            "Calls to other services.",
            ("service", "operation", "outcome"),
            _EXTERNAL_BUCKETS,
        )
        self.external_request_errors = self._counter(
            "external_request_errors_total", "Failed calls to other services.", ("service", "operation", "kind")
        )
        self.db_errors = self._counter("db_errors_total", "Failed statements and connections.", ("kind",))
        self.db_pool_active = self._gauge("db_pool_active_connections", "Connections in use.")
        self.db_pool_waiting = self._gauge("db_pool_waiting_requests", "Threads that wait for a connection.")
        self.db_pool_max = self._gauge("db_pool_max_connections", "Connections the pools may open.")
        self.db_pool_idle = self._gauge("db_pool_idle_connections", "Open connections that nobody uses.")
        self.db_pool_wait = self._histogram(
            "db_pool_wait_seconds", "How long threads waited for a connection.", (), _QUERY_BUCKETS
        )
        self.db_pool_timeouts = self._counter("db_pool_timeouts_total", "Threads that waited in vain.")
        self.db_query_duration = self._histogram(
            "db_query_duration_seconds", "Single statements.", (), _QUERY_BUCKETS
        )
        self.db_slow_queries = self._counter("db_slow_queries_total", "Statements at or above the threshold.")
        self.outbox_pending = self._gauge("outbox_pending", "Outbox rows that wait.", across="livemostrecent")
        self.outbox_oldest_age = self._gauge(
            "outbox_oldest_age_seconds", "Age of the oldest waiting outbox row.", across="livemostrecent"
        )
        self.renders_pending = self._gauge(
            "renders_pending", "Photos whose renditions are due to be made.", across="livemostrecent"
        )
        self.cdn_purges_pending = self._gauge(
            "cdn_purges_pending", "Removed photos that a CDN is still to be told of.", across="livemostrecent"
        )
        self.cdn_cache_size = self._gauge("cdn_cache_size", "Signed URLs that are remembered.")

    def _define_process(self) -> None:
        self.ready = self._gauge(*READY_METRIC, across="livemin")
        self.health_check_status = self._gauge(
            "health_check_status", "1 pass, 0.5 warn, 0 fail; the worst worker's.", ("check",), across="livemin"
        )
        self.mode = self._gauge(
            "mode", "1 for the mode that holds; all workers of a host have the same.", ("mode",), across="livemax"
        )
        self.degrade_level = self._gauge(
            "degrade_level", "How much is left out of renditions while memory is short.", across="livemax"
        )
        self.log_queue_size = self._gauge("log_queue_size", "Log lines that wait to be written.")
        self.log_dropped = self._counter("log_dropped_total", "Log lines lost.")
        self.state_page_losses = self._counter(
            "state_page_losses_total", "Times that the page the workers of a host share was lost to one of them."
        )
        self.memory_usage = self._gauge("memory_usage_bytes", "Resident memory of all workers.")
        self.spool_free = self._gauge(
            "spool_free_bytes", "Room left where uploads are spooled.", across="livemostrecent"
        )
        self.maintenance_runs = self._counter(
            "maintenance_runs_total", "Runs of the maintenance tasks.", ("task", "outcome")
        )

    def _define_photos(self) -> None:
        self.dedup = self._counter("dedup_total", "Uploads answered with a photo that was there already.")
        self.idempotent_replays = self._counter(
            "idempotent_replay_total", "Requests answered from their idempotency key."
        )
        self.orphans_reaped = self._counter("orphans_reaped_total", "Unfinished uploads cleaned after their lease.")
        self.checksum_mismatches = self._counter(
            "checksum_mismatch_total", "Objects whose bytes were not those that were stored."
        )
        self.missing_objects = self._counter(
            "missing_objects_total", "Objects of ready photos that the daily sample did not find in the store."
        )
        self.samples = self._counter("sampled_photos_total", "Ready photos read by the daily sample.", ("outcome",))
        self.singleflight_shared = self._counter(
            "singleflight_shared_total", "Reads of small originals answered with bytes that another one had fetched."
        )

    def _begin_at_zero(self) -> None:
        """Expose what is known to be countable before it happens: a first event must be a rise from 0."""
        for operation in STORAGE_OPERATIONS:
            for kind in STORAGE_FAILURES:
                self.external_request_errors.labels("storage", operation, kind)
        for kind in DATABASE_FAILURES:
            self.db_errors.labels(kind)
        for during in ("upload", "download"):
            self.client_disconnects.labels(during)
        for sampled in get_args(SampleOutcome):
            self.samples.labels(sampled)
        for result in ("hit", "miss"):
            self.etag_requests.labels(result)
        for reason in Reason:
            self.backpressure_rejected.labels(reason.value)
        for name in (*_EXCEPTIONS, OTHER_EXCEPTION):
            self.exceptions.labels(name)

    def _counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        full = self._noted(name, "counter", labels)
        return Counter(full, meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str, labels: Sequence[str] = (), *, across: _Across = "livesum") -> Gauge:
        full = self._noted(name, "gauge", labels)
        return Gauge(full, meaning, labels, registry=self._registry, multiprocess_mode=across)

    def _histogram(self, name: str, meaning: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
        full = self._noted(name, "histogram", labels)
        return Histogram(full, meaning, labels, registry=self._registry, buckets=buckets)

    def _noted(self, name: str, kind: str, labels: Sequence[str]) -> str:
        full = _PREFIX + name
        self._facts.append(MetricFacts(full, kind, tuple(labels)))
        return full

    def watch_operations(self, app: Flask) -> None:
        """Let the exporter measure the operations application, grouped by rule.

        Args:
            app: The management process's, which has answered no request yet.
        """

        def look() -> None:
            if request.method not in _METHODS:  # the exporter would make a series of each
                request.prom_do_not_track = True  # type: ignore[attr-defined]  # how the exporter is told

        app.before_request(look)
        self._exporter.export_defaults(group_by=route, prefix=_MANAGEMENT, app=app)

    def watch_workers(self, workers: WorkerCollector) -> None:
        """Let somebody judge whether the workers are ready, for what they say may be old."""
        self._workers = workers

    @property
    def facts(self) -> tuple[MetricFacts, ...]:
        """Every metric there is, in the order of definition."""
        return tuple(self._facts)

    def request_answered(self, method: str, route: str | None, code: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            method: As received; unknown ones are counted as ``OTHER``.
            route: The template that matched, None when there is none.
            code: The HTTP status.
            seconds: From the request's head to the answer's.
        """
        method = method if method in _METHODS else _OTHER_METHOD
        route = route or UNMATCHED_ROUTE
        found = self._answered.get((method, route, code))
        if found is None:
            counted = ShortCounter(self.http_requests.labels(method, route, str(code)))
            found = (counted, ShortHistogram(self.http_request_duration.labels(method, route)))
            self._answered[method, route, code] = found
        found[0].inc()
        found[1].observe(seconds)

    def unforeseen(self, kind: str) -> None:
        """Count an exception that became a 500, by the name of its class if that is a usual one."""
        self.exceptions.labels(kind if kind in _EXCEPTIONS else OTHER_EXCEPTION).inc()

    def client_left(self, during: Literal["upload", "download"]) -> None:
        """Count a client that closed the connection early."""
        self.client_disconnects.labels(during).inc()

    def backpressure(self, waiting: int) -> None:
        """Set how many requests wait for a place in this process."""
        self.backpressure_queue_size.set(waiting)

    def rejected(self, reason: str) -> None:
        """Count a request that was refused, or whose client left while it waited.

        Args:
            reason: One of :class:`app.ops.admission.Reason`.
        """
        self.backpressure_rejected.labels(str(reason)).inc()

    def drain_timeout(self, requests: int) -> None:
        """Count requests that were cut off because they outlasted the graceful time-out."""
        self.drain_timeouts.inc(requests)

    def conditional_request(self, *, current: bool) -> None:
        """Count a request with a condition: was the client's copy current (304), or not (200)."""
        self.etag_requests.labels("hit" if current else "miss").inc()

    def external_call(
        self, service: str, operation: str, *, outcome: Literal["success", "failure"], seconds: float, kind: str = ""
    ) -> None:
        """Count a call to another service.

        Args:
            service: For example ``storage``; of a fixed set.
            operation: For example ``put``; of a fixed set.
            outcome: Whether it did what was asked; an object that is not there is a success.
            seconds: How long it took.
            kind: For a failure, what went wrong, of a fixed set (usually an error's class).
        """
        timed = self._external.get((service, operation, outcome))
        if timed is None:
            timed = ShortHistogram(self.external_request_duration.labels(service, operation, outcome))
            self._external[service, operation, outcome] = timed
        timed.observe(seconds)
        if outcome == "failure":
            self.external_request_errors.labels(service, operation, kind or "other").inc()

    def query(self, seconds: float) -> None:
        """Record how long one statement took."""
        self._query.observe(seconds)

    def slow_query(self) -> None:
        """Count a statement at or above the threshold."""
        self.db_slow_queries.inc()

    def database_error(self, kind: str) -> None:
        """Count a failed statement or connection; ``kind`` is of a fixed set."""
        self.db_errors.labels(kind).inc()

    def pool(self, active: int, idle: int, waiting: int) -> None:
        """Set how many connections this process uses and keeps idle, and how many threads wait for one."""
        for gauge, count in zip(self._pool, (active, idle, waiting), strict=True):
            gauge.set(count)

    def pool_wait(self, seconds: float) -> None:
        """Record how long a thread has waited for a connection, in vain or not."""
        self.db_pool_wait.observe(seconds)

    def pool_timeout(self) -> None:
        """Count a thread that has waited for a connection in vain."""
        self.db_pool_timeouts.inc()

    def log_queued(self, size: int) -> None:
        """Set how many log lines wait in this process."""
        self._log_queue.set(size)

    def log_dropped_lines(self, count: int) -> None:
        """Count lost log lines."""
        self.log_dropped.inc(count)

    def duplicate(self) -> None:
        """Count an upload of bytes that were there already."""
        self.dedup.inc()

    def idempotent_replay(self) -> None:
        """Count a request that got the answer of an earlier one with the same key."""
        self.idempotent_replays.inc()

    def checksum_mismatch(self) -> None:
        """Count an object whose bytes were not those that were stored."""
        self.checksum_mismatches.inc()

    def shared_read(self) -> None:
        """Count an original that was answered with bytes that another request had fetched."""
        self.singleflight_shared.inc()

    def sample_checked(self, outcome: SampleOutcome) -> None:
        """Count a photo that the daily sample has read; damage counts as a mismatch, too."""
        self.samples.labels(outcome).inc()
        if outcome == "damaged":
            self.checksum_mismatches.inc()
        elif outcome == "missing":
            self.missing_objects.inc()

    def uploads_reaped(self, count: int) -> None:
        """Count unfinished uploads that were cleaned up."""
        self.orphans_reaped.inc(count)

    def outbox_depth(self, pending: int, oldest_age_seconds: float) -> None:
        """Set how many outbox rows wait, and for how long the oldest has."""
        self.outbox_pending.set(pending)
        self.outbox_oldest_age.set(oldest_age_seconds)

    def renders_due(self, count: int) -> None:
        """Set how many photos are due to be decoded and wait for it."""
        self.renders_pending.set(count)

    def purges_pending(self, count: int) -> None:
        """Set how many removed photos a CDN is still to be told of."""
        self.cdn_purges_pending.set(count)

    def exposition(self, accept: str | None = None, names: Iterable[str] = ()) -> tuple[bytes, str]:
        """Return the metrics of all processes and their content type.

        When none has a file, a worker tells its own, and the management process only what the system says.

        Args:
            accept: The ``Accept`` header; OpenMetrics is given to who asks for it.
            names: Only these metrics or samples; all when empty.
        """
        self.stability.publish()
        wanted = frozenset(names)
        with self._scraping:
            families = self._collect()
        encode, content_type = choose_encoder(accept or "")
        return encode(_Selection(families, wanted)), content_type

    def _restore_file(self) -> tuple[()]:
        """Stand among the sources because they are asked every second; have no figures."""
        if self._file is not None:
            self._file.restore()
        return ()

    def _collect(self) -> list[Metric]:
        here = (self._role, os.getpid())
        skipped = CounterMetricFamily(
            _PREFIX + _SKIPPED, "Files of processes that were removed or could not be read whole."
        )
        families: list[Metric] = []
        processes: list[tuple[str, int]] = []
        if self._folder is not None:
            found = self._folder.collect()
            families = found.families
            processes = [("master", os.getppid()), *((name.role, name.owner.pid) for name in found.living)]
            skipped.add_metric([], found.damaged)
        else:
            skipped.add_metric([], 0)
        if here not in processes:
            processes.append(here)
        if not families and self._role == "worker":
            families = list(self._registry.collect())
        if self._workers is not None:
            families = self._workers.collect(families, [pid for role, pid in processes if role == "worker"], _PREFIX)
        return [*families, *self._processes.collect(processes), skipped]


class _Selection:
    """What an encoder takes for a registry.

    Args:
        families: All metrics.
        names: Of metrics or samples; all when empty.
    """

    def __init__(self, families: list[Metric], names: frozenset[str]) -> None:
        self._families = families
        self._names = names

    def collect(self) -> Iterable[Metric]:
        """Return the metrics that were asked for."""
        if not self._names:
            return self._families
        return filter(None, map(self._selected, self._families))

    def _selected(self, family: Metric) -> Metric | None:
        if family.name in self._names:
            return family
        samples = [sample for sample in family.samples if sample.name in self._names]
        if not samples:
            return None
        selected = Metric(family.name, family.documentation, family.type, family.unit)
        selected.samples = samples
        return selected


def route(asked: Request) -> str:
    """Return the template that a request matched; the exporter takes this function's name for its label."""
    return str(asked.url_rule or UNMATCHED_ROUTE)
