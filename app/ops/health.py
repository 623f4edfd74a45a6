"""Health: checks sampled in the background, answered from the samples.

Each check has a thread of its own, so one that hangs delays no other and never runs twice at once. A request
for health only reads the last samples: it does no I/O and cannot be slow because a dependency is.

What is broken on this host alone (``local=True``) makes the process not ready once it has failed twice running.
A dependency that all hosts share only warns: taking every host out of the balancer would help nobody. The checks
themselves are in :mod:`app.ops.checks` or stand beside what they check.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from app.ops.lifecycle import Lifecycle, State
from app.stability import Clock, SystemClock

_log = logging.getLogger(__name__)

_FAILURES_UNTIL_NOT_READY = 2


class Status(enum.StrEnum):
    """The words of ``application/health+json``."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


_FIGURES = {Status.PASS: 1.0, Status.WARN: 0.5, Status.FAIL: 0.0}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found.

    Attributes:
        status: The check's own judgement; a shared dependency's ``fail`` is shown as ``warn``.
        output: One sentence for operators, without addresses, paths or secrets; empty when all is well.
        observed: Figures by name with the unit in the name, for ``/health/detailed``.
    """

    status: Status
    output: str = ""
    observed: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The state of one check now.

    Attributes:
        name: Its name.
        local: Whether it is about this host alone.
        status: As it counts for the whole.
        output: See :class:`CheckResult`.
        observed: See :class:`CheckResult`.
        sampled_at: When the last sample ended; None before the first.
        age_seconds: How long ago that was.
        latency_seconds: How long the last sample took.
        failures_running: How many samples in a row failed, one that hangs included.
    """

    name: str
    local: bool
    status: Status
    output: str
    observed: Mapping[str, float]
    sampled_at: datetime | None
    age_seconds: float | None
    latency_seconds: float | None
    failures_running: int


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The state of the process now.

    Attributes:
        status: ``fail`` when not ready, ``warn`` when any check is not ``pass``, else ``pass``.
        ready: Whether a balancer should send requests here.
        state: Where the process is in its life.
        checks: Every check, in the order of registration.
    """

    status: Status
    ready: bool
    state: State
    checks: tuple[CheckReport, ...]


class _Gauge(Protocol):
    def set(self, value: float) -> None: ...


class _GaugeByCheck(Protocol):
    def labels(self, *values: str) -> _Gauge: ...


class HealthMonitor:
    """Samples checks and answers from the samples. Thread-safe.

    Register all checks, then :meth:`start`, finally :meth:`close`.

    Args:
        lifecycle: Its state is part of readiness.
        interval_seconds: From the end of one sample to the start of the next, unless a check says otherwise.
        ready: The gauge that follows readiness.
        check_status: The gauge that follows each check: 1 pass, 0.5 warn, 0 fail.
        clock: Where "now" comes from.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        *,
        interval_seconds: float = 5.0,
        ready: _Gauge | None = None,
        check_status: _GaugeByCheck | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._interval_seconds = interval_seconds
        self._ready_gauge = ready
        self._check_gauge = check_status
        self._clock = clock or SystemClock()
        self._samplers: list[_Sampler] = []
        self._stop = threading.Event()
        lifecycle.subscribe(lambda _state: self.publish())

    def register(
        self,
        name: str,
        check: Callable[[], CheckResult],
        *,
        local: bool,
        limit_seconds: float = 1.0,
        interval_seconds: float | None = None,
    ) -> None:
        """Add a check, before :meth:`start`.

        Args:
            name: Unique, of a fixed set: it becomes a label.
            check: Called in a thread of its own, never twice at once; an exception counts as ``fail``.
            local: True when it tells about this host alone; only such a check can make it not ready.
            limit_seconds: A sample that takes longer counts as ``fail`` while it runs.
            interval_seconds: Instead of the monitor's.
        """
        interval = self._interval_seconds if interval_seconds is None else interval_seconds
        sampler = _Sampler(name, check, local=local, limit=limit_seconds, interval=interval, clock=self._clock)
        self._samplers.append(sampler)

    def start(self) -> None:
        """Start sampling; the first samples are taken at once, in the background."""
        for sampler in self._samplers:
            threading.Thread(
                target=sampler.run, args=(self._stop, self.publish), name=f"health-{sampler.name}", daemon=True
            ).start()

    def close(self) -> None:
        """Stop sampling. A check that hangs is left to its daemon thread."""
        self._stop.set()

    def sample(self) -> HealthReport:
        """Take one sample of every check in this thread and return the report (for tests and start-up)."""
        for sampler in self._samplers:
            sampler.sample()
        self.publish()
        return self.report()

    def report(self) -> HealthReport:
        """Return the state now; reads memory only."""
        now = self._clock.monotonic()
        checks = tuple(sampler.report(now) for sampler in self._samplers)
        state = self._lifecycle.state
        broken = any(check.local and check.failures_running >= _FAILURES_UNTIL_NOT_READY for check in checks)
        ready = state is State.READY and not broken
        if not ready:
            status = Status.FAIL
        elif any(check.status is not Status.PASS for check in checks):
            status = Status.WARN
        else:
            status = Status.PASS
        return HealthReport(status=status, ready=ready, state=state, checks=checks)

    def publish(self) -> None:
        """Set the gauges to the state now."""
        report = self.report()
        if self._ready_gauge is not None:
            self._ready_gauge.set(1.0 if report.ready else 0.0)
        if self._check_gauge is not None:
            for check in report.checks:
                self._check_gauge.labels(check.name).set(_FIGURES[check.status])


class _Sampler:
    """One check and its last sample."""

    def __init__(
        self, name: str, check: Callable[[], CheckResult], *, local: bool, limit: float, interval: float, clock: Clock
    ) -> None:
        self.name = name
        self._check = check
        self._local = local
        self._limit = limit
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()
        self._began: float | None = None
        self._ended: float | None = None
        self._sampled_at: datetime | None = None
        self._latency: float | None = None
        self._failures = 0
        self._result = CheckResult(Status.WARN, "not sampled yet")

    def run(self, stop: threading.Event, publish: Callable[[], None]) -> None:
        while not stop.is_set():
            self.sample()
            publish()
            stop.wait(self._interval)

    def sample(self) -> None:
        with self._lock:
            self._began = self._clock.monotonic()
        try:
            result = self._check()
        except Exception as error:  # noqa: BLE001  # whatever a check raises is its finding
            result = CheckResult(Status.FAIL, f"the check failed: {type(error).__name__}")
            self._log_change(result, error)
        else:
            self._log_change(result, None)
        with self._lock:
            self._ended = self._clock.monotonic()
            self._latency = self._ended - self._began
            self._sampled_at = datetime.now(UTC)
            self._began = None
            if self._latency > self._limit:
                result = CheckResult(Status.FAIL, f"took longer than {self._limit:g} s", result.observed)
            self._result = result
            self._failures = self._failures + 1 if result.status is Status.FAIL else 0

    def report(self, now: float) -> CheckReport:
        with self._lock:
            result, failures = self._result, self._failures
            overdue = 0.0 if self._began is None else now - self._began - self._limit
            if overdue > 0:
                # It hangs: each further interval that passes counts like one more failed sample.
                failures += 1 + int(overdue // self._interval)
                result = CheckResult(Status.FAIL, f"no answer within {self._limit:g} s", result.observed)
            shown = Status.WARN if result.status is Status.FAIL and self._only_warns(failures) else result.status
            return CheckReport(
                name=self.name,
                local=self._local,
                status=shown,
                output=result.output,
                observed=result.observed or {},
                sampled_at=self._sampled_at,
                age_seconds=None if self._ended is None else now - self._ended,
                latency_seconds=self._latency,
                failures_running=failures,
            )

    def _only_warns(self, failures: int) -> bool:
        return not self._local or failures < _FAILURES_UNTIL_NOT_READY

    def _log_change(self, result: CheckResult, error: Exception | None) -> None:
        if result.status is self._result.status and self._ended is not None:
            return
        if result.status is Status.PASS:
            _log.info("health check passes", extra={"check": self.name})
        else:
            _log.warning("health check: %s", result.status, exc_info=error, extra={"check": self.name})
