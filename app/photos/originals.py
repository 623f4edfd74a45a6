"""Streaming an original: constant memory, checked to the last byte, closed when the client leaves.

The store's reader holds back the last chunk of a whole photo until the digest of all bytes is known; that this
digest is the one the database knows is checked here, before the first byte. When something is wrong later the
stream breaks, so that a client never takes a damaged photo for a good one: its length stays short.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from app.ops.logging import mark_reported
from app.storage.base import ObjectCorruptError, ObjectInfo, ObjectReader, StorageError

_log = logging.getLogger(__name__)


class ServingObserver(Protocol):
    """Who hears of what is served. Must not raise."""

    def conditional_request(self, *, current: bool) -> None:
        """A request came with a condition; the client's copy was current, or not."""
        ...

    def checksum_mismatch(self) -> None:
        """A stored photo's bytes are not those that were stored."""
        ...

    def shared_read(self) -> None:
        """An original was answered with bytes that another request had fetched."""
        ...

    def client_left(self, during: Literal["upload", "download"]) -> None:
        """A client left before it had all bytes."""
        ...


class OriginalStream:
    """The bytes of an object, as a WSGI response body. Not thread-safe.

    Args:
        opening: Opens the object; its reader is closed with this stream.
        sha256: The digest of the whole photo, from the database.
        observer: Who hears of damage and of clients that leave.
    """

    def __init__(self, opening: Callable[[], ObjectReader], *, sha256: str, observer: ServingObserver) -> None:
        self._opening = opening
        self._reader: ObjectReader | None = None
        self._sha256 = sha256
        self._observer = observer
        self._chunks = self._observed()
        self._first: bytes | None = None
        self._has_ended = False

    def open(self) -> None:
        """Open the object and fetch the first chunk: what goes wrong until then can still be answered with an error.

        Raises:
            StorageError: The store failed, or the photo is damaged as far as is known by now.
        """
        self._first = next(self._chunks, None)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks; raise in the middle when bytes are missing or wrong."""
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._chunks

    def close(self) -> None:
        """Give the connection or file back; the server calls this also when the client has left."""
        if self._reader is not None:
            self._reader.close()
        if not self._has_ended:
            self._has_ended = True
            self._observer.client_left("download")

    def _observed(self) -> Iterator[bytes]:
        try:
            self._reader = self._opening()
            self._require_same(self._reader.info)
            yield from self._reader
        except ObjectCorruptError as error:
            self._observer.checksum_mismatch()
            _log.exception("a stored photo is damaged")
            mark_reported(error)
            self._has_ended = True
            raise
        except StorageError:
            self._has_ended = True
            raise
        self._has_ended = True

    def _require_same(self, info: ObjectInfo) -> None:
        if info.sha256 != self._sha256:
            raise ObjectCorruptError("The stored photo is not the one that was uploaded.")
