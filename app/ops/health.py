"""Health: checks sampled in the background, answered from the samples.

A request for health only reads the last samples (:mod:`app.ops.sampling`) and, for a few checks, memory: it does no
I/O and cannot be slow because a dependency is. :meth:`HealthMonitor.refresh` lets all checks take a sample at once,
in their own threads, and waits for them for so long and no longer; callers that come together wait for the same.

What is broken on this host alone (``local=True``) makes the process not ready once it has failed twice running; that
it is slow only warns, until it must hang.
A dependency that all hosts share only warns: taking every host out of the balancer would help nobody. A breaker that
is not closed warns, too, with its name, whatever the check itself finds: the checks ask past the breakers, and
clients do not. The checks are in :mod:`app.ops.checks` or stand beside what they check.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from app.ops.lifecycle import State
from app.ops.sampling import Check, CheckReport, CheckSpec, Gate, LiveCheck, Sampler, Status, Watched
from app.stability import SYSTEM_CLOCK, Clock

FRESH_SECONDS: Final = 1.0
"""How long :meth:`HealthMonitor.refresh` waits at the most."""

_DETAILS_SECONDS: Final = 0.25  # what details wait for checks that cost some milliseconds
_WATCH_SECONDS = 1.0
_FIGURES = {Status.PASS: 1.0, Status.WARN: 0.5, Status.FAIL: 0.0}


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

    @property
    def broken(self) -> tuple[str, ...]:
        """The checks that take this host out."""
        return tuple(check.name for check in self.checks if check.is_broken)


class _Gauge(Protocol):
    def set(self, value: float) -> None: ...


class _GaugeByCheck(Protocol):
    def labels(self, *values: str) -> _Gauge: ...


class Life(Protocol):
    """Where what is watched is in its life; :class:`app.ops.lifecycle.Lifecycle` is one."""

    @property
    def state(self) -> State:
        """Where it is."""
        ...

    def subscribe(self, listener: Callable[[State], None]) -> None:
        """Call a function after each change."""
        ...


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
        lifecycle: Life,
        *,
        interval_seconds: float = 5.0,
        ready: _Gauge | None = None,
        check_status: _GaugeByCheck | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._lifecycle = lifecycle
        self._interval_seconds = interval_seconds
        self._ready_gauge = ready
        self._check_gauge = check_status
        self._clock = clock
        self._checks: list[Watched] = []
        self._samplers: list[Sampler] = []
        self._in_details: list[Sampler] = []
        self._stop = threading.Event()
        lifecycle.subscribe(lambda _state: self.publish())

    def register(
        self,
        name: str,
        check: Check,
        *,
        local: bool,
        limit_seconds: float = 1.0,
        interval_seconds: float | None = None,
        endpoints: Collection[str] = (),
        gates: Mapping[str, Gate] | None = None,
        in_details: bool = False,
    ) -> None:
        """Add a check, before :meth:`start`.

        Args:
            name: Unique, of a fixed set: it becomes a label.
            check: Called in a thread of its own, never twice at once; an exception counts as ``fail``.
            local: True when it tells about this host alone; only such a check can make it not ready.
            limit_seconds: A sample that takes longer counts as ``fail`` while it runs; a local one as ``warn`` until
                :data:`app.ops.sampling.HANGS_SECONDS` are over.
            interval_seconds: Instead of the monitor's.
            endpoints: The routes that suffer when it does not pass, as URI templates.
            gates: The breakers before what it checks, by name.
            in_details: Whether each report in detail asks it anew: it takes some milliseconds and no dependency.
        """
        interval = self._interval_seconds if interval_seconds is None else interval_seconds
        spec = CheckSpec(name, local, limit_seconds, interval, tuple(endpoints), gates or {})
        sampler = Sampler(spec, check, self._clock)
        self._samplers.append(sampler)
        if in_details:
            self._in_details.append(sampler)
        self._checks.append(sampler)

    def register_live(self, name: str, check: Check, *, local: bool, endpoints: Collection[str] = ()) -> None:
        """Add a check that is asked at each report, before :meth:`start`.

        Args:
            name: Unique, of a fixed set: it becomes a label.
            check: Reads memory or the shared page and nothing else; called by many threads at once.
            local: True when it tells about this host alone; when it fails the host is out at once.
            endpoints: The routes that suffer when it does not pass, as URI templates.
        """
        self._checks.append(LiveCheck(CheckSpec(name, local, endpoints=tuple(endpoints)), check))

    def start(self) -> None:
        """Start sampling; the first samples are taken at once, in the background."""
        for sampler in self._samplers:
            threading.Thread(
                target=sampler.run, args=(self._stop, self.publish), name=f"health-{sampler.spec.name}", daemon=True
            ).start()
        threading.Thread(target=self._watch, name="health-watch", daemon=True).start()

    def close(self) -> None:
        """Stop sampling. A check that hangs is left to its daemon thread."""
        self._stop.set()
        for sampler in self._samplers:
            sampler.wake()

    def sample(self) -> HealthReport:
        """Take one sample of every check in this thread and return the report (for tests and start-up)."""
        for sampler in self._samplers:
            sampler.sample()
        self.look_around()
        return self.report()

    def refresh(self, seconds: float = FRESH_SECONDS) -> HealthReport:
        """Let every check take a sample now, in its own thread, and return the report; only after :meth:`start`.

        Callers at the same time share the samples. A check that has not answered by the end has failed in this
        report (a local one only warns), and goes on in its thread.

        Args:
            seconds: How long to wait at the most, all together.
        """
        late = _ask_all(self._samplers, min(seconds, FRESH_SECONDS))
        self.look_around()
        return self._report(late)

    def report_in_detail(self) -> HealthReport:
        """Let the checks registered so take a sample, and return the report; only after :meth:`start`.

        One that has not answered within a quarter of a second is told by its last sample, with its age.
        """
        _ask_all(self._in_details, _DETAILS_SECONDS)
        return self.report()

    def report(self) -> HealthReport:
        """Return the state now; reads memory and the shared page only."""
        return self._report(frozenset())

    def has_failed(self, name: str) -> bool:
        """Tell whether the last sample of a check has failed, or hangs; reads memory only. Without a sample: no."""
        now = self._clock.monotonic()
        return any(check.report(now).failures_running for check in self._checks if check.spec.name == name)

    def look_around(self) -> None:
        """Look which breakers are open, and set the gauges; else done every second in the background."""
        for check in self._checks:
            check.look_at_gates()
        self.publish()

    def publish(self) -> None:
        """Set the gauges to the state now."""
        report = self.report()
        if self._ready_gauge is not None:
            self._ready_gauge.set(1.0 if report.ready else 0.0)
        if self._check_gauge is not None:
            for check in report.checks:
                self._check_gauge.labels(check.name).set(_FIGURES[check.status])

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look_around()
            self._stop.wait(_WATCH_SECONDS)

    def _report(self, late: Collection[int]) -> HealthReport:
        now = self._clock.monotonic()
        checks = tuple(check.report(now, is_late=id(check) in late) for check in self._checks)
        state = self._lifecycle.state
        ready = state is State.READY and not any(check.is_broken for check in checks)
        if not ready:
            status = Status.FAIL
        elif any(check.status is not Status.PASS for check in checks):
            status = Status.WARN
        else:
            status = Status.PASS
        return HealthReport(status=status, ready=ready, state=state, checks=checks)


def _ask_all(samplers: Collection[Sampler], seconds: float) -> set[int]:
    """Let all take a sample at the same time; return the ``id`` of each that has not within the seconds."""
    ends = time.monotonic() + seconds
    asked = [(sampler, sampler.ask()) for sampler in samplers]
    return {id(sampler) for sampler, count in asked if not sampler.wait(count, ends - time.monotonic())}
