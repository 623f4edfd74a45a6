"""Rows of photos: found, made pending, made ready, tagged. Each function works in the caller's transaction."""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, insert, select, update

from app.db.base import new_id, utc_now
from app.images.probe import ProbedImage
from app.photos.documents import COLUMNS
from app.photos.models import PENDING, READY, WAITING, Photo, PhotoPlace, PhotoTag
from app.photos.schemas import UploadForm
from app.storage.base import Body

# Written once: building these statements costs several times what the database takes to run them.
_FIND_READY = select(*COLUMNS).where(Photo.dedup_key == bindparam("wanted_dedup_key"))
_FIND_BY_ID = select(*COLUMNS).where(Photo.id == bindparam("wanted_id"))
_INSERT = insert(Photo)
_INSERT_PLACE = insert(PhotoPlace)
_MAKE_READY = (
    update(Photo)
    .where(
        Photo.id == bindparam("wanted_id"),
        Photo.state == PENDING,
        Photo.lease_token == bindparam("wanted_lease_token"),
    )
    .values(state=READY, dedup_key=bindparam("new_dedup_key"), lease_token=None, lease_until=None)
)


@dataclass(frozen=True, slots=True)
class NewPhoto:
    """An upload that has come in whole: its bytes, what they are, and what the client says of them."""

    owner_id: UUID
    body: Body
    image: ProbedImage
    form: UploadForm
    filename: str | None = None
    idempotency_key: str | None = None

    def fingerprint(self) -> str:
        """Return what makes two requests the same request: bytes, name and fields."""
        fields = self.form.model_dump_json()
        return hashlib.sha256(f"{self.body.sha256}\n{self.filename}\n{fields}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Reservation:
    """A pending row: its id, where its object goes, and the token that fences every later write."""

    photo_id: UUID
    object_key: str
    lease_token: str

    @property
    def still_mine(self) -> tuple[ColumnElement[bool], ...]:
        """The condition that fences every write: the row is this upload's, and nobody gave it up."""
        return (Photo.id == self.photo_id, Photo.state == PENDING, Photo.lease_token == self.lease_token)


def folder_of(owner_id: UUID) -> str:
    """Return what the object keys of an owner's photos begin with."""
    return f"originals/{owner_id.hex}/"


def dedup_key(owner_id: UUID, sha256: str) -> str:
    """Return what is unique among an owner's ready photos."""
    return f"{owner_id.hex}:{sha256}"


def find_ready(connection: Connection, owner_id: UUID, sha256: str) -> Row[Any] | None:
    """Return the owner's ready photo with these bytes, also from the trash, or None."""
    return connection.execute(_FIND_READY, {"wanted_dedup_key": dedup_key(owner_id, sha256)}).first()


def find_committed(connection: Connection, reservation: Reservation) -> Row[Any] | None:
    """Return the photo that a reservation has become, or None."""
    return connection.execute(select(*COLUMNS).where(Photo.id == reservation.photo_id, Photo.state == READY)).first()


def insert_pending(
    connection: Connection, photo: NewPhoto, lease_token: str, lease_until: dt.datetime
) -> Reservation:
    """Write the row of an upload that is about to be stored."""
    reservation = Reservation(new_id(), folder_of(photo.owner_id) + secrets.token_hex(16), lease_token)
    now, image = utc_now(), photo.image
    taken_at = photo.form.taken_at or image.taken_at
    connection.execute(
        _INSERT,
        {
            "id": reservation.photo_id,
            "owner_id": photo.owner_id,
            "state": PENDING,
            "version": 1,
            "object_key": reservation.object_key,
            "sha256": photo.body.sha256,
            "size_bytes": photo.body.size_bytes,
            "content_type": image.content_type,
            "width": image.width,
            "height": image.height,
            "frames": image.frames,
            "orientation": image.orientation,
            "camera": image.camera,
            "processing_state": WAITING,
            "title": photo.form.title,
            "description": photo.form.description,
            "tags": photo.form.tags,
            "favorite": False,
            "original_filename": photo.filename,
            "taken_at": taken_at,
            "timeline_at": taken_at or now,
            "created_at": now,
            "updated_at": now,
            "lease_token": lease_token,
            "lease_until": lease_until,
        },
    )
    _tag(connection, photo.owner_id, reservation.photo_id, photo.form.tags)
    _place(connection, reservation.photo_id, image)
    return reservation


def make_ready(connection: Connection, photo: NewPhoto, reservation: Reservation) -> Row[Any] | None:
    """Make a pending row visible, if it is still this upload's.

    Returns:
        The row; None when the lease was lost.

    Raises:
        IntegrityError: The owner has a ready photo with the same bytes.
    """
    committed = connection.execute(
        _MAKE_READY,
        {
            "wanted_id": reservation.photo_id,
            "wanted_lease_token": reservation.lease_token,
            "new_dedup_key": dedup_key(photo.owner_id, photo.body.sha256),
        },
    )
    if not committed.rowcount:
        return None
    return connection.execute(_FIND_BY_ID, {"wanted_id": reservation.photo_id}).one()


def retag(connection: Connection, owner_id: UUID, photo_id: UUID, tags: list[str]) -> None:
    """Make the index of tags say what the photo's ``tags`` say."""
    connection.execute(delete(PhotoTag).where(PhotoTag.photo_id == photo_id))
    _tag(connection, owner_id, photo_id, tags)


def _tag(connection: Connection, owner_id: UUID, photo_id: UUID, tags: list[str]) -> None:
    if tags:
        rows = [{"photo_id": photo_id, "owner_id": owner_id, "tag": name} for name in tags]
        connection.execute(insert(PhotoTag), rows)


def _place(connection: Connection, photo_id: UUID, image: ProbedImage) -> None:
    if image.latitude is not None and image.longitude is not None:
        row = {"photo_id": photo_id, "latitude": image.latitude, "longitude": image.longitude}
        connection.execute(_INSERT_PLACE, row)
