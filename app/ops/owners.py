"""Which process something belongs to, told apart from every other one that has had or will have its number.

A process id is used again, sooner or later. With the instant at which the process began and the boot of the host it
names one process for ever, so that whoever finds something can say whether its owner still lives.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from uuid import UUID

BOOT_BYTES: Final = 16
"""How long :attr:`Owner.boot` is."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_PROCESSES: Final = Path("/proc")
_STAT_BYTES_MAX = 4096
_PARENT_AT = 1
_STARTED_AT = 19  # of the fields behind the name, which may hold blanks and brackets itself; see proc(5)
_ENDED: Final = frozenset({b"Z", b"X", b"x"})


def boot_id() -> str:
    """Return what names this boot of the host; empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Owner:
    """One process, of all that ever were.

    Attributes:
        pid: Its number.
        started: When it began, in the kernel's ticks since the boot; 0 where the system does not tell.
        boot: The boot it belongs to, ``BOOT_BYTES`` bytes; zeros where the system does not tell.
    """

    pid: int
    started: int
    boot: bytes

    def lives(self) -> bool:
        """Return whether it is still there: one that has ended and waits to be reaped is not.

        What cannot be found out counts as alive: nobody's things are taken away by mistake.
        """
        if self.boot != _boot():
            return False
        if not self.started:
            return _answers(self.pid)
        try:
            is_running, started = _look_at(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        except (OSError, ValueError):
            return True
        return is_running and started == self.started


def find_owner(pid: int) -> Owner:
    """Return the process that has a number now.

    Args:
        pid: Of a process that runs. One that does not gives an owner that does not live.
    """
    started = 0
    with suppress(OSError, ValueError):
        _, started = _look_at(pid)
    return Owner(pid, started, _boot())


def find_parent(pid: int) -> int:
    """Return the number of the process that has started another one, or has taken it over; 0 when not known."""
    try:
        return int(_fields(pid)[_PARENT_AT])
    except (OSError, ValueError):
        return 0


def _look_at(pid: int) -> tuple[bool, int]:
    fields = _fields(pid)
    return fields[0] not in _ENDED, int(fields[_STARTED_AT])


def _fields(pid: int) -> list[bytes]:
    descriptor = os.open(_PROCESSES / str(pid) / "stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = os.read(descriptor, _STAT_BYTES_MAX)
    finally:
        os.close(descriptor)
    fields = raw.rpartition(b")")[2].split()
    if len(fields) <= _STARTED_AT:
        raise ValueError("not what proc(5) describes")
    return fields


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@cache
def _boot() -> bytes:
    try:
        return UUID(boot_id()).bytes
    except ValueError:
        return bytes(BOOT_BYTES)
