"""Starts processes of the server by forking its master, without losing a signal on the way.

What a process was sent before it has its own signal handlers would run the master's, in the child, and be forgotten.
So signals wait during a fork, and until a worker handles them itself a request to end ends it: it has nothing to
finish yet.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError

from app.ops.logging import LogPipeline

MASTER_NAME: Final = "photo-master"
WORKER_NAME: Final = "photo-worker"
MANAGEMENT_NAME: Final = "photo-manage"
"""What ``ps`` shows of each; at most 15 bytes."""

_COMM: Final = Path("/proc/self/comm")
_ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
_OTHERS: Final = frozenset({signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU})
_EXIT_FAILED: Final = 1
_FLUSH_SECONDS: Final = 2.0


def name_process(name: str) -> None:
    """Let the system show this process under a name, where it can."""
    with suppress(OSError):
        _COMM.write_text(name, encoding="ascii")


def fork(run: Callable[[], None]) -> int:
    """Run a function in a process of its own.

    Args:
        run: The process ends with it, by 0 or by the exit code of its ``SystemExit``. Until it sets signal handlers
            of its own, SIGTERM, SIGINT and SIGQUIT end it, and what else the master handles is ignored.

    Returns:
        Its process id.

    Raises:
        OSError: The system has no room for another process.
    """
    pid = -1
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING | _OTHERS)
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if pid == 0:
        with ended_by_exit():
            _begin(before)
            run()
    return pid


def _begin(mask: set[int | signal.Signals]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in _OTHERS:
        signal.signal(number, signal.SIG_IGN)
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def fork_worker(worker: Any, name: str, *, unneeded: Iterable[Any], leave: Callable[[Any], None]) -> int:
    """Run one of gunicorn's workers in a process of its own.

    Args:
        worker: Made by the master, a ``gunicorn.workers.base.Worker``; its ``pid`` is set.
        name: What the process is called.
        unneeded: What has a ``close()`` and is not for this process: the listeners and heartbeats of others. A
            listener left open would go on taking connections after everybody who answers has closed it.
        leave: Is given the worker at its end, in its process.

    Returns:
        Its process id.

    Raises:
        OSError: The system has no room for another process.
    """

    def run() -> None:
        worker.pid = os.getpid()
        name_process(name)
        with _told_by_exit_code(worker):
            try:
                for resource in unneeded:
                    resource.close()
                worker.log.info("Booting %s with pid: %s", name, worker.pid)
                worker.init_process()
            finally:
                worker.log.info("Worker exiting (pid: %s)", worker.pid)
                worker.tmp.close()
                leave(worker)

    worker.pid = fork(run)
    return int(worker.pid)


@contextmanager
def ended_by_exit() -> Iterator[None]:
    """End the process at the end of a block, with the exit code of a ``SystemExit`` in it, once its log is written.

    At once: taking a large interpreter apart takes as long as a second, and would wait for a thread that hangs.
    """
    code: object = _EXIT_FAILED
    try:
        yield
        code = 0
    except SystemExit as ending:
        code = ending.code
    except BaseException:
        logging.getLogger(__name__).exception("the process ends with an error")
    finally:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, LogPipeline):
                handler.flush_within(_FLUSH_SECONDS)
        with suppress(OSError, ValueError, AttributeError):  # it may be closed, or its reader gone
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else _EXIT_FAILED)


@contextmanager
def _told_by_exit_code(worker: Any) -> Iterator[None]:
    """Turn an exception into the exit code by which gunicorn's master knows what failed."""
    try:
        yield
    except AppImportError as error:
        worker.log.error("The application cannot be loaded: %s", error)  # noqa: TRY400  # it says what to mend
        sys.exit(Arbiter.APP_LOAD_ERROR)
    except Exception:
        worker.log.exception("Exception in worker process")
        sys.exit(_EXIT_FAILED if worker.booted else Arbiter.WORKER_BOOT_ERROR)
