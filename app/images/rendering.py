"""Renditions of a photo, all from one decode. Runs in the processes of the image engine and nowhere else.

The largest picture that is wanted is made while the file is read from top to bottom, with as much left out by
the decoder as the size allows; the smaller ones are made from it. They are upright and in sRGB of eight bits,
and nothing but pixels is written: no Exif, XMP, IPTC, comment or colour profile of the original.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import pyvips

from app.errors import UndecodableImageError
from app.images.colour import as_rgba, dominant_color, named_colours, to_srgb, without_opaque_alpha
from app.images.heif import HEIF_TYPES, open_heif
from app.images.jobs import DESCRIBED, Output, Rendered, RenderedImage, RenderJob
from app.images.loaders import full_size, open_image, prepare_libvips
from app.images.presets import Format, Preset, Quality
from app.images.thumbhash import thumbhash

_WHITE: Final = [255, 255, 255]
_WEBP_EFFORT: Final = 2
"""A third of the time of libvips' 4, for 3 to 6 % more bytes."""
_SIDEWAYS: Final = 5
_NO_MEMORY: Final = re.compile(
    r"out of memory|insufficient memory|memory allocation(?! error: security limit)|allocating \d+ bytes failed",
    re.IGNORECASE,
)
"""How libvips, libjpeg, libheif and pillow-heif say that they got none.

To libheif a picture that is larger than its file says is an error of memory allocation as well; no memory helps it.
"""


@dataclass(frozen=True, slots=True)
class _Size:
    width: int
    height: int

    def scale_for(self, preset: Preset) -> float:
        """Return which part of the sides a preset needs, above 0 to 1."""
        side = max(self.width, self.height) if preset.fit == "fit" else min(self.width, self.height)
        return min(1.0, preset.side / side)

    def scaled(self, scale: float) -> _Size:
        return _Size(max(1, round(self.width * scale)), max(1, round(self.height * scale)))

    def turned(self) -> _Size:
        return _Size(self.height, self.width)


def render(descriptor: int, job: RenderJob) -> Rendered:
    """Make what a job asks for.

    Args:
        descriptor: Of the original, readable at any position; it is left open, its position is moved.
        job: What it is and what is wanted.

    Returns:
        The renditions in the order of the job's outputs.

    Raises:
        UndecodableImageError: The decoder refused the file, whatever it raised.
        MemoryError: This process may not have as much as is needed.
        pyvips.Error: An encoder failed, which is no fault of the photo.
    """
    prepare_libvips()
    presets = {output.preset for output in job.outputs}
    if job.describes:
        presets.add(DESCRIBED)
    if not presets:
        return Rendered(())
    pictures = _pictures(descriptor, job, presets)
    images = _images(pictures, job)
    if not job.describes:
        return Rendered(images)
    small = as_rgba(pictures[DESCRIBED])
    return Rendered(
        images, thumbhash(small.width, small.height, bytes(small.write_to_memory())), dominant_color(small)
    )


def _images(pictures: dict[Preset, pyvips.Image], job: RenderJob) -> tuple[RenderedImage, ...]:
    """Return what a job asks for; that an encoder gets no memory says nothing of the photo."""
    made: dict[tuple[int, int, Format, str], bytes] = {}
    try:
        return tuple(_encoded(pictures[output.preset], output, job.quality, made) for output in job.outputs)
    except pyvips.Error as error:
        if _NO_MEMORY.search(str(error)):
            raise MemoryError(str(error)) from error
        raise


def _pictures(descriptor: int, job: RenderJob, presets: set[Preset]) -> dict[Preset, pyvips.Image]:
    """Return the pixels of each preset, in memory; behind this, nothing of the file is read any more."""
    try:
        source, size = _decode(descriptor, job, presets)
        pictures: dict[Preset, pyvips.Image] = {}
        for preset in sorted(presets, key=size.scale_for, reverse=True):
            source = _resized(source, size.scaled(size.scale_for(preset))).copy_memory()
            pictures[preset] = _cut(source, preset)
    except (UndecodableImageError, MemoryError):
        raise
    except Exception as error:
        if _NO_MEMORY.search(str(error)):
            raise MemoryError(str(error)) from error
        raise UndecodableImageError(
            "The pixels of this photo cannot be decoded. Export it again, or try another file."
        ) from error
    return pictures


def _decode(descriptor: int, job: RenderJob, presets: set[Preset]) -> tuple[pyvips.Image, _Size]:
    """Return the largest wanted picture, upright, in memory, and the upright size of the original."""
    if job.content_type in HEIF_TYPES:
        image = open_heif(descriptor, most_pixels=job.width * job.height)
        named = named_colours(descriptor, job.content_type)
        size = _Size(image.width, image.height)
        scale = max(size.scale_for(preset) for preset in presets)
    else:
        sides = full_size(descriptor, job.content_type, most_pixels=job.width * job.height)
        size = _Size(*sides)
        scale = max(size.scale_for(preset) for preset in presets)
        named = named_colours(descriptor, job.content_type)  # before the decoder reads: they share the position
        image = open_image(descriptor, job.content_type, size=sides, scale=scale, margin=job.decode_margin)
    image = _resized(image, size.scaled(scale))
    orientation = int(image.get("orientation")) if image.get_typeof("orientation") else 1
    image = without_opaque_alpha(to_srgb(image, named).copy_memory())
    return image.autorot().copy_memory(), size.turned() if orientation >= _SIDEWAYS else size


def _resized(image: pyvips.Image, size: _Size) -> pyvips.Image:
    """Return the picture in exactly this size; nothing is computed yet."""
    if (image.width, image.height) == (size.width, size.height):
        return image
    across, down = size.width / image.width, size.height / image.height
    if not image.hasalpha():
        return image.resize(across, vscale=down)
    stored = image.format
    return image.premultiply().resize(across, vscale=down).unpremultiply().rint().cast(stored)


def _cut(image: pyvips.Image, preset: Preset) -> pyvips.Image:
    """Cut the middle out of a picture that has to fill a square, a smaller one where it is small."""
    if preset.fit == "fit":
        return image
    side = min(image.width, image.height, preset.side)
    return image.extract_area((image.width - side) // 2, (image.height - side) // 2, side, side)


def _encoded(
    image: pyvips.Image, output: Output, quality: Quality, made: dict[tuple[int, int, Format, str], bytes]
) -> RenderedImage:
    """Encode a picture, once for all presets that come to the same pixels."""
    key = (image.width, image.height, output.format, output.preset.fit)
    if key not in made:
        made[key] = _encode(image, output.format, quality)
    return RenderedImage(output, made[key], image.width, image.height)


def _encode(image: pyvips.Image, image_format: Format, quality: Quality) -> bytes:
    level = quality.of(image_format)
    if image_format is Format.JPEG:
        flat = image.flatten(background=_WHITE[: image.bands - 1]) if image.hasalpha() else image
        return bytes(flat.jpegsave_buffer(Q=level, optimize_coding=True, keep="none"))
    if image_format is Format.WEBP:
        return bytes(image.webpsave_buffer(Q=level, effort=_WEBP_EFFORT, keep="none"))
    return bytes(
        image.heifsave_buffer(Q=level, compression="av1", effort=quality.avif_effort, bitdepth=8, keep="none")
    )
