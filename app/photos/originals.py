"""Streaming an original: constant memory, checked to the last byte, closed when the client leaves.

The last chunk of a whole photo is held back until the digest of all bytes is known. When it is not the stored
one the stream breaks, so that a client never takes a damaged photo for a good one: its length stays short.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from typing import Literal, Protocol

from app.storage.base import ObjectCorruptError, ObjectReader

_log = logging.getLogger(__name__)


class ServingObserver(Protocol):
    """Who hears of what is served. Must not raise."""

    def conditional_request(self, *, current: bool) -> None:
        """A request came with a condition; the client's copy was current, or not."""
        ...

    def checksum_mismatch(self) -> None:
        """A stored photo's bytes are not those that were stored."""
        ...

    def client_left(self, during: Literal["upload", "download"]) -> None:
        """A client left before it had all bytes."""
        ...


class OriginalStream:
    """The bytes of an open object, as a WSGI response body. Not thread-safe.

    Args:
        reader: The open object; closed with this stream.
        size_bytes: How many bytes must come.
        sha256: The digest that all of them must have; None for a range, whose digest nobody knows.
        observer: Who hears of damage and of clients that leave.
    """

    def __init__(
        self, reader: ObjectReader, *, size_bytes: int, sha256: str | None, observer: ServingObserver
    ) -> None:
        self._reader = reader
        self._size_bytes = size_bytes
        self._sha256 = sha256
        self._observer = observer
        self._is_complete = False
        self._chunks = self._checked()
        self._first: bytes | None = None

    def open(self) -> None:
        """Fetch the first chunk, so that what goes wrong until then can still be answered with an error.

        Raises:
            StorageError: The store failed, or a photo of one chunk is damaged.
        """
        self._first = next(self._chunks, b"")

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks; raise in the middle when a byte is missing, too many or wrong."""
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._chunks

    def close(self) -> None:
        """Give the connection or file back; the server calls this also when the client has left."""
        self._reader.close()
        if not self._is_complete:
            self._is_complete = True
            self._observer.client_left("download")

    def _checked(self) -> Iterator[bytes]:
        digest = hashlib.sha256() if self._sha256 is not None else None
        held = b""
        count = 0
        for chunk in self._reader:
            count += len(chunk)
            if digest is not None:
                digest.update(chunk)
            if held:
                yield held
            held = chunk
        if count != self._size_bytes or (digest is not None and digest.hexdigest() != self._sha256):
            self._is_complete = True
            self._observer.checksum_mismatch()
            _log.error("a stored photo is damaged: the stream was cut")
            raise ObjectCorruptError("The stored photo is damaged. The operators have been told.")
        yield held
        self._is_complete = True
