"""PNG and APNG: the walk over the chunks, every checksum verified.

Pictures stay compressed: what is inflated are texts and colour profiles, and of those only the size is kept,
up to its limit. A default image that is no part of the animation counts as a frame, because a decoder
decodes it.

Source: W3C PNG, third edition (sections 5, 11 and the APNG chunks).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from app.images.exif import NO_EXIF, read_exif
from app.images.limits import ImageLimits, Tally
from app.images.structure import (
    EXIF_READ_BYTES,
    WINDOW_BYTES,
    Fields,
    Layout,
    NamedColours,
    Source,
    Structure,
    damaged,
)

_KIND = "PNG"
_MAX_LENGTH = 2**31 - 1
_INDEXED = 3
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), _INDEXED: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_BANDS = {0: 1, 2: 3, _INDEXED: 3, 4: 2, 6: 4}
_OPAQUE = frozenset({0, 2, _INDEXED})
_HEADER_AT, _CHUNKS_AT = 16, 33
_MAX_PALETTE_BYTES = 768
_MAX_KEYWORD_BYTES = 79
_PICTURE_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"})


def read_png(source: Source, limits: ImageLimits) -> Structure:
    """Walk a PNG to its end chunk.

    Raises:
        UndecodableImageError: A length, checksum or chunk is wrong, or the end is missing.
        ImageLimitError: Too many pixels, frames, chunks or bytes of metadata.
    """
    source.kind = _KIND
    walk = _Walk(source, limits)
    position, name = 8, b""
    while name != b"IEND":
        head = source.read(position, 8)
        length, name = int.from_bytes(head[:4]), head[4:]
        if length > _MAX_LENGTH or not (name.isalpha() and name.isascii()):
            raise damaged(_KIND, "a chunk does not start where the one before it ends")
        if position == 8 and (name != b"IHDR" or length != 13):  # noqa: PLR2004  sections 5.2 and 11.2.1
            raise damaged(_KIND, "it does not start with a header chunk")
        position += 8
        _verify_checksum(source, name, position, length)
        walk.chunk(name, position, length)
        position += length + 4
    return walk.finish()


def png_layout(source: Source, limits: ImageLimits) -> Layout:
    """Read as far as the pixels, and tell how they lie; what :func:`read_png` judges is not judged again.

    Raises:
        UndecodableImageError: There is no header, or there are no pixels.
        ImageLimitError: Too many chunks stand before them.
    """
    source.kind = _KIND
    depth, colour, _, _, interlacing = source.read(_HEADER_AT + 8, 5)
    if colour not in _BANDS:
        raise damaged(_KIND, "its header names a kind of picture that no PNG has")
    is_transparent = False
    for name, _, _ in _before_pixels(source, limits):
        is_transparent |= name == b"tRNS" and colour in _OPAQUE
    bands = _BANDS[colour] + is_transparent
    return Layout(bands, 2 if depth == 16 else 1, is_whole=bool(interlacing))  # noqa: PLR2004  bits per sample


def png_colours(source: Source, limits: ImageLimits) -> NamedColours | None:
    """Return the colours that a PNG names in its ``cICP`` chunk; None where it names none.

    They go before a profile, as the third edition says. A chunk for samples that leave out the ends of their range,
    as in films, is ignored.

    Raises:
        UndecodableImageError: There are no pixels.
        ImageLimitError: Too many chunks stand before them.
    """
    source.kind = _KIND
    for name, position, length in _before_pixels(source, limits):
        if name == b"cICP" and length == 4:  # noqa: PLR2004  four numbers of a byte
            primaries, transfer, matrix, full_range = source.read(position, length)
            is_of_photo = (matrix, full_range) == (0, 1)
            return NamedColours(primaries, transfer, outranks_profile=True) if is_of_photo else None
    return None


def _before_pixels(source: Source, limits: ImageLimits) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, and position and length of the data, of the chunks between the header and the pixels."""
    tally = Tally(limits)
    position = _CHUNKS_AT
    while True:
        tally.segment()
        head = source.read(position, 8)
        length, name = int.from_bytes(head[:4]), head[4:]
        if name == b"IDAT":
            return
        yield name, position + 8, length
        position += 8 + length + 4


def _verify_checksum(source: Source, name: bytes, offset: int, length: int) -> None:
    """Compare a chunk's CRC, piece by piece."""
    crc, position, end = zlib.crc32(name), offset, offset + length
    while position < end:
        window, index = source.window_at(position)
        piece = window[index : index + end - position]
        crc = zlib.crc32(piece, crc)
        position += len(piece)
    if crc != source.uint(end, 4):
        raise damaged(_KIND, "the checksum of a chunk is wrong")


class _Walk:
    """What has been seen so far of one PNG."""

    def __init__(self, source: Source, limits: ImageLimits) -> None:
        self._source = source
        self._limits = limits
        self._tally = Tally(limits)
        self._width = 0
        self._height = 0
        self._colour = 0
        self._palette = False
        self._previous = b""
        self._picture_data = False
        self._frames_announced = 0
        self._frames = 0
        self._frame_without_data = False
        self._default_is_frame = False
        self._sequence = 0
        self._exif = NO_EXIF
        self._readers: dict[bytes, Callable[[int, int], None]] = {
            b"IHDR": self._header,
            b"PLTE": self._palette_chunk,
            b"IDAT": self._data,
            b"IEND": self._end,
            b"acTL": self._animation,
            b"fcTL": self._frame,
            b"fdAT": self._frame_data,
            b"iCCP": self._profile,
            b"zTXt": self._compressed_text,
            b"iTXt": self._international_text,
            b"tEXt": self._plain_text,
            b"eXIf": self._exif_chunk,
        }

    def chunk(self, name: bytes, offset: int, length: int) -> None:
        """Judge one chunk; offset and length are those of its data."""
        self._tally.segment()
        reader = self._readers.get(name)
        if reader is None and name[:1].isupper():
            raise damaged(_KIND, "it has a critical chunk that no PNG has")
        if name not in _PICTURE_CHUNKS:
            self._tally.metadata(length)
        if reader is not None:
            reader(offset, length)
        self._previous = name

    def finish(self) -> Structure:
        """Return what was found; the end chunk has been read."""
        if not self._picture_data:
            raise damaged(_KIND, "it has no picture data")
        if self._frames != self._frames_announced or self._frame_without_data:
            raise damaged(_KIND, "it has another number of frames than it says")
        return Structure(
            content_type="image/png",
            width=self._width,
            height=self._height,
            frames=self._frames + (not self._default_is_frame),
            exif=self._exif,
        )

    def _header(self, offset: int, length: int) -> None:
        if self._previous:
            raise damaged(_KIND, "it has two header chunks")
        fields = Fields(self._source.read(offset, length), _KIND, "header")
        self._width, self._height, depth, self._colour = (fields.uint(size) for size in (4, 4, 1, 1))
        compression, filtering, interlacing = fields.take(3)
        if not 0 < self._width <= _MAX_LENGTH or not 0 < self._height <= _MAX_LENGTH:
            raise damaged(_KIND, "its width or height is zero or out of range")
        if depth not in _DEPTHS.get(self._colour, ()) or compression or filtering or interlacing > 1:
            raise damaged(_KIND, "its header names a kind of picture that no PNG has")
        self._limits.check_canvas(self._width, self._height)

    def _palette_chunk(self, _offset: int, length: int) -> None:
        if self._palette or self._picture_data or not 0 < length <= _MAX_PALETTE_BYTES or length % 3:
            raise damaged(_KIND, "its palette is wrong")
        self._palette = True

    def _data(self, _offset: int, _length: int) -> None:
        if self._previous != b"IDAT":
            if self._picture_data:
                raise damaged(_KIND, "its picture data is interrupted")
            if self._colour == _INDEXED and not self._palette:
                raise damaged(_KIND, "its palette is missing")
            # A frame control chunk before the picture makes the picture the first frame.
            self._default_is_frame = self._frames > 0
        self._picture_data = True
        self._frame_without_data = False

    def _end(self, _offset: int, length: int) -> None:
        if length:
            raise damaged(_KIND, "its end chunk is not empty")

    def _animation(self, offset: int, length: int) -> None:
        if self._picture_data:
            return  # too late to make an animation; decoders ignore it
        if length != 8 or self._frames_announced:  # noqa: PLR2004  acTL: two numbers of 4 bytes
            raise damaged(_KIND, "its animation chunk is wrong")
        self._frames_announced = self._source.uint(offset, 4)
        if not self._frames_announced:
            raise damaged(_KIND, "its animation has no frames")
        self._limits.check_canvas(self._width, self._height, self._frames_announced)

    def _frame(self, offset: int, length: int) -> None:
        if not self._frames_announced:
            return  # not animated: decoders ignore it
        fields = Fields(self._source.upto(offset, min(length, 26)), _KIND, "frame")
        self._check_sequence(fields.uint(4))
        width, height, x, y = (fields.uint(4) for _ in range(4))
        if not width or not height or x + width > self._width or y + height > self._height:
            raise damaged(_KIND, "a frame lies outside of the picture")
        self._frames += 1
        if self._frames > self._frames_announced or self._frame_without_data:
            raise damaged(_KIND, "it has another number of frames than it says")
        self._frame_without_data = True

    def _frame_data(self, offset: int, length: int) -> None:
        if not self._frames_announced:
            return
        if length < 4 or not self._frames or not self._picture_data:  # noqa: PLR2004  the sequence number
            raise damaged(_KIND, "its frames are out of order")
        self._check_sequence(self._source.uint(offset, 4))
        self._frame_without_data = False

    def _check_sequence(self, number: int) -> None:
        if number != self._sequence:
            raise damaged(_KIND, "its frames are out of order")
        self._sequence += 1

    def _exif_chunk(self, offset: int, length: int) -> None:
        self._tally.exif(length)
        if self._exif is NO_EXIF:
            self._exif = read_exif(self._source.upto(offset, min(length, EXIF_READ_BYTES)))

    def _plain_text(self, _offset: int, length: int) -> None:
        self._tally.text(length)

    def _profile(self, offset: int, length: int) -> None:
        skip = self._keyword(offset, length) + 1
        self._tally.icc(self._inflated_size(offset + skip, length - skip, self._tally.icc_bytes_left))

    def _compressed_text(self, offset: int, length: int) -> None:
        skip = self._keyword(offset, length) + 1
        self._tally.text(self._inflated_size(offset + skip, length - skip, self._tally.text_bytes_left))

    def _international_text(self, offset: int, length: int) -> None:
        skip = self._keyword(offset, length)
        compressed = self._source.upto(offset + skip, min(2, length - skip)) == b"\1\0"
        if not compressed:
            self._tally.text(length)
            return
        # Language and translated keyword stand before the text; each ends with a zero.
        head = self._source.upto(offset + skip + 2, min(1024, length - skip - 2))
        before, _, rest = head.partition(b"\0")
        translated, _, _ = rest.partition(b"\0")
        skip += 2 + len(before) + 1 + len(translated) + 1
        self._tally.text(self._inflated_size(offset + skip, length - skip, self._tally.text_bytes_left))

    def _keyword(self, offset: int, length: int) -> int:
        """Return where the keyword's final zero ends."""
        head = self._source.upto(offset, min(length, _MAX_KEYWORD_BYTES + 1))
        end = head.find(b"\0")
        if end < 0:
            raise damaged(_KIND, "a text or profile has no keyword")
        return end + 1

    def _inflated_size(self, offset: int, length: int, allowed: int) -> int:
        """Return the size of compressed metadata, at most one more than allowed; broken data has what came out."""
        inflater = zlib.decompressobj()
        position, end, size = offset, offset + length, 0
        pending = b""
        while size <= allowed and not inflater.eof and (pending or position < end):
            if not pending:
                pending = self._source.upto(position, min(WINDOW_BYTES, end - position))
                position += len(pending)
            try:
                size += len(inflater.decompress(pending, min(WINDOW_BYTES, allowed + 1 - size)))
            except zlib.error:
                break
            pending = inflater.unconsumed_tail
        return size
