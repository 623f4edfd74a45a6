"""The files in which a server's processes keep their metrics: layout, names, and reading without trust.

Every process has one file of its own in the server's folder, which only it writes (:mod:`app.ops.metric_values`)
and which is read by whoever is scraped. Little-endian, everything at a multiple of eight bytes::

    0    8  ``PAMETRIC``
    8    8  how many bytes are in use, from the beginning of the file
    16   …  entries, each:
            4  length of the key     4  CRC-32 of the key
            …  key: JSON ``[kind, across, family, sample, help, [[label, value], …]]``, blanks up to a multiple of 8
            8  value, a double       8  when it was set, UNIX seconds; 0 where nobody asks

An entry is written before the length in use covers it, and a value is stored by one aligned store of eight bytes:
a process that is killed at any instant leaves the old value or the new one. Whatever else is found was not written
by us. It is skipped and counted, and what was read of it before remains.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter, le
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import orjson

from app.ops.owners import Owner, find_owner

Role: TypeAlias = Literal["worker", "management"]
"""What the process that owns a file does."""

MAGIC: Final = b"PAMETRIC"
HEADER: Final = struct.Struct("<8sQ")
ENTRY: Final = struct.Struct("<II")
VALUE: Final = struct.Struct("<dd")
WORD_BYTES: Final = 8
"""All offsets are multiples of this."""

_USED_BYTES_MAX = 64 * 1024 * 1024
_KINDS = ("counter", "gauge", "histogram")
_INFINITY = float("inf")
_NAME = re.compile(rf"({'|'.join(get_args(Role))})-(\d{{1,9}})-(\d{{1,19}})-[0-9a-f]{{8}}\.values(\.new)?")


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One series. There is one object for it, whichever files it is in: see :class:`SeriesBook`.

    Attributes:
        kind: ``counter``, ``gauge`` or ``histogram``.
        across: How a gauge's values of several processes become one, for example ``livesum``; empty for others.
        family: The metric's name, without ``_total`` and the endings of histograms.
        sample: The name with its ending.
        labels: In order.
    """

    kind: str
    across: str
    family: str
    sample: str
    labels: tuple[tuple[str, str], ...]

    @property
    def is_gauge(self) -> bool:
        """Whether its values belong to processes that live, and are not added up over those that do not."""
        return self.kind == "gauge"


class SeriesBook:
    """Finds the series that a key names. Keys are parsed once, however many files they are in. Not thread-safe."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Series] = {}
        self._known: dict[tuple[object, ...], Series] = {}
        self._meanings: dict[str, str] = {}

    @property
    def meanings(self) -> Mapping[str, str]:
        """What each family means, by its name."""
        return self._meanings

    def find(self, key: bytes, checksum: int) -> Series:
        """Return the series of a key.

        Args:
            key: As in a file, without the blanks behind it.
            checksum: What its CRC-32 should be.

        Raises:
            ValueError: It is not a key of ours.
        """
        series = self._by_key.get(key)
        if series is None:
            if zlib.crc32(key) != checksum:
                raise ValueError("the key is damaged")
            series = self._by_key[key] = self.take(orjson.loads(key))
        return series

    def take(self, parts: Any) -> Series:
        """Return the series of a parsed key.

        Raises:
            ValueError: It is not a key of ours.
        """
        try:
            *words, pairs = parts
            kind, across, family, sample, meaning = map(str, words)
            labels = tuple((str(name), str(value)) for name, value in pairs)
        except TypeError as error:
            raise ValueError("not a key") from error
        if kind not in _KINDS:
            raise ValueError("not a kind of metric")
        self._meanings[family] = meaning
        identity = (kind, across, family, sample, labels)
        series = self._known.get(identity)
        if series is None:
            series = self._known[identity] = Series(kind, across, family, sample, labels)
        return series

    def parts(self, series: Series) -> list[Any]:
        """Return what :meth:`take` takes."""
        meaning = self._meanings[series.family]
        return [series.kind, series.across, series.family, series.sample, meaning, series.labels]


@dataclass(frozen=True, slots=True)
class FileName:
    """The name of a process's file.

    Attributes:
        text: As in the folder.
        role: What its owner does.
        owner: The process, told apart from all others that had or will have its number.
        is_unfinished: It was never given its name: its owner is about to do so, or has died before.
    """

    text: str
    role: str
    owner: Owner
    is_unfinished: bool


def file_name(role: Role, owner: Owner, token: str) -> str:
    """Return the name of a new file.

    Args:
        role: What its owner does.
        owner: The process.
        token: Eight hexadecimal digits by chance: no name comes twice, even where the system tells no start times.
    """
    return f"{role}-{owner.pid}-{owner.started}-{token}.values"


def list_files(folder: Path) -> list[FileName]:
    """Return the names of the processes' files in a folder, sorted; others are none of ours.

    Raises:
        OSError: The folder cannot be read.
    """
    boot = find_owner(os.getpid()).boot  # a server's folder does not outlive the boot
    found = []
    for text in sorted(path.name for path in folder.iterdir()):
        match = _NAME.fullmatch(text)
        if match:
            role, pid, started, unfinished = match.groups()
            found.append(FileName(text, role, Owner(int(pid), int(started), boot), bool(unfinished)))
    return found


@dataclass(slots=True)
class _Column:
    """The values of one file that are judged in the same way."""

    series: list[Series] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, series: Series, word: int) -> None:
        self.series.append(series)
        self.words.append(word)
        self.values.append(0.0)

    def picked(self, words: memoryview[float]) -> list[float]:
        if len(self.words) > 1:
            return list(itemgetter(*self.words)(words))
        return [words[word] for word in self.words]


class FileReader:
    """Reads one file again and again, and trusts nothing in it. Not thread-safe.

    Args:
        path: The file.
        book: Knows the series.

    Attributes:
        is_whole: Whether everything that was found so far made sense.
        is_readable: Whether the last attempt met no error of the system, which may pass.
    """

    def __init__(self, path: Path, book: SeriesBook) -> None:
        self._path = path
        self._book = book
        self._parsed_bytes = HEADER.size
        self._counts = _Column()
        self._gauges = _Column()
        self._set_at: list[float] = []
        self.is_whole = True
        self.is_readable = True

    def read(self) -> None:
        """Read the file. What makes no sense in it keeps the value it had before.

        Raises:
            FileNotFoundError: There is none any more.
        """
        try:
            is_sound = self._read() or self._read()  # once more: its owner may have been writing just then
            self.is_readable = True
        except FileNotFoundError:
            raise
        except OSError:
            is_sound = self.is_readable = False
        self.is_whole = self.is_whole and is_sound

    def counts(self) -> Iterator[tuple[Series, float]]:
        """Yield the values of counters and histograms, buckets not accumulated."""
        return zip(self._counts.series, self._counts.values, strict=True)

    def gauges(self) -> Iterator[tuple[Series, float, float]]:
        """Yield the values of gauges and when they were set, UNIX seconds or 0."""
        return zip(self._gauges.series, self._gauges.values, self._set_at, strict=True)

    def _read(self) -> bool:
        raw = _bytes_in_use(self._path)
        if raw is None or len(raw) < self._parsed_bytes:
            return False
        is_sound = self._take_entries(raw)
        return self._take_values(memoryview(raw).cast("d")) and is_sound

    def _take_entries(self, raw: bytes) -> bool:
        while self._parsed_bytes < len(raw):
            start = self._parsed_bytes + ENTRY.size
            if start > len(raw):
                return False
            length, checksum = ENTRY.unpack_from(raw, self._parsed_bytes)
            value_at = start + length + -length % WORD_BYTES
            end = value_at + VALUE.size
            if end > len(raw):
                return False
            try:
                series = self._book.find(raw[start : start + length], checksum)
            except ValueError:
                return False
            (self._gauges if series.is_gauge else self._counts).add(series, value_at // WORD_BYTES)
            self._parsed_bytes = end
        return True

    def _take_values(self, words: memoryview[float]) -> bool:
        gauges = self._gauges.picked(words)
        self._set_at = [words[word + 1] for word in self._gauges.words]
        counts, before = self._counts.picked(words), self._counts.values
        if all(map(le, before, counts)) and max(counts, default=0.0) < _INFINITY and _are_finite(gauges):
            self._counts.values, self._gauges.values = counts, gauges
            return True
        # A count that is no number or has fallen was not written by its owner.
        self._counts.values = [
            new if old <= new < _INFINITY else old for old, new in zip(before, counts, strict=True)
        ]
        self._gauges.values = [
            new if -_INFINITY < new < _INFINITY else old for old, new in zip(self._gauges.values, gauges, strict=True)
        ]
        return False


def _are_finite(values: list[float]) -> bool:
    return all(-_INFINITY < value < _INFINITY for value in values)


def _bytes_in_use(path: Path) -> bytes | None:
    """Return what is in use of a file, at its time of reading; None for what is no file of ours.

    Never by mapping it: whoever cuts a mapped file short kills its readers.
    """
    # A link leads out of the folder, and opening a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        header = os.pread(descriptor, HEADER.size, 0)
        if len(header) < HEADER.size:
            return None
        magic, used = HEADER.unpack(header)
        if magic != MAGIC or used % WORD_BYTES or not HEADER.size <= used <= _USED_BYTES_MAX:
            return None
        raw = os.pread(descriptor, used, 0)
    finally:
        os.close(descriptor)
    return raw if len(raw) == used else None
