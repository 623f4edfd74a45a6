"""Any store, with every call counted and timed: same port in, same port out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from app.storage.base import Body, ObjectInfo, ObjectNotFoundError, ObjectReader, ObjectStore
from app.upstream.observing import CallObserver, observed


class ObservedObjectStore:
    """An :class:`~app.storage.base.ObjectStore` whose calls are observed. Thread-safe if the store is.

    An object that is not there is a success: the store answered. Opening is timed until the store answers,
    listing until its last page.

    Args:
        store: What does the work.
        observer: Who hears of it.
    """

    def __init__(self, store: ObjectStore, observer: CallObserver) -> None:
        self._store = store
        self._observer = observer

    @property
    def inner(self) -> ObjectStore:
        """The store that does the work."""
        return self._store

    def put(self, key: str, body: Body, *, content_type: str) -> ObjectInfo:
        """See the port."""
        with self._observed("put"):
            return self._store.put(key, body, content_type=content_type)

    def head(self, key: str) -> ObjectInfo:
        """See the port."""
        with self._observed("head"):
            return self._store.head(key)

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> ObjectReader:
        """See the port."""
        with self._observed("get"):
            return self._store.open(key, start=start, length=length)

    def delete(self, key: str) -> None:
        """See the port."""
        with self._observed("delete"):
            self._store.delete(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See the port."""
        with self._observed("list"):
            yield from self._store.list(prefix)

    def close(self) -> None:
        """See the port."""
        self._store.close()

    def _observed(self, operation: str) -> AbstractContextManager[None]:
        return observed(self._observer, "storage", operation, answers=(ObjectNotFoundError, GeneratorExit))
