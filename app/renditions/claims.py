"""The database's side of renditions: who makes which, and what came of it.

A claim is a lease of some seconds. It is renewed for as long as its maker lives and works, so that others wait for a
slow photo, and not for a dead process.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Final, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, bindparam, select

from app.db import outbox
from app.db.base import utc_now
from app.db.engine import Database
from app.db.prepared import PreparedSelect
from app.errors import DatabaseUnavailableError
from app.photos import rendition_rows
from app.photos.models import DONE, READY, WAITING, Photo
from app.photos.photo_cache import Original
from app.photos.rendition_rows import Claim, Claimed, Made, Ready, RenditionName

_log = logging.getLogger(__name__)

LEASE_SECONDS: Final = 15.0
"""How long others wait for a maker that has died."""

_RENEWALS_PER_LEASE: Final = 3
_OWN_SECONDS: Final = 5.0
_UNKNOWN_PUT_SECONDS: Final = 5.0
_STORED_LATER_SECONDS: Final = 30.0

_FACTS: Final = [getattr(Photo, field.name) for field in fields(Original)]
_SHOW_PROCESSING: Final = PreparedSelect(
    select(Photo.owner_id, Photo.processing_state, Photo.processing_error, *_FACTS).where(
        Photo.id == bindparam("photo_id"), Photo.state == READY
    )
)

Changing: TypeAlias = Callable[[UUID, Sequence[UUID]], AbstractContextManager[None]]
"""Surrounds a change of an owner's photos; see :class:`app.photos.photo_cache.PhotoCache`."""


@dataclass(frozen=True, slots=True)
class Processing:
    """What came of a photo so far.

    Attributes:
        owner_id: Whose it is.
        state: ``waiting`` to be decoded, ``done`` or ``failed``.
        error: Why it failed, as a code; None else.
        original: The facts of its bytes.
    """

    owner_id: UUID
    state: str
    error: str | None
    original: Original

    @property
    def is_open(self) -> bool:
        """Whether nobody knows yet if the photo can be decoded."""
        return self.state == WAITING

    @property
    def is_done(self) -> bool:
        """Whether the photo was decoded."""
        return self.state == DONE


class RenditionClaims:
    """Claims renditions and writes down what was made. Thread-safe.

    Args:
        database: Where all makers meet.
        changing: Surrounds a change of what photos' documents say.
        lease_seconds: How long a claim outlives its maker.
    """

    def __init__(self, database: Database, changing: Changing, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._database = database
        self._changing = changing
        self._lease_seconds = lease_seconds
        self._held: set[Claim] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def find(self, name: RenditionName) -> Ready | None:
        """Return a rendition that is made, or None.

        Raises:
            DatabaseUnavailableError: It cannot be known now.
        """
        found = self._database.ask(rendition_rows.SHOW_RENDITION, name._asdict())
        return rendition_rows.ready_of(found[0]) if found else None

    def processing(self, photo_id: UUID) -> Processing | None:
        """Return what came of a photo so far; None when it is not there any more."""
        found = self._database.ask(_SHOW_PROCESSING, {"photo_id": photo_id})
        if not found:
            return None
        row = found[0]
        original = Original(**{field.name: getattr(row, field.name) for field in fields(Original)})
        return Processing(row.owner_id, row.processing_state, row.processing_error, original)

    def take(self, names: Sequence[RenditionName]) -> list[Claimed]:
        """Claim renditions of one photo, in the order in which they are named.

        Raises:
            NotFoundError: The photo is not there any more.
            DatabaseUnavailableError: Nothing was claimed, or nobody knows; then the claims end by themselves.
        """
        until = self._until()

        def work(connection: Connection) -> list[Claimed]:
            return [rendition_rows.claim(connection, name, until) for name in names]

        return self._database.run_write(work)

    @contextmanager
    def held(self, mine: Sequence[Claim]) -> Iterator[None]:
        """Renew claims until the block ends."""
        with self._lock:
            self._held.update(mine)
            if self._thread is None and mine:
                self._thread = threading.Thread(target=self._run, name="rendition-claims", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._held.difference_update(mine)

    def renew(self) -> int:
        """Renew every claim of this process that is held; return how many are still its own."""
        with self._lock:
            held = sorted(self._held, key=lambda each: each.name)
        until = self._until()
        # One by one: who holds a single row waits for nobody in a circle.
        return sum(self._renewed(each, until) for each in held)

    def finish(self, mine: Claim, made: Made) -> Ready | None:
        """Say that a rendition is stored; None when the claim was lost, or the photo is gone.

        Raises:
            DatabaseUnavailableError: Nobody knows whether it was written. The next maker finds the object.
        """

        def work(connection: Connection) -> Ready | None:
            if not rendition_rows.finish(connection, mine, made):
                return None
            return rendition_rows.find(connection, mine.name)

        return self._database.run_write(work, own_seconds=_OWN_SECONDS)

    def give_back(self, mine: Sequence[Claim]) -> None:
        """Give claims back of which nothing was sent to the store; what fails ends with the lease."""
        for claim in mine:  # each by itself: who holds a single row waits for nobody in a circle
            self._try(partial(rendition_rows.release, mine=claim))

    def postpone(self, mine: Claim, *, queued: bool, may_arrive: bool = True) -> None:
        """Say that a rendition is made and not stored: it is soon another one's to make.

        Args:
            mine: Its claim.
            queued: Whether a row of the outbox stands for it already; else one is written.
            may_arrive: Whether a PUT may still be under way; then the claim ends some seconds later, else at once.
        """
        ends_after = _UNKNOWN_PUT_SECONDS if may_arrive else 0.0

        def work(connection: Connection) -> None:
            ends = utc_now() + dt.timedelta(seconds=ends_after)
            if rendition_rows.renew(connection, mine, ends) and not queued:
                wanted = {"outputs": [[mine.name.preset, mine.name.format.value]]}
                outbox.add(
                    connection,
                    outbox.PHOTO_RENDER,
                    mine.name.photo_id,
                    wanted,
                    delay_seconds=_STORED_LATER_SECONDS,
                )

        self._try(work)

    def forget(self, lost: Ready) -> None:
        """Drop the row of a rendition that the store has lost."""
        self._database.run_write(lambda connection: rendition_rows.forget(connection, lost))

    def describe(self, photo: Processing, thumbhash: str, dominant_color: str) -> None:
        """Note what a photo shows; it is decoded then."""
        photo_id = photo.original.id
        with self._changing(photo.owner_id, [photo_id]):
            self._database.run_write(
                lambda connection: rendition_rows.describe(connection, photo_id, thumbhash, dominant_color)
            )

    def mark_failed(self, photo: Processing, code: str) -> None:
        """Note that a photo cannot be decoded, and why."""
        photo_id = photo.original.id
        with self._changing(photo.owner_id, [photo_id]):
            self._database.run_write(lambda connection: rendition_rows.mark_failed(connection, photo_id, code))

    def close(self) -> None:
        """Stop renewing."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=self._lease_seconds)

    def _renewed(self, mine: Claim, until: dt.datetime) -> bool:
        return self._database.run_write(lambda connection: rendition_rows.renew(connection, mine, until))

    def _until(self) -> dt.datetime:
        return utc_now() + dt.timedelta(seconds=self._lease_seconds)

    def _try(self, work: Callable[[Connection], object]) -> None:
        """Write in time of its own what is no matter if it fails: the request's time may be what has ended."""
        try:
            self._database.run_write(work, own_seconds=_OWN_SECONDS)
        except Exception:  # noqa: BLE001  # what went wrong before is what the caller is to hear of
            _log.warning("a claim could not be given back; it ends by itself", exc_info=True)

    def _run(self) -> None:
        while not self._closed.wait(self._lease_seconds / _RENEWALS_PER_LEASE):
            try:
                self.renew()
            except DatabaseUnavailableError:
                _log.warning("claims of renditions could not be renewed; trying again")
            except Exception:  # noqa: BLE001  # nothing may end the thread
                _log.exception("claims of renditions could not be renewed; trying again")
