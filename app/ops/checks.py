"""Ready-made health checks: memory, spool folder, log queue, and a call that must not raise.

Each is a factory that returns a function without arguments, to be registered at the
:class:`~app.ops.health.HealthMonitor`. Checks that need a part of the product's own stand beside that part.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from app.ops.sampling import CheckResult, Status

Check = Callable[[], CheckResult]

_PROBE_BYTES = b"\0" * 4096
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_MEMORY_WARN = 0.90
_MEMORY_RED = 0.97
_CGROUP = Path("/sys/fs/cgroup")


class _Gauge(Protocol):
    def set(self, value: float) -> None: ...


class LogFigures(Protocol):
    """What the log check reads; :class:`app.ops.logging.Logs` is one."""

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        ...

    @property
    def queued(self) -> int:
        """Lines that wait."""
        ...


def answers(call: Callable[[], object]) -> Check:
    """Return a check that passes when a call returns, whatever it returns.

    Args:
        call: For example a database's ping; needs its own time limit.
    """

    def check() -> CheckResult:
        call()
        return CheckResult(Status.PASS)

    return check


def spool_check(folder: Path, *, needed_bytes: int, free: _Gauge | None = None) -> Check:
    """Return a local check of the folder where uploads are spooled.

    A full disk fails; a folder that cannot be written for another reason only warns, because what needs no
    spool still works.

    Args:
        folder: It need not exist yet.
        needed_bytes: Room for at least one more upload; less is full.
        free: The gauge that follows the room left, in bytes.
    """

    def check() -> CheckResult:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figures = os.statvfs(folder)
            room = figures.f_bavail * figures.f_frsize
            if free is not None:
                free.set(room)
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(_PROBE_BYTES)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return CheckResult(Status.FAIL, "no room for uploads")
            return CheckResult(Status.WARN, "the spool folder cannot be written")
        observed = {"free_bytes": float(room)}
        if room < needed_bytes:
            return CheckResult(Status.FAIL, "no room for another upload", observed)
        return CheckResult(Status.PASS, observed=observed)

    return check


def memory_check(usage: _Gauge | None = None) -> Check:
    """Return a local check of memory: this control group's against its limit, or else the machine's.

    Args:
        usage: The gauge that follows this process's resident memory, in bytes.
    """

    def check() -> CheckResult:
        resident = resident_bytes()
        if usage is not None:
            usage.set(resident)
        used_share = _used_share()
        observed = {"resident_bytes": float(resident), "used_ratio": round(used_share, 4)}
        if used_share >= _MEMORY_RED:
            return CheckResult(Status.FAIL, "almost no memory left", observed)
        if used_share >= _MEMORY_WARN:
            return CheckResult(Status.WARN, "memory is short", observed)
        return CheckResult(Status.PASS, observed=observed)

    return check


def log_check(logs: LogFigures) -> Check:
    """Return a check that warns when log lines were lost since its last sample."""
    seen = logs.dropped

    def check() -> CheckResult:
        nonlocal seen
        lost, seen = logs.dropped - seen, logs.dropped
        observed = {"queued_lines": float(logs.queued), "dropped_lines": float(lost)}
        if lost:
            return CheckResult(Status.WARN, "log lines were lost", observed)
        return CheckResult(Status.PASS, observed=observed)

    return check


def resident_bytes() -> int:
    """Return this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def _used_share() -> float:
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit and used is not None:
        return max(0, used - _reclaimable()) / limit
    facts = _fields(Path("/proc/meminfo"))
    return 1 - facts["MemAvailable:"] / facts["MemTotal:"]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no control group, or "max"
        return None


def _reclaimable() -> int:
    try:
        return _fields(_CGROUP / "memory.stat").get("inactive_file", 0)
    except OSError:
        return 0


def _fields(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {words[0]: int(words[1]) for words in lines}
