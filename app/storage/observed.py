"""Any store, with every call counted and timed: same port in, same port out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from app.storage.base import Body, ObjectInfo, ObjectNotFoundError, ObjectReader, ObjectStore

_SERVICE = "storage"


class CallObserver(Protocol):
    """Who hears of calls to other services. Must neither raise nor block."""

    def external_call(
        self, service: str, operation: str, *, outcome: Literal["success", "failure"], seconds: float, kind: str = ""
    ) -> None:
        """One call has ended; ``kind`` is the error's class for a failure."""
        ...


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

    @contextmanager
    def _observed(self, operation: str) -> Iterator[None]:
        started = time.perf_counter()
        kind = ""
        try:
            yield
        except (ObjectNotFoundError, GeneratorExit):
            raise
        except BaseException as error:
            kind = type(error).__name__
            raise
        finally:
            seconds = time.perf_counter() - started
            outcome: Literal["success", "failure"] = "failure" if kind else "success"
            self._observer.external_call(_SERVICE, operation, outcome=outcome, seconds=seconds, kind=kind)
