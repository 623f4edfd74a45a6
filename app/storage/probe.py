"""Questions to a store: a round trip at start-up (do address, credentials, bucket and rights hold?), and health's.

Not here: what follows from the answer. A store that refuses is a mistake in the configuration, one that is
down is not (the process starts and says so); the caller decides by the error's class.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from contextlib import suppress
from typing import BinaryIO

from app.storage.base import ObjectCorruptError, ObjectNotFoundError, ObjectStore
from app.storage.links import LinkCheck, PublicityCheck, find_capability

PROBE_PREFIX = "probe/"
"""Keys under this prefix belong to :func:`verify`; the reconciler leaves them alone."""


class BytesBody:
    """A :class:`app.storage.base.Body` of bytes in memory. Thread-safe.

    Args:
        content: The bytes.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._sha256 = hashlib.sha256(content).hexdigest()
        self._md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()

    @property
    def size_bytes(self) -> int:
        """How many bytes ``open()`` will yield."""
        return len(self._content)

    @property
    def sha256(self) -> str:
        """Lower-case hex SHA-256 of the bytes."""
        return self._sha256

    @property
    def md5(self) -> str:
        """Lower-case hex MD5, which object stores check on receipt."""
        return self._md5

    def open(self) -> BinaryIO:
        """Return a fresh reader at the first byte."""
        return io.BytesIO(self._content)


def verify(store: ObjectStore) -> None:
    """Put, get and delete an object of a few bytes under a key that nobody else uses.

    Args:
        store: The store, not behind any breaker or retry.

    Raises:
        StorageDeniedError: Credentials, bucket, rights or what the store can do: a mistake in the configuration.
        StorageFullError: The store has no room.
        ObjectCorruptError: The store gives back other bytes than it was given.
        StorageUnavailableError: The store is down, which is no mistake.
        StorageTimeoutError: The store did not answer in time, which is no mistake either.
    """
    key = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
    content = key.encode()
    store.put(key, BytesBody(content), content_type="text/plain")
    try:
        with store.open(key) as reader:
            found = b"".join(reader)
    finally:
        store.delete(key)
    if found != content:
        raise ObjectCorruptError("The object store gives back other bytes than it was given.")


def ask(store: ObjectStore) -> None:
    """Ask for the facts of an object that is not there; that it is not is an answer, too.

    Raises:
        StorageError: The store did not answer, or refused.
    """
    with suppress(ObjectNotFoundError):
        store.head(f"{PROBE_PREFIX}health")


def verify_links(store: ObjectStore) -> None:
    """Look whether the links that a store hands out would be honoured; nothing when it hands out none.

    Raises:
        StorageDeniedError: They would not; the cause says what the operator has to do.
        StorageError: The store does not say.
    """
    links = find_capability(store, LinkCheck)
    if links is not None:
        links.check_links()


def is_public(store: ObjectStore) -> bool:
    """Tell whether anybody may read what the store's links lead to, without their signature, as far as it says so.

    Raises:
        StorageError: The store does not answer, or refuses.
    """
    check = find_capability(store, PublicityCheck)
    return check is not None and check.is_public()
