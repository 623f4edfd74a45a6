"""Whether every worker is ready, and what the workers are at: judged when somebody asks, by who watches them.

A worker that has stopped in its tracks cannot take back what it said before, so its own gauge is not enough: it must
also have given a sign of life lately, on the page of the host (:mod:`app.ops.lifecycle`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from app.ops.lifecycle import HostReport, Phase, State, WorkerWord

READY_METRIC: Final = ("ready", "1 when all workers are ready, else 0.")
WORKERS_METRIC: Final = ("workers", "Workers of this server, by what they are at.")
"""Name without our prefix, and meaning."""

WORKER_STATES: Final = ("starting", "serving", "finishing", "silent")
STATE_LABEL: Final = "state"

_STATES: Final = {
    Phase.BOOTING: "starting",
    Phase.READY: "serving",
    Phase.RETIRING: "serving",
    Phase.STOPPING: "finishing",
}


class WorkerCollector:
    """Judges the workers of one server for its metrics. Thread-safe; a look at the page for each question.

    Args:
        look: Looks at the page of the host; None when it is lost.
        master_pid: Whose server.
        wanted: How many workers it is to have.
        fresh_seconds: How old the last sign of life may be.
        now: The monotonic clock.
    """

    def __init__(
        self,
        look: Callable[[], HostReport | None],
        *,
        master_pid: int,
        wanted: int,
        fresh_seconds: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._master_pid = master_pid
        self._wanted = wanted
        self._fresh_seconds = fresh_seconds
        self._now = now

    def collect(self, families: Iterable[Metric], living: Collection[int], prefix: str) -> list[Metric]:
        """Return the metrics with the judgement in the place of what the workers say.

        Args:
            families: What the workers say, all together.
            living: Process ids of the workers that say so; of two servers while one replaces the other.
            prefix: Before every metric's name.
        """
        report = self._look()
        name = prefix + READY_METRIC[0]
        families = list(families)
        say_so = all(sample.value == 1 for family in families if family.name == name for sample in family.samples)
        ready = GaugeMetricFamily(name, READY_METRIC[1])
        ready.add_metric([], float(say_so and report is not None and self._are_ready(report, living)))
        others = [family for family in families if family.name != name]
        return [*others, ready] if report is None else [*others, ready, self._workers(report, prefix)]

    def _are_ready(self, report: HostReport, living: Collection[int]) -> bool:
        ours = report.of_master(self._master_pid)
        serving = sum(self._state(worker) == "serving" for worker in ours.workers)
        # Who was told to finish is no longer among those that have to be ready.
        words = {worker.pid: worker for worker in report.workers}
        concerned = {*living, *(worker.pid for worker in ours.workers)}
        concerned -= {pid for pid, worker in words.items() if worker.phase is Phase.STOPPING}
        are_well = all(
            pid in words and words[pid].state is State.READY and self._state(words[pid]) == "serving"
            for pid in concerned
        )
        is_up = all(server.state is State.READY for server in ours.servers)
        return serving >= self._wanted and are_well and is_up

    def _workers(self, report: HostReport, prefix: str) -> GaugeMetricFamily:
        counted = Counter(self._state(worker) for worker in report.of_master(self._master_pid).workers)
        family = GaugeMetricFamily(prefix + WORKERS_METRIC[0], WORKERS_METRIC[1], labels=[STATE_LABEL])
        for state in WORKER_STATES:
            family.add_metric([state], counted[state])
        return family

    def _state(self, worker: WorkerWord) -> str:
        return "silent" if worker.age(self._now()) > self._fresh_seconds else _STATES[worker.phase]
