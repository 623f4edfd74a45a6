"""The project's own generator of good images: small ones of every format, and photos of a wanted size.

Everything is deterministic in its arguments. Hostile images are in ``tests/fakes/hostile_images.py``.
"""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from io import BytesIO

from PIL import Image, ImageChops

from tests.fakes.exif import ExifFacts, exif_block

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A valid image and what is true of it, upright."""

    name: str
    data: bytes
    content_type: str
    width: int
    height: int
    frames: int = 1


def picture(width: int, height: int, *, seed: int, noise: int = 48) -> Image.Image:
    """Return an RGB picture of gradients with noise, which compresses about like a photo."""
    generator = random.Random(seed)
    across = Image.linear_gradient("L").resize((width, height))
    down = Image.linear_gradient("L").rotate(90).resize((width, height))
    level = generator.randrange(256)
    base = Image.merge("RGB", (across, down, Image.new("L", (width, height), level)))
    grain = Image.frombytes("RGB", (width, height), generator.randbytes(width * height * 3))
    return ImageChops.add(base, grain.point(lambda value: value * noise // 255))


def jpeg(
    width: int,
    height: int,
    *,
    seed: int,
    size_bytes: int | None = None,
    exif: ExifFacts | None = None,
    progressive: bool = False,
) -> bytes:
    """Return a JPEG; with ``size_bytes`` of exactly that size.

    The quality is chosen so that the picture fills the wanted size as far as it can; what is missing follows
    behind the end of the image, as in the files of many phones.

    Raises:
        ValueError: The picture cannot be made so small.
    """
    block = b"Exif\0\0" + exif_block(exif) if exif is not None else b""
    image = picture(width, height, seed=seed)
    if size_bytes is None:
        return _jpeg(image, 85, block, progressive=progressive)
    low, high, best = 1, 100, b""
    while low <= high:
        quality = (low + high) // 2
        data = _jpeg(image, quality, block, progressive=progressive)
        if len(data) <= size_bytes:
            best, low = data, quality + 1
        else:
            high = quality - 1
    if not best:
        raise ValueError(f"{width} by {height} pixels do not fit into {size_bytes} bytes")
    return best + random.Random(seed).randbytes(size_bytes - len(best))


def _jpeg(image: Image.Image, quality: int, exif: bytes, *, progressive: bool) -> bytes:
    out = BytesIO()
    image.save(out, "JPEG", quality=quality, exif=exif, progressive=progressive, subsampling=0)
    return out.getvalue()


def encoded(kind: str, width: int, height: int, *, seed: int = 1, frames: int = 1, exif: bytes = b"") -> bytes:
    """Return an image of Pillow's format ``kind`` (PNG, GIF, WEBP, AVIF, …), animated with more than one frame."""
    pictures = [picture(width, height, seed=seed + index) for index in range(frames)]
    if kind == "GIF":
        pictures = [each.quantize(64) for each in pictures]
    if kind == "JPEG" and exif:
        exif = b"Exif\0\0" + exif
    out = BytesIO()
    more = {"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}
    pictures[0].save(out, kind, **more, **({"exif": exif} if exif else {}))
    return out.getvalue()


def png_chunk(name: bytes, payload: bytes = b"") -> bytes:
    """Return a PNG chunk with a right checksum."""
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def png(
    size: Size = (4, 3),
    *,
    before: bytes = b"",
    after: bytes = b"",
    data: bytes | None = None,
    header: bytes = b"\x08\0\0\0\0",
) -> bytes:
    """Return a grey PNG with further chunks before or behind its picture data."""
    if data is None:
        rows = zlib.compress((b"\0" + bytes(size[0])) * size[1]) if size[0] * size[1] < 1 << 20 else b"x"
        data = png_chunk(b"IDAT", rows)
    head = png_chunk(b"IHDR", struct.pack(">II", *size) + header)
    return b"\x89PNG\r\n\x1a\n" + head + before + data + after + png_chunk(b"IEND")


def gif_frame(size: Size = (1, 1), *, at: Size = (0, 0), blocks: bytes = b"\x02\x4c\x01\0") -> bytes:
    """Return one GIF image block."""
    return b"," + struct.pack("<HHHH", *at, *size) + b"\0\x02" + blocks


def gif(size: Size = (1, 1), *, frames: bytes | None = None, before: bytes = b"") -> bytes:
    """Return a GIF of two colours."""
    body = gif_frame() if frames is None else frames
    return b"GIF89a" + struct.pack("<HH", *size) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff" + before + body + b";"


def gif_part(screen: Size, *, at: Size, size: Size, names_transparency: bool = False, rest: bytes = b"") -> bytes:
    """Return a GIF with a black picture that covers a part of its screen.

    Args:
        screen: Width and height of all of it.
        at: Left and upper edge of the picture.
        size: Width and height of the picture.
        names_transparency: Whether white, which the picture does not have, is said to be transparent.
        rest: Blocks behind the picture.
    """
    out = BytesIO()
    Image.new("1", size).save(out, "GIF")
    alone = out.getvalue()
    block = b"," + struct.pack("<HHHH", 0, 0, *size)
    frame = b"," + struct.pack("<HHHH", *at, *size) + alone[alone.index(block) + len(block) : -1]
    control = b"!\xf9\4" + bytes([names_transparency, 0, 0, 1]) + b"\0"
    return gif(screen, frames=frame + rest, before=control)


def riff_chunk(name: bytes, payload: bytes) -> bytes:
    """Return a RIFF chunk, padded."""
    return name + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)


def webp(*chunks: bytes) -> bytes:
    """Return a WebP container of chunks."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8x(size: Size, flags: int = 0) -> bytes:
    """Return the header chunk of an extended WebP."""
    sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
    return riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + sides)


def vp8l(size: Size) -> bytes:
    """Return a lossless picture chunk; behind its header it holds nothing."""
    bits = (size[0] - 1) | (size[1] - 1) << 14
    return riff_chunk(b"VP8L", b"\x2f" + struct.pack("<I", bits) + bytes(3))


def anmf(size: Size, *, at: Size = (0, 0), inner: bytes | None = None) -> bytes:
    """Return one frame of an animated WebP."""
    numbers = (at[0] // 2, at[1] // 2, size[0] - 1, size[1] - 1, 100)
    head = b"".join(number.to_bytes(3, "little") for number in numbers) + b"\0"
    return riff_chunk(b"ANMF", head + (vp8l(size) if inner is None else inner))


def box(kind: bytes, payload: bytes = b"", *, version: int | None = None, flags: int = 0) -> bytes:
    """Return an ISO media box; with a version, a full one."""
    full = b"" if version is None else bytes([version]) + flags.to_bytes(3)
    return struct.pack(">I", 8 + len(full) + len(payload)) + kind + full + payload


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    """Return the box that names the brands."""
    return box(b"ftyp", major + bytes(4) + b"".join(compatible or (b"mif1", major)))


def ispe(size: Size) -> bytes:
    """Return the size property."""
    return box(b"ispe", struct.pack(">II", *size), version=0)


def heif(
    size: Size = (64, 48),
    *,
    major: bytes = b"heic",
    codec: bytes = b"hvc1",
    properties: tuple[bytes, ...] = (),
    exif: bytes | None = None,
    picture_bytes: int = 64,
    items: tuple[bytes, bytes, bytes] = (b"", b"", b""),
) -> bytes:
    """Return a HEIF file of one picture whose data is no picture, as its structure does not tell.

    Args:
        size: Of the picture.
        major: The major brand.
        codec: The kind of the primary item.
        properties: Boxes that apply after the size, in this order.
        exif: A TIFF structure, stored as an item of its own.
        picture_bytes: How many bytes of picture data there are.
        items: Bytes to put before ``pitm``, behind ``iprp`` and before ``mdat``.
    """
    payloads = [bytes(picture_bytes)]
    kinds = [codec]
    if exif is not None:
        payloads.append(struct.pack(">I", 0) + exif)
        kinds.append(b"Exif")
    entries = b"".join(
        box(b"infe", struct.pack(">HH", index, 0) + kind + b"\0", version=2) for index, kind in enumerate(kinds, 1)
    )
    associations = bytes([len(properties) + 1]) + bytes(range(1, len(properties) + 2))
    start = 0
    for _ in range(2):  # the location table has the same size whatever it says
        table = b""
        offset = start
        for index, payload in enumerate(payloads, 1):
            table += struct.pack(">HHHII", index, 0, 1, offset, len(payload))
            offset += len(payload)
        meta = box(
            b"meta",
            box(b"hdlr", bytes(4) + b"pict" + bytes(13), version=0)
            + items[0]
            + box(b"pitm", struct.pack(">H", 1), version=0)
            + box(b"iloc", b"\x44\0" + struct.pack(">H", len(payloads)) + table, version=0)
            + box(b"iinf", struct.pack(">H", len(kinds)) + entries, version=0)
            + box(
                b"iprp",
                box(b"ipco", ispe(size) + b"".join(properties))
                + box(b"ipma", struct.pack(">IH", 1, 1) + associations, version=0),
            )
            + items[1],
            version=0,
        )
        head = ftyp(major, b"mif1", b"miaf") + meta + items[2]
        start = len(head) + 8
    return head + box(b"mdat", b"".join(payloads))


def nclx(primaries: int, transfer: int) -> bytes:
    """Return the property that names colours by number, with the matrix and the range of most photos."""
    return box(b"colr", b"nclx" + struct.pack(">HHHB", primaries, transfer, 6, 0x80))


def cicp(primaries: int, transfer: int, *, matrix: int = 0, full_range: int = 1) -> bytes:
    """Return the chunk that names the colours of a PNG by number."""
    return png_chunk(b"cICP", bytes([primaries, transfer, matrix, full_range]))


@cache
def samples() -> tuple[Sample, ...]:
    """Return small valid images of every accepted format, still and animated."""
    exif = exif_block(ExifFacts(orientation=6, latitude=59.91, longitude=10.75))
    still = {
        "jpeg-baseline": (jpeg(64, 48, seed=1), "image/jpeg"),
        "jpeg-progressive": (jpeg(64, 48, seed=2, progressive=True), "image/jpeg"),
        "png": (encoded("PNG", 64, 48), "image/png"),
        "gif": (encoded("GIF", 64, 48), "image/gif"),
        "webp": (encoded("WEBP", 64, 48), "image/webp"),
        "avif": (encoded("AVIF", 64, 48), "image/avif"),
        "heic": (heif((64, 48)), "image/heic"),
        "heif": (heif((64, 48), major=b"mif1", codec=b"avc1"), "image/heif"),
    }
    turned = {
        "jpeg-exif": (jpeg(48, 64, seed=3, exif=ExifFacts(orientation=6)), "image/jpeg"),
        "png-exif": (encoded("PNG", 48, 64, exif=exif), "image/png"),
        "webp-exif": (encoded("WEBP", 48, 64, exif=exif), "image/webp"),
        "heic-turned": (heif((48, 64), properties=(box(b"irot", b"\3"),), exif=exif), "image/heic"),
    }
    found = [
        Sample(name=name, data=data, content_type=kind, width=64, height=48)
        for name, (data, kind) in {**still, **turned}.items()
    ]
    animated = [
        Sample(
            name=f"{kind.lower()}-animated",
            data=encoded(kind, 40, 30, frames=4),
            content_type=f"image/{kind.lower()}",
            width=40,
            height=30,
            frames=4,
        )
        for kind in ("PNG", "GIF", "WEBP", "AVIF")
    ]
    return (*found, *animated)
