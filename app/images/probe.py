"""What an uploaded file is, told from its bytes and nothing else.

The type is decided by content and by an allow-list; the name and the declared type of an upload have no
say. Everything is read from headers and structure: no pixel is decoded, at most a few windows of 64 KiB are
held, and the time is linear in the size of the file. Damage that shows in the structure is found here;
damage of pixels is found by the image engine, and bytes behind the end of the image are allowed.

One module per format family does the reading: ``jpeg``, ``png``, ``gif``, ``webp``, ``isobmff``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.errors import UnsupportedMediaTypeError
from app.images.gif import read_gif
from app.images.isobmff import read_isobmff
from app.images.jpeg import read_jpeg
from app.images.limits import ImageLimits
from app.images.png import read_png
from app.images.structure import Source, Structure
from app.images.webp import read_webp
from app.storage.base import Body

__all__ = ["DEFAULT_LIMITS", "ImageLimits", "ProbedImage", "probe"]

DEFAULT_LIMITS = ImageLimits()
"""The limits that hold when nothing else is configured."""

_HEAD_BYTES = 1024
_SIDEWAYS = 5
_ACCEPTED = "Accepted are JPEG, PNG, WebP, GIF, AVIF and HEIC photos."
_EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/avif": "avif",
    "image/heic": "heic",
    "image/heif": "heif",
}
_KNOWN_BINARY = (
    (b"II*\0", "a TIFF or raw file"),
    (b"MM\0*", "a TIFF or raw file"),
    (b"II+\0", "a TIFF file"),
    (b"MM\0+", "a TIFF file"),
    (b"IIU\0", "a raw file"),
    (b"IIRO", "a raw file"),
    (b"FUJIFILM", "a raw file"),
    (b"8BPS", "a Photoshop file"),
    (b"BM", "a BMP file"),
    (b"\0\0\1\0", "an icon"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"PK\x03\x04", "a ZIP archive or office document"),
    (b"PK\x05\x06", "a ZIP archive or office document"),
    (b"Rar!", "an archive"),
    (b"7z\xbc\xaf\x27\x1c", "an archive"),
    (b"\x1f\x8b", "an archive"),
    (b"\x1aE\xdf\xa3", "a film"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
_KNOWN_TEXT = (
    (b"%pdf-", "a PDF document"),
    (b"%!ps", "a PostScript or EPS file"),
    (b"<svg", "an SVG drawing"),
    (b"<?php", "a program"),
    (b"#!", "a program"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<script", "a web page"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedImage:
    """What is known of an image without decoding it.

    Attributes:
        content_type: ``image/jpeg``, ``png``, ``webp``, ``gif``, ``avif``, ``heic`` or ``heif``.
        extension: The usual file name extension, without the dot.
        width: Pixels, upright (after the orientation).
        height: Pixels, upright.
        orientation: 1 to 8 as Exif numbers it; 1 is upright already.
        frames: Pictures of an animation or sequence, else 1.
        scans: Passes of a JPEG, else 1.
        camera: Make and model, printable, at most 128 characters.
        taken_at: UTC; a time without an offset is read as UTC.
        latitude: Degrees north, known only together with the longitude.
        longitude: Degrees east.
    """

    content_type: str
    extension: str
    width: int
    height: int
    orientation: int
    frames: int
    scans: int
    camera: str | None
    taken_at: datetime | None
    latitude: float | None
    longitude: float | None


def probe(body: Body, limits: ImageLimits = DEFAULT_LIMITS) -> ProbedImage:
    """Tell what an uploaded file is. Thread-safe; the body is opened once and closed again.

    Args:
        body: The file.
        limits: What an image may demand.

    Raises:
        UnsupportedMediaTypeError: It is no image of an accepted format.
        UndecodableImageError: It is cut off, or its structure is damaged.
        ImageLimitError: It demands more than the limits allow.
    """
    with body.open() as stream:
        structure = _read(Source(stream, body.size_bytes), limits)
    orientation = structure.orientation or structure.exif.orientation
    width, height = structure.width, structure.height
    if orientation >= _SIDEWAYS:
        width, height = height, width
    return ProbedImage(
        content_type=structure.content_type,
        extension=_EXTENSIONS[structure.content_type],
        width=width,
        height=height,
        orientation=orientation,
        frames=structure.frames,
        scans=structure.scans,
        camera=structure.exif.camera,
        taken_at=structure.exif.taken_at,
        latitude=structure.exif.latitude,
        longitude=structure.exif.longitude,
    )


def _read(source: Source, limits: ImageLimits) -> Structure:
    """Choose the reader by the first bytes."""
    head = source.upto(0, _HEAD_BYTES)
    if head.startswith(b"\xff\xd8\xff"):
        return read_jpeg(source, limits)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return read_png(source, limits)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return read_gif(source, limits)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return read_webp(source, limits)
    if head[4:8] == b"ftyp":
        return read_isobmff(source, limits)
    raise UnsupportedMediaTypeError(f"The file is {_recognise(head)}. {_ACCEPTED}")


def _recognise(head: bytes) -> str:
    """Say what a refused file is, for its sender; nothing depends on the answer."""
    if not head:
        return "empty"
    for signature, name in _KNOWN_BINARY:
        if head.startswith(signature):
            return name
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<?xml") and b"<svg" in text:
        return "an SVG drawing"
    for signature, name in _KNOWN_TEXT:
        if text.startswith(signature):
            return name
    return "no image that is known here"
