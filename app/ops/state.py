"""What the workers of one server know together: a small file, which the kernel keeps in memory for all of them.

Readers take no lock: an entry carries its checksum (:mod:`app.ops.state_layout`), and one that is torn is read
again. Writers take turns by a lock on the file, which the kernel gives back when a process dies, and wait for it for
50 ms at most.

The file is read and written, not mapped: touching a mapping of a file that has become shorter kills the process,
and at a few looks a second nobody notices the microsecond that a call to the kernel takes.

No caller ever sees an error. A page that is gone, cut off, damaged, not writable or locked for too long answers
nothing, is counted and logged once, and is made anew when possible; whatever of it can still be read is kept.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import math
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from app.ops.state_layout import (
    HEADER_BYTES,
    LAYOUT_VERSION,
    PAGE_BYTES,
    SLOT_BYTES,
    SLOTS,
    Entry,
    Header,
    entries_of,
    offset_of,
    pack_copy,
    pack_header,
    read_header,
    read_slot,
)
from app.stability.clock import SYSTEM_CLOCK, Clock

_log = logging.getLogger(__name__)

VARIABLE: Final = "PHOTO_STATE_FOLDER"
"""The environment variable by which the workers of a server find its folder; unset where there is no such server."""

PAGE_NAME: Final = f"page-{LAYOUT_VERSION}"
"""The page's name in that folder."""

TEMPORARY_PREFIX: Final = f".{PAGE_NAME}-"
"""How the names of pages begin that are being made."""

_CHECK_SECONDS = 1.0
_LOCK_SECONDS = 0.05
_LOCK_POLL_SECONDS = 0.001
_LOCK_REST_SECONDS = 1.0  # who has waited in vain does not make every call after it wait
_READ_TRIES = 3
_NOT_WRITABLE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class PageLostError(OSError):
    """There is no page to read or write now. Stays inside of this module."""


def boot_id() -> str:
    """Return what names this boot of the host; empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def make_page(path: Path, entries: Mapping[str, bytes], *, now: Callable[[], float] = time.time) -> None:
    """Put a new page in place of whatever is there, at once and with all the room it will ever need.

    Args:
        path: The file; its folder exists.
        entries: What it says from the beginning, by name.
        now: The wall clock.

    Raises:
        OSError: It cannot be made; what was there is still there.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        os.posix_fallocate(descriptor, 0, PAGE_BYTES)
        _write(descriptor, pack_header(Header(now(), boot_id())), 0)
        for index, (name, payload) in enumerate(entries.items()):
            _write(descriptor, pack_copy(name, payload, 1), offset_of(index))
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    finally:
        os.close(descriptor)


class StatePage:
    """One process's view of the page. Thread-safe; never raises; opened at the first use, by each process anew.

    Args:
        path: The file.
        writable: Whether it may be changed; False for whoever only looks.
        repairs: Whether it is made anew when it is gone. Only a server's processes do: what another user makes, they
            could not open.
        clock: Times the waiting and the looking after.
        on_loss: Called each time it is lost in some way; must neither raise nor use the page.

    Attributes:
        losses: How often it was lost to this process in some way.
    """

    def __init__(
        self,
        path: Path,
        *,
        writable: bool = True,
        repairs: bool | None = None,
        clock: Clock = SYSTEM_CLOCK,
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        self.losses = 0
        self._path = path.absolute()
        self._writable = writable
        self._repairs = writable if repairs is None else repairs
        self._clock = clock
        self._on_loss = on_loss
        self._opened: _Opened | None = None
        self._absence = ""
        self._places: dict[str, int] = {}
        self._troubles: dict[str, str] = {}
        self._begin()

    def _belong(self) -> None:
        if self._pid != os.getpid():  # what a fork has inherited: files whose locks are the parent's, locks half held
            self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._local = threading.Lock()
        self._looking = threading.Lock()
        self._opened = None
        self._check_at = self._lock_at = -math.inf

    @property
    def works(self) -> bool:
        """Whether nothing was wrong with it when it was last used."""
        return not self._troubles

    @property
    def header(self) -> Header | None:
        """What it says of itself; None when it is lost."""
        with self._forgiving("reading"):
            return self._attended().header
        return None

    def read(self, name: str) -> bytes | None:
        """Return what an entry says; None when there is none, or the page is lost."""
        with self._forgiving("reading"):
            found = self._find(self._attended(), name)
            return None if found is None else found[1].payload
        return None

    def entries(self) -> dict[str, bytes] | None:
        """Return what all entries say, by name; None when the page is lost."""
        with self._forgiving("reading"):
            page = self._attended().page()
            return {entry.name: entry.payload for _, entry in entries_of(page)}
        return None

    def change(self, name: str, changed: Callable[[bytes | None], bytes | None]) -> bool:
        """Change an entry while nobody else changes any.

        Args:
            name: Whose it is, at most ``NAME_BYTES_MAX`` bytes long.
            changed: Is given what the entry says (None: there is none) and returns what it shall say, at most
                ``PAYLOAD_BYTES_MAX`` bytes; None leaves it as it is.

        Returns:
            False when the page is lost: it stayed as it was, and ``changed`` may not have been called.
        """
        with self._forgiving("writing"), self._taking_turns() as opened:
            found = self._find(opened, name)
            payload = changed(None if found is None else found[1].payload)
            if payload is not None:
                self._put(opened, name, payload, found)
            self._note("reading", None)
            return True
        return False

    def close(self) -> None:
        """Let the file go; the next use opens it again."""
        self._begin()

    def _forgiving(self, doing: str) -> _Forgiving:
        return _Forgiving(lambda trouble: self._note(doing, trouble))

    @contextmanager
    def _taking_turns(self) -> Iterator[_Opened]:
        self._belong()
        local = self._local
        if not local.acquire(timeout=_LOCK_SECONDS):
            raise PageLostError("another thread keeps it locked")
        try:
            opened = self._attended()
            try:
                self._lock_file(opened)
                yield opened
            finally:
                fcntl.flock(opened.descriptor, fcntl.LOCK_UN)
        finally:
            local.release()

    def _lock_file(self, opened: _Opened) -> None:
        if not opened.writable:
            raise PageLostError("it cannot be written")
        now = self._clock.monotonic()
        if now < self._lock_at:
            raise PageLostError("another process keeps it locked")
        ends = now + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(opened.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._clock.monotonic() >= ends:
                    self._lock_at = self._clock.monotonic() + _LOCK_REST_SECONDS
                    raise PageLostError("another process keeps it locked") from None
                self._clock.sleep(_LOCK_POLL_SECONDS)
            else:
                return

    def _find(self, opened: _Opened, name: str) -> tuple[int, Entry] | None:
        place = self._places.get(name)
        if place is not None:
            entry = opened.entry(place)
            if entry is not None and entry.name == name:
                return place, entry
        page = opened.page()
        if name.encode() in page:  # most names that are not found stand nowhere, which one search tells
            for index, entry in entries_of(page):
                if entry.name == name:
                    self._places[name] = index
                    return index, entry
        if self._places.pop(name, None) is not None:
            self._lose()
            _log.warning("the state page of this host has lost an entry", extra={"entry": name})
        return None

    def _put(self, opened: _Opened, name: str, payload: bytes, found: tuple[int, Entry] | None) -> None:
        if found is not None:
            index, entry = found
            raw = pack_copy(name, payload, entry.sequence + 1)
            _write(opened.descriptor, raw, offset_of(index, 1 - entry.copy))
            return
        taken = {index for index, _ in entries_of(opened.page())}
        free = next((index for index in range(SLOTS) if index not in taken), None)
        if free is None:
            raise PageLostError("it has no room for another entry")
        _write(opened.descriptor, pack_copy(name, payload, 1), offset_of(free))
        self._places[name] = free

    def _attended(self) -> _Opened:
        """Return the open page, looked after once a second.

        Raises:
            OSError: There is none.
        """
        self._belong()
        opened, looking = self._opened, self._looking
        if opened is not None and self._clock.monotonic() < self._check_at:
            return opened
        if not looking.acquire(timeout=_LOCK_SECONDS if opened is None else 0):
            if opened is None:
                raise PageLostError("another thread opens it")
            return opened
        try:
            return self._look_after()
        finally:
            looking.release()

    def _look_after(self) -> _Opened:
        now = self._clock.monotonic()
        if now >= self._check_at:
            self._check_at = now + _CHECK_SECONDS
            try:
                self._opened = self._looked_after(self._opened)
            except OSError as error:
                self._opened, self._absence = None, error.strerror or str(error)
        if self._opened is None:
            raise PageLostError(self._absence)
        return self._opened

    def _looked_after(self, opened: _Opened | None) -> _Opened:
        if opened is not None and opened.is_at(self._path) and opened.is_whole():
            return opened
        try:
            return _open_whole(self._path, writable=self._writable)
        except OSError:
            if self._repairs:
                with suppress(OSError):
                    return self._made_anew(opened)
            if opened is not None and opened.is_whole():  # nameless, but the others of its time have it too
                return opened
            raise

    def _made_anew(self, opened: _Opened | None) -> _Opened:
        """Make the page again, with what can be read of it; one process does, the others find it made."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(OSError):
                return _open_whole(self._path, writable=True)
            with suppress(OSError):
                opened = _Opened(self._path, writable=False)
            kept = {} if opened is None else {entry.name: entry.payload for _, entry in entries_of(opened.page())}
            make_page(self._path, kept)
            self._lose()
            _log.warning("the state page of this host was made anew", extra={"kept": len(kept)})
            return _open_whole(self._path, writable=True)
        finally:
            os.close(folder)

    def _lose(self) -> None:
        self.losses += 1
        self._on_loss()

    def _note(self, doing: str, trouble: str | None) -> None:
        if self._troubles.get(doing) == trouble:
            return
        if trouble is None:
            if self._troubles.pop(doing, None) is not None:  # no other thread has said so
                _log.info("the state page of this host is there again", extra={"doing": doing})
            return
        self._troubles[doing] = trouble
        self._lose()
        _log.warning(
            "the state page of this host is lost, this process goes on by itself",
            extra={"doing": doing, "trouble": trouble},
        )


class _Forgiving:
    """Ends a block at a lost page without an error; what comes after the block says that there is no answer."""

    def __init__(self, note: Callable[[str | None], None]) -> None:
        self._note = note

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if isinstance(error, OSError):
            self._note(error.strerror or str(error))
            return True
        if error is None:
            self._note(None)
        return False


class _Opened:
    """The open file. It is closed with the last reference: a thread may still read while another opens it anew."""

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
        if not stat.S_ISREG(found.st_mode):
            raise PageLostError("it is no file")

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def is_at(self, path: Path) -> bool:
        try:
            found = path.lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    @property
    def header(self) -> Header | None:
        return read_header(os.pread(self.descriptor, HEADER_BYTES, 0))

    def is_whole(self) -> bool:
        return self.header is not None and os.fstat(self.descriptor).st_size >= PAGE_BYTES

    def page(self) -> bytes:
        return os.pread(self.descriptor, PAGE_BYTES, 0)

    def entry(self, index: int) -> Entry | None:
        entry = None
        for _ in range(_READ_TRIES):
            entry, is_whole = read_slot(os.pread(self.descriptor, SLOT_BYTES, offset_of(index)))
            if is_whole:
                break
        return entry


def _open_whole(path: Path, *, writable: bool) -> _Opened:
    opened = _Opened(path, writable=writable)
    if not opened.is_whole():
        raise PageLostError("it is damaged")
    return opened


def _write(descriptor: int, raw: bytes, offset: int) -> None:
    if os.pwrite(descriptor, raw, offset) != len(raw):
        raise PageLostError("it cannot be written to its end")
