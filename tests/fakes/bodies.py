"""Bodies that misbehave, and the plain one: what a store is given in tests."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import BinaryIO

from app.storage.probe import BytesBody


def pattern(size_bytes: int, seed: int = 0) -> bytes:
    """Return bytes in which no two blocks are alike, the same for the same seed."""
    block = 4096
    blocks = (
        hashlib.sha256(f"{seed}:{at}".encode()).digest() * (block // 32) for at in range(size_bytes // block + 1)
    )
    return b"".join(blocks)[:size_bytes]


class LyingBody(BytesBody):
    """States the digests of other bytes than it yields.

    Args:
        stated: The bytes whose digests it states.
        content: The bytes it yields, as many.
    """

    def __init__(self, stated: bytes, content: bytes) -> None:
        super().__init__(stated)
        self._other = content

    def open(self) -> BinaryIO:
        return io.BytesIO(self._other)


class BodyWithReaders(BytesBody):
    """Counts how often it is opened, and lets a test choose the reader of each opening.

    Args:
        content: The bytes.
        wrap: Makes the reader of the n-th opening (from 1) out of the plain one.
    """

    def __init__(self, content: bytes, wrap: Callable[[int, BinaryIO], BinaryIO]) -> None:
        super().__init__(content)
        self._wrap = wrap
        self.opened = 0

    def open(self) -> BinaryIO:
        self.opened += 1
        return self._wrap(self.opened, super().open())


class BreakingReader(io.BytesIO):
    """Fails when it is read beyond a point.

    Args:
        content: The bytes before that point.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        if not chunk:
            raise OSError(5, "the disk failed")
        return chunk
