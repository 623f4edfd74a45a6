"""Large photos to make renditions of: noise of several sizes over colours that run into each other.

They compress about as photos of a camera do, because how much is in a file decides how long it takes to read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pillow_heif
import pyvips
from PIL import Image

MEGAPIXELS: Final = {"12 MP": (4000, 3000), "48 MP": (8000, 6000)}
"""The sizes: width and height in pixels."""

_TYPES: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "HEIC": "image/heic"}


@dataclass(frozen=True)
class Original:
    """One photo.

    Attributes:
        name: As in ``12 MP JPEG``.
        path: Its file.
        content_type: Its media type.
        width: Pixels.
        height: Pixels.
    """

    name: str
    path: Path
    content_type: str
    width: int
    height: int


def write_originals(folder: Path) -> list[Original]:
    """Write a photo of each size and format, and return them."""
    tile = _tile()
    return [
        _write(folder, f"{size} {ending}", tile.replicate(width // tile.width, height // tile.height))
        for size, (width, height) in MEGAPIXELS.items()
        for ending in _TYPES
    ]


def _write(folder: Path, name: str, photo: pyvips.Image) -> Original:
    ending = name.rpartition(" ")[2]
    path = folder / f"{name.replace(' ', '-')}.{ending.lower()}"
    if ending == "JPEG":
        photo.jpegsave(str(path), Q=90)
    elif ending == "PNG":
        photo.pngsave(str(path), compression=3)
    else:
        pixels = Image.frombytes("RGB", (photo.width, photo.height), bytes(photo.write_to_memory()))
        pillow_heif.from_pillow(pixels).save(path, quality=50, enc_params={"preset": "ultrafast"})
    return Original(name, path, _TYPES[ending], photo.width, photo.height)


def _tile() -> pyvips.Image:
    """Return a piece whose sides fit into both sizes."""
    width, height = 2000, 1500
    bands = [
        (
            pyvips.Image.perlin(width, height, cell_size=cell, seed=cell) * 80
            + pyvips.Image.perlin(width, height, cell_size=25, seed=cell + 1) * 20
            + pyvips.Image.gaussnoise(width, height, mean=128, sigma=2.5, seed=cell + 2)
        ).cast("uchar")
        for cell in (500, 400, 250)
    ]
    return bands[0].bandjoin(bands[1:]).copy(interpretation="srgb").copy_memory()
