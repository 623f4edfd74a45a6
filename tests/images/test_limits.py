"""Each limit: what is exactly at it passes, one more is refused with an error that names the limit."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest

from app.errors import ImageLimitError
from app.images.probe import ImageLimits, probe
from tests.fakes.hostile_images import apng, inflating, jpeg_scans, jpeg_with, segment
from tests.fakes.images import (
    anmf,
    box,
    encoded,
    gif,
    gif_frame,
    heif,
    jpeg,
    png,
    png_chunk,
    riff_chunk,
    vp8l,
    vp8x,
    webp,
)
from tests.fakes.memory_body import MemoryBody


class Case(NamedTuple):
    """A limit, and the images at it and beyond it."""

    name: str
    limits: ImageLimits
    allowed: bytes
    refused: bytes


def case(name: str, limits: ImageLimits, make: Callable[[int], bytes], last_allowed: int) -> Case:
    return Case(name, limits, make(last_allowed), make(last_allowed + 1))


def jpeg_metadata(code: int, start: bytes = b"", times: int = 1) -> Callable[[int], bytes]:
    return lambda size: jpeg_with(segment(code, start + bytes(size - len(start))) * times)


def png_metadata(name: bytes, start: bytes = b"", times: int = 1) -> Callable[[int], bytes]:
    return lambda size: png(before=png_chunk(name, start + bytes(size - len(start))) * times)


def png_inflating(name: bytes, start: bytes, times: int = 1) -> Callable[[int], bytes]:
    return lambda size: png(before=png_chunk(name, start + inflating(size)) * times)


def webp_metadata(name: bytes) -> Callable[[int], bytes]:
    return lambda size: webp(vp8x((4, 4)), vp8l((4, 4)), riff_chunk(name, bytes(size)))


def gif_metadata(label: int) -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        left = size - 2  # the label and the final zero
        blocks = b""
        while left:
            length = min(left, 256) - 1
            blocks += bytes([length]) + bytes(length)
            left -= length + 1
        return gif(before=bytes([0x21, label]) + blocks + b"\0")

    return make


def heic_exif(size: int) -> bytes:
    return heif(exif=bytes(size - 4))  # four bytes say where it starts


def heic_items(count: int) -> bytes:
    """Return a HEIC with a number of items of metadata."""
    kinds = [b"hvc1", *[b"mime"] * count]
    entries = b"".join(
        box(b"infe", struct.pack(">HH", number, 0) + kind + b"\0", version=2) for number, kind in enumerate(kinds, 1)
    )
    return heif(items=(box(b"iinf", struct.pack(">H", len(kinds)) + entries, version=0), b"", b""))


def _sizes() -> list[Case]:
    makers: dict[str, Callable[[int, int], bytes]] = {
        "jpeg": lambda width, height: jpeg(width, height, seed=1),
        "png": lambda width, height: png((width, height)),
        "gif": lambda width, height: gif((width, height)),
        "webp": lambda width, height: webp(vp8l((width, height))),
        "webp-extended": lambda width, height: webp(vp8x((width, height)), vp8l((width, height))),
        "avif": lambda width, height: encoded("AVIF", width, height),
        "heic": lambda width, height: heif((width, height)),
    }
    cases = []
    for name, make in makers.items():
        cases.append(Case(f"pixels-{name}", ImageLimits(max_pixels=40 * 30), make(40, 30), make(40, 31)))
        cases.append(Case(f"width-{name}", ImageLimits(max_side=40), make(40, 9), make(41, 9)))
        cases.append(Case(f"height-{name}", ImageLimits(max_side=40), make(9, 40), make(9, 41)))
    return cases


def _frames() -> list[Case]:
    makers: dict[str, Callable[[int], bytes]] = {
        "gif": lambda count: gif((16, 16), frames=gif_frame() * count),
        "apng": lambda count: apng((16, 16), count),
        "webp": lambda count: webp(vp8x((16, 16), 2), *[anmf((1, 1))] * count),
        "avif": lambda count: encoded("AVIF", 16, 16, frames=count),
    }
    cases = []
    for name, make in makers.items():
        cases.append(case(f"frames-{name}", ImageLimits(max_frames=3), make, 3))
        cases.append(case(f"frames-times-pixels-{name}", ImageLimits(max_pixels=3 * 16 * 16), make, 3))
    cases.append(case("scans-jpeg", ImageLimits(max_scans=12), jpeg_scans, 12))
    return cases


def _metadata() -> list[Case]:
    blocks, size = ImageLimits(max_metadata_blocks=5), ImageLimits(max_metadata_bytes=1_000)
    exif, icc = ImageLimits(max_exif_bytes=1_000), ImageLimits(max_icc_bytes=1_000)
    text = ImageLimits(max_text_bytes=1_000)
    xmp = riff_chunk(b"XMP ", b"")
    return [
        case("blocks-jpeg", blocks, lambda count: jpeg_with(segment(0xE5, b"x") * count), 4),  # one is there already
        case("blocks-png", blocks, lambda count: png(before=png_chunk(b"tEXt", b"a\0") * count), 5),
        case("blocks-gif", blocks, lambda count: gif(before=b"!\xfe\1x\0" * count), 5),
        case("blocks-webp", blocks, lambda count: webp(vp8x((4, 4)), vp8l((4, 4)), xmp * count), 5),
        case("blocks-heic", blocks, heic_items, 5),
        case("bytes-jpeg", size, jpeg_metadata(0xE5), 986),  # 14 are there already
        case("bytes-png", size, png_metadata(b"juNk"), 1_000),
        case("bytes-gif", size, gif_metadata(0xFF), 1_000),
        case("bytes-webp", size, webp_metadata(b"XMP "), 1_000),
        case("bytes-heic", size, heic_exif, 1_000),
        case("exif-jpeg", exif, jpeg_metadata(0xE1, b"Exif\0\0"), 1_000),
        case("exif-png", exif, png_metadata(b"eXIf"), 1_000),
        case("exif-webp", exif, webp_metadata(b"EXIF"), 1_000),
        case("exif-heic", exif, heic_exif, 1_000),
        case("icc-jpeg", icc, jpeg_metadata(0xE2, b"ICC_PROFILE\0", times=2), 500),
        case("icc-png", icc, png_inflating(b"iCCP", b"p\0\0"), 1_000),
        case("icc-webp", icc, webp_metadata(b"ICCP"), 1_000),
        case("icc-heic", icc, lambda length: heif(properties=(box(b"colr", bytes(length)),)), 1_000),
        case("bytes-heic-icc", size, lambda length: heif(properties=(box(b"colr", bytes(length)),)), 1_000),
        case("text-jpeg", text, jpeg_metadata(0xFE, times=2), 500),
        case("text-gif", text, gif_metadata(0xFE), 1_000),
        case("text-png", text, png_metadata(b"tEXt", b"a\0", times=2), 500),
        case("text-png-compressed", text, png_inflating(b"zTXt", b"a\0\0", times=2), 500),
        case("text-png-international", text, png_metadata(b"iTXt", b"a\0\0\0\0\0", times=2), 500),
        case("text-png-international-compressed", text, png_inflating(b"iTXt", b"a\0\1\0en\0b\0", times=2), 500),
    ]


def _structure() -> list[Case]:
    segments = ImageLimits(max_segments=40)
    plain = jpeg(16, 16, seed=1)
    parts = sum(plain.count(bytes([0xFF, code])) for code in (0xE0, 0xDB, 0xC0, 0xC4, 0xDA))
    junk = riff_chunk(b"JUNK", b"")
    return [
        case("segments-jpeg", segments, lambda count: jpeg_with(segment(0xDD, b"\0\0") * (count - parts)), 40),
        case("segments-png", segments, lambda count: png(data=png_chunk(b"IDAT") * count), 38),
        case("segments-gif", segments, lambda count: gif(before=b"!\xf9\0" * count), 38),
        case("segments-webp", segments, lambda count: webp(vp8l((4, 4)), junk * count), 39),
        case("segments-heic", segments, lambda count: heif(items=(b"", b"", box(b"free") * count)), 27),
        case(
            "sub-blocks-gif",
            ImageLimits(max_sub_blocks=1_000),
            lambda count: gif(frames=gif_frame(blocks=b"\1\0" * count + b"\0")),
            999,
        ),
    ]


CASES = [*_sizes(), *_frames(), *_metadata(), *_structure()]


@pytest.mark.parametrize("limit", CASES, ids=lambda limit: limit.name)
def test_image_at_the_limit_is_accepted(limit: Case) -> None:
    assert probe(MemoryBody(limit.allowed), limit.limits).width


@pytest.mark.parametrize("limit", CASES, ids=lambda limit: limit.name)
def test_image_beyond_the_limit_is_refused_and_told_what_to_do(limit: Case) -> None:
    body = MemoryBody(limit.refused)

    with pytest.raises(ImageLimitError) as refusal:
        probe(body, limit.limits)

    assert re.search(r"\d", refusal.value.detail)
    assert re.search(r"(Make it smaller|Make the animation shorter|upload|Export it again)", refusal.value.detail)


@pytest.mark.parametrize("limit", CASES, ids=lambda limit: limit.name)
def test_default_limits_accept_what_a_lower_limit_refused(limit: Case) -> None:
    assert probe(MemoryBody(limit.refused)).width


def test_description_larger_than_any_real_one_is_refused() -> None:
    body = MemoryBody(heif(items=(box(b"iloc", bytes(256 * 1024), version=0), b"", b"")))

    with pytest.raises(ImageLimitError, match="describes itself"):
        probe(body)
