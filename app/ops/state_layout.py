"""How the bytes of a host's state page lie: a header, then slots of one size, each found by the name that it carries.

::

    0                1024              2048                                   HEADER_BYTES + SLOTS * SLOT_BYTES
    ├─ header ───────┼─ slot 0 ────────┼─ slot 1 ────────┼─ …                 ┤
                     ├─ copy ─┬─ copy ─┤
                              └─ checksum · sequence · length · name · owner · payload

Each slot has two copies of its entry and a change overwrites the older one, so the newer stays whole whatever
happens during the write. A copy counts only when its checksum is right; a slot without such a copy is free, and what
it held was never said. An entry that one process writes alone names it, so that it can be removed when that process
is gone; any other entry has no owner. All of this is arithmetic on bytes: :mod:`app.ops.state` reads and writes them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from app.ops.owners import BOOT_BYTES, Owner

LAYOUT_VERSION: Final = 2
"""Stands in the header and in the file's name: processes of two versions do not meet on one page."""

HEADER_BYTES: Final = 1024
SLOTS: Final = 256
"""How many entries a page has room for: of the most workers twice, as during a reload, and of everything else."""

COPY_BYTES: Final = 512
SLOT_BYTES: Final = 2 * COPY_BYTES
PAGE_BYTES: Final = HEADER_BYTES + SLOTS * SLOT_BYTES

NAME_BYTES_MAX: Final = 80
"""How long a name may be, in UTF-8."""

BLANK_SLOT: Final = bytes(SLOT_BYTES)
"""A slot that nothing was ever written to, or that was made free."""

_MAGIC: Final = b"photo-st"
_HEADER: Final = struct.Struct("<8sHHId36s")
_COPY: Final = struct.Struct(f"<QH{NAME_BYTES_MAX}sIQ{BOOT_BYTES}s")
_CHANGE: Final = struct.Struct("<QH")  # how a copy begins: what is another with every change
_CHECKSUM: Final = struct.Struct("<I")
_NOBODY: Final = Owner(0, 0, bytes(BOOT_BYTES))

PAYLOAD_BYTES_MAX: Final = COPY_BYTES - _CHECKSUM.size - _COPY.size
"""How long the payload of an entry may be."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a page says of itself.

    Attributes:
        created: When it was made, seconds since 1970.
        boot_id: The boot of the host in which it was made; instants of the monotonic clock hold within it.
    """

    created: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands in a slot.

    Attributes:
        name: Whose it is.
        payload: What it says; only its owner knows how to read it.
        sequence: The number of the change, from 1.
        copy: Which of the two copies this is, 0 or 1.
        owner: The process that alone writes it; None when all may.
    """

    name: str
    payload: bytes
    sequence: int
    copy: int
    owner: Owner | None = None


def pack_header(header: Header) -> bytes:
    """Return a header's bytes, ``HEADER_BYTES`` of them."""
    body = _HEADER.pack(_MAGIC, LAYOUT_VERSION, SLOTS, SLOT_BYTES, header.created, header.boot_id.encode()[:36])
    return _with_checksum(body).ljust(HEADER_BYTES, b"\0")


def read_header(raw: bytes) -> Header | None:
    """Return what a header says; None when it is no header of this layout, or damaged."""
    body = raw[_CHECKSUM.size : _CHECKSUM.size + _HEADER.size]
    if len(body) < _HEADER.size or not _is_whole(raw, body):
        return None
    magic, version, slots, slot_bytes, created, boot_id = _HEADER.unpack(body)
    if (magic, version, slots, slot_bytes) != (_MAGIC, LAYOUT_VERSION, SLOTS, SLOT_BYTES):
        return None
    return Header(created, boot_id.rstrip(b"\0").decode("ascii", "replace"))


def offset_of(index: int, copy: int = 0) -> int:
    """Return where a copy of a slot begins."""
    return HEADER_BYTES + index * SLOT_BYTES + copy * COPY_BYTES


def pack_copy(name: str, payload: bytes, sequence: int, owner: Owner | None = None) -> bytes:
    """Return the bytes of one copy of an entry, at most ``COPY_BYTES``.

    Raises:
        ValueError: The name or the payload is too long.
    """
    return copy_packer(name, owner)(payload, sequence)


def copy_packer(name: str, owner: Owner | None = None) -> Callable[[bytes, int], bytes]:
    """Return what packs the copies of one entry, for who does so often: from payload and sequence, as above.

    Raises:
        ValueError: When it packs: the name or the payload is too long.
    """
    encoded = name.encode()
    owner = owner or _NOBODY
    fixed = _COPY.pack(0, 0, encoded, owner.pid, owner.started, owner.boot)[_CHANGE.size :]
    change, checksum, crc32 = _CHANGE.pack, _CHECKSUM.pack, zlib.crc32
    longest = PAYLOAD_BYTES_MAX if 0 < len(encoded) <= NAME_BYTES_MAX else -1

    def pack(payload: bytes, sequence: int) -> bytes:
        if len(payload) > longest:
            message = f"an entry has a name of 1 to {NAME_BYTES_MAX} bytes and up to {PAYLOAD_BYTES_MAX} bytes to say"
            raise ValueError(message)
        body = change(sequence, len(payload)) + fixed + payload
        return checksum(crc32(body)) + body

    return pack


def newest_entry(slot: bytes) -> Entry | None:
    """Return what a slot says, by the newer of its whole copies; None when neither is whole.

    Args:
        slot: ``SLOT_BYTES`` bytes; fewer are a slot that is cut off.
    """
    return read_slot(slot)[0]


def read_slot(slot: bytes) -> tuple[Entry | None, bool]:
    """Return what a slot says, and whether all that was written in it is whole.

    A reader that is interrupted between the two copies can find an old one whole and the new one torn: then it has
    to look again, or it might go back behind what it has read before.

    Args:
        slot: ``SLOT_BYTES`` bytes.
    """
    first, second = _read_copy(slot, 0), _read_copy(slot, 1)
    if first is not None and second is not None:
        return (first if first.sequence > second.sequence else second), True
    blank = slot[COPY_BYTES:] if second is None else slot[:COPY_BYTES]
    return first or second, (first or second) is not None and not blank.strip(b"\0")


def entries_of(page: bytes) -> Iterator[tuple[int, Entry]]:
    """Yield the index and the entry of each slot of a page that says something."""
    for index in range(SLOTS):
        begin = offset_of(index)
        slot = page[begin : begin + SLOT_BYTES]
        if slot != BLANK_SLOT and (entry := newest_entry(slot)) is not None:
            yield index, entry


def _read_copy(slot: bytes, copy: int) -> Entry | None:
    raw = slot[copy * COPY_BYTES : (copy + 1) * COPY_BYTES]
    if len(raw) < _CHECKSUM.size + _COPY.size:
        return None
    sequence, length, encoded, *owner = _COPY.unpack_from(raw, _CHECKSUM.size)
    body = raw[_CHECKSUM.size : _CHECKSUM.size + _COPY.size + length]
    if not sequence or length > PAYLOAD_BYTES_MAX or not _is_whole(raw, body):
        return None
    name = encoded.rstrip(b"\0").decode("utf-8", "replace")
    return Entry(name, body[_COPY.size :], sequence, copy, Owner(*owner) if owner[0] else None)


def _with_checksum(body: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(body)) + body


def _is_whole(raw: bytes, body: bytes) -> bool:
    (checksum,) = _CHECKSUM.unpack_from(raw)
    return bool(checksum == zlib.crc32(body))
