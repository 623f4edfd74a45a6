"""The daily sample: a few photos, chosen by chance, are read to their last byte.

Bytes that nginx or a CDN carry pass nobody who checks their digest. So every day some ready photos are read from the
store as they lie there: a store that loses or alters one in a thousand is found out within days, whatever the way its
photos leave. What is found is counted and logged with the photo's id; nothing is changed.

The work is spread over the day, a few photos a run, and stops at the first failure of the store: what is ill is not
asked more. One photo is read at a time, chunk by chunk, through the pipelines of all reads.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy import Row, select

from app.db.engine import Database
from app.photos.models import READY, Photo
from app.storage.base import ObjectCorruptError, ObjectNotFoundError, ObjectStore, StorageError

RUN_SECONDS: Final = 60.0
"""How often a piece of it is done."""

_DAY_SECONDS = 86_400.0
_RUN_MAX = 20
_PIECE_SECONDS = 10.0  # of reading in one run; the thread has other tasks
_ID_BITS = 128
_VERSION_BITS = 0xF << 76 | 0b11 << 62  # RFC 9562, section 5.7
_VERSION_7 = 7 << 76 | 0b10 << 62

_Sampled: TypeAlias = Row[UUID, str, str, int]

_log = logging.getLogger(__name__)


class SampleObserver(Protocol):
    """Who hears of the sample. Must not raise."""

    def sample_checked(self, outcome: Literal["sound", "damaged", "missing"]) -> None:
        """A photo was read: as it should be, with other bytes, or not there."""
        ...


class DailySample:
    """Reads a share of the day's sample a run. Used by one thread.

    Args:
        database: The photos.
        store: The objects, behind the pipelines of all reads.
        per_day: How many photos a day; 0 for none.
        observer: Who hears of it.
        random_id: Gives an id of which each is as likely as any other.
        monotonic: The clock.
    """

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        *,
        per_day: int,
        observer: SampleObserver,
        random_id: Callable[[], UUID] = lambda: UUID(int=secrets.randbits(_ID_BITS)),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._store = store
        self._per_second = per_day / _DAY_SECONDS
        self._observer = observer
        self._random_id = random_id
        self._monotonic = monotonic
        self._owed = 0.0
        self._asked_at = monotonic()

    def run(self) -> int:
        """Read as many photos as the time since the last run asks for, until the store fails; return how many."""
        now = self._monotonic()
        self._owed = min(_RUN_MAX, self._owed + (now - self._asked_at) * self._per_second)
        self._asked_at = now
        read = 0
        while self._owed >= 1 and self._monotonic() < now + _PIECE_SECONDS:
            row = self._choose()
            self._owed -= 1
            if row is None or not self._check(row):
                break
            read += 1
        return read

    def _choose(self) -> _Sampled | None:
        """Return the ready photo that follows a random id, around the end; None when there is none.

        Ids begin with the time they were made: the place is chosen between the first and the last one, so that
        each stretch of time is as likely as any other. It looks like an id: MariaDB sorts what does not otherwise.
        """
        columns = select(Photo.id, Photo.object_key, Photo.sha256, Photo.size_bytes).where(Photo.state == READY)
        with self._database.read() as connection:
            first = connection.execute(columns.order_by(Photo.id).limit(1)).first()
            last = connection.execute(columns.order_by(Photo.id.desc()).limit(1)).first()
            if first is None or last is None:
                return None
            span = last.id.int - first.id.int + 1
            place = UUID(int=(first.id.int + self._random_id().int % span) & ~_VERSION_BITS | _VERSION_7)
            following = columns.where(Photo.id >= place).order_by(Photo.id).limit(1)
            return connection.execute(following).first() or last

    def _check(self, row: _Sampled) -> bool:
        """Read one photo; return whether the store did its work, be the photo sound or not."""
        try:
            with self._store.open(row.object_key) as reader:
                size_bytes = sum(map(len, reader))  # the reader checks the digest that the store states
                is_sound = (reader.info.sha256, size_bytes) == (row.sha256, row.size_bytes)
        except ObjectNotFoundError:
            self._report(row, "missing")
        except ObjectCorruptError:
            self._report(row, "damaged")
        except StorageError:
            _log.warning("the daily sample stops for now: the object store fails", exc_info=True)
            return False
        else:
            if is_sound:
                self._observer.sample_checked("sound")
            else:
                self._report(row, "damaged")
        return True

    def _report(self, row: _Sampled, outcome: Literal["damaged", "missing"]) -> None:
        """Tell of a photo that is not as it should be, unless it was removed meanwhile."""
        with self._database.read() as connection:
            still = connection.execute(select(Photo.id).where(Photo.id == row.id, Photo.state == READY)).first()
        if still is not None:
            _log.error("a stored photo is %s", outcome, extra={"photo_id": str(row.id)})
            self._observer.sample_checked(outcome)
