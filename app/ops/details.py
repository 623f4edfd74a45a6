"""What ``/health/detailed`` says besides ``/health``: each check in full, breakers, pool, workers, requests.

Everything is read from memory or the page of the host. A part that cannot be read is told as such and takes nothing
else away: who asks for details has trouble already.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final, Protocol, TypeAlias

from app.db.pool import PoolFigures
from app.ops.build import Instance
from app.ops.health import HealthReport
from app.ops.lifecycle import HostReport, ServerWord, WorkerWord
from app.ops.probes import ProbeAnswers
from app.ops.sampling import CheckReport, Status
from app.stability import SYSTEM_CLOCK, BreakerSnapshot, Clock

_log = logging.getLogger(__name__)

Section: TypeAlias = Callable[[], Any]
"""Returns one member of the document, made of what JSON has."""


_CACHE_METRIC: Final = "photo_api_cache_requests_total"
_LABEL: Final = re.compile(r'([a-z_]+)="([^"]*)"')
_POOL_METRICS: Final = {
    "active": "photo_api_db_pool_active_connections",
    "idle": "photo_api_db_pool_idle_connections",
    "waiting": "photo_api_db_pool_waiting_requests",
    "max_connections": "photo_api_db_pool_max_connections",
    "timeouts": "photo_api_db_pool_timeouts_total",
}


class Exposed(Protocol):
    """Who knows the metrics of all workers; :class:`app.ops.metrics.Metrics` is one."""

    def exposition(self, accept: str | None = None, names: Iterable[str] = ()) -> tuple[bytes, str]:
        """Return some metrics in Prometheus's text format, and its content type."""
        ...


class _Breaker(Protocol):
    def snapshot(self) -> BreakerSnapshot: ...


class HealthDetails:
    """Puts the document together. Thread-safe.

    Args:
        probes: What ``/health`` says.
        instance: Who answers.
        sections: More members, by name.
    """

    def __init__(self, probes: ProbeAnswers, instance: Instance, sections: Mapping[str, Section]) -> None:
        self._probes = probes
        self._instance = instance
        self._sections = sections

    def document(self, report: HealthReport) -> dict[str, Any]:
        """Return the document for a report."""
        document = self._probes.summary(report)
        document["instance"] = self._instance.facts()
        document["checks"] = {check.name: [_details_of(check)] for check in report.checks}
        for name, section in self._sections.items():
            document[name] = _read(name, section)
        return document


def breaker_section(breakers: Mapping[str, _Breaker]) -> Section:
    """Return the section of circuit breakers: how each stands on this host, as this process follows it.

    What the workers have counted is in the metrics: a process beside them has called nothing.
    """
    return lambda: {name: _breaker_of(breaker.snapshot()) for name, breaker in sorted(breakers.items())}


def pool_section(figures: Callable[[], PoolFigures]) -> Section:
    """Return the section of a connection pool, or of several together; None while nothing is known of them."""

    def section() -> dict[str, Any] | None:
        try:
            return asdict(figures())
        except LookupError:
            return None

    return section


def host_pool(metrics: Exposed) -> Callable[[], PoolFigures]:
    """Return a function that returns the figures of all workers' pools together, as their metrics have them.

    Args:
        metrics: Those of all processes of this server. Reading them takes some milliseconds.

    Returns:
        The function. It raises ``LookupError`` where no worker has its metrics in a file.
    """

    def figures() -> PoolFigures:
        text, _ = metrics.exposition(None, list(_POOL_METRICS.values()))
        lines = [line.split() for line in text.decode().splitlines() if not line.startswith("#")]
        found = {words[0]: words[1] for words in lines if len(words) > 1}
        if not found:
            raise LookupError("no worker tells of its pool")
        return PoolFigures(**{part: int(float(found[name])) for part, name in _POOL_METRICS.items()})

    return figures


def host_caches(metrics: Exposed) -> Section:
    """Return the section of caches: by cache and tier what became of look-ups, in all workers together.

    Args:
        metrics: Those of all processes of this server. Reading them takes some milliseconds.
    """

    def section() -> dict[str, dict[str, dict[str, int]]]:
        text, _ = metrics.exposition(None, [_CACHE_METRIC])
        found: dict[str, dict[str, dict[str, int]]] = {}
        for line in text.decode().splitlines():
            labels = dict(_LABEL.findall(line))
            if not line.startswith("#") and {"name", "tier", "result"} <= labels.keys():
                of_tier = found.setdefault(labels["name"], {}).setdefault(labels["tier"], {})
                of_tier[labels["result"]] = int(float(line.rpartition(" ")[2]))
        return found

    return section


class LastFigures:
    """Figures of pools, read for the check, and shown beside it as the check has judged them. Thread-safe.

    Args:
        read: Reads them; see :func:`host_pool`.
    """

    def __init__(self, read: Callable[[], PoolFigures]) -> None:
        self._read = read
        self._last: PoolFigures | None = None

    def read(self) -> PoolFigures:
        """Read them anew; raises what reading raises, and nothing is known then."""
        try:
            last = self._read()
        except Exception:
            self._last = None
            raise
        self._last = last
        return last

    def last(self) -> PoolFigures:
        """Return those that were read last.

        Raises:
            LookupError: Nothing is known.
        """
        if self._last is None:
            raise LookupError("the pools were not read")
        return self._last


def host_sections(look: Callable[[], HostReport | None], clock: Clock = SYSTEM_CLOCK) -> dict[str, Section]:
    """Return the sections about all workers: who they are, what is in flight, and what waits.

    Args:
        look: Looks at the page of the host.
        clock: Of the workers' heartbeats.
    """

    def workers() -> list[dict[str, Any]]:
        now = clock.monotonic()
        return [_worker_of(worker, now) for worker in _known(look()).workers]

    def servers() -> list[dict[str, Any]]:
        now = clock.monotonic()
        return [_server_of(server, now) for server in _known(look()).servers]

    return {
        "in_flight": lambda: _known(look()).in_flight,
        "queue": lambda: {"waiting": _known(look()).waiting},
        "workers": workers,
        "servers": servers,
    }


def _known(report: HostReport | None) -> HostReport:
    if report is None:
        raise LookupError("the page of this host is lost")
    return report


def _read(name: str, section: Section) -> Any:
    try:
        return section()
    except Exception as error:  # noqa: BLE001  # one part that cannot be read takes no other away
        _log.warning("a part of the health details cannot be read", exc_info=error, extra={"section": name})
        return None


def _details_of(check: CheckReport) -> dict[str, Any]:
    details: dict[str, Any] = {
        "status": check.status,
        "local": check.spec.local,
        "failures_running": check.failures_running,
    }
    if check.sampled_at is not None:
        details["time"] = check.sampled_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for name, seconds in (("age_seconds", check.age_seconds), ("latency_seconds", check.latency_seconds)):
        details[name] = None if seconds is None else round(seconds, 4)
    if check.output:
        details["output"] = check.output
    if check.spec.endpoints and check.status is not Status.PASS:
        details["affectedEndpoints"] = check.spec.endpoints
    if check.observed:
        details["observed"] = dict(check.observed)
    return details


def _breaker_of(snapshot: BreakerSnapshot) -> dict[str, Any]:
    ends = snapshot.remaining_seconds
    return {
        "state": snapshot.state.value,
        "ends_in_seconds": None if ends is None else round(ends, 1),
        "openings": snapshot.attempt,
    }


def _worker_of(worker: WorkerWord, now: float) -> dict[str, Any]:
    return {
        "pid": worker.pid,
        "server_pid": worker.master_pid,
        "state": worker.state.name.lower(),
        "phase": worker.phase.name.lower(),
        "in_flight": worker.in_flight,
        "waiting": worker.waiting,
        "heartbeat_age_seconds": round(worker.age(now), 1),
        "running_seconds": round(now - worker.since, 1),
    }


def _server_of(server: ServerWord, now: float) -> dict[str, Any]:
    ends = server.lame_duck_ends
    return {
        "pid": server.pid,
        "state": server.state.name.lower(),
        "since_seconds": round(now - server.since, 1),
        "by": server.by,
        "lame_duck_ends_in_seconds": None if ends is None else round(max(0.0, ends - now), 1),
    }
