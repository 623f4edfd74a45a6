"""AVIF, HEIC and other HEIF: the boxes that say what the picture is and where its bytes lie.

::

    ftyp                           which of the formats
    meta ── pitm                   the primary item
         ├─ iinf ── infe…          what kind each item is (picture, Exif, …)
         ├─ iloc                   where each item's bytes lie: all inside of the file
         └─ iprp ── ipco, ipma     size, rotation, mirror, crop, colour of each item
    moov ── trak… (sequences)      how many pictures, read by app/images/sequence.py
    mdat                           the pictures themselves, never read

Only the containers named here are entered, each at its one place, so nesting costs nothing. Rotation and
mirror are properties of the item; the Exif orientation is ignored, as the standard demands. Not here: the
AV1 or HEVC bitstreams; gain maps, thumbnails and depth maps.

Source: ISO/IEC 14496-12, ISO/IEC 23008-12, AV1 Image File Format 1.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from app.errors import UnsupportedMediaTypeError
from app.images.boxes import Box, boxes, load, top_level_boxes
from app.images.exif import NO_EXIF, Exif, read_exif
from app.images.limits import ImageLimits, Tally
from app.images.sequence import Sequence, read_sequence
from app.images.structure import EXIF_READ_BYTES, Fields, Source, Structure, damaged

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
_NUMBER_SIZES = frozenset({0, 4, 8})
_IN_FILE, _IN_IDAT = 0, 1

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


@dataclass(slots=True)
class _Meta:
    """What the ``meta`` box says of the items; property indices start at 1."""

    primary: int | None = None
    kinds: dict[int, bytes] = field(default_factory=dict)
    extents: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    associations: dict[int, list[int]] = field(default_factory=dict)
    idat: Box | None = None

    def of(self, item: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield the properties of an item in the order in which they apply."""
        for index in self.associations.get(item, ()):
            if 0 < index <= len(self.properties):
                yield self.properties[index - 1]


def read_isobmff(source: Source, limits: ImageLimits) -> Structure:
    """Walk the boxes of an AVIF, HEIC or HEIF file.

    Raises:
        UndecodableImageError: A box, item or length is wrong, or item bytes lie outside of the file.
        ImageLimitError: Too many pixels, frames, boxes or bytes of metadata.
        UnsupportedMediaTypeError: Another format made of boxes, such as a film.
    """
    source.kind = _KIND
    tally = Tally(limits)
    brands = _brands(source)
    content_type = _brand_type(brands)
    source.kind = content_type.removeprefix("image/").upper()
    meta, sequence = None, None
    for box in top_level_boxes(source, tally):
        if box.kind == b"meta" and meta is None:
            meta = _read_meta(source, box, tally, limits)
            _check_extents(source, meta)
        elif box.kind == b"moov" and sequence is None and _SEQUENCE_BRANDS.intersection(brands):
            sequence = read_sequence(source, box, tally, limits)
    if sequence is None and (meta is None or brands[0] in _SEQUENCE_BRANDS):
        raise damaged(source.kind, "its description is missing")
    if meta is not None and meta.primary is not None:
        found = _from_item(source, meta, meta.primary, content_type)
        frames = sequence.frames if sequence else 1
        limits.check_canvas(found.width, found.height, frames)
        return replace(found, frames=frames, exif=_read_exif_item(source, meta, tally))
    if sequence is None:
        raise damaged(source.kind, "it has no primary picture")
    return _from_sequence(sequence, content_type)


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


def _from_item(source: Source, meta: _Meta, primary: int, content_type: str) -> Structure:
    """Describe the primary item."""
    kind = meta.kinds.get(primary, b"")
    if kind not in _CODED | _DERIVED:
        raise damaged(source.kind, "its primary picture is missing")
    if kind in _CODED and not meta.extents.get(primary):
        raise damaged(source.kind, "its primary picture has no data")
    width, height, orientation = _geometry(meta, primary, source.kind)
    return Structure(
        content_type=_CODECS.get(kind, "image/heif" if kind in _CODED else content_type),
        width=width,
        height=height,
        orientation=orientation,
    )


def _geometry(meta: _Meta, item: int, kind: str) -> tuple[int, int, int]:
    """Return width, height and orientation of an item after its crop, before its rotation."""
    width = height = 0
    matrix = _UPRIGHT
    for name, value in meta.of(item):
        fields = Fields(value, kind, "property")
        if name == b"ispe":
            fields.take(4)
            width, height = fields.uint(4), fields.uint(4)
        elif name == b"clap":
            width, height = _cropped(fields, width, height)
        elif name == b"irot":
            matrix = _after(_QUARTER_TURNS[fields.uint(1) & 3], matrix)
        elif name == b"imir":
            matrix = _after(_MIRRORS[fields.uint(1) & 1], matrix)
    if not width or not height:
        raise damaged(kind, "its primary picture has no size")
    return width, height, _ORIENTATIONS[matrix]


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


def _read_meta(source: Source, box: Box, tally: Tally, limits: ImageLimits) -> _Meta:
    """Read the item boxes; the first of each kind counts."""
    meta = _Meta()
    seen: set[bytes] = set()
    for child in boxes(source, box.start + 4, box.end, tally):
        if child.kind in seen:
            continue
        seen.add(child.kind)
        if child.kind == b"hdlr" and load(source, child)[8:12] != b"pict":
            raise damaged(source.kind, "its description is not one of pictures")
        if child.kind == b"pitm":
            fields = Fields(load(source, child), source.kind, "primary item")
            meta.primary = fields.uint(2 if not fields.uint(4) >> 24 else 4)
        elif child.kind == b"iinf":
            _read_kinds(source, child, meta, tally)
        elif child.kind == b"iloc":
            _read_locations(Fields(load(source, child), source.kind, "location"), meta, tally)
        elif child.kind == b"iprp":
            _read_properties(source, child, meta, tally, limits)
        elif child.kind == b"idat":
            meta.idat = child
    return meta


def _read_kinds(source: Source, box: Box, meta: _Meta, tally: Tally) -> None:
    """Read what kind each item is."""
    wide = source.uint(box.start, 1) > 0 if box.end > box.start else False
    for child in boxes(source, box.start + (8 if wide else 6), box.end, tally):
        if child.kind != b"infe":
            continue
        fields = Fields(source.upto(child.start, min(child.end - child.start, 16)), source.kind, "item")
        version = fields.uint(4) >> 24
        if version >= 2:  # noqa: PLR2004  older entries are for files, not for pictures
            item = fields.uint(2 if version == 2 else 4)  # noqa: PLR2004  ISO/IEC 14496-12 section 8.11.6
            fields.take(2)
            meta.kinds.setdefault(item, fields.take(4))


def _read_locations(fields: Fields, meta: _Meta, tally: Tally) -> None:
    """Read where the bytes of each item lie: (construction method, offset, length), length 0 up to the end."""
    version = fields.uint(4) >> 24
    sizes = fields.uint(2)
    offset_size, length_size, base_size, index_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
    if version == 0:
        index_size = 0
    if version > 2 or not _NUMBER_SIZES.issuperset({offset_size, length_size, base_size, index_size}):  # noqa: PLR2004
        fields.take(fields.left + 1)  # raises: versions end at 2, numbers have no, 4 or 8 bytes
    wide = 4 if version == 2 else 2  # noqa: PLR2004  ISO/IEC 14496-12 section 8.11.3
    for _ in range(fields.uint(wide)):
        item = fields.uint(wide)
        method = fields.uint(2) & 15 if version else _IN_FILE
        fields.take(2)
        base = fields.uint(base_size)
        extents = meta.extents.setdefault(item, [])
        for _ in range(fields.uint(2)):
            tally.segment()  # an extent may take no bytes at all, so the box's size does not bound them
            fields.take(index_size)
            extents.append((method, base + fields.uint(offset_size), fields.uint(length_size)))


def _read_properties(source: Source, box: Box, meta: _Meta, tally: Tally, limits: ImageLimits) -> None:
    """Read the properties and which item has which; every size in the file is judged."""
    for child in boxes(source, box.start, box.end, tally):
        if child.kind == b"ipco" and not meta.properties:
            for prop in boxes(source, child.start, child.end, tally):
                length = prop.end - prop.start
                value = source.upto(prop.start, min(length, 32))
                meta.properties.append((prop.kind, value))
                if prop.kind == b"colr":
                    tally.metadata(length)
                    tally.icc(length)
                elif prop.kind == b"ispe":
                    fields = Fields(value[4:], source.kind, "size")
                    limits.check_canvas(fields.uint(4), fields.uint(4))
        elif child.kind == b"ipma":
            _read_associations(Fields(load(source, child), source.kind, "association"), meta)


def _read_associations(fields: Fields, meta: _Meta) -> None:
    """Read which item has which properties; the highest bit of an index says "essential"."""
    flags = fields.uint(4)
    item_size = 4 if flags >> 24 else 2
    index_size = 2 if flags & 1 else 1
    mask = 0x7FFF if flags & 1 else 0x7F
    for _ in range(fields.uint(4)):
        item = fields.uint(item_size)
        indices = [fields.uint(index_size) & mask for _ in range(fields.uint(1))]
        meta.associations.setdefault(item, indices)


def _check_extents(source: Source, meta: _Meta) -> None:
    """Check that the bytes of all items lie inside of the file, or of the box that holds small ones."""
    for extents in meta.extents.values():
        for method, offset, length in extents:
            if method == _IN_FILE:
                source.require(offset + max(length, 1))
            elif method == _IN_IDAT and (meta.idat is None or meta.idat.start + offset + length > meta.idat.end):
                raise damaged(source.kind, "an item lies outside of its box")


def _read_exif_item(source: Source, meta: _Meta, tally: Tally) -> Exif:
    """Return what the first Exif item says; sizes of all items of metadata are judged."""
    exif = NO_EXIF
    for item, kind in meta.kinds.items():
        if kind not in {b"Exif", b"mime", b"uri "}:
            continue
        spans = [_span(source, meta, extent) for extent in meta.extents.get(item, ())]
        size = sum(length for _, length in spans)
        tally.metadata(size)
        if kind == b"Exif":
            tally.exif(size)
            if exif is NO_EXIF and spans:
                block = source.upto(spans[0][0], min(spans[0][1], EXIF_READ_BYTES))
                exif = read_exif(block[4 + int.from_bytes(block[:4]) :])
    return exif


def _span(source: Source, meta: _Meta, extent: tuple[int, int, int]) -> tuple[int, int]:
    """Return offset in the file and length of one checked extent."""
    method, offset, length = extent
    if method == _IN_IDAT and meta.idat is not None:
        return meta.idat.start + offset, length or meta.idat.end - meta.idat.start - offset
    if method == _IN_FILE:
        return offset, length or source.size_bytes - offset
    return 0, 0
