"""Small originals that many want at once: fetched once, checked once, and given to all of them.

A photo that has just been shared is asked for by hundreds in the same second. Of those that come while it is being
fetched, one fetches it and the others wait; when it was such a crowd, those that come a moment later get the same
bytes. Whose client leaves does no harm to the others: who fetches has all bytes before its own answer begins.

Objects never change, so that nothing can be out of date; whether a caller may see one was settled before.
Only bytes whose digest is the photo's are shared. What is held is bounded: where it would be more, a photo is
streamed for one client, as all larger ones are.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Protocol, Self

from app.stability import Clock, DeadlineExceededError, SingleFlight, SystemClock
from app.storage.base import ObjectInfo, ObjectReader, ObjectStore
from app.storage.reading import storage_timeout

SMALL_BYTES: Final = 1024 * 1024
"""The largest original that is held as a whole, in bytes."""

HELD_BYTES_MAX: Final = 16 * 1024 * 1024
"""How much is held in one process, in bytes; at most one photo more for each of its threads."""

KEPT_SECONDS: Final = 5.0
"""How long one is kept that several wanted: as long as a crowd takes to pass through the threads of a process."""

_SYSTEM_CLOCK = SystemClock()


class SharingObserver(Protocol):
    """Who hears of reads that were spared. Must not raise."""

    def shared_read(self) -> None:
        """An original was answered with bytes that another request had fetched."""
        ...


class _Whole:
    """A small original, and how many are reading it."""

    __slots__ = ("chunks", "ends_at", "info", "readers", "size_bytes")

    def __init__(self, info: ObjectInfo, chunks: tuple[bytes, ...]) -> None:
        self.info = info
        self.chunks = chunks
        self.readers = 0
        self.ends_at = 0.0
        self.size_bytes = sum(map(len, chunks))


class SmallOriginals:
    """Opens small originals. Thread-safe.

    Args:
        store: Where they are.
        observer: Who hears of reads that were spared.
        held_bytes_max: How much is held.
        kept_seconds: How long one is kept after it has come.
        clock: Where "now" comes from.
    """

    def __init__(
        self,
        store: ObjectStore,
        observer: SharingObserver,
        *,
        held_bytes_max: int = HELD_BYTES_MAX,
        kept_seconds: float = KEPT_SECONDS,
        clock: Clock = _SYSTEM_CLOCK,
    ) -> None:
        self._store = store
        self._observer = observer
        self._held_bytes_max = held_bytes_max
        self._kept_seconds = kept_seconds
        self._clock = clock
        self._flights = SingleFlight()
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Whole] = OrderedDict()  # in the order in which they came
        self._read: set[_Whole] = set()
        self._wanted: Counter[str] = Counter()

    @property
    def held_bytes(self) -> int:
        """How much is held now: kept, or being read."""
        with self._lock:
            return self._held_bytes()

    def open(self, key: str, *, sha256: str, size_bytes: int) -> ObjectReader:
        """Open an original; all of it is here when this returns, or it comes as from the store itself.

        Args:
            key: The object's key.
            sha256: The photo's digest: other bytes are given to nobody else.
            size_bytes: Its size, up to :data:`SMALL_BYTES`.

        Raises:
            StorageError: As :meth:`app.storage.base.ObjectStore.open`.
            StorageTimeoutError: Also when the deadline passed while another request was fetching it.
        """
        with self._lock:
            kept = self._find(key)
            if kept is not None:
                self._read.add(kept)
                kept.readers += 1
            is_full = self._read_bytes() + size_bytes > self._held_bytes_max
        if kept is not None:
            self._observer.shared_read()
            return _Reader(self, kept)
        if is_full:
            return self._store.open(key)
        return self._fetch(key, sha256)

    def _fetch(self, key: str, sha256: str) -> ObjectReader:
        fetched: list[_Whole] = []

        def fetch() -> _Whole:
            with self._store.open(key) as reader:
                whole = _Whole(reader.info, tuple(reader))
            fetched.append(whole)
            if whole.info.sha256 == sha256:
                self._keep_for_crowd(key, whole)
            return whole

        with self._lock:
            self._wanted[key] += 1
        try:
            whole = self._flights.run(f"{key} {sha256}", fetch)
        except DeadlineExceededError as error:
            raise storage_timeout() from error
        finally:
            with self._lock:
                self._wanted[key] -= 1
                if not self._wanted[key]:
                    del self._wanted[key]
        with self._lock:
            self._read.add(whole)
            whole.readers += 1
        if not fetched:
            self._observer.shared_read()
        return _Reader(self, whole)

    def give_back(self, whole: _Whole) -> None:
        """Take note that a reader has ended."""
        with self._lock:
            whole.readers -= 1
            if not whole.readers:
                self._read.discard(whole)
            self._make_room()

    def _keep_for_crowd(self, key: str, whole: _Whole) -> None:
        with self._lock:
            if self._wanted[key] == 1:
                return
            self._kept.pop(key, None)
            whole.ends_at = self._clock.monotonic() + self._kept_seconds
            self._kept[key] = whole
            self._make_room()

    def _find(self, key: str) -> _Whole | None:
        now = self._clock.monotonic()
        while self._kept:
            first = next(iter(self._kept))
            if now < self._kept[first].ends_at:
                break
            del self._kept[first]
        return self._kept.get(key)

    def _make_room(self) -> None:
        """Forget what came first until the rest is within the bound; what is being read stays with its readers."""
        while self._kept and self._held_bytes() > self._held_bytes_max:
            self._kept.popitem(last=False)

    def _held_bytes(self) -> int:
        return sum(whole.size_bytes for whole in self._read.union(self._kept.values()))

    def _read_bytes(self) -> int:
        return sum(whole.size_bytes for whole in self._read)


class _Reader:
    """An :class:`~app.storage.base.ObjectReader` of bytes that are here. Gives them back once."""

    def __init__(self, held_by: SmallOriginals, whole: _Whole) -> None:
        self._held_by: SmallOriginals | None = held_by
        self._whole = whole

    @property
    def info(self) -> ObjectInfo:
        return self._whole.info

    def __iter__(self) -> Iterator[bytes]:
        yield from self._whole.chunks

    def close(self) -> None:
        held_by, self._held_by = self._held_by, None
        if held_by is not None:
            held_by.give_back(self._whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
