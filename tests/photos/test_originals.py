"""Streams of originals: all bytes and the right ones, or a broken stream; closed in every path, and counted once."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest

from app.photos.originals import OriginalStream
from app.storage.base import (
    ObjectCorruptError,
    ObjectInfo,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
)
from app.storage.probe import BytesBody
from app.storage.reading import CHUNK_BYTES, CheckedReader
from tests.fakes.bodies import pattern
from tests.photos.world import Observer

CONTENT = pattern(3 * CHUNK_BYTES + 7)


class Opened:
    """A stream over bytes that may not be what was stored, and whether its reader was closed."""

    def __init__(
        self,
        source: io.RawIOBase | io.BytesIO,
        *,
        stated: bytes = CONTENT,
        known: bytes = CONTENT,
        span: int | None = None,
    ) -> None:
        self.observer = Observer()
        self.closed: list[bool] = []
        info = ObjectInfo("a", len(stated), BytesBody(stated).sha256, datetime.now(UTC))
        reader = CheckedReader(
            source,
            info=info,
            length=len(stated) if span is None else span,
            whole=span is None,
            close=self.closed.append,
        )
        self.stream = OriginalStream(lambda: reader, sha256=BytesBody(known).sha256, observer=self.observer)

    @property
    def heard(self) -> dict[str, int]:
        return dict(self.observer.heard)


class Breaking(io.BytesIO):
    """Bytes whose end never comes: the store fails there."""

    def __init__(self, content: bytes, error: Exception) -> None:
        super().__init__(content)
        self._error = error

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        if not chunk:
            raise self._error
        return chunk


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_BYTES, len(CONTENT)])
def test_a_whole_photo_streams_to_its_last_byte_and_nobody_left(size_bytes: int) -> None:
    content = CONTENT[:size_bytes]
    opened = Opened(io.BytesIO(content), stated=content, known=content)

    opened.stream.open()
    found = b"".join(opened.stream)
    opened.stream.close()

    assert found == content
    assert opened.closed == [True]
    assert opened.heard == {}


def test_a_range_streams_without_a_digest() -> None:
    source = io.BytesIO(CONTENT)
    source.seek(100)
    opened = Opened(source, span=CHUNK_BYTES + 1)

    opened.stream.open()

    assert b"".join(opened.stream) == CONTENT[100 : 101 + CHUNK_BYTES]
    assert opened.heard == {}


def test_an_altered_byte_breaks_the_stream_before_its_last_chunk() -> None:
    altered = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    opened = Opened(io.BytesIO(altered))
    opened.stream.open()
    got: list[bytes] = []

    with pytest.raises(ObjectCorruptError):
        got.extend(opened.stream)
    opened.stream.close()

    assert len(b"".join(got)) < len(CONTENT)
    assert opened.heard == {"mismatch": 1}
    assert len(opened.closed) == 1


def test_damage_of_a_small_photo_shows_before_its_first_byte() -> None:
    opened = Opened(io.BytesIO(b"altered!"), stated=b"original", known=b"original")

    with pytest.raises(ObjectCorruptError):
        opened.stream.open()
    opened.stream.close()

    assert opened.heard == {"mismatch": 1}


def test_another_photo_than_the_database_knows_is_refused_before_its_first_byte() -> None:
    opened = Opened(io.BytesIO(CONTENT), known=b"another")

    with pytest.raises(ObjectCorruptError):
        opened.stream.open()
    opened.stream.close()

    assert opened.heard == {"mismatch": 1}
    assert opened.closed == [False]


@pytest.mark.parametrize("kept_bytes", [0, 10, 2 * CHUNK_BYTES])
def test_bytes_that_end_early_break_the_stream_and_are_no_damage(kept_bytes: int) -> None:
    opened = Opened(io.BytesIO(CONTENT[:kept_bytes]))
    got: list[bytes] = []

    with pytest.raises(StorageUnavailableError):
        read_into(opened.stream, got)
    opened.stream.close()

    assert CONTENT.startswith(b"".join(got))
    assert opened.heard == {}
    assert opened.closed == [False]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(5, "disk"), StorageUnavailableError),
        (StorageTimeoutError("slow"), StorageTimeoutError),
        (ConnectionResetError(), StorageUnavailableError),
    ],
)
def test_a_store_that_fails_in_the_middle_breaks_the_stream(error: Exception, expected: type[StorageError]) -> None:
    opened = Opened(Breaking(CONTENT[:CHUNK_BYTES], error))

    with pytest.raises(expected):
        read_into(opened.stream, [])
    opened.stream.close()

    assert opened.heard == {}
    assert opened.closed == [False]


def read_into(stream: OriginalStream, got: list[bytes]) -> None:
    stream.open()
    got.extend(stream)


def test_a_client_that_leaves_is_counted_once_and_its_reader_closed() -> None:
    opened = Opened(io.BytesIO(CONTENT))
    opened.stream.open()
    next(iter(opened.stream))

    opened.stream.close()
    opened.stream.close()

    assert opened.heard == {"left download": 1}
    assert opened.closed == [False]


def test_a_client_that_leaves_before_the_first_byte_is_counted_too() -> None:
    opened = Opened(io.BytesIO(CONTENT))
    opened.stream.open()

    opened.stream.close()

    assert opened.heard == {"left download": 1}
    assert opened.closed == [False]
