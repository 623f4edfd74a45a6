"""What the readers of all formats share: bounded reading, big-endian fields, and what a header tells.

Nothing here knows a format. A reader walks a file through :class:`Source`, which holds one window of
64 KiB whatever the size of the file, and returns a :class:`Structure`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from app.errors import UndecodableImageError
from app.images.exif import NO_EXIF, Exif

WINDOW_BYTES = 64 * 1024
"""How much of a file is held at once."""

EXIF_READ_BYTES = 128 * 1024
"""How much of an Exif block is read; what stands behind it (previews, maker notes) is not needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What the structure of a file says, before the orientation is applied.

    Attributes:
        content_type: The media type.
        width: Stored width in pixels.
        height: Stored height in pixels.
        orientation: 1 to 8 as in Exif where the format has a way of its own; None leaves it to Exif.
        frames: How many pictures are shown one after the other.
        scans: Passes of a JPEG.
        exif: What the Exif block says.
    """

    content_type: str
    width: int
    height: int
    orientation: int | None = None
    frames: int = 1
    scans: int = 1
    exif: Exif = NO_EXIF


@dataclass(frozen=True, slots=True)
class Layout:
    """How the pixels of a file lie there, as far as it decides what a decoder holds at once.

    Attributes:
        bands: Samples per pixel, 1 to 4.
        sample_bytes: Of each, once decoded: 1 or 2.
        is_whole: Whether a decoder has to hold all of the picture before it has the first line.
        pixels: How many are decoded, where a part of them is cut off afterwards; None where all are shown.
    """

    bands: int
    sample_bytes: int
    is_whole: bool
    pixels: int | None = None


@dataclass(frozen=True, slots=True)
class NamedColours:
    """The colours that a file names by number instead of describing them in an ICC profile.

    The numbers are those of ISO/IEC 23091-2 (ITU-T H.273). What else belongs to them there, the matrix and the
    range, is the decoder's affair.

    Attributes:
        primaries: 1 are those of sRGB, 12 those of Display P3.
        transfer: How levels become light: 13 as sRGB says.
        outranks_profile: Whether they count where the file has an ICC profile as well.
    """

    primaries: int
    transfer: int
    outranks_profile: bool


def damaged(kind: str, what: str) -> UndecodableImageError:
    """Return the error for a file whose structure contradicts itself.

    Args:
        kind: The format's name.
        what: What is wrong with it, a clause without a full stop.
    """
    return UndecodableImageError(f"The {kind} file is damaged: {what}. Export it again and upload the new file.")


def cut_off(kind: str) -> UndecodableImageError:
    """Return the error for a file that ends before its image does.

    Args:
        kind: The format's name.
    """
    return UndecodableImageError(
        f"The {kind} file ends before the image does: it was cut off or a length in it is wrong. "
        "Upload the complete file."
    )


class Source:
    """A file of known size, read through one window. Not thread-safe.

    Args:
        stream: A seekable reader.
        size_bytes: The size of the file.
        kind: The format's name, for errors.
    """

    __slots__ = ("_start", "_stream", "_window", "kind", "size_bytes")

    def __init__(self, stream: BinaryIO, size_bytes: int, kind: str = "image") -> None:
        self._stream = stream
        self._window = b""
        self._start = 0
        self.size_bytes = size_bytes
        self.kind = kind

    def upto(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``, fewer only where the file ends."""
        length = min(length, self.size_bytes - offset)
        if length <= 0:
            return b""
        index = offset - self._start
        if index < 0 or index + length > len(self._window):
            self._fill(offset, max(length, WINDOW_BYTES))
            index = 0
        return self._window[index : index + length]

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes at ``offset``.

        Raises:
            UndecodableImageError: The file ends before.
        """
        found = self.upto(offset, length)
        if len(found) < length:
            raise cut_off(self.kind)
        return found

    def uint(self, offset: int, length: int) -> int:
        """Return the big-endian unsigned number of ``length`` bytes at ``offset``."""
        return int.from_bytes(self.read(offset, length))

    def window_at(self, offset: int) -> tuple[bytes, int]:
        """Return the window that holds ``offset``, and where in it that byte is; nothing is copied.

        Raises:
            UndecodableImageError: The file ends before.
        """
        index = offset - self._start
        if not 0 <= index < len(self._window):
            if offset < self.size_bytes:
                self._fill(offset, WINDOW_BYTES)
            else:
                self._window = b""
            index = 0
        if not self._window:
            raise cut_off(self.kind)
        return self._window, index

    def require(self, end: int) -> None:
        """Check that the file reaches to ``end``.

        Raises:
            UndecodableImageError: It is shorter.
        """
        if end > self.size_bytes:
            raise cut_off(self.kind)

    def _fill(self, offset: int, length: int) -> None:
        """Move the window; a reader may return less than asked for, until it returns nothing."""
        self._start = offset
        self._window = b""
        self._stream.seek(offset)
        parts = []
        while length > 0 and (part := self._stream.read(length)):
            parts.append(part)
            length -= len(part)
        self._window = b"".join(parts)


@contextmanager
def open_source(descriptor: int) -> Iterator[Source]:
    """Yield the file behind a descriptor that can be read anywhere; its position is moved, and it stays open."""
    with open(descriptor, "rb", closefd=False) as stream:
        yield Source(stream, os.fstat(descriptor).st_size)


class Fields:
    """Big-endian fields of one small block, one after the other.

    Args:
        data: The block.
        kind: The format's name, for errors.
        name: The block's name, for errors.
    """

    __slots__ = ("_data", "_kind", "_name", "_position")

    def __init__(self, data: bytes, kind: str, name: str) -> None:
        self._data = data
        self._kind = kind
        self._name = name
        self._position = 0

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._position

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes.

        Raises:
            UndecodableImageError: The block is shorter.
        """
        end = self._position + length
        if end > len(self._data):
            raise damaged(self._kind, f"its {self._name} block is too short")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def uint(self, length: int) -> int:
        """Return the next ``length`` bytes as an unsigned number; 0 for no bytes."""
        return int.from_bytes(self.take(length))
