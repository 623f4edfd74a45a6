"""Where a process counts: in a file that others can read, or in its memory when that cannot be.

``prometheus_client`` asks a class for each of its numbers (``values.ValueClass``), and this is such a class. Its
own one for several processes has one file per kind of metric, named after the process id; ours has one file per
process under a name that never comes twice, whose room is reserved when it is made and when it grows, and whose
values are stored by one store of the processor. The layout is in :mod:`app.ops.metric_files`.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

from app.ops.metric_files import ENTRY, HEADER, MAGIC, VALUE, WORD_BYTES, Role, file_name
from app.ops.owners import find_owner

_log = logging.getLogger(__name__)

ROOM_BYTES: Final = 1024 * 1024
"""How much room is reserved at a time; every route has its buckets."""

_USED = struct.Struct("<Q")
_USED_AT = HEADER.size - _USED.size

Words: TypeAlias = "memoryview[float]"
"""Eight bytes each, see :mod:`app.ops.metric_files`."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The place of one value.

    Attributes:
        words: Where it is; the word behind it says when it was set.
        index: At which of the words.
        lock: To be held while it changes.
    """

    words: Words
    index: int
    lock: threading.Lock


class ValueFile:
    """One process's file. Thread-safe.

    A child that this process forks does not count in it: its values begin anew in its memory, unseen. Whoever cuts
    the file short kills the process, which is the price of a store that costs no system call.

    Args:
        folder: The server's.
        role: What this process does.

    Attributes:
        path: The file.

    Raises:
        OSError: It cannot be made whole; nothing is left behind.
    """

    _map: mmap.mmap
    _words: Words

    def __init__(self, folder: Path, role: Role = "worker") -> None:
        name = file_name(role, find_owner(os.getpid()), secrets.token_hex(4))
        self.path = folder / name
        self._lock = threading.Lock()
        self._cells: dict[bytes, Cell] = {}
        self._used = HEADER.size
        self._values: list[FileValue] = []
        self._is_full = False
        self._is_parents = False
        self._is_closed = False
        self._is_missing = False
        # Whole before it has its name: whoever reads it finds a header.
        self._unnamed = folder / f"{name}.new"
        try:
            self._descriptor = self._create()
            self._room_bytes = self._reserve(0)
            self._map[: HEADER.size] = HEADER.pack(MAGIC, self._used)
            self._unnamed.rename(self.path)
            self._identity = _identity(os.fstat(self._descriptor))
        except OSError:
            with suppress(OSError):
                self._unnamed.unlink()
            self.close()
            raise
        os.register_at_fork(after_in_child=self._forget_parent)

    def value_class(self) -> type[FileValue]:
        """Return what ``prometheus_client`` makes its numbers with."""
        return type("FileValue", (FileValue,), {"file": self})

    def keep(self, value: FileValue, key: bytes) -> None:
        """Give a number its place: a new one with 0 when there is none yet; in memory when there is no room."""
        with self._lock:
            cell = self._cells.get(key)
            if cell is None:
                cell = self._cells[key] = _cell_in_memory() if self._is_parents else self._new_cell(key)
            value.use(cell)
            self._values.append(value)

    def restore(self) -> None:
        """Put the file back when somebody has removed it; call it about once a second, from one thread at a time.

        The new one has the old one's name and values, so that whoever reads it goes on from what was read of that.
        What goes wrong is logged once, and the next call tries again: until then the values are nobody's but here.
        """
        if self._is_parents or self._is_closed or self._is_there():
            self._is_missing = False
            return
        if not self._is_missing:
            _log.warning("the metrics file %s was removed: it is put back", self.path.name)
        try:
            self._move_to(self._create())
            self._unnamed.rename(self.path)
        except OSError as error:
            if not self._is_missing:
                _log.warning("the metrics file %s cannot be put back (%s)", self.path.name, error.strerror)
            self._is_missing = True
            with suppress(OSError):
                self._unnamed.unlink()

    def _is_there(self) -> bool:
        try:
            return _identity(self.path.lstat()) == self._identity
        except FileNotFoundError:
            return False
        except OSError:  # nobody knows
            return True

    def _create(self) -> int:
        return os.open(self._unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def _move_to(self, descriptor: int) -> None:
        """Let everything be counted in another file from now on; its descriptor is this object's or closed."""
        room_bytes = self._room_bytes
        try:
            os.posix_fallocate(descriptor, 0, room_bytes)
            room = mmap.mmap(descriptor, room_bytes)
            identity = _identity(os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        with self._lock:
            if room_bytes != self._room_bytes:
                os.close(descriptor)
                raise OSError(errno.EAGAIN, "it has just grown")
            room[: self._used] = self._map[: self._used]
            self._descriptor, former = descriptor, self._descriptor
            self._map, self._words = room, memoryview(room).cast("d")
            self._identity = identity
            self._cells = {key: self._moved(cell) for key, cell in self._cells.items()}
            for value in self._values:
                value.follow(self._moved)
        os.close(former)

    def _moved(self, cell: Cell) -> Cell:
        is_here = cell.lock is self._lock  # else it found no room, and is in memory
        return Cell(self._words, cell.index, self._lock) if is_here else cell

    def close(self) -> None:
        """Close the file's descriptor. Its values can be counted on, and are read by others."""
        self._is_closed = True
        with suppress(AttributeError, OSError):
            os.close(self._descriptor)

    def _new_cell(self, key: bytes) -> Cell:
        try:
            return self._add(key)
        except OSError as error:
            if not self._is_full:
                _log.warning("no more room for metrics (%s): new ones are not in the totals", error.strerror)
            self._is_full = True
            return _cell_in_memory()

    def _add(self, key: bytes) -> Cell:
        filled = key.ljust(len(key) + -len(key) % WORD_BYTES)
        entry = ENTRY.pack(len(key), zlib.crc32(key)) + filled + VALUE.pack(0.0, 0.0)
        end = self._used + len(entry)
        if end > self._room_bytes:
            self._room_bytes = self._reserve(self._room_bytes)
        self._map[self._used : end] = entry
        self._words_in_use()[0] = end
        self._used = end
        return Cell(self._words, (end - VALUE.size) // WORD_BYTES, self._lock)

    def _words_in_use(self) -> memoryview[int]:
        return memoryview(self._map)[_USED_AT : HEADER.size].cast("Q")

    def _reserve(self, room_bytes: int) -> int:
        """Make room for more and map it; values that are there already keep their older mapping of the same bytes.

        On a full disk the first write to a page of a sparse file is a SIGBUS, which would kill the process over a
        counter. Reserved room cannot run out.
        """
        os.posix_fallocate(self._descriptor, room_bytes, ROOM_BYTES)
        self._map = mmap.mmap(self._descriptor, room_bytes + ROOM_BYTES)
        self._words = memoryview(self._map).cast("d")
        return room_bytes + ROOM_BYTES

    def _forget_parent(self) -> None:
        # Whoever held a lock does not exist here. The file is not touched: it may be gone, or cut short.
        self._lock = threading.Lock()
        self._is_parents = True
        for value in self._values:
            value.leave_file()
        self._cells = {}


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _cell_in_memory() -> Cell:
    return Cell(memoryview(bytearray(VALUE.size)).cast("d"), 0, threading.Lock())


class FileValue:
    """One number of a metric, in a file. Thread-safe. Made by ``prometheus_client``, with its arguments."""

    __slots__ = ("_index", "_lock", "_words")

    file: ValueFile
    _multiprocess = True

    def __init__(  # noqa: PLR0917  # the client's own signature
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_more: Any,
    ) -> None:
        labels = list(zip(labelnames, labelvalues, strict=True))
        key = orjson.dumps([typ, multiprocess_mode, metric_name, name, help_text, labels])
        self.file.keep(self, key)

    def use(self, cell: Cell) -> None:
        """Be in a place from now on."""
        self._words, self._index, self._lock = cell.words, cell.index, cell.lock

    def inc(self, amount: float) -> None:
        """Add to it."""
        with self._lock:
            self._words[self._index] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set it, and when that was where it matters (UNIX seconds)."""
        with self._lock:
            self._words[self._index] = value
            if timestamp:
                self._words[self._index + 1] = timestamp

    def get(self) -> float:
        """Return it."""
        return self._words[self._index]

    def set_exemplar(self, exemplar: object) -> None:
        """Ignore an exemplar: there is no place for it in the file."""

    def get_exemplar(self) -> None:
        """Return none."""

    def follow(self, moved: Callable[[Cell], Cell]) -> None:
        """Go where its place has been moved to; whoever calls holds its lock."""
        self.use(moved(Cell(self._words, self._index, self._lock)))

    def leave_file(self) -> None:
        """Begin anew in memory."""
        self.use(_cell_in_memory())
