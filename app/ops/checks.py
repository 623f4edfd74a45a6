"""Ready-made health checks: database, its pool, spool folder, memory, log queue, and a call that must not raise.

Each is a factory that returns a function without arguments, to be registered at the
:class:`~app.ops.health.HealthMonitor`. Checks that need a part of the product's own stand beside that part.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app.errors import DatabaseBusyError, DatabaseDisconnectedError
from app.ops.memory import Memory
from app.ops.sampling import Check, CheckResult, Status

if TYPE_CHECKING:
    from app.db.pool import PoolFigures

_PROBE_BYTES = b"\0" * 4096
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_MEMORY_LIMITS = (0.90, 0.97)
_MEMORY_SWING = 0.03
_MEMORY_LEVELS = (
    (Status.PASS, ""),
    (Status.WARN, "memory is short"),
    (Status.FAIL, "almost no memory left"),
)


class _Gauge(Protocol):
    def set(self, value: float) -> None: ...


class PingedDatabase(Protocol):
    """What the check of the database asks; :class:`app.db.engine.Database` is one."""

    def ping(self) -> bool:
        """Make one round trip, and return whether nothing can be written."""
        ...


class MemoryFigures(Protocol):
    """What the check of memory reads; :class:`app.ops.memory.Memory` is one."""

    def resident_bytes(self) -> int:
        """Return this process's resident memory."""
        ...

    def used_ratio(self) -> float:
        """Return how much is used of what there may be, 0 to 1."""
        ...


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


def answers(
    call: Callable[[], object],
    *,
    down: tuple[type[Exception], ...] = (),
    says: Callable[[Exception], str] = lambda _error: "",
) -> Check:
    """Return a check that passes when a call returns, whatever it returns.

    Args:
        call: For example a database's ping; needs its own time limit.
        down: What it raises when who was asked does not answer: that is no news that needs a traceback.
        says: Returns what is told then.
    """

    def check() -> CheckResult:
        try:
            call()
        except down as error:
            return CheckResult(Status.FAIL, says(error))
        return CheckResult(Status.PASS)

    return check


def database_check(database: PingedDatabase, *, when_read_only: Callable[[], None] = lambda: None) -> Check:
    """Return a check of a database: one round trip, past its breaker.

    That all connections are in use says nothing of the server, and is not held against it; one that takes reads only
    is told, too.

    Args:
        database: The database.
        when_read_only: Called when it says so.
    """

    def check() -> CheckResult:
        try:
            is_read_only = _ping(database)
        except DatabaseBusyError:
            return CheckResult(Status.WARN, "all connections are in use; the database was not asked")
        if is_read_only:
            when_read_only()
            return CheckResult(Status.WARN, "the database takes reads only")
        return CheckResult(Status.PASS)

    return check


def _ping(database: PingedDatabase) -> bool:
    try:
        return database.ping()
    except DatabaseDisconnectedError:  # that connection died while it was idle, which says nothing of the next one
        return database.ping()


def pool_check(figures: Callable[[], PoolFigures]) -> Check:
    """Return a check that warns while a connection pool is full.

    Args:
        figures: The pool's, from memory; raises ``LookupError`` while nothing is known of it.
    """

    def check() -> CheckResult:
        try:
            now = figures()
        except LookupError:
            return CheckResult(Status.WARN, "nothing is known of the connections")
        observed = {
            "active_connections": float(now.active),
            "idle_connections": float(now.idle),
            "waiting_requests": float(now.waiting),
            "max_connections": float(now.max_connections),
            "timeouts_total": float(now.timeouts),
        }
        if now.is_full or now.waiting:
            return CheckResult(Status.WARN, "all connections are in use", observed)
        return CheckResult(Status.PASS, observed=observed)

    return check


def memory_check(usage: _Gauge | None = None, memory: MemoryFigures | None = None) -> Check:
    """Return a local check of the memory that is left before the kernel kills: of this host, or of its control group.

    It is red at 97 % and stays so until it is below 94 %, and short at 90 % until it is below 87 %, so that a
    process that swings about a limit does not swing in and out of its balancer.

    Args:
        usage: The gauge that follows this process's resident memory, in bytes.
        memory: Where figures come from; the kernel by default.
    """
    source = memory or Memory()
    level = 0

    def check() -> CheckResult:
        nonlocal level
        resident, used = source.resident_bytes(), source.used_ratio()
        if usage is not None:
            usage.set(resident)
        reached = sum(used >= limit for limit in _MEMORY_LIMITS)
        held = sum(used >= limit - _MEMORY_SWING for limit in _MEMORY_LIMITS)
        level = max(reached, min(level, held))
        observed = {"resident_bytes": float(resident), "used_ratio": round(used, 4)}
        status, output = _MEMORY_LEVELS[level]
        return CheckResult(status, output, observed)

    return check


def room_check(name: str, folder: Path, *, purpose: str, needed_bytes: int, free: _Gauge | None = None) -> Check:
    """Return a check of a folder of this host where bytes wait.

    A full disk fails; a folder that cannot be written for another reason only warns, because what needs no
    room there still works.

    Args:
        name: What the folder is called.
        folder: It need not exist yet.
        purpose: What the room is for.
        needed_bytes: Room for at least one more; less is full.
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
                return CheckResult(Status.FAIL, f"no room for {purpose}")
            return CheckResult(Status.WARN, f"the {name} folder cannot be written")
        observed = {"free_bytes": float(room)}
        if room < needed_bytes:
            return CheckResult(Status.FAIL, f"too little room for {purpose}", observed)
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
