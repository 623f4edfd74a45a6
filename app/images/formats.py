"""The allow-list of formats: who reads what, and what the refused ones are called.

A format is known by its first bytes. What is not on the list is refused with its name where that is known,
so that the sender learns what to export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from app.errors import RequestError, UnsupportedMediaTypeError
from app.images.gif import read_gif
from app.images.isobmff import isobmff_colours, isobmff_layout, read_isobmff
from app.images.jpeg import jpeg_layout, read_jpeg
from app.images.limits import ImageLimits
from app.images.png import png_colours, png_layout, read_png
from app.images.structure import Layout, NamedColours, Source, Structure
from app.images.webp import read_webp, webp_layout

_HEAD_BYTES = 1024
_ACCEPTED = "Accepted are JPEG, PNG, WebP, GIF, AVIF and HEIC photos."
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

_LAYOUT_READERS: Mapping[str, Callable[[Source, ImageLimits], Layout | None]] = MappingProxyType(
    {
        "image/jpeg": jpeg_layout,
        "image/png": png_layout,
        "image/webp": webp_layout,
        "image/avif": isobmff_layout,
        "image/heic": isobmff_layout,
        "image/heif": isobmff_layout,
    }
)
_COLOUR_READERS: Mapping[str, Callable[[Source, ImageLimits], NamedColours | None]] = MappingProxyType(
    {
        "image/png": png_colours,
        "image/avif": isobmff_colours,
        "image/heic": isobmff_colours,
        "image/heif": isobmff_colours,
    }
)


def read_structure(source: Source, limits: ImageLimits) -> Structure:
    """Choose the reader by the first bytes, and read.

    Raises:
        UnsupportedMediaTypeError: It is no image of an accepted format.
        UndecodableImageError: It is cut off, or its structure is damaged.
        ImageLimitError: It demands more than the limits allow.
    """
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


def read_layout(source: Source, content_type: str, limits: ImageLimits) -> Layout | None:
    """Read as much of a file as tells how its pixels lie, where that makes a difference to its decoder; else None.

    Args:
        source: The file, which was accepted once.
        content_type: What it was found to be.
        limits: How much may stand before its pixels.

    Raises:
        UndecodableImageError: It is not what it was.
        ImageLimitError: Too much stands before its pixels.
    """
    read = _LAYOUT_READERS.get(content_type)
    return None if read is None else read(source, limits)


def read_colours(source: Source, content_type: str, limits: ImageLimits) -> NamedColours | None:
    """Return the colours that a file names by number; None where it names none, or where it cannot be read so far.

    Args:
        source: The file.
        content_type: What it was found to be.
        limits: How much may stand before that statement.
    """
    read = _COLOUR_READERS.get(content_type)
    try:
        return None if read is None else read(source, limits)
    except RequestError:  # whoever decodes it finds out what is wrong, and says so
        return None


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
