"""AVIF, HEIC and other HEIF: the boxes that say what the picture is and where its bytes lie.

::

    ftyp                           which of the formats
    meta ── pitm                   the primary item                               items.py
         ├─ iinf ── infe…          what kind each item is (picture, Exif, …)
         ├─ iloc                   where each item's bytes lie: inside of the file
         └─ iprp ── ipco, ipma     size, rotation, mirror, crop, colour of each
    moov ── trak…                  how many pictures a sequence has               sequence.py
    mdat                           the pictures themselves, never read

Only the containers named here are entered, each at its one place, so nesting costs nothing. Rotation and
mirror are properties of the item; the Exif orientation is ignored, as the standard demands. Not here: the
AV1 or HEVC bitstreams; gain maps, thumbnails and depth maps.

Source: ISO/IEC 14496-12, ISO/IEC 23008-12, AV1 Image File Format 1.1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from app.errors import UnsupportedMediaTypeError
from app.images.boxes import top_level_boxes
from app.images.exif import NO_EXIF, Exif, read_exif
from app.images.items import Items, read_items
from app.images.limits import ImageLimits, Tally
from app.images.sequence import Sequence, read_sequence
from app.images.structure import EXIF_READ_BYTES, Fields, Layout, NamedColours, Source, Structure, damaged

_KIND = "HEIF"
_BRANDS: dict[str, frozenset[bytes]] = {
    "image/avif": frozenset({b"avif", b"avis"}),
    "image/heic": frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}),
    "image/heif": frozenset({b"mif1", b"mif2", b"msf1", b"avci", b"avcs", b"jpeg", b"jpgs", b"vvic", b"vvis"}),
}
_SEQUENCE_BRANDS = frozenset({b"avis", b"hevc", b"hevx", b"hevm", b"hevs", b"msf1", b"avcs", b"jpgs", b"vvis"})
_CODECS = {b"av01": "image/avif", b"hvc1": "image/heic", b"hev1": "image/heic", b"lhv1": "image/heic"}
_CODED = frozenset(_CODECS) | {b"avc1", b"jpeg", b"j2k1", b"vvc1", b"unci", b"mski"}
_DERIVED = frozenset({b"grid", b"iovl", b"iden", b"tmap", b"base"})

# Matrices (a, b, c, d) from stored to upright coordinates, x to the right and y down, as Exif numbers them.
_Matrix = tuple[int, int, int, int]
_UPRIGHT: _Matrix = (1, 0, 0, 1)
_ORIENTATIONS: dict[_Matrix, int] = {
    _UPRIGHT: 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, -1, 1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, 1, -1, 0): 8,
}
_QUARTER_TURNS: tuple[_Matrix, ...] = (_UPRIGHT, (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0))  # counter-clockwise
_MIRRORS: tuple[_Matrix, ...] = ((1, 0, 0, -1), (-1, 0, 0, 1))  # top with bottom, left with right


def read_isobmff(source: Source, limits: ImageLimits) -> Structure:
    """Walk the boxes of an AVIF, HEIC or HEIF file.

    Raises:
        UndecodableImageError: A box, item or length is wrong, or item bytes lie outside of the file.
        ImageLimitError: Too many pixels, frames, boxes or bytes of metadata.
        UnsupportedMediaTypeError: Another format made of boxes, such as a film.
    """
    boxes = _walk(source, limits)
    items, sequence = boxes.items, boxes.sequence
    if items is not None and items.primary is not None:
        found = _from_items(source, items, boxes.content_type)
        frames = sequence.frames if sequence else 1
        limits.check_canvas(found.width, found.height, frames)
        return replace(found, frames=frames, exif=_read_exif_item(source, items))
    if sequence is None:
        raise damaged(source.kind, "it has no primary picture")
    return _from_sequence(sequence, boxes.content_type)


def isobmff_layout(source: Source, limits: ImageLimits) -> Layout | None:
    """Tell how many pixels of the primary picture are decoded before it is cropped; None where it has no items.

    How its samples lie stands in the coded picture, which is not read here: they are taken for the largest.

    Raises:
        UndecodableImageError: A box, item or length is wrong.
        ImageLimitError: Too many boxes or bytes of metadata.
    """
    items = _walk(source, limits).items
    primary = None if items is None else items.kept.get(items.primary or 0)
    if items is None or primary is None:
        return None
    return Layout(4, 2, is_whole=True, pixels=_geometry(items.properties, source.kind).coded_pixels)


def isobmff_colours(source: Source, limits: ImageLimits) -> NamedColours | None:
    """Return the colours that a ``colr`` box of the primary picture names; None where it has none that does.

    A profile goes before them, as in browsers. A picture without such a box is one of sRGB, whatever its bitstream
    says (ISO/IEC 23000-22 section 7.3.6.4).

    Raises:
        UndecodableImageError: A box, item or length is wrong.
        ImageLimitError: Too many boxes or bytes of metadata.
    """
    items = _walk(source, limits).items
    for name, value in [] if items is None else items.properties:
        if name == b"colr" and value[:4] == b"nclx":
            fields = Fields(value[4:], source.kind, "colour")
            return NamedColours(fields.uint(2), fields.uint(2), outranks_profile=False)
    return None


class _Boxes(NamedTuple):
    content_type: str
    items: Items | None
    sequence: Sequence | None


def _walk(source: Source, limits: ImageLimits) -> _Boxes:
    """Read the boxes that describe pictures."""
    source.kind = _KIND
    tally = Tally(limits)
    brands = _brands(source)
    content_type = _brand_type(brands)
    source.kind = content_type.removeprefix("image/").upper()
    items, sequence = None, None
    for box in top_level_boxes(source, tally):
        if box.kind == b"meta" and items is None:
            items = read_items(source, box, tally, limits)
        elif box.kind == b"moov" and sequence is None and _SEQUENCE_BRANDS.intersection(brands):
            sequence = read_sequence(source, box, tally, limits)
    if brands[0] in _SEQUENCE_BRANDS and sequence is None:
        raise damaged(source.kind, "its sequence is missing")
    return _Boxes(content_type, items, sequence)


def _brands(source: Source) -> list[bytes]:
    """Return the major and the compatible brands."""
    size = source.uint(0, 4)
    if size % 4 or not 16 <= size <= 4096:  # noqa: PLR2004  header, major, version; 1020 brands are enough
        raise damaged(_KIND, "its type box is wrong")
    box = source.read(8, size - 8)
    return [box[:4], *(box[index : index + 4] for index in range(8, len(box), 4))]


def _brand_type(brands: list[bytes]) -> str:
    """Return the media type by the major brand, else by the most specific compatible one."""
    for candidates in (brands[:1], brands):
        for content_type in ("image/avif", "image/heic"):
            if _BRANDS[content_type].intersection(candidates):
                return content_type
    if _BRANDS["image/heif"].intersection(brands):
        return "image/heif"
    kind = "Canon raw photo" if brands[0] == b"crx " else "film or another file made of boxes"
    raise UnsupportedMediaTypeError(
        f"The file is a {kind}. Accepted are JPEG, PNG, WebP, GIF, AVIF and HEIC photos; export it as one of these."
    )


def _from_sequence(sequence: Sequence, content_type: str) -> Structure:
    """Describe a file that has tracks and no items."""
    return Structure(
        content_type=_CODECS.get(sequence.codec, content_type),
        width=sequence.width,
        height=sequence.height,
        orientation=1,
        frames=sequence.frames,
    )


def _from_items(source: Source, items: Items, content_type: str) -> Structure:
    """Describe the primary item."""
    primary = items.kept.get(items.primary or 0)
    if primary is None or primary.kind not in _CODED | _DERIVED:
        raise damaged(source.kind, "its primary picture is missing")
    if primary.kind in _CODED and not primary.size_bytes:
        raise damaged(source.kind, "its primary picture has no data")
    geometry = _geometry(items.properties, source.kind)
    fallback = "image/heif" if primary.kind in _CODED else content_type
    return Structure(
        content_type=_CODECS.get(primary.kind, fallback),
        width=geometry.width,
        height=geometry.height,
        orientation=geometry.orientation,
    )


class _Geometry(NamedTuple):
    """The size that is shown, after the crop and before the rotation, and how many pixels are decoded."""

    width: int
    height: int
    orientation: int
    coded_pixels: int


def _geometry(properties: list[tuple[bytes, bytes]], kind: str) -> _Geometry:
    width = height = coded_pixels = 0
    matrix = _UPRIGHT
    for name, value in properties:
        fields = Fields(value, kind, "property")
        if name == b"ispe":
            fields.take(4)
            width, height = fields.uint(4), fields.uint(4)
            coded_pixels = width * height
        elif name == b"clap":
            width, height = _cropped(fields, width, height)
        elif name == b"irot":
            matrix = _after(_QUARTER_TURNS[fields.uint(1) & 3], matrix)
        elif name == b"imir":
            matrix = _after(_MIRRORS[fields.uint(1) & 1], matrix)
    if not width or not height:
        raise damaged(kind, "its primary picture has no size")
    return _Geometry(width, height, _ORIENTATIONS[matrix], coded_pixels)


def _cropped(fields: Fields, width: int, height: int) -> tuple[int, int]:
    """Return the size that a clean aperture leaves; one that makes no sense leaves all."""
    across, across_by, down, down_by = (fields.uint(4) for _ in range(4))
    if across_by and down_by and 0 < across // across_by <= width and 0 < down // down_by <= height:
        return across // across_by, down // down_by
    return width, height


def _after(second: _Matrix, first: _Matrix) -> _Matrix:
    """Return the matrix that does the first and then the second."""
    a, b, c, d = second
    e, f, g, h = first
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h


def _read_exif_item(source: Source, items: Items) -> Exif:
    """Return what the first Exif item says; its first four bytes say where the block in it starts."""
    for item in items.kept.values():
        if item.kind == b"Exif" and item.length:
            block = source.upto(item.offset, min(item.length, EXIF_READ_BYTES))
            return read_exif(block[4 + int.from_bytes(block[:4]) :])
    return NO_EXIF
