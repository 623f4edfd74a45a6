"""The one way a photo leaves: its row says ``deleting`` first, its object goes through the outbox, its row last.

All functions work inside the caller's transaction, so that quota, state and outbox change together.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, delete, select, update

from app.accounts import quota
from app.db import outbox
from app.db.base import utc_now
from app.photos.models import DELETING, PENDING, READY, IdempotencyKey, Photo

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
    if _start_deleting(connection, photo_id, *ended, delay_seconds=_UNKNOWN_PUT_SECONDS) is None:
        return False
    connection.execute(
        delete(IdempotencyKey).where(IdempotencyKey.photo_id == photo_id, IdempotencyKey.status.is_(None))
    )
    return True


def remove_stray(connection: Connection, photo_id: UUID, object_key: str, *, is_stored: bool) -> None:
    """Have an object removed whose upload was given up by another process, perhaps before the object came.

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
    """Remove a ready photo for good: gone for readers at once, quota back, object and row later.

    Args:
        connection: The caller's transaction.
        photo_id: The photo.
        conditions: What else must hold.
        purges: Whether a CDN is to be told, which may have copies.

    Returns:
        False when it is not ready, or a condition does not hold; nothing was changed then.
    """
    object_key = _start_deleting(connection, photo_id, Photo.state == READY, *conditions, delay_seconds=0.0)
    if object_key is None:
        return False
    if purges:
        outbox.add(connection, outbox.CDN_PURGE, photo_id, {"object_key": object_key})
    outbox.add(connection, outbox.PHOTO_DELETED, photo_id, {})
    return True


def _start_deleting(
    connection: Connection, photo_id: UUID, *conditions: ColumnElement[bool], delay_seconds: float
) -> str | None:
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
    outbox.add(
        connection, outbox.OBJECT_DELETE, photo_id, {"object_key": row.object_key}, delay_seconds=delay_seconds
    )
    return str(row.object_key)
