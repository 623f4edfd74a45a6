"""An original as a descriptor that can be given to an engine process: to be read, never to be written."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from app.errors import SpoolFullError
from app.storage.base import Body

MEMORY_BYTES: Final = 1024 * 1024
"""An original that is in memory and no larger than this is given as memory."""

_CHUNK_BYTES: Final = 256 * 1024
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@runtime_checkable
class OnDisk(Protocol):
    """A body that may have a file of its own."""

    def open_descriptor(self) -> int | None:
        """Return a descriptor for reading only, with a position of its own, or None; the caller closes it."""
        ...


@contextmanager
def original_descriptor(body: Body, scratch_dir: Path) -> Iterator[int]:
    """Open an original for a process of the engine.

    Args:
        body: The original; one that has a file of its own is not copied.
        scratch_dir: Where larger bodies without one wait, in files without a name; it must exist.

    Yields:
        The descriptor, at the first byte; it is closed afterwards.

    Raises:
        SpoolFullError: This host has no room, or no descriptor left.
    """
    descriptor = body.open_descriptor() if isinstance(body, OnDisk) else None
    if descriptor is None:
        try:
            descriptor = _copied(body, scratch_dir)
        except OSError as error:
            raise SpoolFullError(
                "This host has no room to work on photos now. Try again later.", retry_after_seconds=5
            ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copied(body: Body, scratch_dir: Path) -> int:
    """Return a descriptor of a copy, for reading only."""
    if body.size_bytes <= MEMORY_BYTES:
        descriptor = os.memfd_create("original", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            _copy(body, descriptor)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
    with tempfile.TemporaryFile(dir=scratch_dir) as file:
        _copy(body, file.fileno())
        return os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)


def _copy(body: Body, descriptor: int) -> None:
    with body.open() as source, open(descriptor, "wb", closefd=False) as target:
        shutil.copyfileobj(source, target, _CHUNK_BYTES)
    os.lseek(descriptor, 0, os.SEEK_SET)
