"""The file of a host's state page: made whole, opened by each process for itself, read and written slot by slot.

What is in it, and what becomes of a file that is gone or damaged, is :mod:`app.ops.state`'s matter.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from app.ops.owners import Owner, boot_id
from app.ops.state_layout import (
    BLANK_SLOT,
    COPY_BYTES,
    HEADER_BYTES,
    LAYOUT_VERSION,
    PAGE_BYTES,
    SLOT_BYTES,
    Entry,
    Header,
    newest_entry,
    offset_of,
    pack_copy,
    pack_header,
    read_header,
    read_slot,
)

TEMPORARY_PREFIX: Final = f".page-{LAYOUT_VERSION}-"
"""How the names of pages begin that are being made."""

_READ_TRIES = 3
_NOT_WRITABLE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_BLANK_COPY: Final = bytes(COPY_BYTES)


class PageLostError(OSError):
    """There is no page to read or write now."""


def make_page(
    path: Path,
    entries: Mapping[str, bytes],
    *,
    owners: Mapping[str, Owner] | None = None,
    now: Callable[[], float] = time.time,
) -> None:
    """Put a new page in place of whatever is there, at once and with all the room it will ever need.

    Args:
        path: The file; its folder exists.
        entries: What it says from the beginning, by name.
        owners: The processes of those entries that have a single writer.
        now: The wall clock.

    Raises:
        OSError: It cannot be made; what was there is still there.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        os.posix_fallocate(descriptor, 0, PAGE_BYTES)
        _write(descriptor, pack_header(Header(now(), boot_id())), 0)
        for index, (name, payload) in enumerate(entries.items()):
            _write(descriptor, pack_copy(name, payload, 1, (owners or {}).get(name)), offset_of(index))
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    finally:
        os.close(descriptor)


class OpenedPage:
    """The open file. It is closed with the last reference: a thread may still read while another opens it anew.

    Args:
        path: The file.
        writable: Whether to ask for writing.

    Attributes:
        descriptor: For locking it.
        writable: Whether it can be written.

    Raises:
        OSError: It cannot be opened, or is no file.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.descriptor = -1
        self.writable = writable
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self.descriptor = os.open(path, flags | (os.O_RDWR if writable else os.O_RDONLY))
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            self.writable = False
            self.descriptor = os.open(path, flags | os.O_RDONLY)
        found = os.fstat(self.descriptor)
        self._identity = (found.st_dev, found.st_ino)
        self._last: dict[int, tuple[bytes, Entry | None]] = {}
        if not stat.S_ISREG(found.st_mode):
            raise PageLostError("it is no file")

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def is_at(self, path: Path) -> bool:
        """Return whether this is the file that stands there now."""
        try:
            found = path.lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    @property
    def header(self) -> Header | None:
        """What it says of itself; None when it is damaged."""
        return read_header(os.pread(self.descriptor, HEADER_BYTES, 0))

    def is_whole(self) -> bool:
        """Return whether it has its header and all its room."""
        return self.header is not None and os.fstat(self.descriptor).st_size >= PAGE_BYTES

    def page(self) -> bytes:
        """Return all of it."""
        return os.pread(self.descriptor, PAGE_BYTES, 0)

    def entry(self, index: int) -> Entry | None:
        """Return what a slot says; None when it says nothing."""
        entry = None
        for _ in range(_READ_TRIES):
            raw = os.pread(self.descriptor, SLOT_BYTES, offset_of(index))
            last = self._last.get(index)
            if last is not None and last[0] == raw:
                return last[1]
            entry, is_whole = read_slot(raw)
            if is_whole:
                self._last[index] = (raw, entry)
                break
        return entry

    def was_freed(self, index: int) -> bool:
        """Return whether a slot was left in order: nothing stands there any more, or something else that is whole."""
        slot = os.pread(self.descriptor, SLOT_BYTES, offset_of(index))
        return slot == BLANK_SLOT or newest_entry(slot) is not None

    def write(self, raw: bytes, index: int, copy: int = 0) -> None:
        """Write a copy of a slot's entry.

        Raises:
            OSError: It is not written, or not to its end.
        """
        _write(self.descriptor, raw, offset_of(index, copy))

    def blank(self, index: int, entry: Entry) -> None:
        """Make the slot of an entry free.

        The older copy goes first: whoever reads in between, or after a death in between, finds the newer one or none.

        Raises:
            OSError: It is not free, or not quite.
        """
        self.write(_BLANK_COPY, index, 1 - entry.copy)
        self.write(_BLANK_COPY, index, entry.copy)


def open_whole(path: Path, *, writable: bool) -> OpenedPage:
    """Open a page that is whole.

    Args:
        path: The file.
        writable: Whether to ask for writing; without that permission it is opened for reading all the same.

    Raises:
        OSError: There is none.
    """
    opened = OpenedPage(path, writable=writable)
    if not opened.is_whole():
        raise PageLostError("it is damaged")
    return opened


def _write(descriptor: int, raw: bytes, offset: int) -> None:
    if os.pwrite(descriptor, raw, offset) != len(raw):
        raise PageLostError("it cannot be written to its end")
