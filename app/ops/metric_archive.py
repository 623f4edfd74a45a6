"""One file that holds what dead processes have counted, so that a scrape costs the same after ten thousand deaths.

Folding takes the files of the dead into the archive and removes them. It may be ended at any instant, by a kill or
a full disk, and counts nothing twice and loses nothing:

1. Under a lock, leftovers are removed: files whose names the archive says it has swallowed.
2. The new archive is written beside the old one: all totals, and the names of the files it has swallowed. A death
   here leaves the old archive and all files.
3. It takes the old one's name. From this instant on the files count as swallowed, whether they are there or not.
4. They are removed. A death here leaves them to the next folding's first step.

A reader takes the files first and the archive afterwards, and leaves out the files that this archive has swallowed:
what was folded meanwhile is in the archive, and nothing is in neither. Nothing is synced to the disk: a folder does
not outlive the boot of its host.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import orjson

from app.ops.metric_files import FileName, FileReader, Series, SeriesBook, list_files

_log = logging.getLogger(__name__)

REMEMBERED_FOLDS: Final = 16
"""For how many foldings the archive names a file that it has swallowed."""

Known: TypeAlias = tuple[FileName, FileReader]
"""A file and what was read of it."""

_NAME = "archive"
_LOCK = "archive.lock"
_HEAD = re.compile(rb"photo-api archive 1 (\d{1,15}) ([0-9a-f]{8})\n")
_HEAD_BYTES_MAX = 64
_BYTES_MAX = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive holds.

    Attributes:
        fold: Which folding made it; 0 before the first.
        swallowed: The folding that took a file in, by the file's name; the latest ones.
        damaged: How many files could not be read whole when they were taken in.
        totals: The values of counters and histograms, buckets not accumulated.
    """

    fold: int = 0
    swallowed: Mapping[str, int] = field(default_factory=dict)
    damaged: int = 0
    totals: Mapping[Series, float] = field(default_factory=dict)


class ArchiveFile:
    """The archive of one folder. Not thread-safe; several processes may use it at once.

    Args:
        folder: The server's.
        book: Knows the series.
    """

    def __init__(self, folder: Path, book: SeriesBook) -> None:
        self._folder = folder
        self._path = folder / _NAME
        self._book = book
        self._head = b""
        self._loaded = Archive()

    @property
    def loaded(self) -> Archive:
        """What was found by the last reading that found something."""
        return self._loaded

    def load(self) -> Archive:
        """Return what the archive holds now; nothing before the first folding.

        A damaged one is logged, and what was read last from here stands for it: the next folding writes that.

        Raises:
            OSError: It cannot be read. It may be later.
        """
        try:
            raw = self._changed()
        except FileNotFoundError:
            return self._loaded
        if raw is None:
            return self._loaded
        self._head = raw[:_HEAD_BYTES_MAX]
        try:
            self._loaded = self._unpacked(raw)
        except (ValueError, KeyError, TypeError):
            _log.exception("the archive of metrics is damaged: what dead workers have counted may be lost")
            self._loaded = Archive(
                self._loaded.fold, self._loaded.swallowed, self._loaded.damaged + 1, self._loaded.totals
            )
        return self._loaded

    def fold(self, readers: FileReaders, lost: Sequence[Known] = ()) -> None:
        """Take in the files of the dead, unless another process is doing so.

        Args:
            readers: What this process knows of the files.
            lost: Files that somebody removed, as they were read last; those of the dead are taken in.

        Raises:
            OSError: It did not come to its end. Whatever it has done stands, and the next one goes on.
        """
        lost = [(name, reader) for name, reader in lost if not name.owner.lives()]
        if not lost and not any(not name.owner.lives() for name in list_files(self._folder)):
            return
        with self._locked() as is_ours:
            if is_ours:
                self._fold(readers, lost)

    def _fold(self, readers: FileReaders, lost: Sequence[Known]) -> None:
        archive = self.load()
        taken, damaged, totals = [], archive.damaged, dict(archive.totals)
        for name, reader in self._left_by_dead(archive, readers, lost):
            for series, value in reader.counts():
                totals[series] = totals.get(series, 0.0) + value
            damaged += not reader.is_whole
            taken.append(name.text)
        if not taken:
            return
        fold = archive.fold + 1
        remembered = {
            text: when
            for text, when in archive.swallowed.items()
            if when > fold - REMEMBERED_FOLDS or (self._folder / text).exists()
        }
        self._write(Archive(fold, remembered | dict.fromkeys(taken, fold), damaged, totals))
        for text in taken:
            self._remove(text)

    def _left_by_dead(self, archive: Archive, readers: FileReaders, lost: Sequence[Known]) -> Iterator[Known]:
        """Yield what can be taken in; remove what counts for nothing."""
        names = list_files(self._folder)
        for name in names:
            if name.owner.lives():
                continue
            if name.text in archive.swallowed or name.is_unfinished:
                self._remove(name.text)
                continue
            reader = readers.read(name)
            if reader is not None and reader.is_readable:
                yield name, reader
        there = {name.text for name in names}
        yield from (known for known in lost if known[0].text not in archive.swallowed and known[0].text not in there)

    def _remove(self, name: str) -> None:
        with suppress(OSError):  # its name is in the archive: it counts for nothing any more
            (self._folder / name).unlink()

    def _changed(self) -> bytes | None:
        """Return the archive's bytes, None when they are those that were read last."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if os.pread(descriptor, _HEAD_BYTES_MAX, 0) == self._head:
                return None
            return os.pread(descriptor, min(os.fstat(descriptor).st_size, _BYTES_MAX), 0)
        finally:
            os.close(descriptor)

    def _unpacked(self, raw: bytes) -> Archive:
        head = _HEAD.match(raw)
        body = raw[head.end() :] if head else b""
        if head is None or zlib.crc32(body) != int(head[2], 16):
            raise ValueError("not as it was written")
        document = orjson.loads(body)
        totals = {self._book.take(key): value for key, value in document["totals"]}
        return Archive(int(head[1]), document["swallowed"], document["damaged"], totals)

    def _write(self, archive: Archive) -> None:
        body = orjson.dumps(
            {
                "swallowed": archive.swallowed,
                "damaged": archive.damaged,
                "totals": [(self._book.parts(series), value) for series, value in archive.totals.items()],
            }
        )
        head = b"photo-api archive 1 %d %08x\n" % (archive.fold, zlib.crc32(body))
        unnamed = self._folder / f"{_NAME}.new"
        descriptor = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, head + body)
        finally:
            os.close(descriptor)
        unnamed.replace(self._path)
        self._loaded, self._head = archive, (head + body)[:_HEAD_BYTES_MAX]

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)


class FileReaders:
    """The readers of all files of a folder, kept from one reading to the next. Not thread-safe.

    Args:
        folder: The server's.
        book: Knows the series.
    """

    def __init__(self, folder: Path, book: SeriesBook) -> None:
        self._folder = folder
        self._book = book
        self._readers: dict[str, Known] = {}

    def read(self, name: FileName) -> FileReader | None:
        """Read a file.

        Returns:
            Its reader; None when there is no such file any more, because it has been folded.
        """
        known = self._readers.get(name.text)
        if known is None:
            known = self._readers[name.text] = (name, FileReader(self._folder / name.text, self._book))
        reader = known[1]
        try:
            reader.read()
        except FileNotFoundError:
            return None
        return reader

    def others(self, names: Collection[str]) -> list[Known]:
        """Return the files that were read once and are not among these."""
        return [known for text, known in self._readers.items() if text not in names]

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget all files but these."""
        self._readers = {name: self._readers[name] for name in names if name in self._readers}


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
