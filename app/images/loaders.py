"""The only loaders of libvips that may ever open a file, and how much they leave out while they decode.

A loader is chosen by the media type that the probe found, never by what libvips would guess, and all other
loaders are blocked: no file can reach the code of a format that is not accepted here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

import pyvips

from app.errors import UndecodableImageError
from app.images.gif import first_frame
from app.images.limits import HEADER_LIMITS
from app.images.structure import open_source

_GIF: Final = "image/gif"
_LOADERS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "image/jpeg": ("jpegload_source", "VipsForeignLoadJpegSource"),
        "image/png": ("pngload_source", "VipsForeignLoadPngSource"),
        "image/webp": ("webpload_source", "VipsForeignLoadWebpSource"),
        _GIF: ("gifload_source", "VipsForeignLoadNsgifSource"),
        "image/avif": ("heifload_source", "VipsForeignLoadHeifSource"),
    }
)
_OPAQUE: Final = 255
_JPEG_SHRINKS: Final = (8, 4, 2)
_LEAST_SIDE: Final = 32
"""What decoders make of a part of a pixel is their own affair; on sides of so many pixels it is not seen."""


@cache
def prepare_libvips() -> None:
    """Block what is not needed, keep nothing between photos, and use one thread; done once in a process."""
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)
    pyvips.block_untrusted_set(True)
    pyvips.operation_block_set("VipsForeignLoad", True)
    for _, loader in _LOADERS.values():
        pyvips.operation_block_set(loader, False)


def full_size(descriptor: int, content_type: str, *, most_pixels: int) -> tuple[int, int]:
    """Return width and height of the first picture of a file as stored, from its header alone.

    Args:
        descriptor: Of a file that can be read anywhere; its position is moved.
        content_type: The media type that the probe found.
        most_pixels: As many as the probe found, which the budget admitted.

    Raises:
        UndecodableImageError: No loader reads this media type, or the loader sees a larger picture than the probe.
        pyvips.Error: The loader does not like the file.
    """
    image = _load(descriptor, content_type, {})
    if image.width * image.height > most_pixels:
        raise UndecodableImageError("The picture is larger than its header says. Export it again.")
    return image.width, image.height


def open_image(
    descriptor: int, content_type: str, *, size: tuple[int, int], scale: float, margin: float
) -> pyvips.Image:
    """Open the first picture of a file for one reading from top to bottom; hardly anything is decoded yet.

    Args:
        descriptor: Of a file that can be read anywhere; its position is moved.
        content_type: The media type that the probe found.
        size: Its :func:`full_size`.
        scale: Which part of its sides will be needed, above 0 to 1: the decoder may leave out what is not.
        margin: How many times more it has to leave, from 1: the job's ``decode_margin``.

    Returns:
        The picture as stored, at least ``scale`` of its full size.

    Raises:
        UndecodableImageError: No loader reads this media type.
        pyvips.Error: The loader does not like the file.
    """
    factor = 1 / scale / margin
    factor = max(1.0, min(factor, min(size) / _LEAST_SIDE))
    options: dict[str, object] = {}
    if content_type == "image/jpeg":
        options["shrink"] = next((shrink for shrink in _JPEG_SHRINKS if shrink <= factor), 1)
    elif content_type == "image/webp":
        options["scale"] = 1 / factor
    return _load(descriptor, content_type, options)


def _load(descriptor: int, content_type: str, options: Mapping[str, object]) -> pyvips.Image:
    prepare_libvips()
    if content_type not in _LOADERS:
        raise UndecodableImageError(f"Pictures of the type {content_type} cannot be decoded here.")
    os.lseek(descriptor, 0, os.SEEK_SET)  # libvips shares the position of the descriptor it is given
    source = pyvips.Source.new_from_descriptor(descriptor)
    operation, _ = _LOADERS[content_type]
    image = pyvips.Operation.call(operation, source, access="sequential", fail_on="error", **options)
    if not isinstance(image, pyvips.Image):
        raise UndecodableImageError("The decoder gave no picture.")
    return _on_its_screen(image, descriptor) if content_type == _GIF else image


def _on_its_screen(image: pyvips.Image, descriptor: int) -> pyvips.Image:
    """Return the first picture of a GIF on its whole screen, with nothing to be seen beside it, as in browsers.

    libvips takes what is beside it for black in a file that names no transparent colour, and leaves it out
    altogether on screens of sizes that old programs wrote into every file, such as 640 by 480. It holds the whole
    file by now, so that nobody minds where the descriptor stands.
    """
    with open_source(descriptor) as source:
        frame = first_frame(source, HEADER_LIMITS)
    if not image.hasalpha() and frame.size != frame.screen:
        shown = (pyvips.Image.black(*frame.size) + _OPAQUE).cast("uchar")
        image = image.bandjoin(shown.embed(*frame.at, image.width, image.height))
    width, height = frame.screen
    if image.width <= width and image.height <= height:  # else the file lies, and is judged by what is decoded
        image = image.embed(0, 0, width, height)
    return image
