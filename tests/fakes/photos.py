"""The project's own generator of photos as cameras, phones and programs write them.

Each shows the same four fields, upright: red, green, blue and white, and carries as much private metadata as its
format holds. They differ in what an engine gets wrong: colour space, depth, alpha, orientation, frames.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Final

import pillow_heif
import pyvips
from PIL import Image, ImageCms, PngImagePlugin

from tests.fakes.exif import ExifFacts, exif_block, tiff
from tests.fakes.images import png_chunk

Color = tuple[int, int, int]

WIDTH, HEIGHT = 96, 64
RED, GREEN, BLUE, WHITE = (230, 30, 40), (20, 200, 60), (40, 50, 210), (250, 250, 250)
GREYS: Final = ((40, 40, 40), (110, 110, 110), (180, 180, 180), (250, 250, 250))
GREY_LEVELS: Final = (40, 110, 180, 250)
SECRET: Final = "Anna's garden, Karl Johans gate 1"
"""Stands in every text that a photo's metadata holds."""

LATITUDE, LONGITUDE = 59.913, 10.738
FRAMES: Final = 3
_STORED_AS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_XMP: Final = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
    f'exif:GPSLatitude="59,54.78N" exif:GPSLongitude="10,44.28E"><dc:rights>{SECRET}</dc:rights>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A photo, and what a rendition of it has to show.

    Attributes:
        name: Unique, for the test's id.
        data: The file.
        content_type: Its media type.
        fields: The colours in sRGB, upright: top left, top right, bottom left, bottom right.
        alpha: Of the bottom right field, 0 to 255; the others hide nothing.
        frames: Pictures of an animation; the first shows the fields, the others are dark.
        grey: Whether it is stored without colours.
        loss: By how much a field may differ, in steps of 255.
        width: Pixels, upright.
        height: Pixels, upright.
    """

    name: str
    data: bytes
    content_type: str
    fields: tuple[Color, Color, Color, Color] = (RED, GREEN, BLUE, WHITE)
    alpha: int = 255
    frames: int = 1
    grey: bool = False
    loss: int = 8
    width: int = WIDTH
    height: int = HEIGHT


@cache
def photos() -> tuple[Photo, ...]:
    """Return every photo; none has more than some thousand pixels."""
    return (*_turned(), *_jpegs(), *_pngs(), *_with_alpha(), *_animated(), *_boxed())


def four_fields(
    mode: str = "RGB", fields: Sequence[int | tuple[int, ...]] = (RED, GREEN, BLUE, WHITE)
) -> Image.Image:
    """Return the upright picture in a mode of Pillow."""
    image = Image.new(mode, (WIDTH, HEIGHT))
    for index, color in enumerate(fields):
        left, top = index % 2 * WIDTH // 2, index // 2 * HEIGHT // 2
        image.paste(color, (left, top, left + WIDTH // 2, top + HEIGHT // 2))
    return image


def profile(name: str) -> bytes:
    """Return an ICC profile that libvips brings: ``p3``, ``cmyk`` or ``srgb``."""
    return bytes(pyvips.Image.profile_load(name))


def metadata(orientation: int = 1) -> bytes:
    """Return an Exif block of a camera, a time, a place and an orientation."""
    return exif_block(ExifFacts(model=SECRET, orientation=orientation, latitude=LATITUDE, longitude=LONGITUDE))


def stored_as(image: Image.Image, orientation: int) -> Image.Image:
    """Return the upright picture as a camera stores it that writes this orientation."""
    return image if orientation == 1 else image.transpose(_STORED_AS[orientation])


def saved(image: Image.Image, kind: str, *, orientation: int = 1, icc: bytes | None = None, **more: object) -> bytes:
    """Return a file of Pillow's format ``kind`` with all the metadata that it can hold."""
    exif = metadata(orientation)
    options: dict[str, object] = {"exif": b"Exif\0\0" + exif if kind == "JPEG" else exif, "icc_profile": icc}
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0, "comment": SECRET, "xmp": _XMP}
    elif kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", _XMP.decode())
        texts.add_text("Comment", SECRET, zip=True)
        texts.add_text("Author", SECRET)
        options["pnginfo"] = texts
    elif kind == "GIF":
        options = {"comment": SECRET}
    else:
        options |= {"quality": 95, "xmp": _XMP}
    out = BytesIO()
    image.save(out, kind, **{**options, **more})
    return _with_iptc(out.getvalue()) if kind == "JPEG" else out.getvalue()


def heic(image: Image.Image, *, orientation: int = 1, icc: bytes | None = None) -> bytes:
    """Return a HEIC file with metadata; the orientation is written as ``irot`` and ``imir``, and in Exif."""
    file = pillow_heif.from_pillow(image)
    out = BytesIO()
    file.save(out, quality=95, chroma=444, exif=b"Exif\0\0" + metadata(orientation), xmp=_XMP, icc_profile=icc)
    return out.getvalue()


def _with_iptc(data: bytes) -> bytes:
    text = SECRET.encode()
    record = b"\x1c\x02\x50" + struct.pack(">H", len(text)) + text
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record + b"\0" * (len(record) % 2)
    payload = b"Photoshop 3.0\0" + block
    return data[:2] + b"\xff\xed" + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def _turned() -> Iterator[Photo]:
    for orientation in range(1, 9):
        image = stored_as(four_fields(), orientation)
        for kind in ("JPEG", "PNG", "WEBP", "AVIF"):
            name = kind.lower()
            data = saved(image, kind, orientation=orientation)
            yield Photo(name=f"{name}-orientation-{orientation}", data=data, content_type=f"image/{name}")
        data = heic(image, orientation=orientation)
        yield Photo(name=f"heic-orientation-{orientation}", data=data, content_type="image/heic")


def _jpegs() -> Iterator[Photo]:
    kind = "image/jpeg"
    yield Photo(name="jpeg-progressive", data=saved(four_fields(), "JPEG", progressive=True), content_type=kind)
    yield Photo(name="jpeg-420", data=saved(four_fields(), "JPEG", subsampling=2), content_type=kind)
    data = saved(four_fields("L", GREY_LEVELS), "JPEG")
    yield Photo(name="jpeg-grey", data=data, content_type=kind, fields=GREYS, grey=True)
    ink = four_fields("CMYK", ((0, 255, 255, 0), (200, 20, 180, 10), (120, 100, 0, 60), (0, 0, 0, 0)))
    seen = printed(ink)
    for name, icc in (("untagged", None), ("tagged", profile("cmyk"))):
        yield Photo(name=f"jpeg-cmyk-{name}", data=saved(ink, "JPEG", icc=icc), content_type=kind, fields=seen)
    for name, icc in (("broken", b"no profile at all" * 20), ("of-cmyk", profile("cmyk"))):
        yield Photo(name=f"jpeg-profile-{name}", data=saved(four_fields(), "JPEG", icc=icc), content_type=kind)


def _pngs() -> Iterator[Photo]:
    kind = "image/png"
    yield Photo(name="png-palette", data=saved(four_fields().quantize(8), "PNG"), content_type=kind)
    data = saved(four_fields("L", GREY_LEVELS), "PNG")
    yield Photo(name="png-grey", data=data, content_type=kind, fields=GREYS, grey=True)
    black, white = (0, 0, 0), (255, 255, 255)
    data = saved(four_fields("1", (0, 255, 0, 255)), "PNG")
    yield Photo(name="png-one-bit", data=data, content_type=kind, fields=(black, white, black, white), grey=True)
    yield Photo(name="png-16-bit", data=_png16(2, [RED, GREEN, BLUE, WHITE]), content_type=kind)
    data = _png16(0, [(level,) for level in GREY_LEVELS])
    yield Photo(name="png-16-bit-grey", data=data, content_type=kind, fields=GREYS, grey=True)
    wide = wide_gamut()
    for name in ("JPEG", "PNG", "WEBP", "AVIF"):
        data = saved(wide, name, icc=profile("p3"))
        yield Photo(name=f"{name.lower()}-wide-gamut", data=data, content_type=f"image/{name.lower()}")
    yield Photo(name="heic-wide-gamut", data=heic(wide, icc=profile("p3")), content_type="image/heic")
    yield Photo(name="png-interlaced", data=_interlaced(), content_type=kind)


def _with_alpha() -> Iterator[Photo]:
    half = 100
    image = four_fields("RGBA", ((*RED, 255), (*GREEN, 255), (*BLUE, 255), (*RED, half)))
    fields = (RED, GREEN, BLUE, RED)
    for kind in ("PNG", "WEBP", "AVIF"):
        data = saved(image, kind)
        name = kind.lower()
        yield Photo(name=f"{name}-alpha", data=data, content_type=f"image/{name}", fields=fields, alpha=half, loss=12)
    yield Photo(name="heic-alpha", data=heic(image), content_type="image/heic", fields=fields, alpha=half, loss=12)
    data = _png16(4, [(40, 255), (110, 255), (180, 255), (40, half)])
    greys = (*GREYS[:3], GREYS[0])
    yield Photo(
        name="png-16-bit-grey-alpha", data=data, content_type="image/png", fields=greys, alpha=half, grey=True
    )
    data = _png16(6, [(*RED, 255), (*GREEN, 255), (*BLUE, 255), (*RED, half)])
    yield Photo(name="png-16-bit-alpha", data=data, content_type="image/png", fields=fields, alpha=half)
    opaque = four_fields("RGBA", tuple((*color, 255) for color in (RED, GREEN, BLUE, WHITE)))
    yield Photo(name="png-alpha-hides-nothing", data=saved(opaque, "PNG"), content_type="image/png")


def _animated() -> Iterator[Photo]:
    dark = [Image.new("RGB", (WIDTH, HEIGHT), (number * 20,) * 3) for number in range(FRAMES - 1)]
    for kind in ("PNG", "GIF", "WEBP", "AVIF"):
        name = kind.lower()
        data = saved(four_fields(), kind, save_all=True, append_images=dark)
        yield Photo(name=f"{name}-animated", data=data, content_type=f"image/{name}", frames=FRAMES)


def _boxed() -> Iterator[Photo]:
    """Photos whose Exif says another orientation than their boxes, or says it again; the boxes count."""
    kind = "image/avif"
    data = _turned_in_exif(heic(four_fields()), 0x0112, 1)
    yield Photo(name="heic-turned-in-exif-only", data=data, content_type="image/heic")
    # Pillow moves an orientation into boxes; what it takes for the unit of resolution becomes one afterwards
    exif = tiff([(0x0128, 3, 1, b"\2\0")])
    data = _turned_in_exif(saved(four_fields(), "AVIF", exif=exif), 0x0128, 2)
    yield Photo(name="avif-turned-in-exif-only", data=data, content_type=kind)
    exif = tiff([(0x0112, 3, 1, b"\6\0"), (0x0128, 3, 1, b"\2\0")])
    data = _turned_in_exif(saved(stored_as(four_fields(), 6), "AVIF", exif=exif), 0x0128, 2)
    yield Photo(name="avif-turned-in-both", data=data, content_type=kind)
    yield Photo(name="avif-10-bit", data=_deep_avif(), content_type=kind)


def printed(ink: Image.Image) -> tuple[Color, Color, Color, Color]:
    """Return what a picture of libvips' CMYK looks like in sRGB by Pillow's colour management."""
    seen = ImageCms.profileToProfile(
        ink,
        ImageCms.ImageCmsProfile(BytesIO(profile("cmyk"))),
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if seen is None:
        raise ValueError("Pillow gave no picture")
    at = ((0, 0), (WIDTH - 1, 0), (0, HEIGHT - 1), (WIDTH - 1, HEIGHT - 1))
    first, second, third, fourth = (seen.getpixel(place) for place in at)
    return first, second, third, fourth  # type: ignore[return-value]  # of RGB these are three numbers each


def wide_gamut() -> Image.Image:
    """Return the picture as Display P3 stores it: other numbers for the same colours."""
    image = four_fields()
    seen = pyvips.Image.new_from_memory(image.tobytes(), WIDTH, HEIGHT, 3, "uchar").copy(interpretation="srgb")
    stored = seen.icc_transform("p3", input_profile="srgb", depth=8)
    return Image.frombytes("RGB", (WIDTH, HEIGHT), bytes(stored.write_to_memory()))


def _turned_in_exif(data: bytes, tag: int, value: int) -> bytes:
    """Make an entry of the Exif block the orientation 6, and change nothing else."""
    entry = struct.pack("<HHIH", tag, 3, 1, value)
    if data.count(entry) != 1:
        raise ValueError("the file holds no such entry")
    return data.replace(entry, struct.pack("<HHIH", 0x0112, 3, 1, 6))


def _png16(color_type: int, fields: list[tuple[int, ...]]) -> bytes:
    """Return a PNG of 16 bits per sample; 255 is 65535."""
    lines = []
    for row in range(HEIGHT):
        left, right = fields[row * 2 // HEIGHT * 2 : row * 2 // HEIGHT * 2 + 2]
        samples = [value * 257 for value in (*left * (WIDTH // 2), *right * (WIDTH // 2))]
        lines.append(b"\0" + struct.pack(f">{len(samples)}H", *samples))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, color_type, 0, 0, 0)
    chunks = [
        png_chunk(b"IHDR", header),
        png_chunk(b"eXIf", metadata()),
        png_chunk(b"tEXt", b"Comment\0" + SECRET.encode("latin-1")),
        png_chunk(b"IDAT", zlib.compress(b"".join(lines))),
        png_chunk(b"IEND"),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _vips_picture() -> pyvips.Image:
    pixels = four_fields().tobytes()
    return pyvips.Image.new_from_memory(pixels, WIDTH, HEIGHT, 3, "uchar").copy(interpretation="srgb")


def _interlaced() -> bytes:
    return bytes(_vips_picture().pngsave_buffer(interlace=True))


def _deep_avif() -> bytes:
    deep = (_vips_picture().cast("ushort") * 257).cast("ushort").copy(interpretation="rgb16")
    return bytes(deep.heifsave_buffer(Q=95, compression="av1", bitdepth=10, effort=1, subsample_mode="off"))
