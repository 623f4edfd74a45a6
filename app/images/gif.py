"""GIF: the walk over its blocks to the trailer.

The size is that of the logical screen; a frame outside of it is refused, because decoders differ in what
they make of it. Not here: the LZW data, whose lengths are followed and which is not decompressed.

Source: GIF89a specification (1990), sections 15 to 27.
"""

from __future__ import annotations

from typing import NamedTuple

from app.images.limits import ImageLimits, Tally
from app.images.structure import Source, Structure, damaged

_KIND = "GIF"
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL, _COMMENT = 0xF9, 0xFE
_HEADER_BYTES = 13
_MAX_CODE_SIZE = 11


def read_gif(source: Source, limits: ImageLimits) -> Structure:
    """Walk a GIF to its trailer.

    Raises:
        UndecodableImageError: A block, frame or length is wrong, or the trailer is missing.
        ImageLimitError: Too many pixels, frames, blocks or bytes of metadata.
    """
    (width, height), position = _screen(source)
    limits.check_canvas(width, height)
    tally = Tally(limits)
    frames = 0
    while True:
        block = source.uint(position, 1)
        tally.segment()
        if block == _TRAILER:
            break
        if block == _EXTENSION:
            position = _skip_extension(source, position + 1, tally)
        elif block == _IMAGE:
            frames += 1
            limits.check_canvas(width, height, frames)
            position = _skip_frame(source, position + 1, tally, (width, height))
        else:
            raise damaged(_KIND, "a block does not start where the one before it ends")
    if not frames:
        raise damaged(_KIND, "it has no picture")
    return Structure(content_type="image/gif", width=width, height=height, frames=frames)


class FirstFrame(NamedTuple):
    """Where the first picture of a GIF lies, in pixels.

    Attributes:
        screen: Width and height of the logical screen, which is what is shown.
        at: Its left and its upper edge there; it may lie outside.
        size: Its width and height.
    """

    screen: tuple[int, int]
    at: tuple[int, int]
    size: tuple[int, int]


def first_frame(source: Source, limits: ImageLimits) -> FirstFrame:
    """Read as far as the first picture, and tell where it lies.

    Raises:
        UndecodableImageError: There is none, or what stands before it is damaged.
        ImageLimitError: The screen is too large, or too much stands before the picture.
    """
    screen, position = _screen(source)
    limits.check_canvas(*screen)
    tally = Tally(limits)
    while (block := source.uint(position, 1)) == _EXTENSION:
        tally.segment()
        position = _skip_extension(source, position + 1, tally)
    if block != _IMAGE:
        raise damaged(_KIND, "it has no picture")
    x, y, width, height = _place(source.read(position + 1, 8))
    return FirstFrame(screen, (x, y), (width, height))


def _screen(source: Source) -> tuple[tuple[int, int], int]:
    """Return the size of the logical screen, and where the first block starts."""
    source.kind = _KIND
    head = source.read(0, _HEADER_BYTES)
    width, height = int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    if not width or not height:
        raise damaged(_KIND, "its width or height is zero")
    return (width, height), _HEADER_BYTES + _table_bytes(head[10])


def _place(numbers: bytes) -> tuple[int, int, int, int]:
    """Return left and upper edge, width and height of an image block."""
    x, y, width, height = (int.from_bytes(numbers[index : index + 2], "little") for index in (0, 2, 4, 6))
    return x, y, width, height


def _table_bytes(flags: int) -> int:
    """Return the size of the colour table that a packed field announces."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_frame(source: Source, position: int, tally: Tally, canvas: tuple[int, int]) -> int:
    """Return where an image block ends; the position is behind its first byte."""
    head = source.read(position, 9)
    x, y, width, height = _place(head)
    if not width or not height or x + width > canvas[0] or y + height > canvas[1]:
        raise damaged(_KIND, "a frame is empty or lies outside of the picture")
    position += 9 + _table_bytes(head[8])
    if not 1 <= source.uint(position, 1) <= _MAX_CODE_SIZE:
        raise damaged(_KIND, "the data of a frame is wrong")
    start = position + 1
    end = _skip_sub_blocks(source, start, tally)
    if end == start + 1:
        raise damaged(_KIND, "a frame has no data")
    return end


def _skip_extension(source: Source, position: int, tally: Tally) -> int:
    """Return where an extension ends; the position is behind its first byte."""
    label = source.uint(position, 1)
    end = _skip_sub_blocks(source, position + 1, tally)
    if label != _GRAPHIC_CONTROL:
        tally.metadata(end - position)
    if label == _COMMENT:
        tally.text(end - position)
    return end


def _skip_sub_blocks(source: Source, position: int, tally: Tally) -> int:
    """Return where a chain of length-prefixed pieces ends, its final zero included."""
    while True:
        window, index = source.window_at(position)
        first, count, allowed = index, 0, tally.sub_blocks_left
        while index < len(window) and count <= allowed:
            size = window[index]
            index += size + 1
            count += 1
            if not size:
                tally.sub_blocks(count)
                return position + index - first
        tally.sub_blocks(count)
        position += index - first
