"""One check of health and its last sample; what a check says, and how that stands now.

A check has a thread of its own for its whole life: one that hangs delays no other, never runs twice at once, and
costs one thread however often it is asked for. While it runs, its time limit is the current deadline of that thread,
so that the pool, the statement and the socket it waits for give up by themselves.

A check of a dependency that is late has failed. One of this host alone that is late tells of a busy processor first:
it only warns, and has failed when it takes so long that what it reads must hang.

::

    thread     ├ sample ┤·········interval·········├ sample ┤··········  ask()  ├ sample ┤
    report()        ▲ the one before     ▲ that one              ▲ that one, with its age
"""

from __future__ import annotations

import enum
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Protocol, TypeAlias

from app.stability import Clock, Deadline, State, deadline_scope

_log = logging.getLogger(__name__)

FAILURES_UNTIL_BROKEN: Final = 2
"""How many samples running have to fail until a local check takes its host out."""

HANGS_SECONDS: Final = 10.0
"""How long a sample of a local check may take until it has failed; beyond its limit it warns."""

_BARRING: Final = frozenset({State.OPEN, State.HALF_OPEN, State.FORCED_OPEN, State.FORCED_HALF_OPEN})


class Status(enum.StrEnum):
    """The words of ``application/health+json``."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


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


Check: TypeAlias = Callable[[], CheckResult]


class Gate(Protocol):
    """What stands before a dependency; a :class:`app.stability.CircuitBreaker` is one."""

    @property
    def state(self) -> State:
        """Whether it lets calls through."""
        ...


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """What a check is about.

    Attributes:
        name: Unique, of a fixed set: it becomes a label.
        local: Whether it tells about this host alone; only such a check can make it not ready.
        limit_seconds: A sample that takes longer is late, already while it runs; it is its thread's deadline, too.
        interval_seconds: From the end of one sample to the start of the next.
        endpoints: The routes that suffer when it does not pass, as URI templates.
        gates: The breakers before what it checks, by name.
    """

    name: str
    local: bool
    limit_seconds: float = 1.0
    interval_seconds: float = 5.0
    endpoints: tuple[str, ...] = ()
    gates: Mapping[str, Gate] = field(default_factory=dict)

    @property
    def fails_after_seconds(self) -> float:
        """How long a sample may take until it has failed."""
        return max(self.limit_seconds, HANGS_SECONDS) if self.local else self.limit_seconds


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The state of one check now.

    Attributes:
        spec: What it is about.
        status: As it counts for the whole.
        output: See :class:`CheckResult`; what the breakers before it say included.
        observed: See :class:`CheckResult`.
        sampled_at: When the last sample ended; None before the first.
        age_seconds: How long ago that was.
        latency_seconds: How long the last sample took.
        failures_running: How many samples in a row failed, one that hangs included.
        is_broken: Whether it takes this host out.
    """

    spec: CheckSpec
    status: Status
    output: str
    observed: Mapping[str, float]
    sampled_at: datetime | None
    age_seconds: float | None
    latency_seconds: float | None
    failures_running: int
    is_broken: bool

    @property
    def name(self) -> str:
        """The check's name."""
        return self.spec.name


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is known of a check: one object, put in place at once, so that nobody needs a lock to read it."""

    result: CheckResult = CheckResult(Status.WARN, "not sampled yet")
    count: int = 0
    failures: int = 0
    began: float | None = None
    ended: float | None = None
    sampled_at: datetime | None = None
    latency_seconds: float | None = None


class Watched(ABC):
    """A check and the breakers before it: what :class:`Sampler` and :class:`LiveCheck` share.

    Args:
        spec: What it is about.
        check: Called by one thread at a time; an exception counts as ``fail``.
    """

    def __init__(self, spec: CheckSpec, check: Check) -> None:
        self.spec = spec
        self._check = check
        self._barred = ""

    def look_at_gates(self) -> None:
        """Note which breakers let nothing or little through, for the reports that follow."""
        self._barred = "; ".join(
            f"the circuit breaker {name} is {state.value}"
            for name, state in sorted((name, gate.state) for name, gate in self.spec.gates.items())
            if state in _BARRING
        )

    @abstractmethod
    def report(self, now: float, *, is_late: bool = False) -> CheckReport:
        """Return how it stands; waits for nothing.

        Args:
            now: On the monitor's clock.
            is_late: Whether a sample was waited for in vain.
        """

    def _ask(self) -> tuple[CheckResult, Exception | None]:
        try:
            return self._check(), None
        except Exception as error:  # noqa: BLE001  # whatever a check raises is its finding
            return CheckResult(Status.FAIL, f"the check failed: {type(error).__name__}"), error

    def _judged(self, standing: _Standing, now: float, *, is_broken: bool) -> CheckReport:
        result, barred = standing.result, self._barred
        status = result.status
        if (status is Status.FAIL and not is_broken) or (status is Status.PASS and barred):
            status = Status.WARN
        return CheckReport(
            spec=self.spec,
            status=status,
            output="; ".join(filter(None, (result.output, barred))),
            observed=result.observed or {},
            sampled_at=standing.sampled_at,
            age_seconds=None if standing.ended is None else max(0.0, now - standing.ended),
            latency_seconds=standing.latency_seconds,
            failures_running=standing.failures,
            is_broken=is_broken,
        )


class LiveCheck(Watched):
    """A check that reads memory or the shared page only, and is asked at each report. Thread-safe.

    What it finds holds at once: a local one that fails takes its host out without a second sample.
    """

    def report(self, now: float, *, is_late: bool = False) -> CheckReport:
        """Ask, and return how it stands; is never late."""
        del is_late
        result, _ = self._ask()
        has_failed = result.status is Status.FAIL
        standing = _Standing(result, failures=int(has_failed), ended=now, sampled_at=datetime.now(UTC))
        return self._judged(standing, now, is_broken=has_failed and self.spec.local)


class Sampler(Watched):
    """A check with a thread of its own, and its last sample. Thread-safe.

    Args:
        spec: What it is about.
        check: Called by one thread at a time; an exception counts as ``fail``.
        clock: Where "now" comes from.
    """

    def __init__(self, spec: CheckSpec, check: Check, clock: Clock) -> None:
        super().__init__(spec, check)
        self._clock = clock
        self._standing = _Standing()
        self._sampling = threading.Lock()
        self._sampled = threading.Condition()
        self._asked = threading.Event()

    def run(self, stop: threading.Event, publish: Callable[[], None]) -> None:
        """Take samples until it is over; for a thread of its own.

        Args:
            stop: Set, and :meth:`wake` called, when it is over.
            publish: Called after each sample.
        """
        while not stop.is_set():
            self.sample()
            publish()
            self._asked.wait(self.spec.interval_seconds)
            self._asked.clear()

    def wake(self) -> None:
        """Let the thread begin its next round at once."""
        self._asked.set()

    def ask(self) -> int:
        """Let the thread take a sample at once; return what :meth:`wait` takes. One that is being taken will do."""
        standing = self._standing
        if standing.began is None:
            self.wake()
        return standing.count

    def wait(self, count: int, seconds: float) -> bool:
        """Wait for a sample that was asked for; False when it did not come in time.

        Args:
            count: What :meth:`ask` returned.
            seconds: How long at the most.
        """
        with self._sampled:
            return self._sampled.wait_for(lambda: self._standing.count > count, max(0.0, seconds))

    def sample(self) -> None:
        """Take a sample in this thread."""
        limit_seconds = self.spec.limit_seconds
        with self._sampling:
            before, began = self._standing, self._clock.monotonic()
            self._standing = replace(before, began=began)
            with deadline_scope(Deadline(limit_seconds)):
                result, error = self._ask()
            ended = self._clock.monotonic()
            if ended - began > limit_seconds:
                result = self._late_result(result, ended - began)
            self._standing = _Standing(
                result,
                count=before.count + 1,
                failures=before.failures + 1 if result.status is Status.FAIL else 0,
                ended=ended,
                sampled_at=datetime.now(UTC),
                latency_seconds=ended - began,
            )
        with self._sampled:
            self._sampled.notify_all()
        self._log_change(before, result, error)

    def report(self, now: float, *, is_late: bool = False) -> CheckReport:
        """Return how it stands by its last sample, and by the one that is being taken when that one hangs."""
        standing = self._standing
        seconds = -1.0 if standing.began is None else now - standing.began
        overdue = seconds - self.spec.fails_after_seconds
        has_failed = overdue > 0 or (is_late and not self.spec.local)
        if has_failed:
            result = self._unanswered(Status.FAIL, self.spec.fails_after_seconds, standing)
            # Each further interval that passes counts like one more failed sample.
            failures = standing.failures + 1 + int(max(0.0, overdue) // self.spec.interval_seconds)
            standing = replace(standing, result=result, failures=failures)
        elif (seconds > self.spec.limit_seconds or is_late) and standing.result.status is not Status.FAIL:
            standing = replace(standing, result=self._unanswered(Status.WARN, self.spec.limit_seconds, standing))
        return self._judged(standing, now, is_broken=self.spec.local and standing.failures >= FAILURES_UNTIL_BROKEN)

    def _late_result(self, result: CheckResult, seconds: float) -> CheckResult:
        """Return what a sample that came late counts as: one of a local check that found no failure only warns."""
        if seconds > self.spec.fails_after_seconds:
            return CheckResult(Status.FAIL, f"took longer than {self.spec.fails_after_seconds:g} s", result.observed)
        if result.status is Status.FAIL:
            return result
        late = f"took longer than {self.spec.limit_seconds:g} s"
        return CheckResult(Status.WARN, "; ".join(filter(None, (result.output, late))), result.observed)

    @staticmethod
    def _unanswered(status: Status, seconds: float, standing: _Standing) -> CheckResult:
        return CheckResult(status, f"no answer within {seconds:g} s", standing.result.observed)

    def _log_change(self, before: _Standing, result: CheckResult, error: Exception | None) -> None:
        if result.status is before.result.status and before.count:
            return
        if result.status is Status.PASS:
            _log.info("health check passes", extra={"check": self.spec.name})
        else:
            facts = {"check": self.spec.name, "output": result.output}
            _log.warning("health check: %s", result.status, exc_info=error, extra=facts)
