"""Colours: whatever a photo was stored in becomes sRGB of eight bits, and one colour that stands for all of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import pyvips

from app.images.formats import read_colours
from app.images.limits import HEADER_LIMITS
from app.images.structure import NamedColours, open_source

_log = logging.getLogger(__name__)
_PROFILE: Final = "icc-profile-data"
_GREY: Final = ("b-w", "grey16")
_LEVELS: Final = 8
_OPAQUE: Final = 255
_NAMED: Final[Mapping[tuple[int, int], str]] = MappingProxyType({(1, 13): "srgb", (12, 13): "p3"})
"""Primaries and transfer, and what libvips calls the profile that says the same."""


def named_colours(descriptor: int, content_type: str) -> NamedColours | None:
    """Return the colours that a file names by number; None where it names none, or where its header is broken.

    Args:
        descriptor: Of a file that can be read anywhere; its position is moved.
        content_type: The media type that the probe found.
    """
    with open_source(descriptor) as source:
        return read_colours(source, content_type, HEADER_LIMITS)


def to_srgb(image: pyvips.Image, named: NamedColours | None = None) -> pyvips.Image:
    """Convert a picture to sRGB, or to grey where it is grey, with 8 bits per sample; alpha is kept.

    An embedded ICC profile is followed; one that is broken or made for something else is ignored. CMYK
    without a profile is taken for the common kind of print. Without a profile the colours that the file names
    count, where they are those of Display P3; where they outrank a profile, they count with one, too.

    Args:
        image: Of any colour space that the allowed loaders give.
        named: The colours that the file names by number.

    Returns:
        One or three bands of colour, and alpha where it had alpha that is not opaque everywhere.

    Raises:
        pyvips.Error: The colour space cannot be converted.
    """
    grey = image.interpretation in _GREY
    image = _as_named(image, named)
    if image.get_typeof(_PROFILE) or image.interpretation == "cmyk":
        image = _by_profile(image)
    space = "b-w" if grey else "srgb"
    if image.interpretation != space:
        image = image.colourspace(space)
    if image.format != "uchar":
        image = image.cast("uchar")
    return image


def without_opaque_alpha(image: pyvips.Image) -> pyvips.Image:
    """Return the picture without an alpha band that hides nothing.

    Args:
        image: 8 bits per sample, in memory.
    """
    if image.hasalpha() and image[image.bands - 1].min() == _OPAQUE:
        return image.extract_band(0, n=image.bands - 1)
    return image


def _as_named(image: pyvips.Image, named: NamedColours | None) -> pyvips.Image:
    """Return the picture with the profile that its file names, where that counts; grey is the same with any."""
    space = None if named is None else _NAMED.get((named.primaries, named.transfer))
    if named is None or space is None or (image.get_typeof(_PROFILE) and not named.outranks_profile):
        return image
    image = image.copy()
    image.remove(_PROFILE)
    if space != "srgb" and image.interpretation not in _GREY:
        image.set_type(pyvips.GValue.blob_type, _PROFILE, pyvips.Image.profile_load(space))
    return image


def _by_profile(image: pyvips.Image) -> pyvips.Image:
    options: dict[str, object] = {"intent": "perceptual", "black_point_compensation": True, "depth": 8}
    if image.interpretation == "cmyk":
        options["input_profile"] = "cmyk"
    try:
        return image.icc_transform("srgb", embedded=True, **options)
    except pyvips.Error:
        _log.info("A colour profile cannot be used, the picture is taken without it")
    plain = image.copy()
    plain.remove(_PROFILE)
    return plain.icc_transform("srgb", **options) if image.interpretation == "cmyk" else plain


def dominant_color(image: pyvips.Image) -> str:
    """Return the colour that most of a picture has, as ``#rrggbb``.

    The colours are sorted into 512 boxes of like ones; the mean of the fullest box is the answer. What is
    transparent does not count; where all of it is, the answer is white.

    Args:
        image: sRGB or grey, 8 bits per sample, of at most some thousand pixels.
    """
    pixels = bytes(as_rgba(image).write_to_memory())
    boxes: dict[int, list[int]] = {}
    for at in range(0, len(pixels), 4):
        red, green, blue, alpha = pixels[at : at + 4]
        if alpha * 2 < _OPAQUE:
            continue
        box = boxes.setdefault(
            (red * _LEVELS >> 8) * _LEVELS * _LEVELS + (green * _LEVELS >> 8) * _LEVELS + (blue * _LEVELS >> 8),
            [0, 0, 0, 0],
        )
        for index, value in enumerate((1, red, green, blue)):
            box[index] += value
    if not boxes:
        return "#ffffff"
    count, *sums = max(boxes.values())
    return "#" + "".join(f"{round(value / count):02x}" for value in sums)


def as_rgba(image: pyvips.Image) -> pyvips.Image:
    """Return a picture of sRGB or grey as one of four bands: red, green, blue and alpha."""
    if not image.hasalpha():
        image = image.bandjoin(_OPAQUE)
    return image.colourspace("srgb") if image.interpretation != "srgb" else image
