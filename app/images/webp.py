"""WebP: the RIFF container and the headers of the bitstreams in it.

The size stands in up to three places (canvas, frame, bitstream); they have to agree. Not here: the
bitstreams behind their headers.

Source: RFC 9649; RFC 6386 section 9.1 (VP8 frame header).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from app.images.exif import NO_EXIF, Exif, read_exif
from app.images.limits import ImageLimits, Tally
from app.images.structure import EXIF_READ_BYTES, Fields, Layout, Source, Structure, damaged

_KIND = "WebP"
_ANIMATED = 0x02
_EXTENDED_BYTES = 10
_FRAME_BYTES = 16
_KEY_FRAME_START = b"\x9d\x01\x2a"
_MAX_PROFILE = 3
_FOURCC_END = 12


class _Chunk(NamedTuple):
    """One RIFF chunk: its name, and where its payload starts and how long it is."""

    name: bytes
    offset: int
    length: int


def read_webp(source: Source, limits: ImageLimits) -> Structure:
    """Walk a WebP to the end that its container announces.

    Raises:
        UndecodableImageError: A length, size or frame is wrong, or the file is shorter than announced.
        ImageLimitError: Too many pixels, frames, chunks or bytes of metadata.
    """
    source.kind = _KIND
    end = 8 + int.from_bytes(source.read(4, 4), "little")
    source.require(end)
    tally = Tally(limits)
    chunks = _chunks(source, _FOURCC_END, end, tally)
    first = next(chunks, None)
    if first is None:
        raise damaged(_KIND, "it is empty")
    if first.name in {b"VP8 ", b"VP8L"}:
        width, height = _bitstream_size(source, first)
        limits.check_canvas(width, height)
        for _ in chunks:  # follow the lengths to the end
            pass
        return Structure(content_type="image/webp", width=width, height=height)
    if first.name != b"VP8X" or first.length < _EXTENDED_BYTES:
        raise damaged(_KIND, "it does not start with a picture")
    return _read_extended(source, limits, tally, first, chunks)


def webp_layout(source: Source, limits: ImageLimits) -> Layout:
    """Find the picture, and tell how its pixels lie; what :func:`read_webp` judges is not judged again.

    Raises:
        UndecodableImageError: A length is wrong, or there is no picture.
        ImageLimitError: Too many chunks stand before it.
    """
    source.kind = _KIND
    end = min(8 + int.from_bytes(source.read(4, 4), "little"), source.size_bytes)
    has_alpha = False
    for chunk in _chunks(source, _FOURCC_END, end, Tally(limits)):
        has_alpha |= chunk.name == b"ALPH"
        if chunk.name == b"VP8 ":
            return Layout(4 if has_alpha else 3, 1, is_whole=has_alpha)
        if chunk.name in {b"VP8L", b"ANMF"}:
            return Layout(4, 1, is_whole=True)
    raise damaged(_KIND, "it has no picture")


def _chunks(source: Source, position: int, end: int, tally: Tally) -> Iterator[_Chunk]:
    """Yield the chunks between two positions; a payload of odd length is followed by one more byte."""
    while position < end:
        if position + 8 > end:
            raise damaged(_KIND, "a chunk does not start where the one before it ends")
        head = source.read(position, 8)
        length = int.from_bytes(head[4:], "little")
        position += 8
        if position + length > end:
            raise damaged(_KIND, "the length of a chunk is wrong")
        tally.segment()
        yield _Chunk(head[:4], position, length)
        position += length + length % 2


def _read_extended(
    source: Source, limits: ImageLimits, tally: Tally, header: _Chunk, chunks: Iterator[_Chunk]
) -> Structure:
    """Walk the chunks behind an extended header."""
    fields = source.read(header.offset, _EXTENDED_BYTES)
    animated = bool(fields[0] & _ANIMATED)
    canvas = int.from_bytes(fields[4:7], "little") + 1, int.from_bytes(fields[7:10], "little") + 1
    pictures = {b"ANMF"} if animated else {b"VP8 ", b"VP8L"}
    frames = 0
    exif = NO_EXIF
    for chunk in chunks:
        if chunk.name in pictures:
            frames += 1
            limits.check_canvas(*canvas, frames)
            if animated:
                _check_frame(source, chunk, canvas, tally)
            elif frames > 1 or _bitstream_size(source, chunk) != canvas:
                raise damaged(_KIND, "its picture has another size than its canvas")
        elif chunk.name in {b"ANMF", b"VP8 ", b"VP8L"}:
            raise damaged(_KIND, "its pictures are of another kind than its header says")
        elif chunk.name not in {b"ANIM", b"ALPH"}:
            exif = _read_metadata(source, chunk, tally, exif)
    if not frames:
        raise damaged(_KIND, "it has no picture")
    return Structure(content_type="image/webp", width=canvas[0], height=canvas[1], frames=frames, exif=exif)


def _read_metadata(source: Source, chunk: _Chunk, tally: Tally, exif: Exif) -> Exif:
    """Count a chunk of metadata, and return what the first Exif among them says."""
    tally.metadata(chunk.length)
    if chunk.name == b"ICCP":
        tally.icc(chunk.length)
    elif chunk.name == b"EXIF":
        tally.exif(chunk.length)
        if exif is NO_EXIF:
            return read_exif(source.upto(chunk.offset, min(chunk.length, EXIF_READ_BYTES)))
    return exif


def _check_frame(source: Source, frame: _Chunk, canvas: tuple[int, int], tally: Tally) -> None:
    """Check that a frame lies on the canvas and that its bitstream has its size."""
    if frame.length < _FRAME_BYTES:
        raise damaged(_KIND, "a frame is too short")
    head = source.read(frame.offset, 12)
    x, y, width, height = (int.from_bytes(head[index : index + 3], "little") for index in (0, 3, 6, 9))
    size = width + 1, height + 1
    if 2 * x + size[0] > canvas[0] or 2 * y + size[1] > canvas[1]:
        raise damaged(_KIND, "a frame lies outside of the picture")
    for chunk in _chunks(source, frame.offset + _FRAME_BYTES, frame.offset + frame.length, tally):
        if chunk.name in {b"VP8 ", b"VP8L"}:
            if _bitstream_size(source, chunk) != size:
                raise damaged(_KIND, "a frame has another size than its picture")
            return
    raise damaged(_KIND, "a frame has no picture")


def _bitstream_size(source: Source, chunk: _Chunk) -> tuple[int, int]:
    """Return the width and height that the header of a lossy or lossless bitstream says."""
    fields = Fields(source.upto(chunk.offset, min(chunk.length, 10)), _KIND, "picture")
    if chunk.name == b"VP8L":
        signature, bits = fields.uint(1), int.from_bytes(fields.take(4), "little")
        if signature != 0x2F or bits >> 29:  # noqa: PLR2004  RFC 9649 section 3.4: signature, version 0
            raise damaged(_KIND, "the header of its picture is wrong")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    tag = int.from_bytes(fields.take(3), "little")
    start = fields.take(3)
    width, height = (int.from_bytes(fields.take(2), "little") & 0x3FFF for _ in range(2))
    if tag & 1 or (tag >> 1 & 7) > _MAX_PROFILE or start != _KEY_FRAME_START or not width or not height:
        raise damaged(_KIND, "the header of its picture is wrong")
    if tag >> 5 > chunk.length - 10:
        raise damaged(_KIND, "the length of its picture is wrong")
    return width, height
