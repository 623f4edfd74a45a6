"""Rows of renditions: one maker each, found when made, and fenced. Each function works in the caller's transaction.

::

    claim     row making + lease       one maker, whatever the number of processes and instances
    PUT       create-only              who finds an object under the key adopts it
    finish    row ready                only while the lease is the maker's and the photo is there

A maker that dies leaves a claim whose lease ends; the next one takes it over, and the object with it.

Claiming and finishing lock the photo's row first and then the rendition's, as the removal of a photo does: neither
waits in a circle nor writes after the photo is gone. The others touch a row by itself, one in a transaction.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, delete, insert, select, update

from app.db.base import utc_now
from app.db.prepared import PreparedSelect, Record
from app.errors import NotFoundError
from app.images.presets import Format
from app.photos.models import DONE, FAILED, MAKING, READY, WAITING, Photo, PhotoRendition
from app.photos.removal import remove_stray

PREFIX: Final = "renditions/"
"""What the object keys of all renditions begin with."""

MADE: Final = (
    PhotoRendition.photo_id,
    PhotoRendition.preset,
    PhotoRendition.format,
    PhotoRendition.version,
    PhotoRendition.object_key,
    PhotoRendition.sha256,
    PhotoRendition.size_bytes,
    PhotoRendition.width,
    PhotoRendition.height,
    PhotoRendition.created_at,
)
"""What a query selects whose rows :func:`ready_of` reads."""

_Rows: TypeAlias = "Select[*tuple[Any, ...]]"
_ANY: _Rows = select(*MADE, PhotoRendition.state, PhotoRendition.lease_until).where(
    PhotoRendition.photo_id == bindparam("photo_id"),
    PhotoRendition.preset == bindparam("preset"),
    PhotoRendition.format == bindparam("format"),
    PhotoRendition.version == bindparam("version"),
)
_ALL_OF: _Rows = select(*MADE).where(
    PhotoRendition.photo_id.in_(bindparam("photo_ids", expanding=True)), PhotoRendition.state == READY
)
_LOCK_PHOTO = select(Photo.id).where(Photo.id == bindparam("photo_id"), Photo.state == READY).with_for_update()

SHOW_RENDITION = PreparedSelect(_ANY.with_only_columns(*MADE).where(PhotoRendition.state == READY))
"""A rendition that is made, by ``photo_id``, ``preset``, ``format`` and ``version``; for :func:`ready_of`."""


class RenditionName(NamedTuple):
    """Which rendition.

    Attributes:
        photo_id: Of which photo.
        preset: In which size.
        format: Encoded in what.
        version: Made in which way; see :class:`app.images.presets.Presets`.
    """

    photo_id: UUID
    preset: str
    format: Format
    version: str

    @property
    def object_key(self) -> str:
        """Where the store has it."""
        return f"{PREFIX}{self.photo_id.hex}/{self.preset}-{self.version}.{self.format.extension}"


@dataclass(frozen=True, slots=True)
class Made:
    """The facts of a rendition's bytes.

    Attributes:
        sha256: Lower-case hex digest.
        size_bytes: How many.
        width: Pixels.
        height: Pixels.
    """

    sha256: str
    size_bytes: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Ready:
    """It is made.

    Attributes:
        name: Which one.
        object_key: Where the store has it.
        made: The facts of its bytes.
        created_at: Since when it is ready, UTC.
    """

    name: RenditionName
    object_key: str
    made: Made
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """It is the caller's to make.

    Attributes:
        name: Which one.
        lease_token: What fences every later write.
    """

    name: RenditionName
    lease_token: str

    @property
    def still_mine(self) -> tuple[ColumnElement[bool], ...]:
        """The condition that fences every write: nobody took it over."""
        return (*_is(self.name), PhotoRendition.state == MAKING, PhotoRendition.lease_token == self.lease_token)


@dataclass(frozen=True, slots=True)
class Busy:
    """Another one makes it.

    Attributes:
        until: When its lease ends, UTC.
    """

    until: dt.datetime


Claimed: TypeAlias = "Claim | Ready | Busy"


def claim(connection: Connection, name: RenditionName, lease_until: dt.datetime) -> Claimed:
    """Take a rendition to make, unless it is made or another one makes it.

    Args:
        connection: The caller's transaction.
        name: Which one.
        lease_until: Until when it is the caller's, UTC; a lease that has ended is taken over.

    Raises:
        NotFoundError: The photo is not there any more.
    """
    if not _is_photo_there(connection, name.photo_id):
        raise NotFoundError("There is no such photo.")
    found = connection.execute(_ANY, name._asdict()).first()
    now = utc_now()
    if found is not None and found.state == READY:
        return ready_of(found)
    if found is not None and found.lease_until is not None and found.lease_until > now:
        return Busy(found.lease_until)
    mine = Claim(name, secrets.token_hex(16))
    lease = {"lease_token": mine.lease_token, "lease_until": lease_until, "created_at": now}
    if found is None:
        row = {**name._asdict(), "state": MAKING, "object_key": name.object_key, **lease}
        connection.execute(insert(PhotoRendition), row)
    else:
        connection.execute(update(PhotoRendition).where(*_is(name)).values(**lease))
    return mine


def renew(connection: Connection, mine: Claim, lease_until: dt.datetime) -> bool:
    """Prolong a lease; False when it is not the caller's any more."""
    renewed = update(PhotoRendition).where(*mine.still_mine).values(lease_until=lease_until)
    return bool(connection.execute(renewed).rowcount)


def finish(connection: Connection, mine: Claim, made: Made) -> bool:
    """Say that a rendition is stored, if it is still the caller's and its photo is there.

    Returns:
        False when it is not. Its object is then removed, unless another one has the claim and with it the object.
    """
    name = mine.name
    if _is_photo_there(connection, name.photo_id):
        values = {
            "state": READY,
            "lease_token": None,
            "lease_until": None,
            "created_at": utc_now(),
            "sha256": made.sha256,
            "size_bytes": made.size_bytes,
            "width": made.width,
            "height": made.height,
        }
        if connection.execute(update(PhotoRendition).where(*mine.still_mine).values(**values)).rowcount:
            return True
        if connection.execute(_ANY, name._asdict()).first() is not None:
            return False
    remove_stray(connection, name.photo_id, name.object_key, is_stored=True)
    return False


def release(connection: Connection, mine: Claim) -> bool:
    """Give a claim back, so that the next one need not wait; False when it is not the caller's any more.

    Only where no object was sent to the store: one that was belongs to the claim, and to who takes it over.
    """
    return bool(connection.execute(delete(PhotoRendition).where(*mine.still_mine)).rowcount)


def forget(connection: Connection, lost: Ready) -> bool:
    """Drop the row of a rendition that the store has lost, so that it is made anew.

    Returns:
        False when it is another one by now, or gone.
    """
    same = (*_is(lost.name), PhotoRendition.state == READY, PhotoRendition.created_at == lost.created_at)
    return bool(connection.execute(delete(PhotoRendition).where(*same)).rowcount)


def find(connection: Connection, name: RenditionName) -> Ready | None:
    """Return a rendition that is made, or None."""
    found = connection.execute(_ANY, name._asdict()).first()
    return ready_of(found) if found is not None and found.state == READY else None


def find_all(connection: Connection, photo_ids: Sequence[UUID]) -> list[Ready]:
    """Return the renditions of many photos that are made, in every version; in no order."""
    return [ready_of(row) for row in connection.execute(_ALL_OF, {"photo_ids": photo_ids})]


def ready_of(row: Row[Any] | Record) -> Ready:
    """Return what a row of :data:`MADE` says."""
    return Ready(
        RenditionName(row.photo_id, row.preset, Format(row.format), row.version),
        row.object_key,
        Made(row.sha256, row.size_bytes, row.width, row.height),
        row.created_at,
    )


def describe(connection: Connection, photo_id: UUID, thumbhash: str, dominant_color: str) -> bool:
    """Note what a photo shows before its pixels are there; see :func:`mark_failed` for what is returned."""
    return _mark(connection, photo_id, DONE, None, thumbhash=thumbhash, dominant_color=dominant_color)


def mark_failed(connection: Connection, photo_id: UUID, code: str) -> bool:
    """Note that a photo cannot be decoded.

    Args:
        connection: The caller's transaction.
        photo_id: The photo.
        code: Why: stays the same between versions of this server, at most 40 characters.

    Returns:
        Whether that was news: its document is another one then. False, too, when it is not there any more.
    """
    return _mark(connection, photo_id, FAILED, code)


def mark_waiting(connection: Connection, photo_id: UUID) -> bool:
    """Note that a photo is to be decoded again; what is known of it stays. See :func:`mark_failed`."""
    return _mark(connection, photo_id, WAITING, None)


def _mark(connection: Connection, photo_id: UUID, state: str, error: str | None, **description: str) -> bool:
    wanted = {"processing_state": state, "processing_error": error, **description}
    columns = [getattr(Photo, name) for name in wanted]
    is_there = (Photo.id == photo_id, Photo.state == READY)
    found = connection.execute(select(*columns).where(*is_there).with_for_update()).first()
    if found is None or tuple(found) == tuple(wanted.values()):
        return False
    # No other version: that one counts what its owner says, and a change of it is not to fail because of this.
    connection.execute(update(Photo).where(Photo.id == photo_id).values(**wanted))
    return True


def _is(name: RenditionName) -> tuple[ColumnElement[bool], ...]:
    return (
        PhotoRendition.photo_id == name.photo_id,
        PhotoRendition.preset == name.preset,
        PhotoRendition.format == name.format,
        PhotoRendition.version == name.version,
    )


def _is_photo_there(connection: Connection, photo_id: UUID) -> bool:
    return connection.execute(_LOCK_PHOTO, {"photo_id": photo_id}).first() is not None
