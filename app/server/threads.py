"""The threads of a worker: as many as it has places for requests, so that a task never waits for one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

_log = logging.getLogger(__name__)


class Threads:
    """Runs tasks, each in one of a fixed number of threads, which are there from the beginning.

    A system that has no room for a thread says so when the worker starts, and not to the request that wants it.

    Args:
        count: How many.
        name: What their names begin with.

    Raises:
        RuntimeError: The system has no room for so many.
    """

    def __init__(self, count: int, name: str) -> None:
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        for number in range(1, count + 1):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, task: Callable[[], None]) -> None:
        """Run a task soon."""
        self._tasks.put(task)

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                task()
            except BaseException:  # noqa: BLE001  # a thread that ended would be a place lost
                _log.exception("a task of a thread failed")
