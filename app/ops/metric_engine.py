"""What the image engine tells of its work, as metrics: an :class:`app.images.build.Observer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, get_args

from prometheus_client import Counter, Gauge, Histogram

from app.images.build import QueueName
from app.images.engine import JobOutcome
from app.images.engine_process import Loss

_BUCKETS: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60)


class EngineMetrics:
    """The metrics of the image engine. Thread-safe.

    Args:
        counter: Defines one by its name, its meaning and its labels.
        gauge: Defines one; workers are added up.
        histogram: Defines one; its buckets come last.
    """

    def __init__(
        self,
        counter: Callable[[str, str, tuple[str, ...]], Counter],
        gauge: Callable[[str, str, tuple[str, ...]], Gauge],
        histogram: Callable[[str, str, tuple[str, ...], tuple[float, ...]], Histogram],
    ) -> None:
        self._jobs = histogram(
            "engine_job_duration_seconds", "Jobs of the image engine, waiting included.", ("outcome",), _BUCKETS
        )
        self._killed = counter(
            "decode_killed_total", "Engine processes that were lost together with a job.", ("reason",)
        )
        self._processes = gauge("engine_processes", "Processes of the image engine that run.", ("state",))
        self._budget = gauge("engine_budget_in_use_bytes", "What photos at work are expected to take.", ())
        self._waiting = gauge("engine_waiting_jobs", "Jobs of the image engine that wait.", ("queue",))
        for name in get_args(QueueName):
            self.engine_queue(name, 0, 0)
        for outcome in get_args(JobOutcome):
            self._jobs.labels(outcome)
        for loss in Loss:
            if loss is not Loss.GONE:  # it has cost no job
                self._killed.labels(loss.value)
        self.engine_processes(0, 0)

    def engine_job(self, outcome: JobOutcome, seconds: float) -> None:
        """Count a job and how long it took, waiting included."""
        self._jobs.labels(outcome).observe(seconds)

    def decode_killed(self, reason: str) -> None:
        """Count a process that was lost with a job."""
        self._killed.labels(reason).inc()

    def engine_processes(self, alive: int, at_work: int) -> None:
        """Set how many processes run, and how many of them have a job."""
        self._processes.labels("idle").set(alive - at_work)
        self._processes.labels("working").set(at_work)

    def engine_queue(self, name: QueueName, in_use: int, waiting: int) -> None:
        """Set how much of the budget is taken, and how many jobs wait for it or for a process."""
        if name == "budget":
            self._budget.set(in_use)
        self._waiting.labels(name).set(waiting)
