"""The items of a HEIF file: which is the picture, how it lies, where the bytes are.

Everything is judged while it is read, and only what belongs to the primary item and to metadata is kept, so
that a file with a hundred thousand items costs no more memory than one with two.

Source: ISO/IEC 14496-12 section 8.11, ISO/IEC 23008-12 sections 6.5 and 9.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from app.images.boxes import Box, boxes, first_boxes, load
from app.images.limits import ImageLimits, Tally
from app.images.structure import Fields, Source, damaged

_CHILDREN = frozenset({b"hdlr", b"pitm", b"iinf", b"iloc", b"iprp", b"idat"})
_PROPERTY_CHILDREN = frozenset({b"ipco", b"ipma"})
_METADATA_KINDS = frozenset({b"Exif", b"mime", b"uri "})
_NUMBER_SIZES = frozenset({0, 4, 8})
_IN_FILE, _IN_IDAT = 0, 1
_PROPERTY_BYTES = 36


@dataclass(slots=True)
class Item:
    """One item that is kept.

    Attributes:
        kind: Its four characters, such as ``av01`` or ``Exif``.
        offset: Where in the file its first bytes lie.
        length: How many of them lie there.
        size_bytes: All of them, wherever they lie.
    """

    kind: bytes
    offset: int = 0
    length: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class Items:
    """What the ``meta`` box says.

    Attributes:
        primary: The number of the primary item; None when none is named.
        kept: The primary item and those of metadata, by number.
        properties: Kind and first bytes of each property of the primary item, in the order in which they apply.
    """

    primary: int | None = None
    kept: dict[int, Item] = field(default_factory=dict)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)


def read_items(source: Source, meta: Box, tally: Tally, limits: ImageLimits) -> Items:
    """Read a ``meta`` box; the first child of each kind counts.

    Raises:
        UndecodableImageError: A box is wrong, or the bytes of an item lie outside of the file.
        ImageLimitError: A size in it, the boxes or the metadata are too much.
    """
    found = first_boxes(source, meta.start + 4, meta.end, _CHILDREN, tally)
    items = Items()
    if b"hdlr" in found and load(source, found[b"hdlr"])[8:12] != b"pict":
        raise damaged(source.kind, "its description is not one of pictures")
    if b"pitm" in found:
        fields = Fields(load(source, found[b"pitm"]), source.kind, "primary item")
        items.primary = fields.uint(4 if fields.uint(4) >> 24 else 2)
    if b"iinf" in found:
        _read_kinds(source, found[b"iinf"], items, tally)
    if b"iloc" in found:
        fields = Fields(load(source, found[b"iloc"]), source.kind, "location")
        _Locations(source, found.get(b"idat"), tally).read(fields, items)
    if b"iprp" in found:
        _read_properties(source, found[b"iprp"], items, tally, limits)
    for item in items.kept.values():
        if item.kind in _METADATA_KINDS:
            tally.metadata(item.size_bytes)
        if item.kind == b"Exif":
            tally.exif(item.size_bytes)
    return items


def _read_kinds(source: Source, box: Box, items: Items, tally: Tally) -> None:
    """Read what kind each item is, and keep those that matter."""
    metadata = 0
    wide = source.uint(box.start, 1) > 0
    for child in boxes(source, box.start + (8 if wide else 6), box.end, tally):
        if child.kind != b"infe":
            continue
        fields = Fields(source.upto(child.start, min(child.end - child.start, 16)), source.kind, "item")
        version = fields.uint(4) >> 24
        if version < 2:  # noqa: PLR2004  older entries are for files, not for pictures
            continue
        number = fields.uint(2 if version == 2 else 4)  # noqa: PLR2004  ISO/IEC 14496-12 section 8.11.6
        fields.take(2)
        kind = fields.take(4)
        if kind in _METADATA_KINDS:
            metadata += 1
            tally.check_metadata_blocks(metadata)
        if number == items.primary or kind in _METADATA_KINDS:
            items.kept.setdefault(number, Item(kind))


class _Locations:
    """Reads where the bytes of the items lie, and refuses those that lie outside of the file."""

    def __init__(self, source: Source, idat: Box | None, tally: Tally) -> None:
        self._source = source
        self._idat = idat
        self._tally = tally

    def read(self, fields: Fields, items: Items) -> None:
        """Read an ``iloc`` box."""
        version = fields.uint(4) >> 24
        sizes = fields.uint(2)
        offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        index_size = sizes & 15 if version else 0
        if version > 2 or not _NUMBER_SIZES.issuperset({offset_size, length_size, base_size, index_size}):  # noqa: PLR2004  the last version
            raise damaged(self._source.kind, "its location block is wrong")
        wide = 4 if version == 2 else 2  # noqa: PLR2004  ISO/IEC 14496-12 section 8.11.3
        for _ in range(fields.uint(wide)):
            item = items.kept.get(fields.uint(wide))
            method = fields.uint(2) & 15 if version else _IN_FILE
            fields.take(2)
            base = fields.uint(base_size)
            for _ in range(fields.uint(2)):
                self._tally.segment()  # an extent may take no bytes at all, so the box's size does not bound them
                fields.take(index_size)
                offset, length = self._checked(method, base + fields.uint(offset_size), fields.uint(length_size))
                if item is not None:
                    if not item.size_bytes:
                        item.offset, item.length = offset, length
                    item.size_bytes += length

    def _checked(self, method: int, offset: int, length: int) -> tuple[int, int]:
        """Return offset in the file and length of one extent; length 0 means up to the end."""
        if method == _IN_FILE:
            self._source.require(offset + max(length, 1))
            return offset, length or self._source.size_bytes - offset
        if method == _IN_IDAT:
            if self._idat is None or self._idat.start + offset + length > self._idat.end:
                raise damaged(self._source.kind, "an item lies outside of its box")
            return self._idat.start + offset, length or self._idat.end - self._idat.start - offset
        return 0, length


def _read_properties(source: Source, box: Box, items: Items, tally: Tally, limits: ImageLimits) -> None:
    """Read the properties of the primary item; every size in the file is judged, whoever has it."""
    found = first_boxes(source, box.start, box.end, _PROPERTY_CHILDREN, tally)
    wanted: list[int] = []
    if b"ipma" in found:
        wanted = _read_associations(Fields(load(source, found[b"ipma"]), source.kind, "association"), items.primary)
    needed = frozenset(wanted)
    values: dict[int, tuple[bytes, bytes]] = {}
    if b"ipco" in found:
        ipco = found[b"ipco"]
        for index, child in enumerate(boxes(source, ipco.start, ipco.end, tally), start=1):
            value = source.upto(child.start, min(child.end - child.start, _PROPERTY_BYTES))
            if child.kind == b"colr":
                tally.metadata(child.end - child.start)
                tally.icc(child.end - child.start)
            elif child.kind == b"ispe":
                fields = Fields(value[4:], source.kind, "size")
                limits.check_canvas(fields.uint(4), fields.uint(4))
            if index in needed:
                values[index] = (child.kind, value)
    items.properties = [values[index] for index in wanted if index in values]


def _read_associations(fields: Fields, primary: int | None) -> list[int]:
    """Return which properties the primary item has; the highest bit of an index says "essential"."""
    flags = fields.uint(4)
    item_size = 4 if flags >> 24 else 2
    index_size = 2 if flags & 1 else 1
    mask = 0x7FFF if flags & 1 else 0x7F
    for _ in range(fields.uint(4)):
        item = fields.uint(item_size)
        indices = Fields(fields.take(fields.uint(1) * index_size), "", "")
        if item == primary:
            return [indices.uint(index_size) & mask for _ in range(indices.left // index_size)]
    return []
