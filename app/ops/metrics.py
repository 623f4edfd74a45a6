"""Every metric of the product, as attributes of one object, and the exposition of all workers together.

Names are the contract's; ``docs/metrics.md`` says what each means and what to do when it moves, and a test
compares the two. Route templates only become labels, never paths; what is not known becomes one word.

Several workers: ``prometheus_client`` keeps one file per process and kind in the folder that
``PROMETHEUS_MULTIPROC_DIR`` names when it is first imported (:mod:`app.server.metrics_folder` sets it), and the
exposition adds them up. Gauges are of the ``live`` kinds, so that those of a dead worker vanish. Without the
variable (tests, ``flask run``) the same object counts in this process alone, and so does a worker that cannot make
its files: photos can be read on a full disk, and no count is worth more than that.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import choose_encoder
from prometheus_flask_exporter import PrometheusMetrics  # type: ignore[import-untyped]  # it ships no types

from app.stability.integrations.prometheus import SPECS, PrometheusExporter

_log = logging.getLogger(__name__)

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

_Across = Literal["livesum", "livemin", "livemax", "livemostrecent"]
_INFO_ACROSS = "max"  # what the exporter gives its information metrics
_ROOM_BYTES = {
    "counter": 65_536,
    "histogram": 524_288,  # every route has its buckets
    **{f"gauge_{across}": 65_536 for across in (*get_args(_Across), _INFO_ACROSS)},
}


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


class Metrics:
    """All metrics of one process. Thread-safe; made once per process, after the fork.

    Args:
        version: What ``photo_api_build_info`` says.
        registry: Where they are registered; a new one by default.

    Attributes:
        stability: Publishes what the policies of pipelines have counted.
    """

    def __init__(self, *, version: str, registry: CollectorRegistry | None = None) -> None:
        _reserve_files()
        self._registry = registry or CollectorRegistry()
        self._facts: list[MetricFacts] = []
        self._exporter = PrometheusMetrics.for_app_factory(path=None, export_defaults=False, registry=self._registry)
        self._define_http()
        self._define_dependencies()
        self._define_process()
        self._define_photos()
        self.stability = PrometheusExporter(self._registry, prefix=_PREFIX)
        self._facts += [
            MetricFacts(f"{_PREFIX}{name}{'_total' * (spec.kind == 'counter')}", spec.kind, spec.labels)
            for name, spec in SPECS.items()
        ]
        self._exporter.info("photo_api_build_info", "Always 1; its label says what runs.", version=version)
        self._facts.append(MetricFacts("photo_api_build_info", "gauge", ("version",)))
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
        self.db_query_duration = self._histogram(
            "db_query_duration_seconds", "Single statements.", (), _QUERY_BUCKETS
        )
        self.db_slow_queries = self._counter("db_slow_queries_total", "Statements at or above the threshold.")
        self.outbox_pending = self._gauge("outbox_pending", "Outbox rows that wait.", across="livemostrecent")
        self.outbox_oldest_age = self._gauge(
            "outbox_oldest_age_seconds", "Age of the oldest waiting outbox row.", across="livemostrecent"
        )

    def _define_process(self) -> None:
        self.ready = self._gauge("ready", "1 when all workers are ready, else 0.", across="livemin")
        self.health_check_status = self._gauge(
            "health_check_status", "1 pass, 0.5 warn, 0 fail; the worst worker's.", ("check",), across="livemin"
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

    def _begin_at_zero(self) -> None:
        """Expose what is known to be countable before it happens: a first event must be a rise from 0."""
        for operation in STORAGE_OPERATIONS:
            for kind in STORAGE_FAILURES:
                self.external_request_errors.labels("storage", operation, kind)
        for kind in DATABASE_FAILURES:
            self.db_errors.labels(kind)
        for during in ("upload", "download"):
            self.client_disconnects.labels(during)
        for result in ("hit", "miss"):
            self.etag_requests.labels(result)
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
        self.http_requests.labels(method, route, str(code)).inc()
        self.http_request_duration.labels(method, route).observe(seconds)

    def unforeseen(self, kind: str) -> None:
        """Count an exception that became a 500, by the name of its class if that is a usual one."""
        self.exceptions.labels(kind if kind in _EXCEPTIONS else OTHER_EXCEPTION).inc()

    def client_left(self, during: Literal["upload", "download"]) -> None:
        """Count a client that closed the connection early."""
        self.client_disconnects.labels(during).inc()

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
        self.external_request_duration.labels(service, operation, outcome).observe(seconds)
        if outcome == "failure":
            self.external_request_errors.labels(service, operation, kind or "other").inc()

    def query(self, seconds: float) -> None:
        """Record how long one statement took."""
        self.db_query_duration.observe(seconds)

    def slow_query(self) -> None:
        """Count a statement at or above the threshold."""
        self.db_slow_queries.inc()

    def database_error(self, kind: str) -> None:
        """Count a failed statement or connection; ``kind`` is of a fixed set."""
        self.db_errors.labels(kind).inc()

    def pool(self, active: int, waiting: int) -> None:
        """Set how many connections this process uses and how many threads wait for one."""
        self.db_pool_active.set(active)
        self.db_pool_waiting.set(waiting)

    def log_queued(self, size: int) -> None:
        """Set how many log lines wait in this process."""
        self.log_queue_size.set(size)

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

    def uploads_reaped(self, count: int) -> None:
        """Count unfinished uploads that were cleaned up."""
        self.orphans_reaped.inc(count)

    def outbox_depth(self, pending: int, oldest_age_seconds: float) -> None:
        """Set how many outbox rows wait, and for how long the oldest has."""
        self.outbox_pending.set(pending)
        self.outbox_oldest_age.set(oldest_age_seconds)

    def exposition(self, accept: str | None = None, names: Iterable[str] = ()) -> tuple[bytes, str]:
        """Return the metrics of all workers and their content type; this worker's alone when none has files.

        Args:
            accept: The ``Accept`` header; OpenMetrics is given to who asks for it.
            names: Only these samples; all when empty.
        """
        self.stability.publish()
        wanted = list(names)
        folder = os.environ.get(MULTIPROCESS_VARIABLE)
        if folder and not any(Path(folder).glob("*.db")):
            encode, content_type = choose_encoder(accept or "")
            registry = self._registry.restricted_registry(wanted) if wanted else self._registry
            return encode(registry), content_type
        text, content_type = self._exporter.generate_metrics(accept, wanted)
        return text.encode(), content_type


def _reserve_files() -> None:
    """Make this process's files with all their room, or let everything be counted in memory.

    ``prometheus_client`` maps sparse files: on a full disk the first write to a new page is a SIGBUS, which would
    kill the worker over a counter. Reserved room cannot run out.
    """
    folder = os.environ.get(MULTIPROCESS_VARIABLE)
    if not folder:
        return
    made: list[Path] = []
    try:
        for kind, room_bytes in _ROOM_BYTES.items():
            path = Path(folder) / f"{kind}_{os.getpid()}.db"
            if path.exists():
                continue
            # Whole before it has its name: a scrape that meets an empty file fails.
            unnamed = path.with_suffix(".new")
            made += [unnamed, path]
            with unnamed.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, room_bytes)
            unnamed.rename(path)
    except OSError as error:
        for path in made:
            with suppress(OSError):
                path.unlink()
        values.ValueClass = values.MutexValue
        _log.warning("no files for metrics (%s): this worker's are not in the totals", error.strerror)
