"""The SELECTs of single photos, written once: building a statement costs more than the database takes to run it.

Ownership is part of every one: another owner's id finds nothing, exactly as an unknown one.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from sqlalchemy import Row, Select, bindparam, select

from app.db.prepared import PreparedSelect, Record
from app.photos.documents import COLUMNS, PLACE_COLUMNS
from app.photos.models import READY, Photo, PhotoPlace, PhotoRendition

Query: TypeAlias = "Select[*tuple[Any, ...]]"
PhotoRow: TypeAlias = "Row[Any] | Record"
"""A row of one of these, whichever way it was asked for."""

FIND: Query = select(*COLUMNS).where(
    Photo.id == bindparam("photo_id"), Photo.owner_id == bindparam("owner_id"), Photo.state == READY
)
"""What becomes a document, by ``photo_id`` and ``owner_id``."""

LOCK = FIND.with_for_update()
"""The same, held until the transaction ends."""

FIND_WITH_PLACE: Query = FIND.with_only_columns(*COLUMNS, *PLACE_COLUMNS).outerjoin(PhotoPlace)
"""The same and where it was taken, for callers who may know that."""

SHOW_WHOLE = PreparedSelect(FIND_WITH_PLACE.add_columns(Photo.object_key))
"""The same and where the bytes are, for reading only."""

_ORIGINAL = (
    Photo.id,
    Photo.object_key,
    Photo.sha256,
    Photo.size_bytes,
    Photo.content_type,
    Photo.width,
    Photo.height,
    Photo.frames,
    Photo.original_filename,
    Photo.created_at,
)

FIND_ORIGINALS: Query = select(*_ORIGINAL).where(
    Photo.id.in_(bindparam("photo_ids", expanding=True)),
    Photo.owner_id == bindparam("owner_id"),
    Photo.state == READY,
)
"""What serving the bytes of many photos needs, and no more, by ``photo_ids`` and ``owner_id``; in no order."""

SHOW_STORED = PreparedSelect(
    select(Photo.id).where(Photo.object_key == bindparam("object_key"), Photo.state == READY)
)
"""Whether a photo has its bytes under ``object_key``, whoever owns it."""

SHOW_STORED_RENDITION = PreparedSelect(
    select(PhotoRendition.photo_id).where(
        PhotoRendition.object_key == bindparam("object_key"), PhotoRendition.state == READY
    )
)
"""Whether a rendition has its bytes there."""
