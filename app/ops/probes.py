"""The answers that a load balancer asks for: from memory and the shared page, without a thread, in microseconds.

===========================  ====================  =============================================================
Path                         Alias (Dockerflow)    503
===========================  ====================  =============================================================
``/health/liveness``                               never here: what cannot answer is what a restart would help
``/health/readiness``        ``/__lbheartbeat__``  starting, draining, or broken on this host alone
``/health``                  ``/__heartbeat__``    as readiness
``/__version__``                                   never
===========================  ====================  =============================================================

A worker's event loop answers them itself, so that they come when all of its threads are at work; the operations
application (:mod:`app.ops.routes`) gives the same ones. The documents are those of
draft-inadarei-api-health-check-06 (``application/health+json``); the aliases are Mozilla's Dockerflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from app.ops.build import VERSION, Instance, find_build
from app.ops.health import HealthMonitor, HealthReport
from app.ops.lifecycle import State
from app.ops.sampling import CheckReport, Status

PROBE_PATHS: Final = frozenset(
    {"/health/liveness", "/health/readiness", "/health", "/__lbheartbeat__", "/__heartbeat__", "/__version__"}
)
"""The paths that the public listener answers, too."""

HEALTH_TYPE: Final = "application/health+json"
"""The media type of all of them but ``/__version__``."""

RETRY_AFTER_SECONDS: Final = 2
"""What a 503 says."""


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """An answer, to be sent as it is.

    Attributes:
        status: Of HTTP.
        headers: Names and values, without ``Content-Length``.
        body: JSON; not to be sent to a HEAD request.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class ProbeAnswers:
    """What one process says of itself. Thread-safe; does no I/O but for a look at the shared page.

    Args:
        monitor: The samples, and the state.
        instance: Who answers.
        is_alive: Whether what it speaks for lives; a process that speaks for itself does, or it could not answer.
        trouble: Why nothing is known of what it speaks for; empty when something is.
        mode: What ``/health`` says of the mode; nothing without it.
    """

    def __init__(
        self,
        monitor: HealthMonitor,
        instance: Instance,
        *,
        is_alive: Callable[[], bool] = lambda: True,
        trouble: Callable[[], str] = lambda: "",
        mode: Callable[[], Mapping[str, object]] | None = None,
    ) -> None:
        self._monitor = monitor
        self._instance = instance.identity()
        self._trouble = trouble
        self._mode = mode
        alive = health_answer({"status": Status.PASS}, ready=True)
        version = _answer(200, "application/json", find_build())
        self._answers: dict[str, Callable[[], ProbeAnswer]] = {
            "/health/liveness": lambda: alive if is_alive() else self._dead(),
            "/health/readiness": self._readiness,
            "/__lbheartbeat__": self._readiness,
            "/health": self._health,
            "/__heartbeat__": self._health,
            "/__version__": lambda: version,
        }

    def answer(self, path: str) -> ProbeAnswer:
        """Return the answer for one path.

        Args:
            path: One of :data:`PROBE_PATHS`, without a query string.

        Raises:
            KeyError: It is none of them.
        """
        return self._answers[path]()

    def summary(self, report: HealthReport) -> dict[str, Any]:
        """Return what ``/health`` says about a report, for who adds details."""
        return {
            "status": report.status,
            "version": VERSION,
            "state": report.state.name.lower(),
            "instance": self._instance,
            **self._why_not(report),
            **({} if self._mode is None else {"mode": self._mode()}),
            "checks": {check.name: [_summary_of(check)] for check in report.checks},
        }

    def _readiness(self) -> ProbeAnswer:
        report = self._monitor.report()
        document = {"status": report.status, "state": report.state.name.lower(), **self._why_not(report)}
        return health_answer(document, ready=report.ready)

    def _health(self) -> ProbeAnswer:
        report = self._monitor.report()
        return health_answer(self.summary(report), ready=report.ready)

    def _dead(self) -> ProbeAnswer:
        output = self._trouble() or "no worker gives a sign of life"
        return health_answer({"status": Status.FAIL, "output": output}, ready=False)

    def _why_not(self, report: HealthReport) -> dict[str, str]:
        """Return the member that says why no requests should be sent here, by state and names of checks alone."""
        if report.ready:
            return {}
        if report.state is State.READY:
            return {"output": f"broken on this host: {', '.join(report.broken)}"}
        return {"output": self._trouble() or f"the server is {report.state.name.lower()}"}


def health_answer(document: dict[str, Any], *, ready: bool) -> ProbeAnswer:
    """Return a health document as an answer: 200, or 503 with ``Retry-After``."""
    if ready:
        return _answer(200, HEALTH_TYPE, document)
    return _answer(503, HEALTH_TYPE, document, ("Retry-After", str(RETRY_AFTER_SECONDS)))


def _answer(status: int, content_type: str, document: Mapping[str, Any], *more: tuple[str, str]) -> ProbeAnswer:
    headers = (("Content-Type", content_type), ("Cache-Control", "no-store"), *more)
    return ProbeAnswer(status, headers, orjson.dumps(document))


def _summary_of(check: CheckReport) -> dict[str, Any]:
    summary: dict[str, Any] = {"status": check.status}
    if check.status is not Status.PASS and check.spec.endpoints:
        summary["affectedEndpoints"] = check.spec.endpoints
    if check.age_seconds is not None:
        summary["age_seconds"] = round(check.age_seconds, 1)
    return summary
