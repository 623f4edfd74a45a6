"""Comparing the store with the database, both ways, with a grace time.

Objects without a row are what crashes leave behind; rows without an object are lost photos. A listing may lag,
so that nothing is judged by it alone: an object is looked up in the database at the moment of judging, a photo
that a listing misses is asked for by name. What is younger than the grace time is left alone: its upload may
still be under way.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

from sqlalchemy import Row, select

from app.db.base import utc_now
from app.db.engine import Database
from app.photos.models import READY, Photo
from app.storage.base import ObjectCorruptError, ObjectInfo, ObjectNotFoundError, ObjectStore

PREFIX = "originals/"
_PIECE = 500


@dataclass(slots=True)
class Reconciliation:
    """What was found.

    Attributes:
        objects: How many objects were seen.
        photos: How many ready photos were seen.
        orphans: Keys of objects that no row names, older than the grace time.
        removed: How many of those were removed.
        missing: Photos whose object is not there, is damaged in its place, or has another size.
    """

    objects: int = 0
    photos: int = 0
    orphans: list[str] = field(default_factory=list)
    removed: int = 0
    missing: list[UUID] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left to be done."""
        return not self.missing and len(self.orphans) == self.removed


def reconcile(database: Database, store: ObjectStore, *, grace_seconds: float, is_dry_run: bool) -> Reconciliation:
    """Compare both sides.

    Args:
        database: The rows.
        store: The objects.
        grace_seconds: What is younger is not judged.
        is_dry_run: Report only; else orphans are removed. Rows are never removed.

    Raises:
        UnavailableError: One of the two cannot be read now; what was found until then is lost, run it again.
    """
    found = Reconciliation()
    before = utc_now() - dt.timedelta(seconds=grace_seconds)
    for infos in _pieces(store.list(PREFIX)):
        found.objects += len(infos)
        for key in _without_row(database, [info for info in infos if info.modified_at < before]):
            found.orphans.append(key)
            if not is_dry_run:
                store.delete(key)
                found.removed += 1
    for rows in _ready_photos(database, before):
        found.photos += len(rows)
        found.missing += [row.id for row in rows if _is_missing(store, row) and _is_ready(database, row.id)]
    return found


def _pieces(infos: Iterable[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    iterator = iter(infos)
    while piece := list(islice(iterator, _PIECE)):
        yield piece


def _without_row(database: Database, infos: Sequence[ObjectInfo]) -> list[str]:
    keys = [info.key for info in infos]
    with database.read() as connection:
        known = set(connection.execute(select(Photo.object_key).where(Photo.object_key.in_(keys))).scalars())
    return [key for key in keys if key not in known]


def _ready_photos(database: Database, before: dt.datetime) -> Iterator[Sequence[Row[UUID, str, int]]]:
    last = UUID(int=0)
    columns = (Photo.id, Photo.object_key, Photo.size_bytes)
    while True:
        with database.read() as connection:
            page = select(*columns).where(Photo.state == READY, Photo.id > last, Photo.created_at < before)
            rows = connection.execute(page.order_by(Photo.id).limit(_PIECE)).all()
        if not rows:
            return
        yield rows
        last = rows[-1].id


def _is_missing(store: ObjectStore, row: Row[UUID, str, int]) -> bool:
    try:
        size_bytes: int = row.size_bytes
        return store.head(row.object_key).size_bytes != size_bytes
    except (ObjectNotFoundError, ObjectCorruptError):
        return True


def _is_ready(database: Database, photo_id: UUID) -> bool:
    """Tell whether a photo is still there: its owner may have removed it since its row was read."""
    with database.read() as connection:
        return (
            connection.execute(select(Photo.id).where(Photo.id == photo_id, Photo.state == READY)).first() is not None
        )
