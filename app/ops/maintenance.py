"""Work that nobody asked for but that must be done: by one thread, in one process of the deployment.

Every process has the thread; the lease lets one of them work. A task that raises is logged and counted, and
the others run all the same. Where a mode forbids such work, this process does none and leaves the lease to others.
Whether a task may run twice at once is the task's business: a lease can end while
a task still runs, so tasks fence their own writes. What the tasks are is decided by the factory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.stability import Clock, SystemClock

_log = logging.getLogger(__name__)

_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of work.

    Attributes:
        name: For logs and metrics; of a fixed set.
        every_seconds: How long to wait after one run until the next, greater than 0.
        run: Does a bounded piece of it and returns how many items it moved.
    """

    name: str
    every_seconds: float
    run: Callable[[], int]


class _Runs(Protocol):
    def labels(self, *values: str) -> _Counter: ...


class _Counter(Protocol):
    def inc(self, amount: float = 1) -> None: ...


class MaintenanceThread:
    """Runs tasks while this process holds the lease. :meth:`start` once, :meth:`close` once.

    Args:
        lease: Takes or renews the lease for ``lease_seconds`` and returns whether it is ours.
        tasks: What to run, in this order.
        lease_seconds: What ``lease`` asks for. It is asked again after half of it, and before each task.
        release: Gives the lease back on close, and when the work has to stand still here, so that another process
            need not wait for its end.
        may_work: Whether such work is done now.
        runs: A counter with the labels task and outcome (``success``, ``failure``).
        clock: Where "now" comes from.
    """

    def __init__(
        self,
        lease: Callable[[], bool],
        tasks: Sequence[Task],
        *,
        lease_seconds: float = 30.0,
        release: Callable[[], None] | None = None,
        may_work: Callable[[], bool] = lambda: True,
        runs: _Runs | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._lease = lease
        self._release = release
        self._may_work = may_work
        self._tasks = tuple(tasks)
        self._lease_seconds = lease_seconds
        self._runs = runs
        if runs is not None:
            for task in tasks:
                for outcome in ("success", "failure"):
                    runs.labels(task.name, outcome)  # from 0 on, so that the first failure is seen as a rise
        self._clock = clock or SystemClock()
        self._due = {task.name: self._clock.monotonic() for task in tasks}
        self._held_until = _NEVER
        self._asked_at = _NEVER
        self._lease_failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread; the first run is at once."""
        self._thread.start()

    def close(self, seconds: float = 5.0) -> bool:
        """Stop after the task that runs now, and give the lease back.

        Args:
            seconds: How long to wait for that task.

        Returns:
            False when it still runs; the thread is a daemon and does not hold the process.
        """
        self._stop.set()
        if self._thread.ident is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def run_due(self) -> int:
        """Run every task whose time has come, if the lease is ours.

        Returns:
            How many tasks ran.
        """
        ran = 0
        for task in self._tasks:
            if self._stop.is_set() or self._due[task.name] > self._clock.monotonic() or not self._holds():
                continue
            self._run_one(task)
            self._due[task.name] = self._clock.monotonic() + task.every_seconds
            ran += 1
        return ran

    def _run(self) -> None:
        while not self._stop.is_set():
            self.run_due()
            self._stop.wait(self._pause_seconds())
        self._give_back()

    def _give_back(self) -> None:
        if self._release is not None and self._held_until != _NEVER:
            try:
                self._release()
            except Exception:  # noqa: BLE001  # whatever the database says
                _log.warning("the maintenance lease could not be given back; it ends by itself", exc_info=True)
        self._held_until = _NEVER

    def _pause_seconds(self) -> float:
        now = self._clock.monotonic()
        pause = min(self._due.values(), default=now + self._lease_seconds) - now
        if self._held_until <= now:
            # Another process works: ask again when its lease may have ended, not for every task.
            pause = max(pause, self._asked_at + self._lease_seconds / 2 - now)
        return max(pause, 0.05)

    def _holds(self) -> bool:
        if not self._may_work():
            self._give_back()
            return False
        now = self._clock.monotonic()
        if self._held_until > now:
            return True
        if self._held_until == _NEVER and now < self._asked_at + self._lease_seconds / 2:
            return False
        self._asked_at = now
        try:
            held = self._lease()
        except Exception:  # noqa: BLE001  # without its database this thread only waits
            if not self._lease_failing:
                _log.warning("the maintenance lease cannot be asked for", exc_info=True)
            self._lease_failing = True
            held = False
        else:
            self._lease_failing = False
        self._held_until = now + self._lease_seconds / 2 if held else _NEVER
        return held

    def _run_one(self, task: Task) -> None:
        outcome = "success"
        try:
            moved = task.run()
        except Exception:  # noqa: BLE001  # one task must not stop the others
            outcome = "failure"
            _log.exception("maintenance task failed", extra={"task": task.name})
        else:
            if moved:
                _log.info("maintenance task done", extra={"task": task.name, "items": moved})
        if self._runs is not None:
            self._runs.labels(task.name, outcome).inc()
