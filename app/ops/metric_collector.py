"""All processes of a server together: what their files and the archive of the dead hold, as metrics.

``prometheus_client`` has a collector for several processes, but it keeps and reads the files of all that ever died,
fails over one that is damaged, and counts twice where a process id comes again. This one does not.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.utils import floatToGoString

from app.ops.metric_archive import REMEMBERED_FOLDS, Archive, ArchiveFile, FileReaders, Known
from app.ops.metric_files import FileName, FileReader, Series, SeriesBook, list_files

_log = logging.getLogger(__name__)

_TRIES = 5
_BUCKET: Final = "le"


@dataclass(frozen=True, slots=True)
class Collected:
    """What one reading of the folder has found.

    Attributes:
        families: The metrics; none when no process could make a file.
        damaged: How many files could not be read whole, since the folder was made.
        living: The files whose owners live, in the order of their starts.
    """

    families: list[Metric]
    damaged: int
    living: list[FileName]


class FolderCollector:
    """Reads the folder of one server. Thread-safe.

    Args:
        folder: Where the processes keep their files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._book = SeriesBook()
        self._archive = ArchiveFile(folder, self._book)
        self._readers = FileReaders(folder, self._book)
        self._lock = threading.Lock()
        self._seen_damaged: set[str] = set()
        self._damaged = 0
        self._is_gone = False
        self._hindered_by = ""
        self._lost: list[Known] = []
        self._read_fold = 0

    def fold(self, *, from_files: int = 1) -> None:
        """Take the files of dead processes into the archive. What goes wrong is logged, and the next one goes on.

        Args:
            from_files: Only when so many have died since the last one.
        """
        with self._lock:
            self._fold(from_files)

    def collect(self) -> Collected:
        """Return everything together. Damaged files are skipped and counted; a folder that is gone has none."""
        with self._lock:
            self._fold(1)
            archive, found = self._read()
            present = [(name, reader) for name, reader in found if name.text not in archive.swallowed]
            self._lost = self._find_lost(archive, {name.text for name, _ in found})
            self._readers.keep_only([name.text for name, _ in (*present, *self._lost)])
            living = [(name, reader) for name, reader in present if name.owner.lives()]
            living.sort(key=lambda pair: pair[0].owner.started)
            counted = [*present, *self._lost]
            gauges = _across_processes(reader for _, reader in living)
            families = _families(gauges, _totals(archive, [reader for _, reader in counted]), self._book)
            return Collected(families, self._count_damaged(archive, counted), [name for name, _ in living])

    def _fold(self, from_files: int) -> None:
        try:
            dead = [name for name in self._listed() if not name.owner.lives()]
            if len(dead) >= from_files or self._lost:
                self._archive.fold(self._readers, self._lost)
                self._hindered_by = ""
        except OSError as error:
            reason = str(error.strerror)
            if reason != self._hindered_by:
                _log.warning("dead workers' metrics stay in files of their own (%s): scrapes take longer", reason)
            self._hindered_by = reason

    def _read(self) -> tuple[Archive, list[tuple[FileName, FileReader]]]:
        # Files first: what is folded while they are read is named in the archive that is read afterwards.
        for _ in range(_TRIES):
            before = self._loaded().fold
            names = [name for name in self._listed() if not name.is_unfinished]
            found = [(name, reader) for name in names if (reader := self._readers.read(name)) is not None]
            archive = self._loaded()
            if archive.fold - before < REMEMBERED_FOLDS:
                break
        return archive, found

    def _find_lost(self, archive: Archive, there: set[str]) -> list[Known]:
        """Return the files that have gone and were not folded: what was read of them last stands for them.

        When so many were folded since the last reading that names have been forgotten, what has gone was folded.
        """
        knows = archive.fold - self._read_fold < REMEMBERED_FOLDS
        self._read_fold = archive.fold
        gone = self._readers.others(there | archive.swallowed.keys()) if knows else []
        for name, reader in gone:
            if all(name is not known for known, _ in self._lost):
                _log.warning("somebody removed the metrics file %s: what it said last counts on", name.text)
            reader.is_whole = False
        return gone

    def _listed(self) -> list[FileName]:
        try:
            return list_files(self._folder)
        except OSError as error:
            if not self._is_gone:
                _log.warning("the folder of metrics cannot be read (%s): nothing can be counted together", error)
            self._is_gone = True
            return []

    def _loaded(self) -> Archive:
        try:
            return self._archive.load()
        except OSError:
            return self._archive.loaded

    def _count_damaged(self, archive: Archive, present: Iterable[tuple[FileName, FileReader]]) -> int:
        self._seen_damaged |= {name.text for name, reader in present if not reader.is_whole}
        self._seen_damaged &= {name.text for name, _ in present}
        self._damaged = max(self._damaged, archive.damaged + len(self._seen_damaged))
        return self._damaged


def _across_processes(readers: Iterable[FileReader]) -> dict[Series, float]:
    """Return each gauge as one value: the sum, the least, the greatest or the latest of the processes'."""
    together: dict[Series, float] = {}
    latest: dict[Series, float] = {}
    for reader in readers:
        for series, value, set_at in reader.gauges():
            known = together.get(series)
            if series.across.endswith("sum"):
                together[series] = value + (known or 0.0)
            elif known is None:
                together[series], latest[series] = value, set_at
            elif series.across.endswith("min"):
                together[series] = min(known, value)
            elif series.across.endswith("max"):
                together[series] = max(known, value)
            elif set_at > latest[series]:
                together[series], latest[series] = value, set_at
    return together


def _totals(archive: Archive, readers: Iterable[FileReader]) -> dict[Series, float]:
    totals = dict(archive.totals)
    for reader in readers:
        for series, value in reader.counts():
            totals[series] = totals.get(series, 0.0) + value
    return totals


def _families(gauges: dict[Series, float], totals: dict[Series, float], book: SeriesBook) -> list[Metric]:
    families: dict[str, Metric] = {}
    histograms: dict[str, dict[tuple[tuple[str, str], ...], _Distribution]] = {}
    for series, value in (*gauges.items(), *totals.items()):
        family = families.get(series.family)
        if family is None:
            family = families[series.family] = Metric(series.family, book.meanings[series.family], series.kind)
        if family.type != series.kind:
            continue  # a newer program means something else by the name: a name has one meaning in a scrape
        if series.kind == "histogram":
            rows = histograms.setdefault(series.family, {})
            rest = tuple(pair for pair in series.labels if pair[0] != _BUCKET)
            rows.setdefault(rest, _Distribution()).take(series, value)
        else:
            family.add_sample(series.sample, dict(series.labels), value)
    for name, rows in histograms.items():
        for labels, distribution in rows.items():
            for sample, more, value in distribution.samples():
                families[name].add_sample(name + sample, {**dict(labels), **more}, value)
    return list(families.values())


class _Distribution:
    """One histogram: its buckets are accumulated when all are there."""

    def __init__(self) -> None:
        self._buckets: dict[float, float] = {}
        self._sum = 0.0

    def take(self, series: Series, value: float) -> None:
        bound = next((text for name, text in series.labels if name == _BUCKET), None)
        if bound is None:
            self._sum = value
        else:
            self._buckets[float(bound)] = value

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        count = 0.0
        for bound, value in sorted(self._buckets.items()):
            count += value
            yield "_bucket", {_BUCKET: _text(bound)}, count
        yield "_count", {}, count
        yield "_sum", {}, self._sum


def _text(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]  # it has no annotations
    return text
