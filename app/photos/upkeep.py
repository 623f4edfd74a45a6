"""The tasks of the maintenance thread: what uploads, deletes and closed accounts leave to be done.

Each does a bounded piece, fences its own writes, and may run twice at once without harm.
"""

from __future__ import annotations

import datetime as dt
import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, exists, func, select, update
from sqlalchemy.orm import InstrumentedAttribute

from app.accounts.models import User
from app.db.base import utc_now
from app.db.engine import Database
from app.db.outbox import CDN_PURGE, OBJECT_DELETE, PHOTO_DELETED, PHOTO_READY, PHOTO_RENDER, OutboxRow
from app.photos.models import DELETING, PENDING, READY, IdempotencyKey, Photo
from app.photos.removal import abandon_pending, remove_ready
from app.stability import CallRefusedError, DeadlineExceededError, Pipeline
from app.storage.base import ObjectStore, StorageError

_log = logging.getLogger(__name__)

_PIECE = 200
_FORGOTTEN_PIECE = 10_000
_BACKOFF_SECONDS_MAX = 300.0
_NEWS_KEPT = dt.timedelta(days=7)


class UpkeepObserver(Protocol):
    """Who hears of upkeep. Must not raise."""

    def uploads_reaped(self, count: int) -> None:
        """So many unfinished uploads were cleaned up."""
        ...

    def outbox_depth(self, pending: int, oldest_age_seconds: float) -> None:
        """So many deletes wait, the oldest for so long."""
        ...

    def renders_due(self, count: int) -> None:
        """So many photos are due to be decoded and wait for it."""
        ...


Changing: TypeAlias = Callable[[UUID, Sequence[UUID]], AbstractContextManager[None]]
"""Surrounds a change of an owner's photos; see :class:`app.photos.photo_cache.PhotoCache`."""


class PhotoUpkeep:
    """The tasks. Thread-safe.

    Args:
        database: Photos, keys and the outbox.
        store: Where objects are removed.
        relay: What each piece of the outbox's work runs through.
        trash_days: How long a photo stays in the trash.
        observer: Who hears of it.
        changing: Surrounds the removal of an owner's photos.
        purges: Whether copies of removed photos are purged from a CDN.
    """

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        relay: Pipeline,
        *,
        trash_days: int,
        observer: UpkeepObserver,
        changing: Changing,
        purges: bool = False,
    ) -> None:
        self._database = database
        self._store = store
        self._relay = relay
        self._trash_days = trash_days
        self._observer = observer
        self._changing = changing
        self._purges = purges

    def reap_ended_leases(self) -> int:
        """Undo uploads whose worker died; return how many."""
        now = utc_now()
        ended = (Photo.state == PENDING, Photo.lease_until < now)
        with self._database.read() as connection:
            ids = connection.execute(select(Photo.id).where(*ended).limit(_PIECE)).scalars().all()
        reaped = 0
        for photo_id in ids:
            with self._database.write() as connection:
                reaped += abandon_pending(connection, photo_id, *ended)
        if reaped:
            self._observer.uploads_reaped(reaped)
        return reaped

    def relay_deletes(self) -> int:
        """Remove the objects that the outbox names, then their rows, until one fails; return how many."""
        with self._database.read() as connection:
            due = connection.execute(
                select(OutboxRow)
                .where(OutboxRow.kind == OBJECT_DELETE, OutboxRow.available_at <= utc_now())
                .order_by(OutboxRow.available_at)
                .limit(_PIECE)
            ).all()
        # The first failure ends the piece: a store that hangs must not keep this thread from its other tasks.
        done = sum(1 for _ in itertools.takewhile(self._relay_one, due))
        self._report_outbox()
        return done

    def _relay_one(self, row: Row[Any]) -> bool:
        try:
            for object_key in (*row.payload.get("renditions", ()), row.payload["object_key"]):
                self._relay.call(self._store.delete, object_key)
        except (StorageError, CallRefusedError, DeadlineExceededError):
            _log.warning("an object could not be removed; trying again later", exc_info=True)
            self._postpone(row)
            return False
        with self._database.write() as connection:
            last = (Photo.id == row.photo_id, Photo.object_key == row.payload["object_key"], Photo.state == DELETING)
            connection.execute(delete(Photo).where(*last))
            connection.execute(delete(OutboxRow).where(OutboxRow.id == row.id))
        return True

    def _postpone(self, row: Row[Any]) -> None:
        seconds = min(_BACKOFF_SECONDS_MAX, 2.0 ** min(row.attempts, 10))
        with self._database.write() as connection:
            connection.execute(
                update(OutboxRow)
                .where(OutboxRow.id == row.id)
                .values(attempts=OutboxRow.attempts + 1, available_at=utc_now() + dt.timedelta(seconds=seconds))
            )

    def _report_outbox(self) -> None:
        now = utc_now()
        figures = select(func.count(), func.min(OutboxRow.created_at)).where(OutboxRow.kind == OBJECT_DELETE)
        renders = select(func.count()).where(OutboxRow.kind == PHOTO_RENDER, OutboxRow.available_at <= now)
        with self._database.read() as connection:
            pending, oldest = connection.execute(figures).one()
            due = connection.execute(renders).scalar_one()
        age = (now - oldest).total_seconds() if pending else 0.0
        self._observer.outbox_depth(pending, max(0.0, age))
        self._observer.renders_due(due)

    def empty_old_trash(self) -> int:
        """Remove for good what has been in the trash too long; return how many."""
        too_old = utc_now() - dt.timedelta(days=self._trash_days)
        return self._remove(Photo.trashed_at < too_old)

    def empty_closed_accounts(self) -> int:
        """Remove the photos of closed accounts, and the accounts that have none left; return how many."""
        closed = select(User.id).where(User.deleted_at.is_not(None))
        moved = self._remove(Photo.owner_id.in_(closed))
        with self._database.write() as connection:
            gone = connection.execute(
                delete(User).where(User.deleted_at.is_not(None), ~exists().where(Photo.owner_id == User.id))
            )
        return moved + gone.rowcount

    def _remove(self, *conditions: Any) -> int:
        with self._database.read() as connection:
            found = select(Photo.owner_id, Photo.id).where(Photo.state == READY, *conditions).limit(_PIECE)
            photos = connection.execute(found).all()
        removed = 0
        for owner_id, photo_id in photos:
            with self._changing(owner_id, [photo_id]), self._database.write() as connection:
                removed += remove_ready(connection, photo_id, *conditions, purges=self._purges)
        return removed

    def forget_expired(self) -> int:
        """Drop idempotency keys past their time, and outbox rows that nobody took for a week; return how many."""
        now = utc_now()
        forgotten = self._forget(IdempotencyKey.expires_at, now)
        for kind in (PHOTO_READY, PHOTO_DELETED, CDN_PURGE):
            forgotten += self._forget(OutboxRow.available_at, now - _NEWS_KEPT, OutboxRow.kind == kind)
        return forgotten

    def _forget(
        self, column: InstrumentedAttribute[dt.datetime], before: dt.datetime, *conditions: ColumnElement[bool]
    ) -> int:
        """Delete the oldest rows whose time in a column is over: about a piece, found by the column's index."""
        ended = (column < before, *conditions)
        with self._database.write() as connection:
            last = select(column).where(*ended).order_by(column).offset(_FORGOTTEN_PIECE - 1).limit(1)
            until = connection.execute(last).scalar_one_or_none() or before
            return connection.execute(delete(column.class_).where(*ended, column <= until)).rowcount
