"""The one way a photo leaves: its row says ``deleting`` first, its objects go through the outbox, its row last.

Its renditions go with it, before the original; one that is still being made has a later turn of its own, when no PUT
of it can be under way any more. What a maker stores after that it removes itself, see
:func:`app.photos.rendition_rows.finish`.

All functions work inside the caller's transaction, so that quota, state and outbox change together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, delete, false, not_, or_, select, update

from app.accounts import quota
from app.db import outbox
from app.db.base import utc_now
from app.photos.models import DELETING, PENDING, READY, IdempotencyKey, Photo, PhotoRendition

# A PUT whose outcome is unknown may still arrive; its object is removed after that.
_UNKNOWN_PUT_SECONDS = 60.0


def abandon_pending(connection: Connection, photo_id: UUID, *conditions: ColumnElement[bool]) -> bool:
    """Give up an upload: quota back, key free, object to be removed.

    Args:
        connection: The caller's transaction.
        photo_id: The pending photo.
        conditions: What else must hold (the lease is mine; the lease has ended).

    Returns:
        False when it is not pending any more, or a condition does not hold; nothing was changed then.
    """
    ended = (Photo.state == PENDING, *conditions)
    object_key = _start_deleting(connection, photo_id, *ended)
    if object_key is None:
        return False
    remove_stray(connection, photo_id, object_key, is_stored=False)
    connection.execute(
        delete(IdempotencyKey).where(IdempotencyKey.photo_id == photo_id, IdempotencyKey.status.is_(None))
    )
    return True


def remove_stray(connection: Connection, photo_id: UUID, object_key: str, *, is_stored: bool) -> None:
    """Have an object removed that no row names any more, perhaps before it has come.

    Args:
        connection: The caller's transaction.
        photo_id: The photo that it was to be.
        object_key: The object.
        is_stored: Whether it is there for certain; else it may still arrive.
    """
    delay_seconds = 0.0 if is_stored else _UNKNOWN_PUT_SECONDS
    outbox.add(connection, outbox.OBJECT_DELETE, photo_id, {"object_key": object_key}, delay_seconds=delay_seconds)


def remove_ready(
    connection: Connection, photo_id: UUID, *conditions: ColumnElement[bool], purges: bool = False
) -> bool:
    """Remove a ready photo for good: gone for readers at once, quota back, objects and row later.

    Args:
        connection: The caller's transaction.
        photo_id: The photo.
        conditions: What else must hold.
        purges: Whether a CDN is to be told, which may have copies.

    Returns:
        False when it is not ready, or a condition does not hold; nothing was changed then.
    """
    object_key = _start_deleting(connection, photo_id, Photo.state == READY, *conditions)
    if object_key is None:
        return False
    made, _ = _take_renditions(connection, photo_id)
    # One piece of work, so that the row is there for as long as one of the objects may be.
    outbox.add(connection, outbox.OBJECT_DELETE, photo_id, {"object_key": object_key, "renditions": made})
    if purges:
        for key in (*made, object_key):
            outbox.add(connection, outbox.CDN_PURGE, photo_id, {"object_key": key})
    outbox.add(connection, outbox.PHOTO_DELETED, photo_id, {})
    return True


def remove_old_renditions(connection: Connection, photo_id: UUID, versions: Mapping[str, str]) -> int:
    """Remove the renditions of a photo that are not what is made now, also those of sizes that are no more.

    A CDN may keep its copies: their URLs end within the hour, and the photo is its owner's as before.

    Args:
        connection: The caller's transaction.
        photo_id: The photo.
        versions: What is made now: versions by the names of the presets.

    Returns:
        How many; their objects go through the outbox.
    """
    connection.execute(select(Photo.id).where(Photo.id == photo_id).with_for_update())
    present = [and_(PhotoRendition.preset == name, PhotoRendition.version == versions[name]) for name in versions]
    made, making = _take_renditions(connection, photo_id, not_(or_(false(), *present)))
    for object_key in made:
        remove_stray(connection, photo_id, object_key, is_stored=True)
    return len(made) + making


def _take_renditions(
    connection: Connection, photo_id: UUID, *conditions: ColumnElement[bool]
) -> tuple[list[str], int]:
    """Delete rows of renditions; what is still being made is removed when its lease has ended.

    Returns:
        The keys of those that are made, whose objects are the caller's to remove; how many others there were.
    """
    columns = (PhotoRendition.object_key, PhotoRendition.state, PhotoRendition.lease_until)
    these = (PhotoRendition.photo_id == photo_id, *conditions)
    rows = connection.execute(select(*columns).where(*these).order_by(PhotoRendition.object_key)).all()
    if not rows:
        return [], 0
    connection.execute(delete(PhotoRendition).where(*these))
    made = [row.object_key for row in rows if row.state == READY]
    for row in rows:
        if row.state != READY:
            left_seconds = (row.lease_until - utc_now()).total_seconds() if row.lease_until is not None else 0.0
            delay_seconds = max(0.0, left_seconds) + _UNKNOWN_PUT_SECONDS
            payload = {"object_key": row.object_key}
            outbox.add(connection, outbox.OBJECT_DELETE, photo_id, payload, delay_seconds=delay_seconds)
    return made, len(rows) - len(made)


def _start_deleting(connection: Connection, photo_id: UUID, *conditions: ColumnElement[bool]) -> str | None:
    """Return the object's key; None when a condition does not hold."""
    row: Any = connection.execute(
        select(Photo.owner_id, Photo.size_bytes, Photo.object_key)
        .where(Photo.id == photo_id, *conditions)
        .with_for_update()
    ).first()
    if row is None:
        return None
    connection.execute(
        update(Photo)
        .where(Photo.id == photo_id)
        .values(state=DELETING, dedup_key=None, lease_token=None, lease_until=None, updated_at=utc_now())
    )
    quota.give_back(connection, row.owner_id, row.size_bytes)
    return str(row.object_key)
