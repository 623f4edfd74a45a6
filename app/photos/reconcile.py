"""Comparing the store with the database, both ways, with a grace time.

Objects without a row are what crashes leave behind; rows without an object are lost photos, or lost renditions, which
are made anew. A listing may lag, so that nothing is judged by it alone: an object is looked up in the database at the
moment of judging, one that a listing misses is asked for by name. What is younger than the grace time is left alone:
its upload, or its making, may still be under way.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, or_, select

from app.db.base import utc_now
from app.db.engine import Database
from app.photos import rendition_rows
from app.photos.models import READY, Photo, PhotoRendition
from app.storage.base import ObjectCorruptError, ObjectInfo, ObjectNotFoundError, ObjectStore

PREFIX = "originals/"
"""What the object keys of all photos begin with."""

_PIECE = 500


@dataclass(slots=True)
class Reconciliation:
    """What was found.

    Attributes:
        objects: How many objects were seen, originals and renditions.
        photos: How many ready photos were seen.
        renditions: How many renditions were seen that are made.
        orphans: Keys of objects that no row names, older than the grace time.
        removed: How many of those were removed.
        missing: Photos whose object is not there, is damaged in its place, or has another size.
        lost: Keys of renditions of which the same is true.
        forgotten: How many of those have no row any more, so that they are made anew.
    """

    objects: int = 0
    photos: int = 0
    renditions: int = 0
    orphans: list[str] = field(default_factory=list)
    removed: int = 0
    missing: list[UUID] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    forgotten: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left to be done."""
        return not self.missing and len(self.orphans) == self.removed and len(self.lost) == self.forgotten


def reconcile(database: Database, store: ObjectStore, *, grace_seconds: float, is_dry_run: bool) -> Reconciliation:
    """Compare both sides.

    Args:
        database: The rows.
        store: The objects.
        grace_seconds: What is younger is not judged.
        is_dry_run: Report only; else orphans are removed, and rows of lost renditions. Rows of photos never are.

    Raises:
        UnavailableError: One of the two cannot be read now; what was found until then is lost, run it again.
    """
    comparison = _Comparison(database, store, utc_now() - dt.timedelta(seconds=grace_seconds), is_dry_run=is_dry_run)
    comparison.judge_objects(PREFIX, _originals_known)
    comparison.judge_objects(rendition_rows.PREFIX, _renditions_known)
    comparison.judge_photos()
    comparison.judge_renditions()
    return comparison.found


_Known = Callable[[Connection, Sequence[str], dt.datetime], set[str]]


class _Comparison:
    def __init__(self, database: Database, store: ObjectStore, before: dt.datetime, *, is_dry_run: bool) -> None:
        self._database = database
        self._store = store
        self._before = before
        self._is_dry_run = is_dry_run
        self.found = Reconciliation()

    def judge_objects(self, prefix: str, known: _Known) -> None:
        for infos in _pieces(self._store.list(prefix)):
            self.found.objects += len(infos)
            keys = [info.key for info in infos if info.modified_at < self._before]
            with self._database.read() as connection:
                named = known(connection, keys, self._before)
            for key in keys:
                if key not in named:
                    self._note_orphan(key)

    def _note_orphan(self, key: str) -> None:
        self.found.orphans.append(key)
        if not self._is_dry_run:
            self._store.delete(key)
            self.found.removed += 1

    def judge_photos(self) -> None:
        for rows in self._ready_photos():
            self.found.photos += len(rows)
            self.found.missing += [row.id for row in rows if self._is_missing(row) and self._is_ready(row.id)]

    def judge_renditions(self) -> None:
        for rows in self._ready_renditions():
            self.found.renditions += len(rows)
            for row in rows:
                if self._is_missing(row):
                    self._note_lost(rendition_rows.ready_of(row))

    def _note_lost(self, lost: rendition_rows.Ready) -> None:
        with self._database.read() as connection:
            if rendition_rows.find(connection, lost.name) != lost:  # it was removed, or made anew
                return
        self.found.lost.append(lost.object_key)
        if self._is_dry_run:
            return
        self._store.delete(lost.object_key)  # while the row is there: the next maker would take damage for its own
        with self._database.write() as connection:
            rendition_rows.forget(connection, lost)  # or else it was removed, or made anew, just now
        self.found.forgotten += 1

    def _ready_photos(self) -> Iterator[Sequence[Any]]:
        last = UUID(int=0)
        columns = (Photo.id, Photo.object_key, Photo.size_bytes)
        while True:
            page = select(*columns).where(Photo.state == READY, Photo.id > last, Photo.created_at < self._before)
            with self._database.read() as connection:
                rows = connection.execute(page.order_by(Photo.id).limit(_PIECE)).all()
            if not rows:
                return
            yield rows
            last = rows[-1].id

    def _ready_renditions(self) -> Iterator[Sequence[Any]]:
        last = ""
        made = (PhotoRendition.state == READY, PhotoRendition.created_at < self._before)
        while True:
            page = select(*rendition_rows.MADE).where(*made, PhotoRendition.object_key > last)
            with self._database.read() as connection:
                rows = connection.execute(page.order_by(PhotoRendition.object_key).limit(_PIECE)).all()
            if not rows:
                return
            yield rows
            last = rows[-1].object_key

    def _is_missing(self, row: Any) -> bool:
        try:
            size_bytes: int = row.size_bytes
            return self._store.head(row.object_key).size_bytes != size_bytes
        except (ObjectNotFoundError, ObjectCorruptError):
            return True

    def _is_ready(self, photo_id: UUID) -> bool:
        """Tell whether a photo is still there: its owner may have removed it since its row was read."""
        ready = select(Photo.id).where(Photo.id == photo_id, Photo.state == READY)
        with self._database.read() as connection:
            return connection.execute(ready).first() is not None


def _pieces(infos: Iterable[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    iterator = iter(infos)
    while piece := list(islice(iterator, _PIECE)):
        yield piece


def _originals_known(connection: Connection, keys: Sequence[str], _before: dt.datetime) -> set[str]:
    return set(connection.execute(select(Photo.object_key).where(Photo.object_key.in_(keys))).scalars())


def _renditions_known(connection: Connection, keys: Sequence[str], before: dt.datetime) -> set[str]:
    # A claim whose lease ended before that was left by a maker that died.
    counts = or_(PhotoRendition.state == READY, PhotoRendition.lease_until >= before)
    named = select(PhotoRendition.object_key).where(PhotoRendition.object_key.in_(keys), counts)
    return set(connection.execute(named).scalars())
