"""An object store in memory that passes the contract suite, and lets a test stand before and behind every call."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from app.storage.base import (
    Body,
    ObjectCorruptError,
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
    ObjectReader,
    StorageUnavailableError,
    check_key,
    check_range,
)
from app.storage.probe import BytesBody
from app.storage.reading import CheckedReader, check_deadline

Hook = Callable[[str], object]
"""Gets the key; whatever it raises is what the call raises."""


@dataclass(frozen=True, slots=True)
class _Object:
    content: bytes
    info: ObjectInfo


class MemoryObjectStore:
    """The store. Thread-safe.

    Attributes:
        before: By the name of a method: called before it does anything.
        after: By the name of a method: called when it has done its work, before the caller hears of it.
        calls: Every call: the method and its key.
        is_closed: Whether it was closed.
        break_reading: What every further read of an open object raises; None for nothing.
        open_readers: How many readers have not been closed.
    """

    def __init__(self) -> None:
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.calls: list[tuple[str, str]] = []
        self.is_closed = False
        self.break_reading: Exception | None = None
        self.open_readers = 0
        self._objects: dict[str, _Object] = {}
        self._lock = threading.Lock()

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that are there, in order."""
        with self._lock:
            return sorted(key for key in self._objects if key.startswith(prefix))

    def put(self, key: str, body: Body, *, content_type: str) -> ObjectInfo:  # noqa: ARG002  # the port asks for it
        check_key(key)
        self._begin("put", key)
        check_deadline()
        content = _read(body)
        if (BytesBody(content).sha256, len(content)) != (body.sha256, body.size_bytes):
            raise ObjectCorruptError("The bytes are not those that were announced.")
        with self._lock:
            made = _Object(content, ObjectInfo(key, len(content), body.sha256, datetime.now(UTC)))
            found = self._objects.setdefault(key, made)
        if found.info.sha256 != body.sha256:
            raise ObjectExistsError("There is another object under this key.")
        self._end("put", key)
        return found.info

    def head(self, key: str) -> ObjectInfo:
        check_key(key)
        self._begin("head", key)
        info = self._find(key).info
        self._end("head", key)
        return info

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> ObjectReader:
        check_key(key)
        check_range(start, length)
        self._begin("open", key)
        check_deadline()
        found = self._find(key)
        expected = found.info.size_bytes - start if length is None else length
        if expected < 0 or start + expected > found.info.size_bytes:
            raise ObjectCorruptError("The object is shorter than that.")
        self._end("open", key)
        source = _Source(self, found.content[start : start + expected])
        whole = expected == found.info.size_bytes
        return CheckedReader(source, info=found.info, length=expected, whole=whole, close=source.give_back)

    def delete(self, key: str) -> None:
        check_key(key)
        self._begin("delete", key)
        with self._lock:
            self._objects.pop(key, None)
        self._end("delete", key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._begin("list", prefix)
        for key in self.keys(prefix):
            with self._lock:
                found = self._objects.get(key)
            if found is not None:
                yield found.info
        self._end("list", prefix)

    def close(self) -> None:
        self.is_closed = True

    def lay(
        self, key: str, content: bytes, *, stated: bytes | None = None, modified_at: datetime | None = None
    ) -> None:
        """Put an object there past all checks: damaged (``stated`` was put, ``content`` comes back) or of old age."""
        sha256 = BytesBody(content if stated is None else stated).sha256
        size_bytes = len(content if stated is None else stated)
        info = ObjectInfo(key, size_bytes, sha256, modified_at or datetime.now(UTC))
        with self._lock:
            self._objects[key] = _Object(content, info)

    def _find(self, key: str) -> _Object:
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise ObjectNotFoundError("There is no such object.")
        return found

    def _begin(self, method: str, key: str) -> None:
        self.calls.append((method, key))
        if method in self.before:
            self.before[method](key)

    def _end(self, method: str, key: str) -> None:
        if method in self.after:
            self.after[method](key)


class _Source(io.BytesIO):
    """The bytes of an open object, which break when the test says so."""

    def __init__(self, store: MemoryObjectStore, content: bytes) -> None:
        super().__init__(content)
        self._store = store
        store.open_readers += 1

    def read(self, size: int | None = -1, /) -> bytes:
        if self._store.break_reading is not None:
            raise self._store.break_reading
        return super().read(size)

    def give_back(self, _complete: bool) -> None:
        self._store.open_readers -= 1


def raising(error: BaseException) -> Hook:
    """Return a hook that raises."""

    def hook(_key: str) -> None:
        raise error

    return hook


def _read(body: Body) -> bytes:
    with body.open() as reader:
        try:
            return b"".join(iter(lambda: reader.read(64 * 1024), b""))
        except OSError as error:
            raise StorageUnavailableError("The body could not be read.") from error
