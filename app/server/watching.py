"""What the management process knows of its server: what the master and the workers say on the page of the host.

It never speaks for itself: it lives as long as its master does, and says nothing about whether anybody answers
clients. A server is alive when the loop of at least one of its workers has said so lately.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from app.ops.lifecycle import HostLife, HostReport, Phase, State, WorkerWord
from app.ops.sampling import CheckResult, Status

FRESH_SECONDS: Final = 5.0
"""How old the last word of a worker's loop may be; it speaks every second."""

_SERVING: Final = frozenset({Phase.READY, Phase.RETIRING})


class WatchedServer:
    """The server of one master, as its workers show it. Thread-safe; a look at the page for each question.

    Args:
        host: The page.
        master_pid: Whose server.
        now: The monotonic clock.
    """

    def __init__(self, host: HostLife, master_pid: int, now: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._master_pid = master_pid
        self._now = now

    @property
    def state(self) -> State:
        """What the master says; STARTING when nothing is known."""
        word = self._host.server(self._master_pid)
        return State.STARTING if word is None else word.state

    @property
    def in_flight(self) -> int:
        """Requests of all its workers whose response is not closed yet; 0 when nothing is known."""
        report = self._look()
        return 0 if report is None else report.in_flight

    def subscribe(self, listener: Callable[[State], None]) -> None:
        """Take a listener and never call it: who asks is told, and nobody else."""

    def is_alive(self) -> bool:
        """Tell whether any worker's loop runs."""
        return bool(self._fresh())

    def check_workers(self) -> CheckResult:
        """Judge the workers: without one that serves, nobody answers here."""
        report = self._look()
        if report is None:
            return CheckResult(Status.FAIL, "nothing is known of the workers: the page of this host is lost")
        now = self._now()
        silent = [worker.pid for worker in report.workers if worker.age(now) > FRESH_SECONDS]
        serving = sum(worker.phase in _SERVING and worker.pid not in silent for worker in report.workers)
        observed = {
            "serving": float(serving),
            "silent": float(len(silent)),
            "in_flight": float(report.in_flight),
            "waiting": float(report.waiting),
        }
        if not serving:
            return CheckResult(Status.FAIL, "no worker serves", observed)
        if silent:
            return CheckResult(Status.WARN, f"no sign of life from workers {', '.join(map(str, silent))}", observed)
        return CheckResult(Status.PASS, "", observed)

    def _look(self) -> HostReport | None:
        report = self._host.look()
        return None if report is None else report.of_master(self._master_pid)

    def _fresh(self) -> list[WorkerWord]:
        report, now = self._look(), self._now()
        return [] if report is None else [each for each in report.workers if each.age(now) <= FRESH_SECONDS]
