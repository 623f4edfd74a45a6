"""The two transactions of the commit protocol, and its undoing.

TX 1 (:meth:`UploadLedger.reserve`) writes the pending row, takes the quota and claims the idempotency key.
TX 2 (:meth:`UploadLedger.commit`) makes the row ready, with the news for the outbox and the answer to replay.
Every write after TX 1 is fenced by the lease token.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from app.accounts import quota
from app.db import outbox
from app.db.engine import Database
from app.errors import DatabaseUnavailableError, LeaseLostError, UnavailableError
from app.photos import idempotency, removal, rows
from app.photos.documents import PhotoDocuments, write_json

_log = logging.getLogger(__name__)

CREATED = "created"
DUPLICATE = "duplicate"
_RESERVATION_TRIES = 3
_UNDO_SECONDS = 5.0
_RETRY_AFTER_SECONDS = 2.0


class Answer(NamedTuple):
    """What an upload is answered with.

    Attributes:
        document: An :class:`~app.photos.schemas.UploadAnswer`.
        mark: Of the photo when it was new; see :meth:`app.photos.documents.PhotoDocuments.mark`. It is the entity
            tag of the document, which nobody is told a place in.
        is_replay: Whether an earlier request with the same key did the work.
    """

    document: dict[str, Any]
    mark: str
    is_replay: bool = False

    @property
    def content(self) -> bytes:
        """The document as JSON."""
        return write_json(self.document)

    @property
    def is_created(self) -> bool:
        """Whether this upload, or the one it replays, made the photo."""
        return bool(self.document["status"] == CREATED)


class UploadLedger:
    """The database's side of uploads. Thread-safe.

    Args:
        database: Photos, quota and keys.
        documents: Writes the answers.
        default_quota_bytes: For accounts without a quota of their own.
        idempotency_seconds: How long a key's answer is kept.
        render_delay_seconds: How long after an upload renditions of it are made that nobody has asked for.
    """

    def __init__(
        self,
        database: Database,
        documents: PhotoDocuments,
        *,
        default_quota_bytes: int,
        idempotency_seconds: float,
        render_delay_seconds: float = 0.0,
    ) -> None:
        self._database = database
        self._documents = documents
        self._default_quota_bytes = default_quota_bytes
        self._idempotency_seconds = idempotency_seconds
        self._render_delay_seconds = render_delay_seconds

    def find(self, owner_id: UUID, sha256: str, idempotency_key: str | None) -> Answer | None:
        """Return the answer for bytes that the owner has already, or None; nothing is written.

        A key that was used before gives None: whether this is the same request shows only when all of it is there.
        """

        def work(connection: Connection) -> Answer | None:
            if idempotency_key is not None and idempotency.is_used(connection, owner_id, idempotency_key):
                return None
            return self._duplicate(connection, owner_id, sha256)

        return self._database.run_read(work)

    def reserve(self, photo: rows.NewPhoto, lease_token: str, lease_until: dt.datetime) -> Answer | rows.Reservation:
        """Make room for an upload, or find that it is not needed.

        Raises:
            QuotaExceededError: It does not fit the account.
            IdempotencyKeyReusedError: The key was used for another request.
            RequestInProgressError: The first request with the key still runs.
            DatabaseUnavailableError: Nothing was written.
        """
        for _ in range(_RESERVATION_TRIES):
            try:
                return self._database.run_write(
                    lambda connection: self._reserve(connection, photo, lease_token, lease_until)
                )
            except IntegrityError as error:  # another request with the same key was faster: look at what it did
                lost = error
        raise DatabaseUnavailableError("Too many requests use this key at once. Try again.") from lost

    def _reserve(
        self,
        connection: Connection,
        photo: rows.NewPhoto,
        lease_token: str,
        lease_until: dt.datetime,
    ) -> Answer | rows.Reservation:
        earlier = idempotency.earlier_answer(connection, photo)
        if earlier is not None:
            return Answer(earlier, self._documents.mark(earlier, 1), is_replay=True)
        existing = self._answer_duplicate(connection, photo)
        if existing is not None:
            return existing
        quota.take(connection, photo.owner_id, photo.body.size_bytes, default_quota_bytes=self._default_quota_bytes)
        reservation = rows.insert_pending(connection, photo, lease_token, lease_until)
        idempotency.claim(connection, photo, reservation.photo_id, None, kept_seconds=self._idempotency_seconds)
        return reservation

    def _answer_duplicate(self, connection: Connection, photo: rows.NewPhoto) -> Answer | None:
        answer = self._duplicate(connection, photo.owner_id, photo.body.sha256)
        if answer is not None:
            idempotency.claim(
                connection, photo, answer.document["id"], answer.document, kept_seconds=self._idempotency_seconds
            )
        return answer

    def commit(self, photo: rows.NewPhoto, reservation: rows.Reservation) -> Answer:
        """Make a stored photo visible; from here on it is acknowledged.

        Raises:
            LeaseLostError: The upload had been given up; its object goes.
            UnavailableError: It could not be written; the upload is undone, now or by the reaper.
        """
        try:
            answer = self._database.run_write(lambda connection: self._commit(connection, photo, reservation))
        except IntegrityError:  # the same bytes became ready first: theirs is the photo, ours goes
            return self._yield_to_winner(photo, reservation)
        except DatabaseUnavailableError:
            # Perhaps it took effect, and only the database's answer was lost.
            answer = None if self.abandon(reservation) else self._committed(reservation)
            if answer is None:
                raise
            return answer
        except BaseException:
            self.abandon(reservation)
            raise
        if answer is None:
            raise _lease_lost()
        return answer

    def _commit(self, connection: Connection, photo: rows.NewPhoto, reservation: rows.Reservation) -> Answer | None:
        row = rows.make_ready(connection, photo, reservation)
        if row is None:
            # The reaper gave this upload up, perhaps before the object was there: it must be removed again.
            removal.remove_stray(connection, reservation.photo_id, reservation.object_key, is_stored=True)
            return None
        answer = self._created(row)
        outbox.add(connection, outbox.PHOTO_READY, row.id, {"owner_id": photo.owner_id, "sha256": row.sha256})
        outbox.add(connection, outbox.PHOTO_RENDER, row.id, {}, delay_seconds=self._render_delay_seconds)
        idempotency.complete(connection, photo, row.id, answer.document)
        return answer

    def _committed(self, reservation: rows.Reservation) -> Answer | None:
        row = self._database.run_read(lambda connection: rows.find_committed(connection, reservation))
        return None if row is None else self._created(row)

    def _yield_to_winner(self, photo: rows.NewPhoto, reservation: rows.Reservation) -> Answer:
        def work(connection: Connection) -> tuple[bool, Answer | None]:
            if removal.abandon_pending(connection, reservation.photo_id, *reservation.still_mine):
                return True, self._answer_duplicate(connection, photo)
            removal.remove_stray(connection, reservation.photo_id, reservation.object_key, is_stored=True)
            return False, None

        # In one transaction: between two, another request could claim the key that the first one frees.
        was_mine, answer = self._database.run_write(work)
        if not was_mine:
            raise _lease_lost()
        if answer is None:
            raise UnavailableError(
                "The same photo was removed while it was uploaded. Send it again.",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
            )
        return answer

    def abandon(self, reservation: rows.Reservation) -> bool:
        """Undo a reservation as far as the database lets us; the reaper does the rest after the lease.

        Returns:
            False when there is nothing to undo: its photo is ready, by a commit whose answer was lost.
        """
        try:
            # The request's own time may be what has ended the upload.
            return self._database.run_write(
                lambda connection: _abandon(connection, reservation), own_seconds=_UNDO_SECONDS
            )
        except DatabaseUnavailableError:
            _log.warning("an upload could not be undone now; the reaper will, after its lease")
            return True

    def _duplicate(self, connection: Connection, owner_id: UUID, sha256: str) -> Answer | None:
        row = rows.find_ready(connection, owner_id, sha256)
        return None if row is None else self._answer(row, DUPLICATE)

    def _created(self, row: Any) -> Answer:
        return self._answer(row, CREATED)

    def _answer(self, row: Any, status: str) -> Answer:
        document = self._documents.document(row, with_place=False) | {"status": status}
        return Answer(document, self._documents.mark(document, 1))


def _lease_lost() -> LeaseLostError:
    return LeaseLostError("The upload took too long and was given up. Send it again.")


def _abandon(connection: Connection, reservation: rows.Reservation) -> bool:
    if removal.abandon_pending(connection, reservation.photo_id, *reservation.still_mine):
        return True
    if rows.find_committed(connection, reservation) is not None:
        return False
    # Another process gave it up. Our PUT may come after the removal that it ordered.
    removal.remove_stray(connection, reservation.photo_id, reservation.object_key, is_stored=False)
    return True
