"""The folder of the page that a server's workers share (:mod:`app.ops.state`): made by the master, before the fork.

::

    var/run/state/page-2            the page; found by commands that run in the same working folder
    var/run/state/lock              held by every process of every server that runs in this working folder
    var/run/state/changes.ndjson    what operators have changed by command; only ever added to

A start that finds the lock free is alone: it makes a new page and takes over what operators said and nobody took
back. One that finds another server joins its page: they are one host. A reload and an upgrade of the running server
change nothing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from app.ops import stamps
from app.ops.host_board import BREAKERS, MODES, HostBoard, operators_entries
from app.ops.state import PAGE_NAME, VARIABLE, StatePage
from app.ops.state_file import TEMPORARY_PREFIX, make_page

_log = logging.getLogger(__name__)

STATE_FOLDER: Final = Path("var/run/state")
"""Where it is in a working folder."""

CHANGES_NAME: Final = "changes.ndjson"
"""The name of the record of changes in that folder."""

_LOCK = "lock"
_TRIES = 5
_TRY_SECONDS = 0.01  # a command that asks whether a server runs holds the lock for a moment


def open_state_folder(folder: Path, environ: MutableMapping[str, str]) -> None:
    """Make this server's page and name its folder in the environment, unless one is named there already.

    A folder that cannot be written ends no start: the workers then go on by themselves, and look every second
    whether a page can be made.

    Args:
        folder: Usually :data:`STATE_FOLDER`.
        environ: The process's environment.
    """
    if environ.get(VARIABLE):
        return
    environ[VARIABLE] = str(folder.absolute())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        if _is_alone(lock):
            _renew(folder)
        fcntl.flock(lock, fcntl.LOCK_SH)
        os.set_inheritable(lock, True)  # an upgraded server keeps the lock
    except OSError as error:
        reason = {"folder": str(folder), "trouble": error.strerror}
        _log.warning("workers share no state: the folder cannot be written", extra=reason)


def server_runs(folder: Path) -> bool:
    """Tell whether a server that has named this folder lives.

    Raises:
        PermissionError: Only its own user can tell.
    """
    try:
        lock = os.open(folder / _LOCK, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def record_change(folder: Path, facts: Mapping[str, object]) -> None:
    """Add a line to the record of what operators have changed by command: one JSON object, in one write.

    Args:
        folder: Usually :data:`STATE_FOLDER`; exists.
        facts: Who has changed what, when and why.

    Raises:
        OSError: It cannot be added.
    """
    line = json.dumps(facts).encode() + b"\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(folder / CHANGES_NAME, flags, 0o600)
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def _is_alone(lock: int) -> bool:
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_TRY_SECONDS)
    return False


def _renew(folder: Path) -> None:
    for prefix in (TEMPORARY_PREFIX, stamps.TEMPORARY_PREFIX):
        for left in folder.glob(f"{prefix}*"):
            left.unlink(missing_ok=True)
    old = StatePage(folder / PAGE_NAME, writable=False)
    kept = operators_entries(old, time.monotonic()) if (folder / PAGE_NAME).exists() else {}
    make_page(folder / PAGE_NAME, kept)
    page = StatePage(folder / PAGE_NAME, writable=False)
    for prefix, kind in ((BREAKERS, "breaker"), (MODES, "mode")):
        for name, entry in (HostBoard(page, prefix=prefix).entries() or {}).items():
            if entry.decision is not None:
                said = {kind: name, "state": entry.decision.state, "by": entry.decision.by}
                said["reason"] = entry.decision.reason
                _log.warning("a %s stays as an operator left it", kind, extra=said)
