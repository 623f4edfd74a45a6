"""Taking a photo in: the commit protocol.

::

    spooled, hashed, probed            nothing is stored yet; decoded, too, where that is wanted
    TX 1   row pending + lease + quota + idempotency key
    PUT    create-only, with a checksum that the store's reply must repeat
    TX 2   row ready + duplicate key + outbox + the answer to replay
    201    only now

What dies between two steps leaves a pending row whose lease ends; the reaper (:mod:`app.photos.upkeep`) undoes
it. The transactions are :mod:`app.photos.ledger`'s.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from app.errors import UnavailableError
from app.images.probe import ImageLimits, ProbedImage, probe
from app.photos.leases import LeaseKeeper
from app.photos.ledger import Answer, UploadLedger
from app.photos.rows import NewPhoto, Reservation
from app.photos.schemas import UploadForm
from app.stability import DeadlineExceededError
from app.storage.base import Body, ObjectStore, StorageError, StorageFullError

STORE_ERRORS = (StorageFullError,)
"""What a store says that reaches the client as it is: a retry does not help. All else is "send it again"."""

_RETRY_AFTER_SECONDS = 2.0


class UploadObserver(Protocol):
    """Who hears of uploads. Must not raise."""

    def duplicate(self) -> None:
        """The same bytes were there already."""
        ...

    def idempotent_replay(self) -> None:
        """The answer of an earlier request with the same key was given again."""
        ...


class Decoder(Protocol):
    """Tries whether a photo's pixels can be decoded. Thread-safe."""

    def decode(self, body: Body, image: ProbedImage) -> None:
        """Decode a photo, and keep nothing of it.

        Raises:
            UndecodableImageError: They cannot be.
            UnavailableError: It cannot be tried now.
            DeadlineExceededError: The request's time is over.
        """
        ...


class UploadService:
    """Takes photos in. Thread-safe.

    Args:
        ledger: The database's side.
        store: Where the bytes go.
        keeper: Renews the lease of what is under way.
        limits: Of the images.
        observer: Who hears of uploads.
        decoder: Tries the pixels before anything is stored; None where a photo that cannot be shown is kept.
    """

    def __init__(
        self,
        ledger: UploadLedger,
        store: ObjectStore,
        keeper: LeaseKeeper,
        *,
        limits: ImageLimits,
        observer: UploadObserver,
        decoder: Decoder | None = None,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._keeper = keeper
        self._limits = limits
        self._observer = observer
        self._decoder = decoder

    def find_duplicate(self, owner_id: UUID, sha256: str, idempotency_key: str | None) -> Answer | None:
        """Return the answer for bytes that the owner has already, or None.

        Raises:
            DatabaseUnavailableError: It cannot be known now.
        """
        answer = self._ledger.find(owner_id, sha256, idempotency_key)
        return None if answer is None else self._noted(answer)

    def take(
        self, owner_id: UUID, body: Body, form: UploadForm, *, filename: str | None, idempotency_key: str | None
    ) -> Answer:
        """Store a photo; when this returns, it is durable and visible.

        Raises:
            UnsupportedMediaTypeError: The content is none of the accepted formats.
            UndecodableImageError: Its structure is broken, or its pixels where they are decoded first.
            ImageLimitError: It exceeds a limit.
            QuotaExceededError: It does not fit the account.
            IdempotencyKeyReusedError: The key was used for another request.
            RequestInProgressError: The first request with the key still runs.
            UnavailableError: The database or the store failed; nothing is visible, and a retry is safe.
        """
        image = probe(body, self._limits)
        if self._decoder is not None and self._ledger.find(owner_id, body.sha256, idempotency_key) is None:
            self._decoder.decode(body, image)
        photo = NewPhoto(owner_id, body, image, form, filename, idempotency_key)
        with self._keeper.lease() as lease_token:
            reserved = self._ledger.reserve(photo, lease_token, self._keeper.until())
            if isinstance(reserved, Answer):
                return self._noted(reserved)
            self._put(photo, reserved)
            return self._noted(self._ledger.commit(photo, reserved))

    def _put(self, photo: NewPhoto, reserved: Reservation) -> None:
        try:
            self._store.put(reserved.object_key, photo.body, content_type=photo.image.content_type)
        except STORE_ERRORS:
            self._ledger.abandon(reserved)
            raise
        except (StorageError, DeadlineExceededError) as error:
            self._ledger.abandon(reserved)
            raise UnavailableError(
                "The photo could not be stored; nothing of it was kept. Send it again.",
                retry_after_seconds=_wait_after(error),
            ) from error
        except BaseException:
            self._ledger.abandon(reserved)
            raise

    def _noted(self, answer: Answer) -> Answer:
        if answer.is_replay:
            self._observer.idempotent_replay()
        elif not answer.is_created:
            self._observer.duplicate()
        return answer


def _wait_after(error: StorageError | DeadlineExceededError) -> float:
    """Return when to send a photo again: not before an open circuit breaker, or the store itself, takes one."""
    said = error.retry_after_seconds if isinstance(error, StorageError) else None
    return _RETRY_AFTER_SECONDS if said is None else max(_RETRY_AFTER_SECONDS, said)
