"""The threads of a worker: as many as it has places for requests, so that a task never waits for one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

_log = logging.getLogger(__name__)


class Threads:
    """Runs tasks, each in one of a fixed number of threads, which are made with the first tasks.

    Args:
        count: How many.
        name: What their names begin with.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._started = 0

    def submit(self, task: Callable[[], None]) -> None:
        """Run a task soon. Called by one thread only."""
        if self._started < self._count:
            self._started += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        self._tasks.put(task)

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                task()
            except BaseException:  # noqa: BLE001  # a thread that ended would be a place lost
                _log.exception("a task of a thread failed")
