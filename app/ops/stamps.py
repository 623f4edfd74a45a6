"""What the workers of a host tell each other of changes: stamps of 65,536 groups of keys, in a small file.

Whoever remembers something remembers the stamp of its key with it, read before the source was asked, and has
forgotten it once the stamp is another one. Whoever changes something writes twice::

    settled ──begin()──▶ changing ──commit──settle()──▶ settled, with a stamp that never was
                             └ its process dies: nothing of this group is remembered for two minutes

A stamp is drawn at random, so that nothing is read before it is written: there is no lock, and no order between
writers that could be wrong. *Owing* is as settled, and says besides that a store which several hosts share may still
have what is old.

The file is read and written, not mapped: touching a mapping of a file that has become shorter kills the process, and
a call to the kernel takes less than a microsecond. A file that is gone, replaced or cut off is noticed at the next
look, as the one that is open has no name any more or no such place, and another one is made, with other stamps: all
that was remembered is forgotten. Where none can be made, nothing is remembered. It keeps what it says over restarts.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from app.ops.state import VARIABLE
from app.stability.clock import SYSTEM_CLOCK, Clock

_log = logging.getLogger(__name__)

STAMPS_NAME: Final = "stamps-1"
"""The file's name in the folder of the host's state; another layout gets another name."""

GROUPS: Final = 65_536
"""How many stamps there are; keys of one group are forgotten together."""

TEMPORARY_PREFIX: Final = f".{STAMPS_NAME}-"
"""How the names of unfinished files begin; one that is left was made by a process that died over it."""

STAMP_BYTES: Final = 8

FILE_BYTES: Final = GROUPS * STAMP_BYTES
"""How long the file is."""

CHANGING_SECONDS: Final = 120.0
"""How long nothing is remembered of a group whose change did not come to its end; longer than any change takes."""

_TRY_SECONDS = 1.0
_LOCK_SECONDS = 0.5
_SETTLED, _CHANGING, _OWING = 1, 2, 3
_KIND_AT = 62
_SINCE_AT = 30
_SINCE = 0xFFFFFFFF
_AS_SETTLED = bytes((byte & 0x3F) | (_SETTLED << 6) for byte in range(256))
_Place: TypeAlias = "_Opened | _Own"


class Stamps:
    """One process's view of the stamps. Thread-safe; never raises; good after a fork.

    Args:
        path: The file, in a folder that exists; None for a process that shares them with no other.
        owing_seconds: After which a shared store has forgotten by itself what was old.
        clock: Its monotonic time is that of all processes of the host.

    Attributes:
        losses: How often the file was not there, not whole or not writable.
    """

    def __init__(self, path: Path | None, *, owing_seconds: float = 0.0, clock: Clock = SYSTEM_CLOCK) -> None:
        self.losses = 0
        self._path = path
        self._seconds = {_SETTLED: 0.0, _CHANGING: CHANGING_SECONDS, _OWING: owing_seconds}
        self._monotonic = clock.monotonic
        self._opening = threading.Lock()
        self._try_at = float("-inf")
        self._opened: _Place | None = _Own() if path is None else None

    def stamp(self, key: str) -> int | None:
        """Return the stamp of a key; None when nothing may be remembered under it now."""
        found = self._read(_group_of(key))
        kind = found >> _KIND_AT
        if not kind or (kind == _CHANGING and self._holds(found)):
            return None
        return found

    def is_owing(self, stamp: int) -> bool:
        """Return whether a stamp says that a shared store may have what is old."""
        return stamp >> _KIND_AT == _OWING and self._holds(stamp)

    def begin(self, keys: Iterable[str]) -> bool:
        """Say that what stands under some keys is about to change; return whether the others can see it."""
        return self._write(keys, _CHANGING)

    def settle(self, keys: Iterable[str], *, owing: bool = False) -> bool:
        """Say that it has changed, or was left as it was; return whether the others can see it.

        Args:
            keys: Those of :meth:`begin`, or what another host has changed.
            owing: Whether a shared store may have what is old.
        """
        return self._write(keys, _OWING if owing else _SETTLED)

    def _holds(self, found: int) -> bool:
        # What lies ahead was written before the host was started anew.
        age = int(self._monotonic()) - ((found >> _SINCE_AT) & _SINCE)
        return 0 <= age < self._seconds[found >> _KIND_AT]

    def _write(self, keys: Iterable[str], kind: int) -> bool:
        since = (int(self._monotonic()) & _SINCE) << _SINCE_AT
        is_written = True
        for group in {_group_of(key) for key in keys}:
            drawn = secrets.randbits(_KIND_AT) if kind == _SETTLED else since | secrets.randbits(_SINCE_AT)
            is_written &= self._write_one(group, ((kind << _KIND_AT) | drawn).to_bytes(STAMP_BYTES, "little"))
        return is_written

    def _write_one(self, group: int, raw: bytes) -> bool:
        opened = self._attended()
        if opened is not None and opened.write(group, raw):
            return True
        # One that cannot be written loses its place: all that is remembered by it is forgotten then.
        opened = self._reopened(opened, replaces=True)
        return opened is not None and opened.write(group, raw)

    def _read(self, group: int) -> int:
        opened = self._attended()
        raw = None if opened is None else opened.read(group)
        if raw is None:
            opened = self._reopened(opened)
            raw = None if opened is None else opened.read(group)
        return 0 if raw is None else int.from_bytes(raw, "little")

    def _attended(self) -> _Place | None:
        opened = self._opened
        return self._reopened(None) if opened is None else opened

    def _reopened(self, lost: _Place | None, *, replaces: bool = False) -> _Place | None:
        if self._path is None or (lost is None and self._monotonic() < self._try_at):
            return self._opened
        # Bounded, as a fork may have come while another thread held it.
        is_mine = self._opening.acquire(timeout=_LOCK_SECONDS)
        try:
            return self._open_again(self._path, lost, replaces=replaces) if is_mine else self._opened
        finally:
            if is_mine:
                self._opening.release()

    def _open_again(self, path: Path, lost: _Place | None, *, replaces: bool) -> _Place | None:
        if self._opened is not lost or (lost is None and self._monotonic() < self._try_at):
            return self._opened  # another thread did it, or has tried
        try:
            self._opened = (_replaced if replaces and lost is not None else _open_or_make)(path)
        except OSError as error:
            self._opened, self._try_at = None, self._monotonic() + _TRY_SECONDS
            self._note(f"workers remember nothing: {error.strerror or error}")
        else:
            if lost is not None or self.losses:
                self._note("all that was remembered is forgotten")
        return self._opened

    def _note(self, outcome: str) -> None:
        self.losses += 1
        _log.warning("the stamps of this host were lost; %s", outcome)


def open_stamps(environ: Mapping[str, str], *, owing_seconds: float = 0.0) -> Stamps:
    """Return the stamps that this process's server shares; those of this process alone when it has no server.

    Args:
        environ: The process's environment.
        owing_seconds: As for :class:`Stamps`.
    """
    folder = environ.get(VARIABLE)
    return Stamps(Path(folder) / STAMPS_NAME if folder else None, owing_seconds=owing_seconds)


def _group_of(key: str) -> int:
    return zlib.crc32(key.encode()) % GROUPS


def _open_or_make(path: Path) -> _Opened:
    try:
        return _Opened(path)
    except FileNotFoundError:
        return _made(path)
    except OSError:
        return _replaced(path)


def _made(path: Path) -> _Opened:
    """Put a file of new stamps where none is, unless another process has just done so, and open what is there."""
    with _new_stamps(path.parent) as new:
        try:
            os.link(new, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            new.replace(path)
    return _Opened(path)


def _replaced(path: Path) -> _Opened:
    """Put a file of new stamps in place of whatever is there, at once, and open it."""
    with _new_stamps(path.parent) as new:
        new.replace(path)
    return _Opened(path)


@contextmanager
def _new_stamps(folder: Path) -> Iterator[Path]:
    """Yield a whole file of new stamps under a name that ends with the block."""
    raw = bytearray(os.urandom(FILE_BYTES))
    raw[STAMP_BYTES - 1 :: STAMP_BYTES] = raw[STAMP_BYTES - 1 :: STAMP_BYTES].translate(_AS_SETTLED)
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
        yield Path(temporary)
    finally:
        Path(temporary).unlink(missing_ok=True)


class _Opened:
    """The open file; closed with the last reference, as another thread may still read."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != FILE_BYTES:
            raise OSError("the file is not whole")

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, group: int) -> bytes | None:
        try:
            raw = os.pread(self._descriptor, STAMP_BYTES, group * STAMP_BYTES)
            # Asked after reading: one that had its name until then was the one that all others read, too.
            is_there = os.fstat(self._descriptor).st_nlink > 0
        except OSError:
            return None
        return raw if is_there and len(raw) == STAMP_BYTES else None

    def write(self, group: int, raw: bytes) -> bool:
        try:
            is_written = os.pwrite(self._descriptor, raw, group * STAMP_BYTES) == STAMP_BYTES
            return is_written and os.fstat(self._descriptor).st_nlink > 0
        except OSError:
            return False


class _Own:
    """The stamps of a process that shares them with no other."""

    def __init__(self) -> None:
        self._first = ((_SETTLED << _KIND_AT) | secrets.randbits(_KIND_AT)).to_bytes(STAMP_BYTES, "little")
        self._changed: dict[int, bytes] = {}

    def read(self, group: int) -> bytes:
        return self._changed.get(group, self._first)

    def write(self, group: int, raw: bytes) -> bool:
        self._changed[group] = raw
        return True
