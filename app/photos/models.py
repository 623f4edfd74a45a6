"""The tables of photos: the photos, where they were taken, their tags and renditions, and idempotency keys.

A photo's life::

    pending ──commit──▶ ready ──permanent delete──▶ deleting ──object gone──▶ (no row)
       └──failed or lease ended──────────────────────▲

``pending`` rows hold a lease that the uploading worker renews; readers see ``ready`` rows only. Trash is a
time on a ready photo. ``dedup_key`` is set while the photo is ready and unique, which judges duplicates.

A rendition is ``making`` under a lease, then ``ready`` for good. Its queries are :mod:`app.photos.rendition_rows`'s.
"""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Double, ForeignKey, Index, String, Text, Uuid, and_, column
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, UtcDateTime

PENDING = "pending"
READY = "ready"
DELETING = "deleting"

WAITING = "waiting"
DONE = "done"
FAILED = "failed"

MAKING = "making"

_is_visible = and_(column("state") == READY, column("trashed_at").is_(None))
_is_trashed = and_(column("state") == READY, column("trashed_at").is_not(None))
_is_pending = column("state") == PENDING


class Photo(Base):
    """One photo: the facts of its object, and what its owner says about it."""

    __tablename__ = "photos"
    __table_args__ = (
        Index(
            "ix_photos_visible_created", "owner_id", "created_at", "id",
            postgresql_where=_is_visible, sqlite_where=_is_visible,
        ),
        Index(
            "ix_photos_visible_timeline", "owner_id", "timeline_at", "id",
            postgresql_where=_is_visible, sqlite_where=_is_visible,
        ),
        Index(
            "ix_photos_trashed", "owner_id", "created_at", "id",
            postgresql_where=_is_trashed, sqlite_where=_is_trashed,
        ),
        Index("ix_photos_trashed_at", "trashed_at", postgresql_where=_is_trashed, sqlite_where=_is_trashed),
        Index("ix_photos_lease_until", "lease_until", postgresql_where=_is_pending, sqlite_where=_is_pending),
    )  # fmt: skip

    id: Mapped[UUID] = mapped_column(primary_key=True)
    # Its type is said here: a statement built before the accounts are imported would have none.
    owner_id: Mapped[UUID] = mapped_column(Uuid, ForeignKey("users.id"))
    state: Mapped[str] = mapped_column(String(10))
    version: Mapped[int]
    """Grows with every change; the ETag is made of it."""

    object_key: Mapped[str] = mapped_column(String(200), unique=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    content_type: Mapped[str] = mapped_column(String(40))
    dedup_key: Mapped[str | None] = mapped_column(String(100), unique=True)

    width: Mapped[int]
    height: Mapped[int]
    frames: Mapped[int]
    orientation: Mapped[int]
    camera: Mapped[str | None] = mapped_column(String(128))
    thumbhash: Mapped[str | None] = mapped_column(String(36))
    dominant_color: Mapped[str | None] = mapped_column(String(7))
    processing_state: Mapped[str] = mapped_column(String(10), server_default=WAITING)
    """``waiting`` to be decoded, ``done``, or ``failed``."""

    processing_error: Mapped[str | None] = mapped_column(String(40))
    """Why it failed: a code that stays the same, such as ``undecodable``; null else."""

    title: Mapped[str | None] = mapped_column(String(200))
    description: Mapped[str | None] = mapped_column(Text)
    tags: Mapped[list[str]] = mapped_column(JSON)
    favorite: Mapped[bool]
    original_filename: Mapped[str | None] = mapped_column(String(255))
    taken_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    timeline_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    """``taken_at``, or ``created_at`` where that is unknown: never null, so that it sorts and pages."""

    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    trashed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_until: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class PhotoPlace(Base):
    """Where a photo was taken, WGS 84. Apart from the photo: most queries have no business with it."""

    __tablename__ = "photo_places"

    photo_id: Mapped[UUID] = mapped_column(ForeignKey("photos.id", ondelete="CASCADE"), primary_key=True)
    latitude: Mapped[float] = mapped_column(Double)
    longitude: Mapped[float] = mapped_column(Double)


class PhotoRendition(Base):
    """One rendition: being made by who holds its lease, or made."""

    __tablename__ = "photo_renditions"

    photo_id: Mapped[UUID] = mapped_column(ForeignKey("photos.id", ondelete="CASCADE"), primary_key=True)
    preset: Mapped[str] = mapped_column(String(20), primary_key=True)
    format: Mapped[str] = mapped_column(String(10), primary_key=True)
    version: Mapped[str] = mapped_column(String(10), primary_key=True)
    state: Mapped[str] = mapped_column(String(10))
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_until: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    object_key: Mapped[str] = mapped_column(String(200), unique=True)
    sha256: Mapped[str | None] = mapped_column(String(64))
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    width: Mapped[int | None]
    height: Mapped[int | None]
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    """Since when it is ready, or for how long somebody has tried."""


class PhotoTag(Base):
    """Which photos carry a tag; the photo's own ``tags`` are the same, in the owner's order."""

    __tablename__ = "photo_tags"
    __table_args__ = (Index("ix_photo_tags_owner_tag", "owner_id", "tag", "photo_id"),)

    photo_id: Mapped[UUID] = mapped_column(ForeignKey("photos.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(50), primary_key=True)
    owner_id: Mapped[UUID]


class IdempotencyKey(Base):
    """The first use of a key: which request, and its answer once there is one.

    While ``status`` is null the request runs, under the lease of its pending photo.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        Index("ix_idempotency_keys_expires_at", "expires_at"),
        Index("ix_idempotency_keys_photo_id", "photo_id"),
    )

    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    photo_id: Mapped[UUID]
    status: Mapped[int | None]
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    expires_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
