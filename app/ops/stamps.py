"""Stamps that all processes of a host share: who remembers something learns by one look that it has changed.

::

    reader   read the stamp of a key  ─▶  ask the database  ─▶  remember the answer together with the stamp
    later    read the stamp again     ─▶  another one: what is remembered counts as not there
    writer   commit the change        ─▶  write a new stamp

A stamp is a random number of eight bytes; keys share one of 65,536 places by their hash, and who shares a place with
a changed key asks once more than needed, never once too few. There is no lock: a stamp is written in one call, and a
mixture of two is another one than both. The file lies beside the state page, is read and written and not mapped (a
mapped file that somebody cuts off ends the process), and keeps what it says over restarts.

Without a server (one process alone) the stamps are in memory. A file that cannot be read or written makes every look
answer None: then nothing may be remembered.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from app.ops.state import VARIABLE
from app.stability import SYSTEM_CLOCK, Clock

_log = logging.getLogger(__name__)

STAMPS_NAME: Final = "stamps-1"
"""Name of the file in the folder of the state page; another layout gets another name."""

PLACES: Final = 65_536
STAMP_BYTES: Final = 8

_FILE_BYTES: Final = PLACES * STAMP_BYTES
_LOOK_SECONDS: Final = 1.0
_RANDOM = random.SystemRandom()


class Stamps:
    """The stamps of this host. Thread-safe; never raises; opened at the first use.

    A forked child may use its parent's: no position in the file is shared.

    Args:
        path: The file; None keeps them in this process.
        clock: Times how often it is looked whether the file is still the one at its path.
    """

    def __init__(self, path: Path | None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path = path
        self._monotonic = clock.monotonic
        self._lock = threading.Lock()
        self._alone: dict[int, int] | None = {} if path is None else None
        self._opened: int | None = None
        self._retired: list[int] = []
        self._look_at = float("-inf")

    def read(self, key: str) -> int | None:
        """Return the stamp of a key now; None when it cannot be told."""
        place = _place_of(key)
        if self._alone is not None:
            return self._alone.get(place, 0)
        descriptor = self._descriptor()
        if descriptor is None:
            return None
        try:
            raw = os.pread(descriptor, STAMP_BYTES, place * STAMP_BYTES)
        except OSError:
            return None
        return int.from_bytes(raw, "little") if len(raw) == STAMP_BYTES else None

    def renew(self, key: str) -> bool:
        """Give a key a new stamp; call it after the change is committed.

        Returns:
            Whether the others can see it.
        """
        place, stamp = _place_of(key), _RANDOM.getrandbits(8 * STAMP_BYTES)
        if self._alone is not None:
            self._alone[place] = stamp
            return True
        descriptor = self._descriptor()
        if descriptor is None:
            return False
        try:
            raw = stamp.to_bytes(STAMP_BYTES, "little")
            return os.pwrite(descriptor, raw, place * STAMP_BYTES) == STAMP_BYTES
        except OSError:
            return False

    def close(self) -> None:
        """Give the file back; the stamps are not used afterwards."""
        with self._lock:
            for descriptor in (self._opened, *self._retired):
                if descriptor is not None:
                    os.close(descriptor)
            self._opened, self._retired, self._look_at = None, [], float("inf")

    def _descriptor(self) -> int | None:
        """Return the open file; looks now and then whether it is still the one at its path."""
        if self._monotonic() >= self._look_at:
            with self._lock:
                if self._monotonic() >= self._look_at:
                    self._look_after()
                    self._look_at = self._monotonic() + _LOOK_SECONDS
        return self._opened

    def _look_after(self) -> None:
        if self._path is None or (self._opened is not None and _is_at(self._opened, self._path)):
            return
        if self._opened is not None:
            # Not closed: a thread may be about to write to it, and its number could be a photo's file by then.
            self._retired.append(self._opened)
        try:
            self._opened = _open(self._path)
        except OSError as error:
            self._opened = None
            _log.warning("workers cannot tell each other of changes; less is remembered: %s", error.strerror)


def open_stamps(environ: Mapping[str, str]) -> Stamps:
    """Return the stamps that this process's server shares; those of this process alone when it has no server.

    Args:
        environ: The process's environment.
    """
    folder = environ.get(VARIABLE)
    return Stamps(Path(folder) / STAMPS_NAME if folder else None)


def _place_of(key: str) -> int:
    return zlib.crc32(key.encode()) % PLACES


def _open(path: Path) -> int:
    """Open the file, made whole when it is missing or short, so that no later write meets a full disk."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size < _FILE_BYTES:
            os.posix_fallocate(descriptor, 0, _FILE_BYTES)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return False
    opened = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino) and opened.st_size >= _FILE_BYTES
