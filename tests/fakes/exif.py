"""Writes Exif blocks, byte by byte, so that the reader is not tested with a library's idea of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

Entry = tuple[int, int, int, bytes]
"""Tag, type, count and value bytes."""

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExifFacts:
    """What a camera would write; None leaves an entry out."""

    make: str | None = "Fujifilm"
    model: str | None = "X-T5"
    orientation: int | None = 1
    taken: str | None = "2024:05:01 12:30:00"
    offset: str | None = "+02:00"
    latitude: float | None = None
    longitude: float | None = None


def exif_block(facts: ExifFacts | None = None, *, endian: str = "<") -> bytes:
    """Return a TIFF structure with a main, an Exif and a GPS directory."""
    facts = facts or ExifFacts()
    main: list[Entry] = []
    for tag, text in ((0x010F, facts.make), (0x0110, facts.model)):
        if text is not None:
            main.append(ascii_entry(tag, text))
    if facts.orientation is not None:
        main.append((0x0112, 3, 1, struct.pack(endian + "H", facts.orientation)))
    details = [
        ascii_entry(tag, text) for tag, text in ((0x9003, facts.taken), (0x9011, facts.offset)) if text is not None
    ]
    place: list[Entry] = []
    if facts.latitude is not None and facts.longitude is not None:
        place = [
            ascii_entry(1, "N" if facts.latitude >= 0 else "S"),
            (2, 5, 3, degrees(facts.latitude, endian)),
            ascii_entry(3, "E" if facts.longitude >= 0 else "W"),
            (4, 5, 3, degrees(facts.longitude, endian)),
        ]
    return tiff(main, details, place, endian=endian)


def ascii_entry(tag: int, text: str) -> Entry:
    """Return a text entry."""
    raw = text.encode() + b"\0"
    return tag, 2, len(raw), raw


def degrees(value: float, endian: str) -> bytes:
    """Return degrees, minutes and seconds as three rationals."""
    seconds = Fraction(abs(value)).limit_denominator(MICROSECONDS) * 3600
    whole, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    last = round(rest * 10_000)
    return struct.pack(endian + "6I", int(whole), 1, int(minutes), 1, last, 10_000)


def tiff(
    main: list[Entry], details: list[Entry] | None = None, place: list[Entry] | None = None, *, endian: str = "<"
) -> bytes:
    """Return a TIFF structure of one main directory and up to two others that it points to."""
    others = [(tag, entries) for tag, entries in ((0x8769, details), (0x8825, place)) if entries]
    start = 8
    position = start + _size(main, len(others))
    pointers: list[Entry] = []
    tail = b""
    for tag, entries in others:
        pointers.append((tag, 4, 1, struct.pack(endian + "I", position + len(tail))))
        tail += directory(entries, position + len(tail), endian)
    head = (b"II*\0" if endian == "<" else b"MM\0*") + struct.pack(endian + "I", start)
    return head + directory(main + pointers, start, endian) + tail


def directory(entries: list[Entry], start: int, endian: str) -> bytes:
    """Return one directory that stands at ``start``, followed by the values that do not fit into it."""
    position = start + 2 + 12 * len(entries) + 4
    fields, values = b"", b""
    for tag, kind, count, value in sorted(entries):
        fields += struct.pack(endian + "HHI", tag, kind, count)
        if len(value) <= 4:
            fields += value.ljust(4, b"\0")
        else:
            fields += struct.pack(endian + "I", position + len(values))
            values += value + b"\0" * (len(value) % 2)
    return struct.pack(endian + "H", len(entries)) + fields + struct.pack(endian + "I", 0) + values


def _size(entries: list[Entry], pointers: int) -> int:
    values = sum(len(value) + len(value) % 2 for _, _, _, value in entries if len(value) > 4)
    return 2 + 12 * (len(entries) + pointers) + 4 + values
