"""Removed photos leave the CDN, too: the work that ``cdn.purge`` stands for in the outbox.

::

    a photo is removed for good    a row, in the same transaction
    every few seconds              the CDN is told of all rows that are due, in one order
    the object is still there      told again later: an edge may have fetched it anew meanwhile
    the object is gone             the row goes
    the CDN does not take it       told again later, at longer and longer intervals

So it is told at least once after the object has gone, whatever dies in between; to be told twice is harmless.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import quote

from sqlalchemy import Connection, Row, case, delete, func, select, update

from app.cdn.base import PURGED_AT_ONCE, Purger, check_path
from app.db.base import utc_now
from app.db.engine import Database
from app.db.outbox import CDN_PURGE, OutboxRow
from app.errors import UnavailableError
from app.photos.models import Photo

_log = logging.getLogger(__name__)

_ATTEMPTS_COUNTED = 8
_BACKOFF_SECONDS_MAX = 300.0


class PurgeObserver(Protocol):
    """Who hears of purges. Must not raise."""

    def purges_pending(self, count: int) -> None:
        """So many photos are still to be purged."""
        ...


class PhotoPurges:
    """The task. Thread-safe.

    Args:
        database: The outbox.
        purger: The CDN, behind its pipeline.
        observer: Who hears of it.
    """

    def __init__(self, database: Database, purger: Purger, observer: PurgeObserver) -> None:
        self._database = database
        self._purger = purger
        self._observer = observer

    def relay_purges(self) -> int:
        """Tell the CDN of photos that were removed; return how many are done with."""
        with self._database.read() as connection:
            due = connection.execute(
                select(OutboxRow)
                .where(OutboxRow.kind == CDN_PURGE, OutboxRow.available_at <= utc_now())
                .order_by(OutboxRow.available_at)
                .limit(PURGED_AT_ONCE)
            ).all()
        done = self._purge(due) if due else 0
        with self._database.read() as connection:
            pending = connection.execute(select(func.count()).where(OutboxRow.kind == CDN_PURGE)).scalar_one()
        self._observer.purges_pending(pending)
        return done

    def _purge(self, due: Sequence[Row[Any]]) -> int:
        # Looked for before the CDN is told: an object that goes meanwhile may have been fetched once more before.
        kept = self._photo_ids([row.photo_id for row in due])
        paths = [path for row in due if (path := _path_of(row)) is not None]
        try:
            if paths:
                self._purger.purge(paths)
        except UnavailableError:
            _log.warning("the CDN could not be told of removed photos; trying again later", exc_info=True)
            finished: list[int] = []
        else:
            finished = [row.id for row in due if row.photo_id not in kept]
        with self._database.write() as connection:
            connection.execute(delete(OutboxRow).where(OutboxRow.id.in_(finished)))
            _postpone(connection, [row.id for row in due if row.id not in set(finished)])
        return len(finished)

    def _photo_ids(self, wanted: Sequence[Any]) -> set[Any]:
        with self._database.read() as connection:
            return set(connection.execute(select(Photo.id).where(Photo.id.in_(wanted))).scalars())


def _path_of(row: Row[Any]) -> str | None:
    """Return the path of an object; None for a key that no signer ever signed a URL for."""
    path = f"/{quote(row.payload['object_key'])}"
    try:
        check_path(path)
    except ValueError:
        return None
    return path


def _postpone(connection: Connection, ids: Sequence[int]) -> None:
    """Make rows wait 1, 2, 4 … 300 seconds, by how often they were tried."""
    now = utc_now()
    waits = {
        attempts: now + dt.timedelta(seconds=min(_BACKOFF_SECONDS_MAX, 2.0**attempts))
        for attempts in range(_ATTEMPTS_COUNTED + 1)
    }
    longest = now + dt.timedelta(seconds=_BACKOFF_SECONDS_MAX)
    connection.execute(
        update(OutboxRow)
        .where(OutboxRow.id.in_(ids))
        .values(
            attempts=OutboxRow.attempts + 1,
            available_at=case(waits, value=OutboxRow.attempts, else_=longest),
        )
    )
