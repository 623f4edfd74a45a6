"""What an owner does with photos that are there: look, change, trash, restore, remove.

Ownership is part of every query: another owner's id finds nothing, exactly as an unknown one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Row, select, update

from app.db.base import utc_now
from app.db.engine import Database
from app.errors import NotFoundError, ValidationFailedError
from app.photos import rows
from app.photos.models import Photo
from app.photos.queries import (
    FIND,
    FIND_ORIGINALS,
    FIND_WITH_PLACE,
    LOCK,
    SHOW_STORED,
    SHOW_STORED_RENDITION,
    PhotoRow,
    Query,
)
from app.photos.removal import remove_ready
from app.photos.schemas import (
    TAGS_MAX,
    BatchDelete,
    BatchItem,
    BatchRestore,
    BatchTag,
    CheckItem,
    PhotoChanges,
)

if TYPE_CHECKING:
    from app.photos.photo_cache import KnownPhoto, PhotoCache

FoundT = TypeVar("FoundT")

Guard = Callable[[Row[Any]], None]
"""Looks at the current photo before it is changed; raises to prevent the change."""


class PhotoService:
    """An owner's photos. Thread-safe.

    Args:
        database: Where they are.
        known: What is remembered of them.
        purges: Whether copies of removed photos are purged from a CDN.
    """

    def __init__(self, database: Database, known: PhotoCache, *, purges: bool = False) -> None:
        self._database = database
        self._known = known
        self._purges = purges

    def get(self, owner_id: UUID, photo_id: UUID) -> KnownPhoto:
        """Return one photo, also from the trash.

        Raises:
            NotFoundError: Unknown, not ready, or another owner's.
        """
        return self._known.get(owner_id, photo_id)

    def get_originals(self, owner_id: UUID, photo_ids: Sequence[UUID]) -> dict[UUID, PhotoRow]:
        """Return the same of many photos, by their ids; what is not there is left out."""
        wanted = {"photo_ids": photo_ids, "owner_id": owner_id}
        found = self._database.run_read(lambda connection: connection.execute(FIND_ORIGINALS, wanted).all())
        return {row.id: row for row in found}

    def has_object(self, object_key: str) -> bool:
        """Tell whether a photo or a rendition, whoever owns it, has its bytes under a key."""
        asked = (SHOW_STORED, SHOW_STORED_RENDITION)
        return any(self._database.ask(query, {"object_key": object_key}) for query in asked)

    def check(self, owner_id: UUID, digests: Sequence[str]) -> list[CheckItem]:
        """Tell for each SHA-256 whether the owner has those bytes already."""
        keys = {rows.dedup_key(owner_id, digest): digest for digest in digests}
        query = select(Photo.dedup_key, Photo.id, Photo.trashed_at).where(Photo.dedup_key.in_(keys))
        known = self._database.run_read(lambda connection: connection.execute(query).all())
        found = {keys[row.dedup_key]: row for row in known if row.dedup_key is not None}
        return [
            CheckItem(
                digest=digest,
                photo_id=found[digest].id if digest in found else None,
                trashed_at=found[digest].trashed_at if digest in found else None,
            )
            for digest in digests
        ]

    def change(
        self, owner_id: UUID, photo_id: UUID, changes: PhotoChanges, guard: Guard, *, with_place: bool = False
    ) -> Row[Any]:
        """Change what the owner says of a photo; fields that were not sent stay.

        Args:
            owner_id: Whose photo.
            photo_id: The photo.
            changes: What was sent.
            guard: Looks at it before.
            with_place: Whether what is returned says where it was taken.

        Raises:
            NotFoundError: Unknown, not ready, or another owner's.
        """
        values: dict[str, Any] = changes.model_dump(exclude_unset=True)
        if "taken_at" in values:
            values["timeline_at"] = Photo.created_at if values["taken_at"] is None else values["taken_at"]

        def work(connection: Connection) -> Row[Any]:
            guard(_found(connection, owner_id, photo_id, LOCK))
            if values:
                _change(connection, photo_id, values)
            if "tags" in values:
                rows.retag(connection, owner_id, photo_id, values["tags"])
            return _found(connection, owner_id, photo_id, _shown(with_place=with_place))

        return self._write(owner_id, [photo_id], work)

    def delete(self, owner_id: UUID, photo_id: UUID, guard: Guard, *, is_permanent: bool) -> None:
        """Move a photo to the trash, or remove it for good.

        Raises:
            NotFoundError: Unknown, not ready, or another owner's.
        """

        def work(connection: Connection) -> None:
            guard(_found(connection, owner_id, photo_id, LOCK))
            self._delete(connection, owner_id, photo_id, is_permanent=is_permanent)

        self._write(owner_id, [photo_id], work)

    def restore(self, owner_id: UUID, photo_id: UUID, *, with_place: bool = False) -> Row[Any]:
        """Take a photo out of the trash; one that is not in it stays as it is.

        Args:
            owner_id: Whose photo.
            photo_id: The photo.
            with_place: Whether what is returned says where it was taken.

        Raises:
            NotFoundError: Unknown, not ready, or another owner's.
        """

        def work(connection: Connection) -> Row[Any]:
            _restore(connection, owner_id, photo_id)
            return _found(connection, owner_id, photo_id, _shown(with_place=with_place))

        return self._write(owner_id, [photo_id], work)

    def batch(self, owner_id: UUID, request: BatchDelete | BatchRestore | BatchTag) -> list[BatchItem]:
        """Do one thing to many photos, in one transaction; what is not there is said in its item."""

        def work(connection: Connection) -> dict[UUID, BatchItem]:
            # All photos in one order, and only then the owner's quota: two batches queue and do not block each other.
            mine = select(Photo.id).where(Photo.id.in_(request.ids), Photo.owner_id == owner_id)
            connection.execute(mine.order_by(Photo.id).with_for_update())
            return {
                photo_id: self._batch_item(connection, owner_id, photo_id, request)
                for photo_id in sorted(request.ids)
            }

        done = self._write(owner_id, request.ids, work)
        return [done[photo_id] for photo_id in request.ids]

    def _write(self, owner_id: UUID, photo_ids: Sequence[UUID], work: Callable[[Connection], FoundT]) -> FoundT:
        with self._known.changing(owner_id, photo_ids):
            return self._database.run_write(work)

    def _batch_item(
        self, connection: Connection, owner_id: UUID, photo_id: UUID, request: BatchDelete | BatchRestore | BatchTag
    ) -> BatchItem:
        try:
            match request:
                case BatchDelete():
                    self._delete(connection, owner_id, photo_id, is_permanent=request.permanent)
                    return BatchItem(id=photo_id, status=204)
                case BatchRestore():
                    _restore(connection, owner_id, photo_id)
                case BatchTag():
                    _retag(connection, owner_id, photo_id, request)
        except NotFoundError as error:
            return BatchItem(id=photo_id, status=404, detail=error.detail)
        except ValidationFailedError as error:
            return BatchItem(id=photo_id, status=422, detail=error.detail)
        return BatchItem(id=photo_id, status=200)

    def _delete(self, connection: Connection, owner_id: UUID, photo_id: UUID, *, is_permanent: bool) -> None:
        if is_permanent:
            if not remove_ready(connection, photo_id, Photo.owner_id == owner_id, purges=self._purges):
                raise _not_found()
        elif _found(connection, owner_id, photo_id, LOCK).trashed_at is None:
            _change(connection, photo_id, {"trashed_at": utc_now()})


def _shown(*, with_place: bool) -> Query:
    return FIND_WITH_PLACE if with_place else FIND


def _found(connection: Connection, owner_id: UUID, photo_id: UUID, query: Query) -> Row[Any]:
    return _only(connection.execute(query, {"photo_id": photo_id, "owner_id": owner_id}).all())


def _only(found: Sequence[FoundT]) -> FoundT:
    if not found:
        raise _not_found()
    return found[0]


def _not_found() -> NotFoundError:
    return NotFoundError("There is no such photo.")


def _change(connection: Connection, photo_id: UUID, values: dict[str, Any]) -> None:
    stamped = {**values, "version": Photo.version + 1, "updated_at": utc_now()}
    connection.execute(update(Photo).where(Photo.id == photo_id).values(stamped))


def _restore(connection: Connection, owner_id: UUID, photo_id: UUID) -> None:
    if _found(connection, owner_id, photo_id, LOCK).trashed_at is not None:
        _change(connection, photo_id, {"trashed_at": None})


def _retag(connection: Connection, owner_id: UUID, photo_id: UUID, request: BatchTag) -> None:
    row = _found(connection, owner_id, photo_id, LOCK)
    tags = [tag for tag in dict.fromkeys([*row.tags, *request.add]) if tag not in request.remove]
    if len(tags) > TAGS_MAX:
        raise ValidationFailedError(f"A photo may have at most {TAGS_MAX} tags.")
    if tags != row.tags:
        _change(connection, photo_id, {"tags": tags})
        rows.retag(connection, owner_id, photo_id, tags)


__all__ = ["Guard", "PhotoRow", "PhotoService"]
