"""Idempotency keys: the first request with a key does the work, later ones get its answer.

While the first runs, its key has no answer and lives as long as the lease of its pending photo. After that a
later request with the key takes over. Each function works in the caller's transaction.
"""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, insert, select, update

from app.db.base import utc_now
from app.errors import IdempotencyKeyReusedError, RequestInProgressError
from app.photos.models import PENDING, IdempotencyKey, Photo
from app.photos.removal import abandon_pending
from app.photos.rows import NewPhoto


def is_used(connection: Connection, owner_id: UUID, key: str) -> bool:
    """Tell whether an owner has used a key."""
    row = connection.execute(
        select(IdempotencyKey.photo_id).where(IdempotencyKey.owner_id == owner_id, IdempotencyKey.key == key)
    ).first()
    return row is not None


def earlier_answer(connection: Connection, photo: NewPhoto) -> dict[str, Any] | None:
    """Return the answer that this key has, or None when the caller must do the work.

    Raises:
        IdempotencyKeyReusedError: The key was used for another request.
        RequestInProgressError: The first request still holds its lease.
    """
    if photo.idempotency_key is None:
        return None
    mine = (IdempotencyKey.owner_id == photo.owner_id, IdempotencyKey.key == photo.idempotency_key)
    # Not locked: everybody locks photo, owner, key in this order, and a take-over locks the photo below.
    first = connection.execute(select(IdempotencyKey).where(*mine)).first()
    if first is None:
        return None
    if first.expires_at > utc_now():
        if first.fingerprint != photo.fingerprint():
            raise IdempotencyKeyReusedError(
                "This Idempotency-Key was used for another upload. Use a new key for each upload."
            )
        if first.answer is not None:
            answer: dict[str, Any] = first.answer
            return answer
        _take_over(connection, first.photo_id)
    # Only the claim that was judged: meanwhile its request may have finished, or another have taken over.
    judged = (*mine, IdempotencyKey.photo_id == first.photo_id, IdempotencyKey.expires_at == first.expires_at)
    unanswered = () if first.answer is not None else (IdempotencyKey.status.is_(None),)
    if not connection.execute(delete(IdempotencyKey).where(*judged, *unanswered)).rowcount:
        return earlier_answer(connection, photo)
    return None


def _take_over(connection: Connection, photo_id: UUID) -> None:
    if abandon_pending(connection, photo_id, Photo.lease_until < utc_now()):
        return
    pending = select(Photo.lease_until).where(Photo.id == photo_id, Photo.state == PENDING)
    lease_until = connection.execute(pending).scalar()
    if lease_until is not None:
        raise RequestInProgressError(
            "The first request with this Idempotency-Key is still running. Try again in a moment.",
            retry_after_seconds=max(1.0, (lease_until - utc_now()).total_seconds()),
        )


def claim(
    connection: Connection, photo: NewPhoto, photo_id: UUID, answer: dict[str, Any] | None, *, kept_seconds: float
) -> None:
    """Write down the key, if the request has one, with its answer if that is known already.

    Raises:
        IntegrityError: Another request claimed the key at the same time.
    """
    if photo.idempotency_key is None:
        return
    connection.execute(
        insert(IdempotencyKey).values(
            owner_id=photo.owner_id,
            key=photo.idempotency_key,
            fingerprint=photo.fingerprint(),
            photo_id=photo_id,
            status=None if answer is None else 200,
            answer=answer,
            expires_at=utc_now() + dt.timedelta(seconds=kept_seconds),
        )
    )


def complete(connection: Connection, photo: NewPhoto, photo_id: UUID, answer: dict[str, Any]) -> None:
    """Give the key of an upload its answer, if it has a key."""
    if photo.idempotency_key is None:
        return
    connection.execute(
        update(IdempotencyKey).where(IdempotencyKey.photo_id == photo_id).values(status=201, answer=answer)
    )
