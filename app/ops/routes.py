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

``/health/detailed?fresh=1`` lets every check take a sample before it answers. That is work that somebody else pays
for, so it needs an operator. It answers within two seconds whatever hangs, and half of one is for finding out who
asks: when that cannot be told, because the database does not answer either, it answers from the samples and says so.

Which listener a request came in by is decided in :mod:`app.server.listeners`.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final, Protocol, TypeAlias

from flask import Blueprint, Request, Response, copy_current_request_context, request

from app.errors import MissingScopeError, UnavailableError, ValidationFailedError
from app.ops.build import Instance
from app.ops.details import HealthDetails, Section
from app.ops.health import FRESH_SECONDS, HealthMonitor, HealthReport
from app.ops.metrics import Metrics
from app.ops.probes import PROBE_PATHS, ProbeAnswer, ProbeAnswers, health_answer
from app.stability import Deadline, deadline_scope

_QUICK: Final = 1
"""The level of compression: a tenth of the size for a millisecond."""

_WHO_ASKS_SECONDS: Final = 0.5
_NOT_TOLD: Final = "Who asks cannot be told now, so no fresh samples were taken. These are the last ones."

Admit: TypeAlias = Callable[[Request], object]
"""Raises unless a request comes from an operator who may let checks run."""


class InFlightCount(Protocol):
    """Who knows how many requests are in flight; :class:`app.ops.lifecycle.Lifecycle` is one."""

    @property
    def in_flight(self) -> int:
        """Requests whose response is not closed yet."""
        ...


def nobody(_request: Request) -> object:
    """Admit nobody: for a process that knows no operators.

    Raises:
        MissingScopeError: Always.
    """
    raise MissingScopeError("Fresh samples cannot be asked for here.")


def operations_blueprint(
    *,
    monitor: HealthMonitor,
    probes: ProbeAnswers,
    lifecycle: InFlightCount,
    metrics: Metrics,
    instance: Instance,
    sections: Mapping[str, Section] | None = None,
    admit: Admit = nobody,
) -> Blueprint:
    """Return the routes of this module.

    Args:
        monitor: The samples.
        probes: What the paths of :data:`~app.ops.probes.PROBE_PATHS` are answered with.
        lifecycle: Counts the requests in flight, for the details.
        metrics: What ``/metrics`` shows.
        instance: Who answers, for the details.
        sections: More of the details; see :mod:`app.ops.details`.
        admit: Who may ask for fresh samples.
    """
    routes = Blueprint("operations", __name__)
    details = HealthDetails(probes, instance, {"in_flight": lambda: lifecycle.in_flight, **(sections or {})})

    def detailed() -> Response:
        report, notes = _report(monitor, admit)
        document = details.document(report)
        if notes:
            document["notes"] = notes
        return _response(health_answer(document, ready=report.ready))

    def exposition() -> Response:
        body, content_type = metrics.exposition(request.headers.get("Accept"), request.args.getlist("name[]"))
        is_gzip = request.accept_encodings["gzip"] > 0
        answer = Response(gzip.compress(body, _QUICK) if is_gzip else body, content_type=content_type)
        answer.headers["Cache-Control"] = "no-store"
        answer.headers["Vary"] = "Accept, Accept-Encoding"
        if is_gzip:
            answer.content_encoding = "gzip"
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


def _report(monitor: HealthMonitor, admit: Admit) -> tuple[HealthReport, list[str]]:
    if not _wants_fresh():
        return monitor.report_in_detail(), []
    deadline = Deadline(FRESH_SECONDS)
    try:
        _answer_within(_WHO_ASKS_SECONDS, copy_current_request_context(lambda: admit(request)))
    except (UnavailableError, TimeoutError):
        return monitor.report(), [_NOT_TOLD]
    return monitor.refresh(deadline.remaining_seconds()), []


def _wants_fresh() -> bool:
    """Return whether fresh samples are asked for.

    Raises:
        ValidationFailedError: That cannot be told, or something else is asked for.
    """
    unknown = [{"parameter": name, "detail": "There is only fresh."} for name in request.args if name != "fresh"]
    if unknown:
        raise ValidationFailedError("This route does not know such a parameter.", unknown)
    values = request.args.getlist("fresh")
    if len(values) > 1 or not set(values) <= {"0", "1"}:
        mistake = {"parameter": "fresh", "detail": "Give fresh=1 for new samples, or leave it out."}
        raise ValidationFailedError("A query parameter is wrong.", [mistake])
    return values == ["1"]


def _answer_within(seconds: float, question: Callable[[], Any]) -> Any:
    """Return what a function returns, in a thread of its own: connecting alone may take longer than there is time.

    Raises:
        TimeoutError: It takes longer. Its thread ends with the function, which has a deadline.
    """
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            with deadline_scope(Deadline(seconds)):
                answer.set_result(question())
        except Exception as error:  # noqa: BLE001  # the one who waits raises it
            answer.set_exception(error)

    threading.Thread(target=ask, name="health-admission", daemon=True).start()
    return answer.result(seconds)
