"""The folder that the workers of one server share their metrics in, from the master's start to its end.

A process finds it in its environment when it makes its metrics (:mod:`app.ops.metrics`). Each server has a folder of
its own and a lock on it, which all its processes inherit: a folder whose lock is free belongs to nobody any more and
is removed by the next start. Whose file in it is a dead worker's, who reads them finds out: the master need not tell.
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
