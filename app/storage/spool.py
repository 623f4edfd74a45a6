"""The spool: where an incoming body waits, hashed, until it has been stored.

Small bodies stay in memory, larger ones go to a file that has no name (``O_TMPFILE``, or created with mode
0600 and unlinked at once), so that even ``kill -9`` leaves nothing behind. :meth:`Spool.finish` hands out
a :class:`SpooledBody`, which can be opened any number of times, each reader independent of the others.

Not here: reading the body off the wire, and judging what is in it.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

from app.errors import PayloadTooLargeError, SpoolFullError

MEMORY_BYTES = 1024 * 1024
"""How much of one body is kept in memory by default, in bytes."""

_READ_BUFFER_BYTES = 256 * 1024


class SpooledBody:
    """The finished bytes of a spool: a :class:`app.storage.base.Body`. A context manager that frees them.

    Readers may be opened from several threads at once. Readers that are open when the body is closed stay
    usable until they are closed themselves.
    """

    def __init__(self, content: bytes | io.FileIO, *, size_bytes: int, sha256: str, md5: str | None) -> None:
        self._content: bytes | io.FileIO | None = content
        self._size_bytes = size_bytes
        self._sha256 = sha256
        self._md5 = md5

    @property
    def size_bytes(self) -> int:
        """How many bytes ``open()`` will yield."""
        return self._size_bytes

    @property
    def sha256(self) -> str:
        """Lower-case hex SHA-256 of the bytes."""
        return self._sha256

    @property
    def md5(self) -> str:
        """Lower-case hex MD5, which object stores check on receipt.

        Raises:
            ValueError: The bytes were spooled without one.
        """
        if self._md5 is None:
            message = "the body was spooled for no object store"
            raise ValueError(message)
        return self._md5

    def open(self) -> BinaryIO:
        """Return a fresh, independent, seekable reader at the first byte. The caller closes it.

        Raises:
            ValueError: The body is closed.
            SpoolFullError: The host has no file descriptor left.
        """
        content = self._content
        if content is None:
            message = "the spooled body is closed"
            raise ValueError(message)
        if isinstance(content, bytes):
            return io.BytesIO(content)
        try:
            # A descriptor of its own: were the number shared, closing the body would let the next open file
            # take it, and a late reader would read that one.
            descriptor = os.dup(content.fileno())
        except OSError as error:
            raise _spool_full() from error
        return cast(
            "BinaryIO", io.BufferedReader(_PositionedReader(descriptor, self._size_bytes), _READ_BUFFER_BYTES)
        )

    def open_descriptor(self) -> int | None:
        """Return a descriptor for reading only, with a position of its own; None where there is none to give.

        The caller closes it. Bytes in memory have none, nor has a host without ``/proc``.

        Raises:
            ValueError: The body is closed.
        """
        content = self._content
        if content is None:
            message = "the spooled body is closed"
            raise ValueError(message)
        if isinstance(content, bytes):
            return None
        try:
            return os.open(f"/proc/self/fd/{content.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None

    def close(self) -> None:
        """Free memory or disk. Safe to call twice."""
        content, self._content = self._content, None
        if isinstance(content, io.FileIO):
            content.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class Spool:
    """Takes one body chunk by chunk, hashing it, first in memory and then on disk. Not thread-safe.

    A context manager: leaving the block frees everything, unless :meth:`finish` has handed the bytes over.

    Args:
        directory: Where larger bodies go; it must exist.
        memory_bytes: A body larger than this goes to disk.
        max_bytes: A body larger than this is refused.
        with_md5: Whether the body may go to an object store; its MD5 takes longer than all else here.
    """

    def __init__(
        self, directory: Path, *, memory_bytes: int = MEMORY_BYTES, max_bytes: int, with_md5: bool = True
    ) -> None:
        self._directory = directory
        self._memory_bytes = memory_bytes
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._file: io.FileIO | None = None
        self._size_bytes = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
        self._closed = False

    @property
    def size_bytes(self) -> int:
        """How many bytes have been written."""
        return self._size_bytes

    def write(self, chunk: bytes) -> None:
        """Add a chunk. After an error the spool is closed and holds nothing.

        Raises:
            PayloadTooLargeError: The body is larger than allowed.
            SpoolFullError: The host cannot keep it: full, quota, permission, read-only or failing disk.
            ValueError: The spool is closed.
        """
        self._check_open()
        if self._size_bytes + len(chunk) > self._max_bytes:
            self.close()
            raise PayloadTooLargeError(f"The body is larger than the {self._max_bytes} bytes that are allowed.")
        self._sha256.update(chunk)
        if self._md5 is not None:
            self._md5.update(chunk)
        self._size_bytes += len(chunk)
        try:
            if self._file is not None:
                _write_all(self._file, chunk)
            else:
                self._chunks.append(bytes(chunk))
                if self._size_bytes > self._memory_bytes:
                    self._roll_to_disk()
        except OSError as error:
            self.close()
            raise _spool_full() from error

    def finish(self) -> SpooledBody:
        """Return the body; the spool is closed and the body's owner frees the bytes from now on.

        Raises:
            ValueError: The spool is closed.
        """
        self._check_open()
        content = b"".join(self._chunks) if self._file is None else self._file
        md5 = None if self._md5 is None else self._md5.hexdigest()
        body = SpooledBody(content, size_bytes=self._size_bytes, sha256=self._sha256.hexdigest(), md5=md5)
        self._file = None
        self.close()
        return body

    def close(self) -> None:
        """Free memory and disk of an unfinished spool. Safe to call twice."""
        self._closed = True
        self._chunks = []
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            message = "the spool is closed"
            raise ValueError(message)

    def _roll_to_disk(self) -> None:
        file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115  # the body closes it
        self._file = file
        for chunk in self._chunks:
            _write_all(file, chunk)
        self._chunks = []


class _PositionedReader(io.RawIOBase):
    """Reads a descriptor with ``pread``, so that readers do not move each other's position; owns it."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # typeshed: any Buffer
        try:
            count = os.preadv(self._descriptor, [buffer], self._position)
        except OSError as error:
            raise _spool_full() from error
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            message = "negative position"
            raise ValueError(message)
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _write_all(file: io.FileIO, chunk: bytes) -> None:
    """Write all of a chunk: an unbuffered file may take less than it is given."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _spool_full() -> SpoolFullError:
    return SpoolFullError("This host has no room for so many bytes now. Try again later.", retry_after_seconds=5)
