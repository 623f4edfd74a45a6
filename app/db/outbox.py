"""The outbox: work and news written in the same transaction as the change they follow from.

``object.delete`` is the product's own work: the maintenance thread removes the object, then the photo's row. So is
``cdn.purge``: it has a CDN drop its copies, at least once after the object is gone. The other kinds are news for
others; they are kept for a while and then dropped when nobody fetches them.

``photo.render`` is work, too: a photo's renditions and its description are to be made.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, Connection, Index, String, insert
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, SequenceId, UtcDateTime, utc_now

OBJECT_DELETE = "object.delete"
CDN_PURGE = "cdn.purge"
PHOTO_RENDER = "photo.render"
PHOTO_READY = "photo.ready"
PHOTO_DELETED = "photo.deleted"


class OutboxRow(Base):
    """One piece of work or news, in the order in which it was written."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_kind_available_at", "kind", "available_at"),)

    id: Mapped[int] = mapped_column(SequenceId, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(30))
    photo_id: Mapped[UUID]
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    available_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(default=0)


_INSERT = insert(OutboxRow)


def add(
    connection: Connection, kind: str, photo_id: UUID, payload: Mapping[str, Any], *, delay_seconds: float = 0.0
) -> None:
    """Write one row inside the caller's transaction.

    Args:
        connection: The transaction that makes the change.
        kind: One of the constants above.
        photo_id: The photo that it is about.
        payload: What the reader needs, JSON.
        delay_seconds: How long it must not be acted on.
    """
    now = utc_now()
    connection.execute(
        _INSERT,
        {
            "kind": kind,
            "photo_id": photo_id,
            "payload": dict(payload),
            "created_at": now,
            "available_at": now + dt.timedelta(seconds=delay_seconds),
            "attempts": 0,
        },
    )
