"""A Body that is just bytes in memory and remembers its readers."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import BinaryIO


class MemoryBody:
    """A Body in memory; ``readers`` are all that were opened.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.readers: list[BytesIO] = []

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._data).hexdigest()

    @property
    def md5(self) -> str:
        return hashlib.md5(self._data, usedforsecurity=False).hexdigest()

    def open(self) -> BinaryIO:
        reader = BytesIO(self._data)
        self.readers.append(reader)
        return reader
