"""The object store port: what every store can do, and how it fails.

A store keeps immutable objects under keys that the server makes. ``put`` is create-only and checked, a
``Body`` can be opened any number of times (so that a second attempt sends all of it again), and every
error is one of the tree below. Adapters pass ``tests/contract/test_object_store.py``.

::

    StorageError (UnavailableError)
    ├── StorageUnavailableError     refused, reset, 5xx
    │   ├── StorageThrottledError     the store asks to be left alone for a while
    │   └── StorageTokenError         the service that issues its tokens does not answer
    ├── StorageTimeoutError         no answer within the time left
    ├── StorageDeniedError          credentials, bucket or policy: an operator must act
    ├── StorageFullError            the store has no room
    ├── ObjectCorruptError          bytes or digest are not what was stored
    ├── ObjectNotFoundError         no object under this key
    └── ObjectExistsError           there is an object already, with other content
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from app.errors import UnavailableError


class StorageError(UnavailableError):
    """Base of what an object store raises."""


class StorageUnavailableError(StorageError):
    """The store refused, reset, throttled or failed."""


class StorageThrottledError(StorageUnavailableError):
    """The store asks to be left alone; ``retry_after_seconds`` is what it said itself, None when it said nothing."""


class StorageTokenError(StorageUnavailableError):
    """No token for the store can be had now; of the store itself nothing is known."""


class StorageTimeoutError(StorageError):
    """The store did not answer within the time left; whether it acted is unknown."""


class StorageDeniedError(StorageError):
    """Credentials, container or policy are wrong: retrying does not help, an operator must act."""


class StorageFullError(StorageError):
    """The store has no room left."""


class ObjectCorruptError(StorageError):
    """The bytes or the digest are not those that were stored."""


class ObjectNotFoundError(StorageError):
    """There is no object under this key."""


class ObjectExistsError(StorageError):
    """There is an object under this key already, and its content is another."""


class DenialReason(Exception):  # noqa: N818  # a reason is not raised; it explains what is
    """Why a store refuses, for its operator's eyes: the ``__cause__`` of a :class:`StorageDeniedError`.

    It says what to do and repeats no secret.
    """


class Body(Protocol):
    """Bytes of known size and digests that can be opened again for every attempt."""

    @property
    def size_bytes(self) -> int:
        """How many bytes ``open()`` will yield."""
        ...

    @property
    def sha256(self) -> str:
        """Lower-case hex SHA-256 of the bytes."""
        ...

    @property
    def md5(self) -> str:
        """Lower-case hex MD5, which object stores check on receipt; no security rests on it."""
        ...

    def open(self) -> BinaryIO:
        """Return a fresh, independent, seekable reader at the first byte. The caller closes it."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of an object without its bytes.

    Attributes:
        key: The key.
        size_bytes: The size.
        sha256: Lower-case hex digest given at ``put``; None where a listing does not tell it.
        modified_at: When it was stored, UTC.
    """

    key: str
    size_bytes: int
    sha256: str | None
    modified_at: datetime


class ObjectReader(Protocol):
    """The open bytes of an object, or of one range of it. Not thread-safe; a context manager."""

    @property
    def info(self) -> ObjectInfo:
        """The whole object's facts, also when only a range was opened."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunks of at most 256 KiB; the last one only after all bytes have come and have been checked.

        All waits for the store, from ``open`` on, may together take what remained of the deadline at ``open``.
        Time that passes between chunks, while a slow client takes one, does not count.

        Raises:
            StorageTimeoutError: The store took longer than that.
            StorageUnavailableError: The connection broke before all bytes had come.
            ObjectCorruptError: The whole object was opened, and its digest is not the one given at ``put``.
        """
        ...

    def close(self) -> None:
        """Give the connection or file back; safe to call twice, also in the middle of the bytes."""
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        ...


class ObjectStore(Protocol):
    """A place for immutable objects. Thread-safe.

    Keys are 1 to 512 characters of ``a-z0-9/-_.``, made by the server; segments are neither empty nor
    ``.`` nor ``..``. All methods honour the current deadline (``app.stability``) besides their own caps
    and raise only :class:`StorageError` and :class:`ValueError` (for a bad key).
    """

    def put(self, key: str, body: Body, *, content_type: str) -> ObjectInfo:
        """Create an object; afterwards its bytes are durable and checked.

        An object that is there already with the same content is taken as success (the reply to an earlier
        attempt was lost). Never is a part of an object visible.

        Of puts with different bytes that overlap in time, exactly one succeeds in a local store and on AWS.
        Swift looks before it writes: there several may be told success, and the last one's bytes stay. So a
        key must belong to one content; the attempts at one photo do no harm to each other anywhere.

        Raises:
            ObjectExistsError: There is another object under the key; nothing was changed.
            ObjectCorruptError: The store's digest differs; the object has been removed where possible.
        """
        ...

    def head(self, key: str) -> ObjectInfo:
        """Return the facts of an object, its ``sha256`` included.

        Raises:
            ObjectNotFoundError: There is none.
        """
        ...

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> ObjectReader:
        """Open an object, or ``length`` bytes of it from ``start`` (both must lie inside the object).

        Raises:
            ObjectNotFoundError: There is none.
            ObjectCorruptError: The object ends before the range does: it is not what its owner remembers.
            ValueError: The range is negative or empty.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is success."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with the prefix, in key order, page by page."""
        ...

    def close(self) -> None:
        """Give back connections; the store is not used afterwards."""
        ...


_KEY = re.compile(r"(?=.{1,512}\Z)(?!(?:.*/)?\.{1,2}(?:/|\Z))[a-z0-9_.-]+(?:/[a-z0-9_.-]+)*", re.DOTALL)


def is_valid_key(key: str) -> bool:
    """Tell whether a key follows the grammar of :class:`ObjectStore`."""
    return _KEY.fullmatch(key) is not None


def check_key(key: str) -> None:
    """Raise ``ValueError`` for a key that breaks the grammar of :class:`ObjectStore`."""
    if not is_valid_key(key):
        message = "an object key has 1 to 512 characters of a-z 0-9 / - _ . without empty, . and .. segments"
        raise ValueError(message)


def check_range(start: int, length: int | None) -> None:
    """Raise ``ValueError`` for a range that no object can have."""
    if start < 0 or (length is not None and length < 1):
        message = "a range starts at 0 or later and has at least one byte"
        raise ValueError(message)


def judge_existing(store: ObjectStore, key: str, body: Body) -> ObjectInfo:
    """Tell an earlier attempt at the same object, whose answer was lost, from another object under its key.

    Args:
        store: Which has just refused to create the object.
        key: The key.
        body: What was to be stored.

    Raises:
        ObjectExistsError: The object there has other content.
        StorageUnavailableError: It went away meanwhile.
    """
    try:
        info = store.head(key)
    except ObjectNotFoundError as error:
        raise StorageUnavailableError("The stored object is being changed. Try again.") from error
    if info.sha256 != body.sha256 or info.size_bytes != body.size_bytes:
        raise ObjectExistsError("There is another object under this key.")
    return info
