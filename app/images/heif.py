"""HEIC and HEIF photos, decoded by pillow-heif where that extra is installed.

libvips comes without a decoder for HEVC, and it stays an extra here for the licences and patents around it:
``docs/dependencies.md`` names them. Pillow itself decodes nothing.
"""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from typing import Final

import pyvips

from app.errors import UndecodableImageError
from app.images.jobs import HeifNotInstalledError

HEIF_TYPES: Final = ("image/heic", "image/heif")
"""The media types that need the extra."""

_BANDS: Final = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def heif_installed() -> bool:
    """Return whether HEIC and HEIF photos can be decoded; nothing is imported for the answer."""
    return find_spec("pillow_heif") is not None


def open_heif(descriptor: int, *, most_pixels: int) -> pyvips.Image:
    """Decode the primary picture of a HEIC or HEIF file, turned and mirrored as its properties say.

    Args:
        descriptor: Of a file that can be read anywhere; its position is moved.
        most_pixels: As many as the probe found, which the budget admitted.

    Returns:
        The picture in memory, 8 bits per sample, with its ICC profile where it has one.

    Raises:
        HeifNotInstalledError: pillow-heif is not installed.
        UndecodableImageError: The decoder sees a larger picture than the probe.
        Exception: Whatever the decoder raises where it does not like the file.
    """
    if not heif_installed():
        raise HeifNotInstalledError(
            "HEIC and HEIF photos are stored here, but cannot be shown: a decoder is missing."
        )
    import pillow_heif  # noqa: PLC0415  an extra, and it costs memory that only these photos need

    pillow_heif.options.DECODE_THREADS = 1
    for extra in ("THUMBNAILS", "DEPTH_IMAGES", "AUX_IMAGES"):
        setattr(pillow_heif.options, extra, False)  # what nobody sees need not be read
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", closefd=False) as stream:
        file = pillow_heif.open_heif(stream, convert_hdr_to_8bit=True, bgr_mode=False)
        picture = file[file.primary_index]
        if math.prod(picture.size) > most_pixels:
            raise UndecodableImageError("The picture is larger than its header says. Export it again.")
        pixels = picture.data  # decodes, and is not copied: it may have some hundred megabytes
    image = _without_padding(pixels, *picture.size, bands=_BANDS[picture.mode], stride=picture.stride)
    profile = picture.info.get("icc_profile")
    if profile:
        image = image.copy()
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return image


def _without_padding(pixels: memoryview, width: int, height: int, *, bands: int, stride: int) -> pyvips.Image:
    space = "srgb" if bands > 2 else "b-w"  # noqa: PLR2004  grey, and grey with alpha
    if stride != width * bands:
        padded = pyvips.Image.new_from_memory(pixels, stride, height, 1, "uchar")
        pixels = memoryview(padded.crop(0, 0, width * bands, height).write_to_memory())
    return pyvips.Image.new_from_memory(pixels, width, height, bands, "uchar").copy(interpretation=space)
