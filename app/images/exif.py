"""The few Exif facts that the product keeps: orientation, camera, time taken, place.

Exif is written by thousands of programs and broken by as many, so nothing here raises: what cannot be read
is None. Only the main directory and the two it points to (Exif, GPS) are read, once each, so that no loop of
pointers can hold the reader. Not here: previews, maker notes, XMP, IPTC.

Source: CIPA DC-008 (Exif 2.32), TIFF 6.0 section 2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

_MAKE, _MODEL, _ORIENTATION, _EXIF_IFD, _GPS_IFD = 0x010F, 0x0110, 0x0112, 0x8769, 0x8825
_ORIGINAL, _DIGITIZED, _OFFSET, _OFFSET_ORIGINAL, _OFFSET_DIGITIZED = 0x9003, 0x9004, 0x9010, 0x9011, 0x9012
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4
_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED, _UTF8 = 1, 2, 3, 4, 5, 7, 129
_SIZES = {_BYTE: 1, _ASCII: 1, _SHORT: 2, _LONG: 4, _RATIONAL: 8, _UNDEFINED: 1, _UTF8: 1}
_WANTED = frozenset({
    _MAKE, _MODEL, _ORIENTATION, _EXIF_IFD, _GPS_IFD, _ORIGINAL, _DIGITIZED, _OFFSET, _OFFSET_ORIGINAL,
    _OFFSET_DIGITIZED, _LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE,
})  # fmt: skip
_MAX_VALUE_BYTES = 1024
_MAX_CAMERA_CHARACTERS = 128
_UPSIDE_DOWN = 8
_TIME = re.compile(r"(\d{4})[:\-/](\d\d)[:\-/](\d\d)[ T](\d\d):(\d\d):(\d\d)", re.ASCII)
_UTC_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exif:
    """What an Exif block says; None where it says nothing usable.

    Attributes:
        orientation: 1 to 8; 1 where nothing is said.
        camera: Make and model, cleaned, at most 128 characters.
        taken_at: UTC; read as UTC where the block has no offset.
        latitude: Degrees north, -90 to 90; None unless the longitude is known too.
        longitude: Degrees east, -180 to 180.
    """

    orientation: int = 1
    camera: str | None = None
    taken_at: datetime | None = None
    latitude: float | None = None
    longitude: float | None = None


NO_EXIF = Exif()
"""What an image without Exif says."""

Directory = Mapping[int, tuple[int, bytes]]
"""Tag → (type, value bytes) of one directory."""


def read_exif(block: bytes) -> Exif:
    r"""Read an Exif block; never raises.

    Args:
        block: The TIFF structure, with or without the ``Exif\0\0`` before it; may be cut off.
    """
    tiff = _Tiff(block[6:] if block.startswith(b"Exif\0") else block)
    main = tiff.directory(tiff.first)
    details = tiff.directory(tiff.pointer(main, _EXIF_IFD))
    place = tiff.directory(tiff.pointer(main, _GPS_IFD))
    latitude = tiff.degrees(place, _LATITUDE, _LATITUDE_REF, positive="N", negative="S", limit=90)
    longitude = tiff.degrees(place, _LONGITUDE, _LONGITUDE_REF, positive="E", negative="W", limit=180)
    placed = latitude is not None and longitude is not None
    return Exif(
        orientation=tiff.orientation(main),
        camera=_camera(_text(main, _MAKE), _text(main, _MODEL)),
        taken_at=_taken_at(details),
        latitude=latitude if placed else None,
        longitude=longitude if placed else None,
    )


class _Tiff:
    """A TIFF structure in memory; every offset in it is suspect."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._endian = ">" if data[:4] == b"MM\0*" else "<"
        known = data[:4] in {b"MM\0*", b"II*\0"} and len(data) >= _UPSIDE_DOWN
        self.first = self._unpack("I", data[4:8]) if known else None

    def _unpack(self, code: str, raw: bytes) -> int:
        number: int = struct.unpack(self._endian + code, raw)[0]
        return number

    def directory(self, offset: int | None) -> Directory:
        """Return the wanted entries of the directory at an offset, as many as are whole."""
        found: dict[int, tuple[int, bytes]] = {}
        if offset is None or offset + 2 > len(self._data):
            return found
        count = self._unpack("H", self._data[offset : offset + 2])
        end = min(offset + 2 + 12 * count, len(self._data) - 11)
        for entry in range(offset + 2, end, 12):
            tag, kind, length = struct.unpack_from(self._endian + "HHI", self._data, entry)
            if tag in _WANTED and tag not in found and kind in _SIZES:
                value = self._value(entry + 8, length * _SIZES[kind])
                if value is not None:
                    found[tag] = (kind, value)
        return found

    def _value(self, field: int, size: int) -> bytes | None:
        """Return a value of at most 1024 bytes: in the field itself when it fits, else where that points to."""
        if not 0 < size <= _MAX_VALUE_BYTES:
            return None
        start = field if size <= 4 else self._unpack("I", self._data[field : field + 4])  # noqa: PLR2004  TIFF 6.0 p. 15
        value = self._data[start : start + size]
        return value if len(value) == size else None

    def pointer(self, directory: Directory, tag: int) -> int | None:
        """Return where another directory starts."""
        kind, value = directory.get(tag, (0, b""))
        return self._unpack("I", value[:4]) if kind == _LONG else None

    def orientation(self, directory: Directory) -> int:
        """Return the orientation, 1 unless a valid one is given."""
        kind, value = directory.get(_ORIENTATION, (0, b""))
        number = 1
        if kind == _SHORT:
            number = self._unpack("H", value[:2])
        elif kind == _LONG:
            number = self._unpack("I", value[:4])
        return number if 1 <= number <= _UPSIDE_DOWN else 1

    def degrees(
        self, directory: Directory, tag: int, ref_tag: int, *, positive: str, negative: str, limit: int
    ) -> float | None:
        """Return a coordinate in degrees; None when a part, the side or a denominator is missing."""
        kind, value = directory.get(tag, (0, b""))
        side = (_text(directory, ref_tag) or "").upper()[:1]
        if kind != _RATIONAL or len(value) != 24 or side not in {positive, negative}:  # noqa: PLR2004  3 rationals
            return None
        parts = struct.unpack(self._endian + "6I", value)
        if 0 in parts[1::2]:
            return None
        found = parts[0] / parts[1] + parts[2] / parts[3] / 60 + parts[4] / parts[5] / 3600
        if found > limit:
            return None
        return float(round(-found if side == negative else found, 7))


def _text(directory: Directory, tag: int) -> str | None:
    """Return a text without what cannot be printed; writers use UTF-8 and Latin-1 where ASCII is demanded."""
    kind, value = directory.get(tag, (0, b""))
    if kind not in {_ASCII, _BYTE, _UNDEFINED, _UTF8}:
        return None
    raw = value.split(b"\0", 1)[0]
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    cleaned = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(cleaned.split()) or None


def _camera(make: str | None, model: str | None) -> str | None:
    """Join make and model; most models repeat the make, and once is enough."""
    if make and model and not model.lower().startswith(make.lower().split()[0]):
        model = f"{make} {model}"
    camera = (model or make or "")[:_MAX_CAMERA_CHARACTERS].strip()
    return camera or None


def _taken_at(directory: Directory) -> datetime | None:
    """Return when the picture was taken, else when it was digitized."""
    for time_tag, offset_tag in ((_ORIGINAL, _OFFSET_ORIGINAL), (_DIGITIZED, _OFFSET_DIGITIZED)):
        text = _text(directory, time_tag)
        if text:
            return _instant(text, _text(directory, offset_tag) or _text(directory, _OFFSET) or "")
    return None


def _instant(text: str, offset: str) -> datetime | None:
    """Read a local time and its offset; an unreadable offset counts as none."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    shift = _UTC_OFFSET.fullmatch(offset)
    minutes = (int(shift[2]) * 60 + int(shift[3])) * (-1 if shift[1] == "-" else 1) if shift else 0
    year, month, day, hour, minute, second = (int(group) for group in match.groups())
    try:
        zone = timezone(timedelta(minutes=minutes))
        return datetime(year, month, day, hour, minute, second, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
