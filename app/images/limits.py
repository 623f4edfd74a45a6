"""What an image may demand of whoever opens it, and the errors when it demands more.

Every number is judged from the header or the structure, before anything is decoded. Not here: the limit on
the bytes of the upload itself, which the spool enforces while they arrive.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from app.errors import ImageLimitError

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """Upper limits, all inclusive; each can be lowered or raised by the one who builds it.

    Attributes:
        max_pixels: Width times height times frames: what a decoder would have to write.
        max_side: The longer side in pixels.
        max_frames: Pictures of an animation or sequence.
        max_scans: Passes of a JPEG; a decoder walks the whole picture once for each.
        max_segments: Markers, chunks, blocks or boxes of the file's structure. Each costs a web worker about 2
            microseconds of the time that its requests share; a PNG of 160 MB has as many of libpng's 8 KiB.
        max_sub_blocks: Length-prefixed pieces of GIF data, at most 255 bytes each: 100 MB of full ones.
        max_metadata_blocks: Segments, chunks or extensions that hold anything but pictures.
        max_metadata_bytes: All of those together, as stored.
        max_exif_bytes: Exif as stored.
        max_icc_bytes: Colour profiles, inflated.
        max_text_bytes: Comments and PNG texts, inflated.
    """

    max_pixels: int = 64_000_000
    max_side: int = 32_767
    max_frames: int = 1_000
    max_scans: int = 100
    max_segments: int = 20_000
    max_sub_blocks: int = 400_000
    max_metadata_blocks: int = 1_000
    max_metadata_bytes: int = 8 * _MIB
    max_exif_bytes: int = _MIB
    max_icc_bytes: int = 4 * _MIB
    max_text_bytes: int = 4 * _MIB

    def check_canvas(self, width: int, height: int, frames: int = 1) -> None:
        """Judge the size of a picture, and of all its frames together.

        Raises:
            ImageLimitError: A side, the frames, or the pixels of all frames are too many.
        """
        if max(width, height) > self.max_side:
            raise ImageLimitError(
                f"The image is {width} by {height} pixels; a side may have at most {self.max_side}. Make it smaller."
            )
        if frames > self.max_frames:
            raise ImageLimitError(
                f"The image has {frames} frames; at most {self.max_frames} are allowed. Make the animation shorter."
            )
        if width * height * frames > self.max_pixels:
            times = f" in {frames} frames" if frames > 1 else ""
            raise ImageLimitError(
                f"The image is {width} by {height} pixels{times}; at most {self.max_pixels} pixels in all are "
                "allowed. Make it smaller."
            )


HEADER_LIMITS: Final = ImageLimits(max_pixels=sys.maxsize)
"""For another look at a header: how many pixels there may be was judged before, by the server's settings."""


class Tally:
    """Counts parts and metadata while a file is walked, and stops the walk at the first limit passed.

    Args:
        limits: What is allowed.
    """

    __slots__ = ("_blocks", "_bytes", "_icc", "_limits", "_segments", "_sub_blocks", "_text")

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._segments = 0
        self._sub_blocks = 0
        self._blocks = 0
        self._bytes = 0
        self._icc = 0
        self._text = 0

    @property
    def sub_blocks_left(self) -> int:
        """How many more GIF sub-blocks are allowed."""
        return self._limits.max_sub_blocks - self._sub_blocks

    @property
    def icc_bytes_left(self) -> int:
        """How many more bytes of colour profiles are allowed."""
        return self._limits.max_icc_bytes - self._icc

    @property
    def text_bytes_left(self) -> int:
        """How many more bytes of text are allowed."""
        return self._limits.max_text_bytes - self._text

    def segment(self) -> None:
        """Count one part of the structure.

        Raises:
            ImageLimitError: There are too many.
        """
        self._segments += 1
        if self._segments > self._limits.max_segments:
            raise ImageLimitError(
                f"The image is made of more than {self._limits.max_segments} parts. Export it again and upload the "
                "new file."
            )

    def sub_blocks(self, count: int) -> None:
        """Count GIF sub-blocks.

        Raises:
            ImageLimitError: There are too many.
        """
        self._sub_blocks += count
        if self._sub_blocks > self._limits.max_sub_blocks:
            raise ImageLimitError(
                f"The GIF is made of more than {self._limits.max_sub_blocks} blocks. Export it again and upload the "
                "new file."
            )

    def metadata(self, size_bytes: int) -> None:
        """Count one block of metadata of whatever kind, as stored.

        Raises:
            ImageLimitError: There are too many blocks or bytes.
        """
        self._blocks += 1
        self._bytes += size_bytes
        self.check_metadata_blocks(self._blocks)
        if self._bytes > self._limits.max_metadata_bytes:
            raise self._metadata_error(f"more than {self._limits.max_metadata_bytes} bytes of metadata")

    def check_metadata_blocks(self, count: int) -> None:
        """Judge a number of blocks of metadata before any of them is kept.

        Raises:
            ImageLimitError: There are too many.
        """
        if count > self._limits.max_metadata_blocks:
            raise self._metadata_error(f"more than {self._limits.max_metadata_blocks} blocks of metadata")

    def exif(self, size_bytes: int) -> None:
        """Judge an Exif block.

        Raises:
            ImageLimitError: It is too large.
        """
        if size_bytes > self._limits.max_exif_bytes:
            raise self._metadata_error(f"more than {self._limits.max_exif_bytes} bytes of Exif")

    def icc(self, size_bytes: int) -> None:
        """Count bytes of a colour profile, inflated.

        Raises:
            ImageLimitError: There are too many.
        """
        self._icc += size_bytes
        if self._icc > self._limits.max_icc_bytes:
            raise self._metadata_error(f"a colour profile of more than {self._limits.max_icc_bytes} bytes")

    def text(self, size_bytes: int) -> None:
        """Count bytes of text, inflated.

        Raises:
            ImageLimitError: There are too many.
        """
        self._text += size_bytes
        if self._text > self._limits.max_text_bytes:
            raise self._metadata_error(f"more than {self._limits.max_text_bytes} bytes of text")

    @staticmethod
    def _metadata_error(what: str) -> ImageLimitError:
        return ImageLimitError(f"The image carries {what}. Remove metadata from the file and upload it again.")
