"""Whatever the bytes are: an answer or one of the three errors, in little memory and linear time."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.errors import ImageLimitError, UndecodableImageError, UnsupportedMediaTypeError
from app.images.probe import ProbedImage, probe
from tests.fakes.hostile_images import HostileImage, hostile_images, jpeg_with, segment
from tests.fakes.images import (
    Sample,
    box,
    ftyp,
    gif,
    gif_frame,
    heif,
    jpeg,
    png,
    png_chunk,
    riff_chunk,
    samples,
    vp8l,
    webp,
)
from tests.fakes.memory_body import MemoryBody

REFUSALS = (UnsupportedMediaTypeError, UndecodableImageError, ImageLimitError)
MIB = 1024 * 1024
SIGNATURES = (
    b"\xff\xd8\xff",
    b"\xff\xd8\xff\xc0\0\x0b\x08\0\x10\0\x10\1\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"GIF89a\1\0\1\0\0\0\0",
    b"RIFF\x40\0\0\0WEBP",
    b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0",
    ftyp(b"heic"),
    ftyp(b"avif") + b"\0\0\0\x80meta\0\0\0\0",
    ftyp(b"avis") + b"\0\0\0\x80moov",
)
MANY_PARTS = ("segments-", "sub-blocks-", "boxes-", "extents-")  # slow when traced; LARGE has their like
edits = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "delete", "repeat", "zero"]), st.floats(0, 1), st.integers(0, 255)),
    max_size=6,
)


def outcome(data: bytes) -> ProbedImage | None:
    """Probe; a refusal is fine, any other error is not."""
    with suppress(*REFUSALS):
        return probe(MemoryBody(data))
    return None


def mutated(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    """Apply changes at places given as a share of the size."""
    out = bytearray(data)
    for kind, place, value in changes:
        at = int(place * max(len(out) - 1, 0))
        match kind:
            case "set":
                out[at : at + 1] = bytes([value])
            case "insert":
                out[at:at] = bytes([value]) * (1 + value % 7)
            case "delete":
                del out[at : at + 1 + value % 7]
            case "repeat":
                out[at:at] = out[at : at + value]
            case _:
                out[at : at + 4] = bytes(4)
    return bytes(out)


@given(st.sampled_from([b"", *SIGNATURES]), st.binary(max_size=300))
@example(b"RIFF\x08\0\0\0WEBP", b"VP8L")
@example(ftyp(b"heic"), b"\0\0\0\x01meta\xff\xff\xff\xff\xff\xff\xff\xff")
@settings(max_examples=600, deadline=None)
def test_arbitrary_bytes_are_answered_or_refused(signature: bytes, rest: bytes) -> None:
    outcome(signature + rest)


@given(st.sampled_from(samples()), edits)
@settings(max_examples=1_500, deadline=None)
def test_mutated_image_is_answered_or_refused(sample: Sample, changes: list[tuple[str, float, int]]) -> None:
    found = outcome(mutated(sample.data, changes))

    assert found is None or (found.width > 0 and found.height > 0 and found.frames > 0)


@given(st.sampled_from(hostile_images()), edits)
@settings(max_examples=200, deadline=None)
def test_mutated_hostile_image_is_answered_or_refused(
    hostile: HostileImage, changes: list[tuple[str, float, int]]
) -> None:
    if len(hostile.data) < MIB:
        outcome(mutated(hostile.data, changes))


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: sample.name)
def test_every_flipped_byte_is_answered_or_refused(sample: Sample) -> None:
    for at in range(min(len(sample.data), 1_500)):
        for bits in (0xFF, 0x80, 0x01):
            outcome(sample.data[:at] + bytes([sample.data[at] ^ bits]) + sample.data[at + 1 :])


def test_every_flipped_bit_of_a_png_is_found() -> None:
    data = png((4, 3))

    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8

        assert outcome(bytes(flipped)) is None, f"bit {bit}"


def _entropy(block: bytes, size: int = 30 * MIB) -> bytes:
    """Return a JPEG of one scan that consists of a block over and over."""
    data = jpeg(16, 16, seed=1)
    return data[:-2] + block * (size // len(block)) + data[-2:]


def _progressive() -> bytes:
    data = jpeg(16, 16, seed=1, progressive=True)
    filler = random.Random(1).randbytes(3 * MIB).replace(b"\xff", b"\xff\0")
    scan = data[data.rindex(b"\xff\xda") : -2] + filler
    return data[:-2] + scan * 10 + data[-2:]


LARGE: dict[str, Callable[[], bytes]] = {
    "jpeg-progressive": _progressive,
    "jpeg-stuffed": lambda: _entropy(b"\xff\0"),
    "jpeg-restarts": lambda: _entropy(b"\xff\xd0"),
    "jpeg-fill-bytes": lambda: _entropy(b"\xff"),
    "jpeg-fill-bytes-before-a-segment": lambda: jpeg_with(b"\xff" * (30 * MIB)),
    "jpeg-metadata": lambda: jpeg_with(segment(0xE5, bytes(65_000)) * 120),
    "png-one-chunk": lambda: png(data=png_chunk(b"IDAT", bytes(30 * MIB))),
    "png-small-chunks": lambda: png(data=png_chunk(b"IDAT", bytes(1_600)) * 19_000),
    "gif-full-blocks": lambda: gif(frames=gif_frame(blocks=(b"\xff" + bytes(255)) * 120_000 + b"\0")),
    "gif-small-blocks": lambda: gif(frames=gif_frame(blocks=b"\1\0" * 390_000 + b"\0")),
    "gif-many-blocks": lambda: gif(before=b"!\xf9\4\0\0\0\0\0" * 19_000),
    "webp-one-chunk": lambda: webp(vp8l((4, 4)), riff_chunk(b"JUNK", bytes(30 * MIB))),
    "webp-many-chunks": lambda: webp(vp8l((4, 4)), riff_chunk(b"JUNK", b"") * 19_000),
    "heic-picture": lambda: heif(picture_bytes=30 * MIB),
    "heic-many-boxes": lambda: heif(items=(box(b"free", bytes(200)) * 19_000, b"", b"")),
    "heic-many-items": lambda: heif(items=(_items(19_000), b"", b"")),
}


def _items(count: int) -> bytes:
    entry = box(b"infe", b"\0\7\0\0hvc1\0", version=2)
    mine = box(b"infe", b"\0\1\0\0hvc1\0", version=2)
    return box(b"iinf", b"\0\0" + mine + entry * count, version=0)


@pytest.mark.parametrize("name", LARGE)
def test_large_image_takes_little_time(name: str) -> None:
    body = MemoryBody(LARGE[name]())

    start = time.thread_time()  # other threads of this process may work, too
    probe(body)
    seconds = time.thread_time() - start

    assert seconds < 5 * 0.5


@pytest.mark.parametrize("name", LARGE)
def test_large_image_takes_little_memory(name: str) -> None:
    body = MemoryBody(LARGE[name]())

    assert _peak_bytes(body) < MIB


def test_hostile_images_take_little_memory() -> None:
    chosen = [hostile for hostile in hostile_images() if not hostile.name.startswith(MANY_PARTS)]

    peaks = {hostile.name: _peak_bytes(MemoryBody(hostile.data)) for hostile in chosen}

    assert {name: peak for name, peak in peaks.items() if peak >= MIB} == {}


def _peak_bytes(body: MemoryBody) -> int:
    """Return the most memory that one probe held."""
    tracemalloc.start()
    with suppress(*REFUSALS):
        probe(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak
