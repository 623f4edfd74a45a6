"""What the workers of one server know together: a small file, which the kernel keeps in memory for all of them.

Readers take no lock: an entry carries its checksum (:mod:`app.ops.state_layout`), and one that is torn is read
again. Writers take turns by a lock on the file, which the kernel gives back when a process dies, and wait for it for
50 ms at most. An entry of a single writer (:class:`OwnEntry`) is written without it, and removed by whoever finds
that its process is gone.

The file is read and written, not mapped: touching a mapping of a file that has become shorter kills the process,
and at a few looks a second nobody notices the microsecond that a call to the kernel takes.

No caller ever sees an error. A page that is gone, cut off, damaged, not writable or locked for too long answers
nothing, is counted and logged once, and is made anew when possible; whatever of it can still be read is kept.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final

from app.ops.owners import Owner, find_owner
from app.ops.state_file import OpenedPage, PageLostError, make_page, open_whole
from app.ops.state_layout import (
    BLANK_SLOT,
    LAYOUT_VERSION,
    SLOTS,
    Entry,
    Header,
    copy_packer,
    entries_of,
    newest_entry,
    offset_of,
    pack_copy,
)
from app.stability.clock import SYSTEM_CLOCK, Clock

_log = logging.getLogger(__name__)

VARIABLE: Final = "PHOTO_STATE_FOLDER"
"""The environment variable by which the workers of a server find its folder; unset where there is no such server."""

PAGE_NAME: Final = f"page-{LAYOUT_VERSION}"
"""The page's name in that folder."""

_CHECK_SECONDS = 1.0
_LOCK_SECONDS = 0.05
_LOCK_POLL_SECONDS = 0.001
_LOCK_REST_SECONDS = 1.0  # who has waited in vain does not make every call after it wait


@dataclass(frozen=True, slots=True)
class OwnedEntry:
    """An entry that one process writes alone.

    Attributes:
        name: Whose it is.
        owner: The process; it lived when this was read.
        payload: What it says.
    """

    name: str
    owner: Owner
    payload: bytes


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
        self._opened: OpenedPage | None = None
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

    def remove(self, name: str, when: Callable[[bytes], bool] = lambda _: True) -> bool:
        """Remove an entry while nobody else changes any; its place is free then.

        Args:
            name: Whose it is.
            when: Is given what the entry says now, and tells whether it shall go.

        Returns:
            False when the page is lost; True when there is no such entry any more, or ``when`` keeps it.
        """
        return self._remove(name, lambda entry: when(entry.payload))

    def own(self, name: str, owner: Owner | None = None) -> OwnEntry:
        """Return an entry that is this process's alone; it is there from its first write on.

        Args:
            name: At most ``NAME_BYTES_MAX`` bytes long. What another process has left under it is overwritten.
            owner: This process by default.

        Returns:
            Its ``write(payload)`` takes at most ``PAYLOAD_BYTES_MAX`` bytes, its ``remove()`` makes the place free;
            both return False when the page is lost.
        """
        place = _OwnPlace(name, owner or find_owner(os.getpid()))
        return OwnEntry(partial(self._write_own, place), partial(self._remove_own, place))

    def owned(self, prefix: str = "") -> list[OwnedEntry] | None:
        """Return the entries of processes that live, by the order of their places; None when the page is lost.

        Those of processes that are gone are removed on the way, where the page can be written.

        Args:
            prefix: How the names of the wanted ones begin.
        """
        found: list[OwnedEntry] = []
        dead: list[str] = []
        with self._forgiving("reading"):
            for _, entry in entries_of(self._attended().page()):
                if entry.owner is None:
                    continue
                if not entry.owner.lives():
                    dead.append(entry.name)
                elif entry.name.startswith(prefix):
                    found.append(OwnedEntry(entry.name, entry.owner, entry.payload))
            if dead and self._writable:
                self._bury(dead)
            return found
        return None

    def read_owned(self, name: str) -> Entry | None:
        """Return an entry of a single writer, who may be gone; None when there is none, or the page is lost.

        It is the same object as long as the page says the same.
        """
        try:
            opened = self._attended()
            place = self._places.get(name)
            entry = None if place is None else opened.entry(place)
            if entry is None or entry.name != name:
                found = self._find(opened, name)
                entry = None if found is None else found[1]
        except OSError as error:
            self._note("reading", error.strerror or str(error))
            return None
        if self._troubles:
            self._note("reading", None)
        return None if entry is None or entry.owner is None else entry

    def close(self) -> None:
        """Let the file go; the next use opens it again."""
        self._begin()

    def _forgiving(self, doing: str) -> _Forgiving:
        return _Forgiving(lambda trouble: self._note(doing, trouble))

    @contextmanager
    def _taking_turns(self) -> Iterator[OpenedPage]:
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

    def _lock_file(self, opened: OpenedPage) -> None:
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

    def _find(self, opened: OpenedPage, name: str) -> tuple[int, Entry] | None:
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
        if self._places.pop(name, None) is not None and place is not None and not opened.was_freed(place):
            self._lose_entry(name)
        return None

    def _put(self, opened: OpenedPage, name: str, payload: bytes, found: tuple[int, Entry] | None) -> None:
        if found is not None:
            index, entry = found
            raw = pack_copy(name, payload, entry.sequence + 1)
            opened.write(raw, index, 1 - entry.copy)
            return
        free = self._free_place(opened)
        opened.write(pack_copy(name, payload, 1), free)
        self._places[name] = free

    def _free_place(self, opened: OpenedPage) -> int:
        page = opened.page()
        slots = [page[offset_of(index) : offset_of(index + 1)] for index in range(SLOTS)]
        if BLANK_SLOT in slots:
            return slots.index(BLANK_SLOT)
        for index, slot in enumerate(slots):
            if newest_entry(slot) is None:
                return index
        gone = [found for found in entries_of(page) if found[1].owner is not None and not found[1].owner.lives()]
        if not gone:
            raise PageLostError("it has no room for another entry")
        for index, entry in gone:
            self._free(opened, index, entry)
        return gone[0][0]

    def _remove(self, name: str, when: Callable[[Entry], bool]) -> bool:
        with self._forgiving("writing"), self._taking_turns() as opened:
            found = self._find(opened, name)
            if found is not None and when(found[1]):
                self._free(opened, *found)
            return True
        return False

    def _write_own(self, place: _OwnPlace, payload: bytes) -> bool:
        try:
            opened = self._attended()
            if place.pid != self._pid:
                return False
            is_checked = place.checked is opened and place.checked_at == self._check_at
            if not is_checked and not self._is_in_place(place, opened):
                self._take_place(place, payload)
            elif place.opened is opened:
                sequence, copy = place.sequence + 1, 1 - place.copy
                opened.write(place.pack(payload, sequence), place.place, copy)
                place.sequence, place.copy = sequence, copy
            else:
                return False
        except OSError as error:
            self._note("writing", error.strerror or str(error))
            return False
        if self._troubles:
            self._note("writing", None)
        return True

    def _is_in_place(self, place: _OwnPlace, opened: OpenedPage) -> bool:
        place.checked, place.checked_at = opened, self._check_at
        if place.opened is not opened:
            place.opened = None
            return False
        entry = opened.entry(place.place)
        if entry is not None and (entry.owner, entry.sequence) == (place.owner, place.sequence):
            return True
        place.opened = None
        self._lose_entry(place.name)
        return False

    def _take_place(self, place: _OwnPlace, payload: bytes) -> None:
        with self._taking_turns() as opened:
            found = self._find(opened, place.name)
            if found is None:
                place.place, place.copy, place.sequence = self._free_place(opened), 0, 1
            else:
                place.place, place.copy, place.sequence = found[0], 1 - found[1].copy, found[1].sequence + 1
            opened.write(place.pack(payload, place.sequence), place.place, place.copy)
            place.opened = place.checked = opened
            place.checked_at = self._check_at

    def _remove_own(self, place: _OwnPlace) -> bool:
        if place.pid != os.getpid():
            return False
        place.opened = place.checked = None
        return self._remove(place.name, lambda entry: entry.owner == place.owner)

    def _free(self, opened: OpenedPage, index: int, entry: Entry) -> None:
        opened.blank(index, entry)
        self._places.pop(entry.name, None)

    def _bury(self, names: list[str]) -> None:
        """Remove the entries of processes that are gone, each looked at again while nobody else changes any."""
        with suppress(OSError), self._taking_turns() as opened:
            for name in names:
                found = self._find(opened, name)
                if found is not None and found[1].owner is not None and not found[1].owner.lives():
                    self._free(opened, *found)

    def _attended(self) -> OpenedPage:
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

    def _look_after(self) -> OpenedPage:
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

    def _looked_after(self, opened: OpenedPage | None) -> OpenedPage:
        if opened is not None and opened.is_at(self._path) and opened.is_whole():
            return opened
        try:
            return open_whole(self._path, writable=self._writable)
        except OSError:
            if self._repairs:
                with suppress(OSError):
                    return self._made_anew(opened)
            if opened is not None and opened.is_whole():  # nameless, but the others of its time have it too
                return opened
            raise

    def _made_anew(self, opened: OpenedPage | None) -> OpenedPage:
        """Make the page again, with what can be read of it; one process does, the others find it made."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(OSError):
                return open_whole(self._path, writable=True)
            with suppress(OSError):
                opened = OpenedPage(self._path, writable=False)
            kept = [] if opened is None else [entry for _, entry in entries_of(opened.page())]
            owners = {entry.name: entry.owner for entry in kept if entry.owner is not None}
            make_page(self._path, {entry.name: entry.payload for entry in kept}, owners=owners)
            self._lose()
            _log.warning("the state page of this host was made anew", extra={"kept": len(kept)})
            return open_whole(self._path, writable=True)
        finally:
            os.close(folder)

    def _lose(self) -> None:
        self.losses += 1
        self._on_loss()

    def _lose_entry(self, name: str) -> None:
        self._lose()
        _log.warning("the state page of this host has lost an entry", extra={"entry": name})

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


class OwnEntry:
    """An entry that one process writes alone: one write to the kernel, no lock. One thread at a time; never raises.

    Its place is found once, while nobody else changes any, and looked at again when the page is looked after, once a
    second: on a page that was made anew, or where the place was lost, it is taken again. A fork of the process writes
    nothing. Made by :meth:`StatePage.own`.
    """

    def __init__(self, write: Callable[[bytes], bool], remove: Callable[[], bool]) -> None:
        self.write = write
        self.remove = remove


class _OwnPlace:
    """Where the entry of a single writer stands, as that writer knows it."""

    __slots__ = ("checked", "checked_at", "copy", "name", "opened", "owner", "pack", "pid", "place", "sequence")

    def __init__(self, name: str, owner: Owner) -> None:
        self.name = name
        self.owner = owner
        self.pid = os.getpid()
        self.opened: OpenedPage | None = None
        self.pack = copy_packer(name, owner)
        self.checked: OpenedPage | None = None
        self.checked_at = -math.inf
        self.place = self.copy = self.sequence = 0


def find_page(environ: Mapping[str, str], on_loss: Callable[[], None] = lambda: None) -> StatePage | None:
    """Return the page that this process's server has named in the environment; None when it has none.

    Args:
        environ: The process's environment.
        on_loss: Called each time it is lost in some way, see :class:`StatePage`.
    """
    folder = environ.get(VARIABLE)
    return StatePage(Path(folder) / PAGE_NAME, on_loss=on_loss) if folder else None


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
