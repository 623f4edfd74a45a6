"""The routes of health and metrics: GET and HEAD, ``no-store``, answered from memory.

===========================  ====================  ==========================================
Path                         Alias (Dockerflow)    Where
===========================  ====================  ==========================================
``/health/liveness``                               both listeners
``/health/readiness``        ``/__lbheartbeat__``  both listeners
``/health``                  ``/__heartbeat__``    both listeners
``/__version__``                                   both listeners
``/health/detailed``                               management listener only
``/metrics``                                       management listener only
===========================  ====================  ==========================================

Which listener a request came in by is decided in :mod:`app.server.listeners`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from flask import Blueprint, Response, request

from app.ops.build import Instance
from app.ops.health import HealthMonitor
from app.ops.metrics import Metrics
from app.ops.probes import PROBE_PATHS, ProbeAnswer, ProbeAnswers, health_answer
from app.ops.sampling import CheckReport


class InFlightCount(Protocol):
    """Who knows how many requests are in flight; :class:`app.ops.lifecycle.Lifecycle` is one."""

    @property
    def in_flight(self) -> int:
        """Requests whose response is not closed yet."""
        ...


def operations_blueprint(
    *, monitor: HealthMonitor, probes: ProbeAnswers, lifecycle: InFlightCount, metrics: Metrics, instance: Instance
) -> Blueprint:
    """Return the routes of this module.

    Args:
        monitor: The samples.
        probes: What the paths of :data:`~app.ops.probes.PROBE_PATHS` are answered with.
        lifecycle: Counts the requests in flight, for the details.
        metrics: What ``/metrics`` shows.
        instance: Who answers, for the details.
    """
    routes = Blueprint("operations", __name__)

    def detailed() -> Response:
        report = monitor.report()
        document = probes.summary(report)
        document["checks"] = {check.name: [_details(check)] for check in report.checks}
        document["in_flight"] = lifecycle.in_flight
        document["instance"] = instance.facts()
        return _response(health_answer(document, ready=report.ready))

    def exposition() -> Response:
        body, content_type = metrics.exposition(request.headers.get("Accept"), request.args.getlist("name[]"))
        answer = Response(body, content_type=content_type)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    for path in sorted(PROBE_PATHS):
        routes.add_url_rule(path, endpoint=path, view_func=_probe(probes, path))
    routes.add_url_rule("/health/detailed", view_func=detailed)
    routes.add_url_rule("/metrics", view_func=exposition)
    return routes


def _probe(probes: ProbeAnswers, path: str) -> Callable[[], Response]:
    return lambda: _response(probes.answer(path))


def _response(answer: ProbeAnswer) -> Response:
    return Response(answer.body, answer.status, headers=list(answer.headers))


def _details(check: CheckReport) -> dict[str, Any]:
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
    if check.observed:
        details["observed"] = dict(check.observed)
    return details
