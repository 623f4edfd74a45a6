"""Image sequences in ISO base media files: the tables that say how many pictures a track has.

Only the picture track counts, not its alpha plane beside it. Not here: when each picture is shown.

Source: ISO/IEC 14496-12 sections 8.5 to 8.7.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.images.boxes import Box, boxes, first_boxes, load
from app.images.limits import ImageLimits, Tally
from app.images.structure import Fields, Source, damaged

_PATH = (b"mdia", b"minf", b"stbl")
_KINDS = frozenset({*_PATH, b"hdlr", b"stsd", b"stsz", b"stz2"})


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a picture track says: the codec's four characters, the size and the number of pictures."""

    codec: bytes
    width: int
    height: int
    frames: int


def read_sequence(source: Source, movie: Box, tally: Tally, limits: ImageLimits) -> Sequence:
    """Read the first picture track of a ``moov`` box.

    Raises:
        UndecodableImageError: There is none, or its tables are wrong.
        ImageLimitError: Too many frames or pixels.
    """
    for track in boxes(source, movie.start, movie.end, tally):
        if track.kind == b"trak":
            found = _read_track(source, track, tally, limits)
            if found is not None:
                return found
    raise damaged(source.kind, "its sequence has no pictures")


def _read_track(source: Source, track: Box, tally: Tally, limits: ImageLimits) -> Sequence | None:
    """Read one track; None when it is none of pictures."""
    inside: Box | None = track
    for step in _PATH:
        children = {} if inside is None else first_boxes(source, inside.start, inside.end, _KINDS, tally)
        if step == b"minf":
            handler = children.get(b"hdlr")
            if handler is None or source.upto(handler.start + 8, 4) not in {b"pict", b"vide"}:
                return None
        inside = children.get(step)
    if inside is None:
        return None
    tables = first_boxes(source, inside.start, inside.end, _KINDS, tally)
    if b"stsd" not in tables or not {b"stsz", b"stz2"}.intersection(tables):
        raise damaged(source.kind, "the tables of its sequence are missing")
    entry = Fields(source.upto(tables[b"stsd"].start, 44), source.kind, "sample description")
    entry.take(12)
    codec = entry.take(4)
    entry.take(24)
    width, height = entry.uint(2), entry.uint(2)
    if not width or not height:
        raise damaged(source.kind, "its width or height is zero")
    sizes = tables.get(b"stsz") or tables[b"stz2"]
    return Sequence(codec, width, height, _frames(source, sizes, (width, height), limits))


def _frames(source: Source, box: Box, canvas: tuple[int, int], limits: ImageLimits) -> int:
    """Return the number of samples, whose bytes together have to fit into the file."""
    head = Fields(source.upto(box.start, min(12, box.end - box.start)), source.kind, "sample size")
    head.take(4)
    same_size, frames = head.uint(4), head.uint(4)
    if not frames:
        raise damaged(source.kind, "its sequence has no pictures")
    limits.check_canvas(*canvas, frames)
    if box.kind == b"stz2":
        return frames
    if same_size:
        source.require(same_size * frames)
        return frames
    table = Fields(load(source, box)[12:], source.kind, "sample size")
    source.require(sum(table.uint(4) for _ in range(frames)))
    return frames
