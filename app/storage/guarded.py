"""Any store behind its pipelines: same port in, same port out.

::

    put     storage_write     timeout(retry(breaker(bulkhead(store.put))))     each attempt opens the body anew
    head    storage_read
    open    storage_read      together with the first chunk
    delete  storage_delete
    list    storage_list      page by page

Opening counts as answered when the first chunk is here: a photo of up to 256 KiB has then been checked to its last
byte, and a store that sends a head and nothing more is found out where it can still be tried again. What breaks
later cannot be repeated, because the client has bytes already; it is told to the breaker all the same.

What the policies refuse leaves as the port's own errors: a store behind a pipeline fails like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Final, NoReturn, ParamSpec, Self, TypeVar

from app.stability import (
    Call,
    CallRefusedError,
    CircuitBreaker,
    Classification,
    DeadlineExceededError,
    Pipeline,
)
from app.storage.base import (
    Body,
    ObjectCorruptError,
    ObjectInfo,
    ObjectReader,
    ObjectStore,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageTokenError,
    StorageUnavailableError,
)
from app.storage.reading import storage_timeout

P = ParamSpec("P")
R = TypeVar("R")

_LISTED_AT_ONCE = 1000


def _retry_after(said: object) -> float | None:
    """Return what the store itself asked for; our other errors carry a guess for the client."""
    return said.retry_after_seconds if isinstance(said, StorageThrottledError) else None


STORAGE_CLASSIFICATION: Final = Classification(
    failures=(StorageUnavailableError, StorageTimeoutError),
    # An operator or the owner of the bytes has to act: neither a second try nor a pause helps, and one damaged photo
    # says nothing of the others. Tokens come from another service, which has a pipeline of its own.
    ignored=(StorageDeniedError, StorageFullError, ObjectCorruptError, StorageTokenError),
    retry_after_of=_retry_after,
)
"""What a store's errors say of the store. One that is not there, or is there already, is an answer like any other."""


TOKEN_CLASSIFICATION: Final = Classification(failures=(StorageTokenError,), ignored=(StorageDeniedError,))
"""What the errors of a store's identity service say of that service, behind the pipeline ``swift_auth``."""


STORAGE_PIPELINES: Final = ("storage_read", "storage_write", "storage_delete", "storage_list")
"""The names of a store's pipelines."""


@dataclass(frozen=True, slots=True)
class StoragePipelines:
    """The pipelines of one store.

    Attributes:
        read: For ``head`` and ``open``.
        write: For ``put``.
        delete: For ``delete``.
        list: For ``list``; it cannot try again, because a listing goes on where it is.
    """

    read: Pipeline
    write: Pipeline
    delete: Pipeline
    list: Pipeline


class GuardedObjectStore:
    """An :class:`~app.storage.base.ObjectStore` behind pipelines. Thread-safe if the store is.

    Args:
        store: What does the work.
        pipelines: What stands before it.
    """

    def __init__(self, store: ObjectStore, pipelines: StoragePipelines) -> None:
        self._store = store
        self._pipelines = pipelines
        self._read_breaker = pipelines.read.find(CircuitBreaker)

    @property
    def inner(self) -> ObjectStore:
        """The store that does the work."""
        return self._store

    def put(self, key: str, body: Body, *, content_type: str) -> ObjectInfo:
        """See the port; the same object under the same key is success, so that it may be sent again."""
        return _run(self._pipelines.write, Call(self._store.put, key, body, content_type=content_type))

    def head(self, key: str) -> ObjectInfo:
        """See the port."""
        return _run(self._pipelines.read, Call(self._store.head, key))

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> ObjectReader:
        """See the port; the first chunk has come when it returns."""
        opening = partial(self._store.open, key, start=start, length=length)
        return _run(self._pipelines.read, Call(_StartedReader, opening, self._read_breaker))

    def delete(self, key: str) -> None:
        """See the port."""
        _run(self._pipelines.delete, Call(self._store.delete, key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See the port."""
        found = self._store.list(prefix)
        while page := _run(self._pipelines.list, Call(_next_page, found).describe(replayable=False)):
            yield from page

    def close(self) -> None:
        """See the port."""
        self._store.close()


class _StartedReader:
    """An :class:`~app.storage.base.ObjectReader` whose first chunk is here."""

    def __init__(self, opening: Callable[[], ObjectReader], breaker: CircuitBreaker | None) -> None:
        self._breaker = breaker
        self._reader = opening()
        self._chunks = iter(self._reader)
        try:
            self._first = next(self._chunks, b"")
        except BaseException:
            self._reader.close()
            raise

    @property
    def info(self) -> ObjectInfo:
        return self._reader.info

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
        self._first = b""
        try:
            yield from self._chunks
        except StorageError as error:
            self._report(error)
            raise

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _report(self, error: StorageError) -> None:
        """Tell the breaker of an answer that broke off, if it listens now."""
        permit = None if self._breaker is None else self._breaker.try_acquire()
        if permit is not None:
            permit.fail(error)


def _next_page(found: Iterator[ObjectInfo]) -> list[ObjectInfo]:
    return list(islice(found, _LISTED_AT_ONCE))


def _run(pipeline: Pipeline, call: Call[R]) -> R:
    try:
        return pipeline.run(call)
    except CallRefusedError as refusal:
        _raise_unavailable(refusal)
    except DeadlineExceededError as error:
        raise storage_timeout() from error


def _raise_unavailable(refusal: CallRefusedError) -> NoReturn:
    # Without a cause: a refusal in an outage is no news, and its log line needs no traceback.
    raise StorageUnavailableError(
        "The object store is not available now. Try again.", retry_after_seconds=refusal.retry_after_seconds
    ) from None
