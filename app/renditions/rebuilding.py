"""Queueing photos anew: another size was configured, an extra installed, or a release decodes more.

The work itself is the relay's (:mod:`app.renditions.relay`), behind everybody who waits for a picture. To queue a
photo twice does no harm: what is there already is not made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, func, select

from app.db import outbox
from app.db.engine import Database
from app.errors import NotFoundError
from app.images.presets import Presets
from app.photos import rendition_rows
from app.photos.models import FAILED, READY, Photo, PhotoRendition
from app.photos.removal import remove_old_renditions

_PIECE: Final = 100


@dataclass(slots=True)
class Rebuild:
    """What was done, or would be.

    Attributes:
        photos: How many were queued.
        removed: How many renditions of earlier versions are removed.
    """

    photos: int = 0
    removed: int = 0


def rebuild(
    database: Database, presets: Presets, *, only_failed: bool, photo_id: UUID | None, is_dry_run: bool
) -> Rebuild:
    """Queue photos, and remove their renditions of earlier versions.

    Args:
        database: Photos and the outbox.
        presets: The versions that count now.
        only_failed: Leave out photos that can be decoded.
        photo_id: The only photo; None for all.
        is_dry_run: Count only.

    Raises:
        NotFoundError: There is no such photo, or none that has failed.
        DatabaseUnavailableError: What was queued so far stays so; run it again.
    """
    versions = {preset.name: presets.version(preset.name) for preset in presets}
    done = Rebuild()
    for piece in _pieces(database, photo_id, only_failed=only_failed):
        done.photos += len(piece)
        for each in piece:
            done.removed += _old(database, each, versions) if is_dry_run else _queue(database, each, versions)
    if photo_id is not None and not done.photos:
        raise NotFoundError("There is no such photo that has failed." if only_failed else "There is no such photo.")
    return done


def _queue(database: Database, photo_id: UUID, versions: Mapping[str, str]) -> int:
    def work(connection: Connection) -> int:
        rendition_rows.mark_waiting(connection, photo_id)
        removed = remove_old_renditions(connection, photo_id, versions)
        outbox.add(connection, outbox.PHOTO_RENDER, photo_id, {})
        return removed

    return database.run_write(work)


def _old(database: Database, photo_id: UUID, versions: Mapping[str, str]) -> int:
    columns = (PhotoRendition.preset, PhotoRendition.version, func.count())
    counted = select(*columns).where(PhotoRendition.photo_id == photo_id)
    with database.read() as connection:
        rows = connection.execute(counted.group_by(PhotoRendition.preset, PhotoRendition.version)).all()
    return sum(count for preset, version, count in rows if versions.get(preset) != version)


def _pieces(database: Database, photo_id: UUID | None, *, only_failed: bool) -> Iterator[Sequence[UUID]]:
    last = UUID(int=0)
    wanted = [Photo.state == READY]
    if only_failed:
        wanted.append(Photo.processing_state == FAILED)
    if photo_id is not None:
        wanted.append(Photo.id == photo_id)
    while True:
        page = select(Photo.id).where(*wanted, Photo.id > last).order_by(Photo.id).limit(_PIECE)
        with database.read() as connection:
            ids = connection.execute(page).scalars().all()
        if not ids:
            return
        yield ids
        last = ids[-1]
