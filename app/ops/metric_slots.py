"""Which process goes by which name in the metrics, kept in the server's folder for all who are asked.

While one server replaces another two management processes answer in turn. Names and processor times that each kept
for itself would differ, and a counter would fall with every other scrape. So they share one table, read and written
under a lock within a few milliseconds. Where it cannot be shared each goes on with what it knew last.

The table is written beside the old one and takes its name: a death at any instant leaves the old one or the new one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import orjson

_log = logging.getLogger(__name__)

_NAME: Final = "processes"
_LOCK: Final = "processes.lock"
_BYTES_MAX: Final = 1024 * 1024
_TRIES: Final = 20  # whoever holds the lock may have been stopped in its tracks: no scrape waits for that
_WAIT_SECONDS: Final = 0.01

SlotName: TypeAlias = tuple[str, int]
"""A role and a number from 1 on."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Who goes by a name, or did last, and the processor time under it.

    Attributes:
        pid: The process's id.
        started: When it began, UNIX seconds.
        before: Processor seconds of those who had the name before.
        seconds: Processor seconds of this one, as seen last.
    """

    pid: int
    started: float
    before: float
    seconds: float

    @property
    def identity(self) -> tuple[int, float]:
        """The process, told apart from whoever has its id later."""
        return self.pid, self.started


@dataclass(slots=True)
class _Table:
    revision: int = 0
    slots: dict[SlotName, Slot] = field(default_factory=dict)


class SlotTable:
    """The table of one folder, or of this process alone. Not thread-safe; several processes may use it at once.

    Args:
        folder: The server's; None where there is none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known = _Table()
        self._is_alone = False

    @property
    def is_shared(self) -> bool:
        """Whether other processes may know more names."""
        return self._folder is not None

    @contextmanager
    def changing(self) -> Iterator[dict[SlotName, Slot]]:
        """Give the table to be changed; nobody else changes it meanwhile. What cannot be shared is logged once."""
        if self._folder is None:
            yield self._known.slots
            return
        lock = None
        try:
            lock = _locked(self._folder / _LOCK)
        except OSError as error:
            self._go_on_alone(error)
        try:
            self._load(self._folder / _NAME)
            yield self._known.slots
            self._known.revision += 1
            if lock is not None:
                self._save(self._folder)
        finally:
            if lock is not None:
                os.close(lock)

    def _load(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                table = _unpacked(os.pread(descriptor, _BYTES_MAX, 0))
            finally:
                os.close(descriptor)
        except OSError:  # there is none yet, or it cannot be read now
            return
        # What could not be written lately is newer than what is there.
        if table is not None and table.revision >= self._known.revision:
            self._known = table

    def _save(self, folder: Path) -> None:
        unnamed = folder / f"{_NAME}.new"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(unnamed, flags, 0o600)
            try:
                content = _packed(self._known)
                if os.write(descriptor, content) < len(content):
                    raise OSError("written in part")
            finally:
                os.close(descriptor)
            unnamed.replace(folder / _NAME)
            self._is_alone = False
        except OSError as error:
            with suppress(OSError):
                unnamed.unlink()
            self._go_on_alone(error)

    def _go_on_alone(self, error: OSError) -> None:
        if not self._is_alone:
            _log.warning("the names of processes in metrics cannot be shared now (%s)", error.strerror or error)
        self._is_alone = True


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    for tries_left in reversed(range(_TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not tries_left:
                os.close(descriptor)
                raise
            time.sleep(_WAIT_SECONDS)
        else:
            break
    return descriptor


def _packed(table: _Table) -> bytes:
    rows = [
        [role, number, slot.pid, slot.started, slot.before, slot.seconds]
        for (role, number), slot in table.slots.items()
    ]
    return orjson.dumps({"revision": table.revision, "slots": rows})


def _unpacked(raw: bytes) -> _Table | None:
    """Return the table, None when it is none of ours."""
    try:
        document = orjson.loads(raw)
        slots = {
            (str(role), int(number)): Slot(int(pid), float(started), float(before), float(seconds))
            for role, number, pid, started, before, seconds in document["slots"]
        }
        return _Table(int(document["revision"]), slots)
    except (ValueError, KeyError, TypeError):
        return None
