"""Reading from a store: how long it may take, and whether the bytes are the right ones.

- :class:`WaitBudget`: the time one call may spend *waiting for its store* (:mod:`app.upstream.waiting`).
- :class:`CheckedReader`: the :class:`app.storage.base.ObjectReader` of all adapters. It counts, and when a
  whole object is read it holds the last chunk back until the digest of everything is known, so that
  nobody takes truncated or altered bytes for a photo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

from app.stability import DeadlineExceededError, remaining_seconds
from app.storage.base import ObjectCorruptError, ObjectInfo, StorageTimeoutError, StorageUnavailableError
from app.upstream import waiting

CHUNK_BYTES = 256 * 1024
"""The largest chunk a reader yields, in bytes."""


class WaitBudget(waiting.WaitBudget):
    """How long one call may still wait for its store; its error is the store's."""

    __slots__ = ()

    def exceeded(self) -> StorageTimeoutError:
        """Return the error for a store that took too long; who raises it is the budget or its user."""
        return storage_timeout()


class ByteSource(Protocol):
    """Where a :class:`CheckedReader` gets its bytes from: a file or an HTTP response."""

    def read(self, amount: int, /) -> bytes:
        """Return ``amount`` bytes, fewer only at the end."""
        ...


class CheckedReader:
    """An open object whose length, and digest when all of it is read, are checked on the way.

    Args:
        source: The bytes.
        info: Facts of the whole object.
        length: How many bytes must come.
        whole: Whether these are all bytes of the object, so that ``info.sha256`` can be checked.
        close: Gives the connection or file back; called once. Its argument says whether all bytes have come.
        failures: What the source may raise, besides ``StorageError``, when the store breaks.
    """

    def __init__(
        self,
        source: ByteSource,
        *,
        info: ObjectInfo,
        length: int,
        whole: bool,
        close: Callable[[bool], None],
        failures: tuple[type[Exception], ...] = (OSError,),
    ) -> None:
        self._source = source
        self._info = info
        self._length = length
        self._digest = hashlib.sha256() if whole and info.sha256 is not None else None
        self._close: Callable[[bool], None] | None = close
        self._failures = failures
        self._left = length

    @property
    def info(self) -> ObjectInfo:
        """The whole object's facts, also when only a range was opened."""
        return self._info

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunks of at most 256 KiB; the last one only after all of them have been checked.

        Raises:
            StorageTimeoutError: The store took longer than the budget.
            StorageUnavailableError: The bytes ended early.
            ObjectCorruptError: The bytes are not those that were stored.
        """
        if not self._length:
            self._finish()
        while self._left:
            chunk = self._read()
            self._left -= len(chunk)
            if self._digest is not None:
                self._digest.update(chunk)
            if not self._left:
                self._finish()
            yield chunk

    def close(self) -> None:
        """Give the connection or file back; safe to call twice, also in the middle of the bytes."""
        close, self._close = self._close, None
        if close is not None:
            close(not self._left)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _read(self) -> bytes:
        if self._close is None:
            message = "the reader is closed"
            raise ValueError(message)
        wanted = min(CHUNK_BYTES, self._left)
        try:
            chunk = self._source.read(wanted)
        except self._failures as error:
            self.close()
            raise StorageUnavailableError("The object store broke off. Try again.", retry_after_seconds=1) from error
        except StorageTimeoutError:
            self.close()
            raise
        if len(chunk) < wanted:  # found out now, while the first chunk may still be asked for again
            self.close()
            raise StorageUnavailableError("The object store sent fewer bytes than it announced. Try again.")
        return chunk

    def _finish(self) -> None:
        """Give everything back before the last chunk goes out: a caller may never ask for one more."""
        self.close()
        if self._digest is not None and self._digest.hexdigest() != self._info.sha256:
            raise ObjectCorruptError("The stored bytes are damaged.")


def check_deadline() -> None:
    """Raise :class:`app.storage.base.StorageTimeoutError` when the current deadline has passed."""
    try:
        remaining_seconds(1.0)
    except DeadlineExceededError as error:
        raise storage_timeout() from error


def storage_timeout() -> StorageTimeoutError:
    """Return the error for a store that took too long; the caller raises it."""
    return StorageTimeoutError("The object store did not answer in time. Try again.", retry_after_seconds=2)
