"""The folder that the workers of one server share their metrics in, from the master's start to its end.

``prometheus_client`` decides at its first import, by an environment variable, whether it counts in memory or in
files; so the variable is set before anything imports it: in gunicorn's configuration file. Each server has a
folder of its own and a lock on it, which all its processes inherit: a folder whose lock is free belongs to
nobody any more and is removed by the next start.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from app.errors import ConfigurationError

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_LOCK = "lock"
_PREFIX = "server-"


def open_metrics_folder(parent: Path, environ: MutableMapping[str, str]) -> Path:
    """Make this server's folder and name it in the environment; keep the one that is named there already.

    It is named already after a reload or an upgrade of the running server, whose totals go on.

    Args:
        parent: Where the folders of all servers are, usually ``var/run/metrics``.
        environ: The process's environment.

    Returns:
        The folder.

    Raises:
        ConfigurationError: It cannot be made. A folder that is named already may be missing: its workers then count
            in memory, and a reload ends nothing.
    """
    named = environ.get(VARIABLE)
    if named:
        with suppress(OSError):
            Path(named).mkdir(parents=True, exist_ok=True)
        return Path(named)
    try:
        folder = _new_folder(parent)
    except OSError as error:
        mistake = f"{parent}: the folder cannot be written ({error.strerror}). Make it writable for this user"
        raise ConfigurationError([mistake]) from error
    environ[VARIABLE] = str(folder)
    return folder


def _new_folder(parent: Path) -> Path:
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).absolute()
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.set_inheritable(lock, True)  # an upgraded server keeps the lock
    return folder


def forget_worker(pid: int) -> None:
    """Remove the live gauges of a worker that is gone; its counters stay in the totals."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415  # not before the variable is set

    if VARIABLE in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]  # it has no annotations


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR)
        except OSError:  # made a moment ago by another server, or somebody else's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
