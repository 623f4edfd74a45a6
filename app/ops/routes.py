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

from typing import Any, Final

import orjson
from flask import Blueprint, Response, request

from app.ops.build import VERSION, Instance
from app.ops.health import CheckReport, HealthMonitor, HealthReport, Status
from app.ops.lifecycle import Lifecycle
from app.ops.metrics import Metrics

PROBE_PATHS: Final = frozenset(
    {"/health/liveness", "/health/readiness", "/health", "/__lbheartbeat__", "/__heartbeat__", "/__version__"}
)
"""The paths that the public listener answers too."""

_HEALTH_TYPE = "application/health+json"


def operations_blueprint(
    *, monitor: HealthMonitor, lifecycle: Lifecycle, metrics: Metrics, instance: Instance
) -> Blueprint:
    """Return the routes of this module.

    Args:
        monitor: The samples.
        lifecycle: State and in-flight counter, for the details.
        metrics: What ``/metrics`` shows.
        instance: Who answers, for the details.
    """
    routes = Blueprint("operations", __name__)

    def liveness() -> Response:
        # Answering is the proof. What a restart would not mend is no reason to be restarted.
        return _health_answer({"status": Status.PASS}, ready=True)

    def readiness() -> Response:
        report = monitor.report()
        return _health_answer({"status": report.status, "state": report.state.name.lower()}, ready=report.ready)

    def health() -> Response:
        report = monitor.report()
        return _health_answer(_summary(report), ready=report.ready)

    def detailed() -> Response:
        report = monitor.report()
        document = _summary(report)
        document["checks"] = {check.name: [_details(check)] for check in report.checks}
        document["in_flight"] = lifecycle.in_flight
        document["instance"] = instance.facts()
        return _health_answer(document, ready=report.ready)

    def version() -> Response:
        return _no_store(Response(orjson.dumps({"version": VERSION}), mimetype="application/json"))

    def exposition() -> Response:
        body, content_type = metrics.exposition(request.headers.get("Accept"), request.args.getlist("name[]"))
        return _no_store(Response(body, content_type=content_type))

    routes.add_url_rule("/health/liveness", view_func=liveness)
    routes.add_url_rule("/health/readiness", view_func=readiness)
    routes.add_url_rule("/__lbheartbeat__", view_func=readiness)
    routes.add_url_rule("/health", view_func=health)
    routes.add_url_rule("/__heartbeat__", view_func=health)
    routes.add_url_rule("/__version__", view_func=version)
    routes.add_url_rule("/health/detailed", view_func=detailed)
    routes.add_url_rule("/metrics", view_func=exposition)
    return routes


def _summary(report: HealthReport) -> dict[str, Any]:
    return {
        "status": report.status,
        "version": VERSION,
        "state": report.state.name.lower(),
        "checks": {check.name: [{"status": check.status}] for check in report.checks},
    }


def _details(check: CheckReport) -> dict[str, Any]:
    details: dict[str, Any] = {
        "status": check.status,
        "local": check.local,
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


def _health_answer(document: dict[str, Any], *, ready: bool) -> Response:
    status = 200 if ready else 503
    answer = Response(orjson.dumps(document), status, content_type=_HEALTH_TYPE)
    if not ready:
        answer.headers["Retry-After"] = "2"
    return _no_store(answer)


def _no_store(answer: Response) -> Response:
    answer.headers["Cache-Control"] = "no-store"
    return answer
