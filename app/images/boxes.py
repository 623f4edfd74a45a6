"""The boxes of ISO base media files: finding them, and no more.

Source: ISO/IEC 14496-12 section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from app.errors import ImageLimitError
from app.images.limits import Tally
from app.images.structure import Source, cut_off, damaged

_MAX_LOADED_BYTES = 256 * 1024
_OUTERMOST = frozenset({b"ftyp", b"meta", b"moov", b"mdat", b"free", b"skip", b"uuid"})


class Box(NamedTuple):
    """A box: its kind, where its payload starts and where it ends."""

    kind: bytes
    start: int
    end: int


def boxes(source: Source, position: int, end: int, tally: Tally) -> Iterator[Box]:
    """Yield the boxes between two positions, one after the other.

    Raises:
        UndecodableImageError: A box does not fit.
        ImageLimitError: There are too many.
    """
    while position < end:
        box = _box_at(source, position, end)
        if box is None or box.end > end:
            raise damaged(source.kind, "the length of a box is wrong")
        tally.segment()
        yield box
        position = box.end


def top_level_boxes(source: Source, tally: Tally) -> Iterator[Box]:
    """Yield the boxes of the file; bytes behind the last one that are no box are allowed.

    Raises:
        UndecodableImageError: A box that belongs to the image does not fit into the file.
        ImageLimitError: There are too many.
    """
    position = 0
    while position < source.size_bytes:
        box = _box_at(source, position, source.size_bytes)
        known = source.upto(position + 4, 4) in _OUTERMOST
        if box is None or box.end > source.size_bytes:
            if known:
                raise cut_off(source.kind)
            return
        tally.segment()
        yield box
        position = box.end


def load(source: Source, box: Box) -> bytes:
    """Return the payload of a box that describes the picture.

    Raises:
        ImageLimitError: It is too large for a description.
    """
    length = box.end - box.start
    if length > _MAX_LOADED_BYTES:
        raise ImageLimitError(
            "The image describes itself in more bytes than allowed. Export it again and upload the new file."
        )
    return source.read(box.start, length)


def _box_at(source: Source, position: int, end: int) -> Box | None:
    """Return the box at a position, which may reach beyond the end; None where there is none."""
    head = source.upto(position, 16)
    size, kind, header = int.from_bytes(head[:4]), head[4:8], 8
    if size == 1:
        size, header = int.from_bytes(head[8:16]), 16
    elif size == 0:
        size = end - position
    if size < header or len(head) < header or position + header > end:
        return None
    return Box(kind, position + header, position + size)


def first_boxes(source: Source, start: int, end: int, kinds: frozenset[bytes], tally: Tally) -> dict[bytes, Box]:
    """Return the first box of each wanted kind between two positions; all others are only counted.

    Raises:
        UndecodableImageError: A box does not fit.
        ImageLimitError: There are too many.
    """
    found: dict[bytes, Box] = {}
    for box in boxes(source, start, end, tally):
        if box.kind in kinds:
            found.setdefault(box.kind, box)
    return found
