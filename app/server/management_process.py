"""The management process as its master sees it: started again whenever it is gone, the last to go in a stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from app.server.forking import MANAGEMENT_NAME, fork_worker
from app.server.succession import StartDelay

START_SECONDS_MAX: Final = 60.0
"""How long a process may take to build its application."""

_LONGEST_WAIT_SECONDS: Final = 5.0
_WELL_AFTER_SECONDS: Final = 10.0  # who has lived that long did not fail at its start
_LATE_SECONDS: Final = 3600.0  # no look takes as long; the wall clock is decades ahead of the monotonic one


class ManagementProcess:
    """One process, and during a reload the one before it, which finishes.

    Args:
        make: Makes the worker, in the master, without starting it.
        log: Gunicorn's logger.
        now: The monotonic clock.

    Attributes:
        worker: The one that runs; None when none does.
    """

    def __init__(self, make: Callable[[], Any], log: Any, now: Callable[[], float] = time.monotonic) -> None:
        self.worker: Any = None
        self._before: dict[int, Any] = {}
        self._make = make
        self._log = log
        self._now = now
        self._began = 0.0
        self._delay = StartDelay(_LONGEST_WAIT_SECONDS)
        self._is_dismissed = False

    @property
    def workers(self) -> Sequence[Any]:
        """All that run."""
        return [*self._before.values(), *([self.worker] if self.worker is not None else [])]

    def tend(self, *, timeout: float, unneeded: Callable[[], Iterable[Any]], leave: Callable[[Any], None]) -> None:
        """Start it when it is not there; end it when it has given no sign of life.

        Args:
            timeout: How long it may give none, in seconds.
            unneeded: What has a ``close()`` and is not for it.
            leave: Is given the worker at its end, in its process.

        Raises:
            OSError: The system has no room for another process.
        """
        for worker in self.workers:
            if not lives(worker, self._now(), timeout) or self._starts_for_too_long():
                self._log.error("The management process (pid:%s) hangs; it is killed", worker.pid)
                _send(worker.pid, signal.SIGKILL)
        if self.worker is None and self._delay.allows(self._now()):
            worker = self._make()
            self._began = self._now()
            try:
                fork_worker(worker, MANAGEMENT_NAME, unneeded=unneeded(), leave=leave)
            except OSError:
                worker.tmp.close()
                raise
            self.worker = worker

    def replace(self) -> None:
        """Let the one that runs finish; another one is started at the next look."""
        if self.worker is not None:
            self._before[self.worker.pid] = self.worker
            self.worker = None

    def dismiss_earlier(self) -> None:
        """Ask those from before to go, once the new one lives."""
        if self.worker is not None and has_begun(self.worker, self._now()):
            for pid in self._before:
                _send(pid, signal.SIGTERM)

    def dismiss(self) -> None:
        """Ask all that run to go, for good."""
        self._is_dismissed = True
        self.send(signal.SIGTERM)

    def send(self, number: int) -> None:
        """Send a signal to all that run."""
        for worker in self.workers:
            _send(worker.pid, number)

    def buried(self, pid: int, exit_code: int) -> Any:
        """Note the end of a process.

        Args:
            pid: Of any child of the master.
            exit_code: As :func:`os.waitstatus_to_exitcode` has it.

        Returns:
            The worker; None when it was another process.
        """
        if pid in self._before:
            return self._before.pop(pid)
        if self.worker is None or self.worker.pid != pid:
            return None
        worker, self.worker = self.worker, None
        if self._is_dismissed:
            return worker
        lived = self._now() - self._began
        if lived >= _WELL_AFTER_SECONDS:
            self._delay.succeeded()
            wait = 0.0
        else:
            wait = self._delay.failed(self._now())
        self._log.error(
            "The management process (pid:%s) ended with %s; the next one is started in %s s", pid, exit_code, wait
        )
        return worker

    def _starts_for_too_long(self) -> bool:
        now = self._now()
        return self.worker is not None and not has_begun(self.worker, now) and now - self._began > START_SECONDS_MAX


def has_begun(worker: Any, now: float) -> bool:
    """Tell whether a worker is through its start: its first sign of life is on the monotonic clock.

    Before it, the time of the file by which gunicorn's workers say that they live is the wall clock's.

    Args:
        worker: Gunicorn's, made by this process.
        now: The monotonic clock a moment ago: the worker may have given a sign since.
    """
    with suppress(OSError, ValueError):
        return bool(worker.tmp.last_update() <= now + _LATE_SECONDS)
    return False


def lives(worker: Any, now: float, timeout: float) -> bool:
    """Tell whether a worker has given a sign of life within a time, or is still at its start.

    Args:
        worker: Gunicorn's, made by this process.
        now: The monotonic clock.
        timeout: In seconds.
    """
    with suppress(OSError, ValueError):
        return bool(now - worker.tmp.last_update() <= timeout)
    return True


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
