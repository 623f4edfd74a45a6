"""The project's own generator of bad images: every one with the error that it has to get.

:func:`hostile_images` lists those that are refused, :func:`tolerated_images` those that look suspicious and
are accepted, because their oddity lies behind the image or in metadata that nobody has to believe.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from app.errors import ImageLimitError, RequestError, UndecodableImageError, UnsupportedMediaTypeError
from tests.fakes.exif import exif_block, tiff
from tests.fakes.images import (
    anmf,
    box,
    encoded,
    ftyp,
    gif,
    gif_frame,
    heif,
    ispe,
    jpeg,
    png,
    png_chunk,
    riff_chunk,
    samples,
    vp8l,
    vp8x,
    webp,
)

HUGE = (65_500, 65_500)
MIB = 1024 * 1024
SIGNATURE_BYTES = 12


@dataclass(frozen=True, slots=True)
class HostileImage:
    """Bytes that have to be refused.

    Attributes:
        name: Unique, for the test's id.
        data: What is uploaded.
        error: What ``probe`` has to raise.
    """

    name: str
    data: bytes
    error: type[RequestError]


@cache
def hostile_images() -> tuple[HostileImage, ...]:
    """Return every hostile image; the largest has about 13 MB."""
    groups: tuple[tuple[type[RequestError], Iterator[tuple[str, bytes]]], ...] = (
        (UndecodableImageError, _truncated()),
        (UndecodableImageError, _flipped()),
        (UndecodableImageError, _nonsense()),
        (UndecodableImageError, _zero_sizes()),
        (UnsupportedMediaTypeError, _foreign()),
        (UndecodableImageError, _disguised()),
        (ImageLimitError, _disguised_with_large_size()),
        (ImageLimitError, _pixel_bombs()),
        (ImageLimitError, _frame_bombs()),
        (ImageLimitError, _metadata_bombs()),
        (ImageLimitError, _structure_bombs()),
    )
    return tuple(HostileImage(name, data, error) for error, group in groups for name, data in group)


def segment(code: int, payload: bytes = b"") -> bytes:
    """Return a JPEG segment."""
    return struct.pack(">BBH", 0xFF, code, len(payload) + 2) + payload


def jpeg_with(extra: bytes) -> bytes:
    """Return a small JPEG with further segments at its start."""
    data = jpeg(16, 16, seed=1)
    return data[:2] + extra + data[2:]


def jpeg_scans(count: int) -> bytes:
    """Return a progressive JPEG whose last scan is there again and again."""
    data = jpeg(16, 16, seed=1, progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (count - data.count(b"\xff\xda") + 1) + data[-2:]


def jpeg_frame(data: bytes, width: int, height: int) -> bytes:
    """Return a JPEG with another size in its frame header."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def apng(size: tuple[int, int], frames: int, *, announced: int | None = None) -> bytes:
    """Return an APNG whose frames are one grey pixel each."""
    control = struct.pack(">IIIIHHBB", 1, 1, 0, 0, 1, 10, 0, 0)
    first = png_chunk(b"acTL", struct.pack(">II", frames if announced is None else announced, 0))
    first += png_chunk(b"fcTL", bytes(4) + control)
    rest = b"".join(
        png_chunk(b"fcTL", struct.pack(">I", number) + control)
        + png_chunk(b"fdAT", struct.pack(">I", number + 1) + zlib.compress(b"\0\0"))
        for number in range(1, 2 * frames - 2, 2)
    )
    return png(size, before=first, after=rest)


def inflating(size_bytes: int) -> bytes:
    """Return few bytes that inflate to many."""
    return zlib.compress(bytes(size_bytes), 9)


def _truncated() -> Iterator[tuple[str, bytes]]:
    for sample in samples():
        size = len(sample.data)
        for cut in sorted({SIGNATURE_BYTES, 20, 40, *(size * part // 8 for part in range(1, 8)), size - 2, size - 1}):
            yield f"truncated-{sample.name}-at-{cut}", sample.data[:cut]


def _flip(data: bytes, at: int, bits: int = 0xFF) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


def _flipped() -> Iterator[tuple[str, bytes]]:
    by_name = {sample.name: sample.data for sample in samples()}
    photo = by_name["jpeg-baseline"]
    for marker in (0xDB, 0xC0, 0xC4, 0xDA):
        at = photo.index(bytes([0xFF, marker]))
        yield f"flipped-jpeg-length-{marker:x}", _flip(photo, at + 2)
        yield f"flipped-jpeg-marker-{marker:x}", _flip(photo, at)
    image = by_name["png"]
    for at in (12, 16, 25, 29, 40, len(image) // 2, len(image) - 1, len(image) - 6, len(image) - 14):
        yield f"flipped-png-{at}", _flip(image, at)
    film = by_name["gif-animated"]
    frame = 13 + 3 * 2 ** ((film[10] & 7) + 1)  # behind the header and the colour table
    for at in (frame, frame + 5, frame + 10, len(film) - 1):
        yield f"flipped-gif-{at}", _flip(film, at, 0x7E)
    for name in ("webp", "webp-animated"):
        for at in (6, 12, 17):
            yield f"flipped-{name}-{at}", _flip(by_name[name], at)
    for name in ("avif", "heic"):
        data = by_name[name]
        for kind in (b"meta", b"iloc", b"iinf", b"ipco", b"mdat"):
            yield f"flipped-{name}-{kind.decode()}", _flip(data, data.index(kind) - 2)
        yield f"flipped-{name}-pitm", _flip(data, data.index(b"pitm") + 9)


def _nonsense() -> Iterator[tuple[str, bytes]]:
    photo = jpeg(16, 16, seed=1)
    frame = photo[photo.index(b"\xff\xc0") : photo.index(b"\xff\xc4")]
    scan = photo.index(b"\xff\xda")
    yield "jpeg-no-frame", photo.replace(frame, b"")
    yield "jpeg-two-frames", photo.replace(frame, frame * 2)
    yield "jpeg-no-scan", photo[:scan] + b"\xff\xd9"
    yield "jpeg-empty-scan", photo[: scan + 14] + b"\xff\xd9"
    yield "jpeg-scan-of-foreign-component", _flip(photo, scan + 5)
    yield "jpeg-length-1", jpeg_with(b"\xff\xe5\0\1")
    yield "jpeg-junk-between-segments", jpeg_with(segment(0xE5, b"x") + b"junk")
    yield "jpeg-empty-tables", jpeg_with(segment(0xDB))
    yield "jpeg-huffman-of-4080-codes", jpeg_with(segment(0xC4, b"\0" + b"\xff" * 16 + bytes(4080)))
    yield "jpeg-end-at-once", b"\xff\xd8\xff\xd9"
    yield "jpeg-only-fill-bytes", b"\xff\xd8" + b"\xff" * 200_000
    yield "png-no-data", png(data=b"")
    yield "png-indexed-without-palette", png(header=b"\x08\3\0\0\0")
    yield "png-impossible-depth", png(header=b"\x03\0\0\0\0")
    yield "png-unknown-critical-chunk", png(before=png_chunk(b"ABCD"))
    yield "png-length-of-4-gib", png(before=b"\xff\xff\xff\xfftEXt")
    yield "png-interrupted-data", png(after=png_chunk(b"tIME", bytes(7)) + png_chunk(b"IDAT"))
    yield "png-header-twice", png(before=png_chunk(b"IHDR", struct.pack(">II", 4, 3) + b"\x08\0\0\0\0"))
    yield "apng-fewer-frames-than-announced", apng((4, 3), 2, announced=3)
    yield "apng-more-frames-than-announced", apng((4, 3), 3, announced=2)
    yield "apng-no-frames", apng((4, 3), 1, announced=0)
    yield "gif-no-frame", gif(frames=b"")
    yield "gif-frame-outside", gif(frames=gif_frame((2, 2)))
    yield "gif-frame-without-data", gif(frames=gif_frame(blocks=b"\0"))
    yield "webp-empty", webp()
    yield "webp-no-picture", webp(vp8x((4, 4)))
    yield "webp-sizes-differ", webp(vp8x((4, 4)), vp8l((5, 4)))
    yield "webp-animation-without-frames", webp(vp8x((4, 4), 2), riff_chunk(b"ANIM", bytes(6)))
    yield "webp-frame-outside", webp(vp8x((4, 4), 2), anmf((4, 4), at=(2, 0)))
    yield "webp-frame-without-picture", webp(vp8x((4, 4), 2), anmf((4, 4), inner=b""))
    yield "webp-frame-of-other-size", webp(vp8x((4, 4), 2), anmf((4, 4), inner=vp8l((3, 4))))
    yield "heic-without-description", ftyp(b"heic") + box(b"mdat", bytes(64))
    yield "avis-without-sequence", heif(major=b"avis", codec=b"av01")
    yield "heic-picture-is-metadata", heif(codec=b"mime")
    nested = b""
    for _ in range(2_000):
        nested = box(b"meta", nested, version=0)
    yield "heic-nested-descriptions", ftyp(b"heic") + nested


def _zero_sizes() -> Iterator[tuple[str, bytes]]:
    photo = jpeg(16, 16, seed=1)
    for size in ((0, 16), (16, 0), (0, 0)):
        name = f"{size[0]}x{size[1]}"
        yield f"zero-jpeg-{name}", jpeg_frame(photo, *size)
        yield f"zero-png-{name}", png(size)
        yield f"zero-gif-{name}", gif(size)
        yield f"zero-gif-frame-{name}", gif((16, 16), frames=gif_frame(size))
        yield f"zero-heic-{name}", heif(size)
    lossy = encoded("WEBP", 16, 16)
    at = lossy.index(b"\x9d\x01\x2a") + 3
    yield "zero-webp", lossy[:at] + bytes(4) + lossy[at + 4 :]


def _foreign() -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "one-byte", b"\xff"
    yield "text", b"this is no image\n"
    yield "zeros", bytes(1000)
    yield "svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    yield "svg-bare", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    yield "html", b"\xef\xbb\xbf  <!DOCTYPE html><script>alert(1)</script>"
    yield "php", b"<?php system($_GET['c']); ?>"
    yield "shell", b"#!/bin/sh\nid\n"
    yield "pdf", b"%PDF-1.7\n1 0 obj\n" + jpeg(16, 16, seed=1)
    yield "eps", b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (w) file\n"
    yield "eps-binary", b"\xc5\xd0\xd3\xc6" + bytes(28)
    yield "tiff", encoded("TIFF", 16, 16)
    yield "tiff-big-endian", b"MM\0*\0\0\0\x08\0\0\0\0\0\0"
    yield "bmp", encoded("BMP", 16, 16)
    yield "ico", encoded("ICO", 16, 16)
    yield "psd", b"8BPS\0\1" + bytes(20)
    yield "zip", b"PK\x03\x04" + bytes(26) + jpeg(16, 16, seed=1)
    yield "elf", b"\x7fELF" + bytes(60)
    yield "wav", b"RIFF\x24\0\0\0WAVEfmt " + bytes(28)
    yield "jpeg-xl", b"\0\0\0\x0cJXL \r\n\x87\n"
    yield "jpeg-2000", b"\0\0\0\x0cjP  \r\n\x87\n"
    yield "film", ftyp(b"isom", b"isom", b"mp42") + box(b"mdat", bytes(64))
    yield "canon-raw", ftyp(b"crx ", b"crx ", b"isom") + box(b"mdat", bytes(64))
    photo = jpeg(16, 16, seed=1)
    yield "lossless-jpeg", photo.replace(b"\xff\xc0", b"\xff\xc3")


def _disguised() -> Iterator[tuple[str, bytes]]:
    """Files of other kinds behind the first bytes of an image."""
    yield "gif-comment-javascript", b"GIF89a/*" + bytes(9) + b"*/=1;alert(1)//"
    yield "jpeg-php", b"\xff\xd8\xff\xe0<?php system($_GET['c']); ?>"
    yield "jpeg-html", b"\xff\xd8\xff<html><script>alert(1)</script></html>"
    yield "jpeg-zip", b"\xff\xd8\xffPK\x03\x04" + bytes(200)
    yield "png-html", b"\x89PNG\r\n\x1a\n<html><script>alert(1)</script></html>"
    yield "png-pdf", b"\x89PNG\r\n\x1a\n%PDF-1.7\n1 0 obj\nendobj\n" + bytes(64)
    yield "webp-svg", b"RIFF\x40\0\0\0WEBP<svg onload='alert(1)'/>" + bytes(64)
    yield "heic-html", ftyp(b"heic") + b"<html><script>alert(1)</script></html>"


def _disguised_with_large_size() -> Iterator[tuple[str, bytes]]:
    """Printable text behind a GIF's first bytes always says more pixels than are allowed."""
    yield "gif-javascript", b"GIF89a=1;alert(document.domain);/*" + bytes(64) + b"*/"
    yield "gif-php", b"GIF87a<?php system($_GET['c']); ?>" + bytes(32)


def _pixel_bombs() -> Iterator[tuple[str, bytes]]:
    yield "pixels-jpeg", jpeg_frame(jpeg(16, 16, seed=1), *HUGE)
    yield "pixels-jpeg-square-below-side", jpeg_frame(jpeg(16, 16, seed=1), 8_001, 8_000)
    yield "side-jpeg", jpeg_frame(jpeg(16, 16, seed=1), 65_535, 1)
    yield "pixels-png", png(HUGE)
    yield "pixels-png-2-gib", png((2**31 - 1, 2**31 - 1))
    yield "pixels-gif", gif(HUGE)
    yield "pixels-webp-canvas", webp(vp8x(HUGE), vp8l((16_384, 16_384)))
    yield "pixels-webp-lossless", webp(vp8l((16_384, 16_384)))
    lossy = encoded("WEBP", 16, 16)
    at = lossy.index(b"\x9d\x01\x2a") + 3
    yield "pixels-webp-lossy", lossy[:at] + b"\xff\x3f\xff\x3f" + lossy[at + 4 :]
    yield "pixels-avif", heif(HUGE, major=b"avif", codec=b"av01")
    yield "pixels-heic", heif((2**32 - 1, 2**32 - 1))
    tiles = box(b"ipco", ispe((64, 48)) + ispe(HUGE)) + box(b"ipma", struct.pack(">IHBB", 1, 1, 1, 1), version=0)
    yield "pixels-heic-tile", heif(codec=b"grid", items=(box(b"iprp", tiles), b"", b""))


def _frame_bombs() -> Iterator[tuple[str, bytes]]:
    yield "frames-gif", gif(frames=gif_frame() * 5_000)
    yield "frames-gif-pixels", gif((4_000, 4_000), frames=gif_frame() * 10)
    yield "frames-apng", apng((4, 3), 2_000)
    yield "frames-apng-announced", apng((4, 3), 1, announced=2**31)
    yield "frames-apng-pixels", apng((1_000, 1_000), 65)
    yield "frames-webp", webp(vp8x((1, 1), 2), riff_chunk(b"ANIM", bytes(6)), *[anmf((1, 1))] * 2_000)
    yield "frames-webp-pixels", webp(vp8x((4_000, 4_000), 2), *[anmf((1, 1))] * 10)
    film = encoded("AVIF", 40, 30, frames=4)
    at = film.index(b"stsz") + 12
    yield "frames-avif", film[:at] + b"\x7f\xff\xff\xff" + film[at + 4 :]
    yield "scans-jpeg-510", jpeg_scans(510)
    yield "scans-jpeg-101", jpeg_scans(101)


def _metadata_bombs() -> Iterator[tuple[str, bytes]]:
    yield "text-png-ztxt-inflates", png(before=png_chunk(b"zTXt", b"bomb\0\0" + inflating(64 * MIB)))
    yield "text-png-itxt-inflates", png(before=png_chunk(b"iTXt", b"bomb\0\1\0en\0b\0" + inflating(64 * MIB)))
    small = png_chunk(b"zTXt", b"bomb\0\0" + inflating(MIB // 2))
    yield "text-png-many-ztxt", png(before=small * 9)
    yield "text-png-plain", png(before=png_chunk(b"tEXt", b"bomb\0" + bytes(5 * MIB)))
    yield "text-png-chunks", png(before=png_chunk(b"tEXt", b"a\0b") * 5_000)
    yield "icc-png-inflates", png(before=png_chunk(b"iCCP", b"bomb\0\0" + inflating(64 * MIB)))
    yield "exif-png", png(before=png_chunk(b"eXIf", exif_block() + bytes(2 * MIB)))
    yield "unknown-png", png(before=png_chunk(b"juNk", bytes(9 * MIB)))
    yield "metadata-jpeg", jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(65_000)) * 200)
    yield "metadata-jpeg-segments", jpeg_with(segment(0xE5, b"x") * 2_000)
    yield "text-jpeg", jpeg_with(segment(0xFE, bytes(65_000)) * 80)
    yield "icc-jpeg", jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000)) * 80)
    yield "exif-webp", webp(vp8x((4, 4), 8), vp8l((4, 4)), riff_chunk(b"EXIF", exif_block() + bytes(2 * MIB)))
    yield "icc-webp", webp(vp8x((4, 4), 32), riff_chunk(b"ICCP", bytes(5 * MIB)), vp8l((4, 4)))
    yield "xmp-webp", webp(vp8x((4, 4), 4), vp8l((4, 4)), riff_chunk(b"XMP ", bytes(9 * MIB)))
    yield "text-gif", gif(before=b"!\xfe" + (b"\xff" + bytes(255)) * 20_000 + b"\0")
    yield "metadata-gif", gif(before=b"!\xff\x0bXMP DataXMP" + (b"\xff" + bytes(255)) * 40_000 + b"\0")
    yield "metadata-gif-blocks", gif(before=b"!\xfe\1x\0" * 2_000)
    yield "exif-heic", heif(exif=exif_block() + bytes(2 * MIB))
    yield "icc-heic", heif(properties=(box(b"colr", b"prof" + bytes(5 * MIB)),))


def _structure_bombs() -> Iterator[tuple[str, bytes]]:
    yield "segments-jpeg", jpeg_with(segment(0xDD, b"\0\0") * 100_001)
    yield "segments-png", png(data=png_chunk(b"IDAT") * 100_001)
    yield "segments-gif", gif(before=b"!\xf9\4\0\0\0\0\0" * 100_001)
    yield "sub-blocks-gif", gif(frames=gif_frame(blocks=b"\1\0" * 1_000_001 + b"\0"))
    yield "segments-webp", webp(vp8l((4, 4)), riff_chunk(b"JUNK", b"") * 100_001)
    yield "boxes-heic", heif(items=(b"", b"", box(b"free") * 100_001))
    yield "boxes-heic-inside", heif(items=(box(b"free") * 100_001, b"", b""))
    endless = struct.pack(">HH", 0, 60) + struct.pack(">HHH", 9, 0, 65_535) * 60
    yield "extents-heic-of-no-bytes", heif(items=(box(b"iloc", endless, version=0), b"", b""))
    yield "description-heic", heif(items=(box(b"iloc", bytes(MIB), version=0), b"", b""))
    entry = box(b"infe", struct.pack(">HH", 7, 0) + b"mime\0", version=2)
    yield "items-heic", heif(items=(box(b"iinf", b"\0\0" + entry * 2_000, version=0), b"", b""))


def resized_in_boxes(data: bytes, size: tuple[int, int], said: tuple[int, int]) -> bytes:
    """Return an AVIF or HEIC whose boxes name another size than its picture has; the probe cannot know better.

    Raises:
        ValueError: The file does not name its size once.
    """
    if data.count(ispe(size)) != 1:
        raise ValueError("the file does not name its size once")
    return data.replace(ispe(size), ispe(said))


@cache
def tolerated_images() -> tuple[tuple[str, bytes, str], ...]:
    """Return name, bytes and media type of odd images that are accepted all the same."""
    by_name = {sample.name: sample for sample in samples()}
    trailers = {
        "zip": b"PK\x03\x04" + bytes(300),
        "html": b"<html><script>alert(1)</script></html>",
        "php": b"<?php system($_GET['c']); ?>",
        "film": ftyp(b"isom") + box(b"mdat", bytes(64)),
        "image": by_name["jpeg-baseline"].data,
    }
    behind = [
        (f"{name}-then-{trailer}", by_name[name].data + more, by_name[name].content_type)
        for name in ("jpeg-baseline", "jpeg-progressive", "png", "gif", "webp", "avif", "heic")
        for trailer, more in trailers.items()
    ]
    loop = tiff([(0x8769, 4, 1, struct.pack("<I", 8)), (0x8825, 4, 1, struct.pack("<I", 8))])
    blocks = {
        "loop": loop,
        "far-pointer": tiff([(0x8769, 4, 1, b"\xff\xff\xff\xff")]),
        "far-directory": b"II*\0\xff\xff\xff\xff",
        "many-entries": b"II*\0\x08\0\0\0\xff\xff" + bytes(20_000),
        "huge-value": tiff([(0x010F, 2, 0xFFFFFFFF, b"abcd")]),
        "zero-denominator": tiff([], None, [(1, 2, 2, b"N\0"), (2, 5, 3, bytes(24)), (3, 2, 2, b"E\0")]),
        "cut-off": exif_block()[:40],
        "garbage": bytes(range(256)) * 8,
        "empty": b"",
    }
    exif = [
        (f"exif-{name}", jpeg_with(segment(0xE1, b"Exif\0\0" + block)), "image/jpeg")
        for name, block in blocks.items()
    ]
    broken_text = png_chunk(b"zTXt", b"name\0\0this is not compressed")
    inside = [
        ("jpeg-comment-php", jpeg_with(segment(0xFE, b"<?php system($_GET['c']); ?>")), "image/jpeg"),
        ("jpeg-fill-bytes", jpeg_with(b"\xff" * 70_000), "image/jpeg"),
        ("gif-comment-javascript", gif(before=b"!\xfe\x0c/*alert(1)*/\0"), "image/gif"),
        ("png-broken-text", png(before=broken_text), "image/png"),
        ("jpeg-100-scans", jpeg_scans(100), "image/jpeg"),
    ]
    return (*behind, *exif, *inside)
