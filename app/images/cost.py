"""What a photo costs: bytes that a process of the engine will hold at most while it renders it.

The header alone decides. It is pixels times bands times bytes per sample, less what a decoder never has at once:
a JPEG or PNG that is read from top to bottom passes through in strips, a JPEG or WebP is made smaller while it is
read, and of an animation the first frame alone is decoded, so that frames multiply nothing. On top of that come the
largest rendition while it is scaled and encoded, and the file itself, which libvips maps into memory.

Measured as the growth of resident memory at its peak, in MiB, with libvips 8.18 and pillow-heif 1.8, noisy pictures
of 12 and 48 megapixels (4000 by 3000, 8000 by 6000), rendered as WebP; the file's own size is in it::

                                  12 MP → 320   → 2048   48 MP → 320   → 2048   held per pixel
    JPEG                                    3       40            13       42   0
    JPEG, progressive, 4:2:0               37       61           150      170   3 bytes: coefficients of 2 bytes
    JPEG, progressive, 4:4:4               77       99           307      328   6
    JPEG, progressive, CMYK               115      145           444      470   8
    PNG                                    19       31            37       48   1600 lines
    PNG, 16 bits                           36       39            73       80   1600 lines
    PNG, alpha                             73      142           145      141   1600 lines of 4-byte samples
    PNG, interlaced                        46       52           163      167   all samples, and such lines
    PNG, 16 bits, alpha, interlaced       158      164           496      493   all samples, and such lines
    WebP                                    3       68             8       72   9, of what is left when it is read
    WebP, lossless, alpha                  78      137           308      343   4
    GIF                                    78       83           277      284   5
    GIF, transparent                      124      120           349      348   5, and 1600 lines of 4-byte samples
    HEIC                                   97       98           305      306   7, no more while it is encoded
    AVIF, 10 bits                         225      223           853      859   19, no more while it is encoded

Encoding 3 megapixels (2048 by 1536) took 38 MiB as JPEG or WebP and 80 MiB as AVIF; with alpha up to 110 MiB more,
and by chance: the same photo took 129 to 197 MiB. The test of this module measures anew, in a process, that photos of
all these kinds stay below what they are said to cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.errors import RequestError
from app.images.formats import read_layout
from app.images.jobs import DESCRIBED, RenderJob
from app.images.limits import HEADER_LIMITS
from app.images.presets import Format
from app.images.structure import Layout, Source
from app.storage.base import Body

_MIB: Final = 1024 * 1024
_ALWAYS_BYTES: Final = 12 * _MIB
"""Tables of colour profiles, strips, coders, and what the allocator keeps."""

_LINES: Final = 1600
"""So many lines of the original at most are held while a PNG or GIF is scaled, which no decoder makes smaller."""

_FLOAT_BYTES: Final = 4
"""Of a sample that is scaled together with alpha."""

_MADE_BYTES: Final = 14
_MADE_AVIF_BYTES: Final = 28
_ALPHA_BYTES: Final = 36
"""Bytes per pixel of the largest rendition: in three copies and while it is encoded; as AVIF; with alpha besides."""

_LOSSLESS_WEBP_BYTES: Final = 4
_LOSSY_WEBP_BYTES: Final = 9
"""Of all pixels; of those that are left when a WebP was scaled while it was read."""

_GIF_BYTES: Final = 5
"""Of all pixels: those of the first picture, which is decoded as a whole."""

_UNKNOWN: Final = Layout(4, 2, is_whole=True)
_HELD_BYTES: Final[Mapping[str, int]] = MappingProxyType({"image/heic": 7, "image/heif": 7, "image/avif": 19})
_FREED_BEFORE_ENCODING: Final = frozenset({"image/heic", "image/heif", "image/avif"})
_ALPHA_BANDS: Final = frozenset({2, 4})


def cost_of(body: Body, job: RenderJob) -> int:
    """Return how many bytes a job will take at the most; reads the original's header. Thread-safe.

    Args:
        body: The original. One that cannot be read so far costs as much as the worst of its kind.
        job: What is to be made of it.
    """
    layout = _layout_of(body, job.content_type)
    held, made = _held_bytes(job, layout), _made_bytes(job, layout)
    most = max(held, made) if job.content_type in _FREED_BEFORE_ENCODING else held + made
    return _ALWAYS_BYTES + job.size_bytes + most


def _layout_of(body: Body, content_type: str) -> Layout:
    try:
        with body.open() as stream:
            return read_layout(Source(stream, body.size_bytes), content_type, HEADER_LIMITS) or _UNKNOWN
    except (RequestError, OSError):  # whoever decodes it finds out what is wrong, and says so
        return _UNKNOWN


def _held_bytes(job: RenderJob, layout: Layout) -> int:
    """Return what the decoder holds."""
    pixels, bands = layout.pixels or job.width * job.height, min(layout.bands, 4)
    if job.content_type == "image/jpeg":
        return 2 * bands * pixels if layout.is_whole else 0
    if job.content_type == "image/png":
        line_bytes = bands * (_FLOAT_BYTES if bands in _ALPHA_BANDS else layout.sample_bytes)
        strip = _strip_bytes(job, pixels, line_bytes)
        return strip + (pixels * bands * layout.sample_bytes if layout.is_whole else 0)
    if job.content_type == "image/gif":  # whether it has alpha its last frame alone may tell: each is taken for one
        return _GIF_BYTES * pixels + _strip_bytes(job, pixels, 4 * _FLOAT_BYTES)
    if job.content_type == "image/webp":
        if layout.is_whole:
            return _LOSSLESS_WEBP_BYTES * pixels
        return _LOSSY_WEBP_BYTES * min(pixels, int(_made_pixels(job) * job.decode_margin**2))
    return _HELD_BYTES.get(job.content_type, max(_HELD_BYTES.values())) * pixels


def _strip_bytes(job: RenderJob, pixels: int, pixel_bytes: int) -> int:
    """Return what the lines of the original take that are held while it is scaled."""
    return min(pixels, _LINES * max(job.width, job.height)) * pixel_bytes


def _made_bytes(job: RenderJob, layout: Layout) -> int:
    """Return what scaling and encoding the largest rendition takes; the smaller ones take less, one by one."""
    is_avif = any(output.format is Format.AVIF for output in job.outputs)
    has_alpha = layout.bands in _ALPHA_BANDS and job.content_type != "image/jpeg"
    return _made_pixels(job) * ((_MADE_AVIF_BYTES if is_avif else _MADE_BYTES) + _ALPHA_BYTES * has_alpha)


def _made_pixels(job: RenderJob) -> int:
    """Return the pixels of the largest rendition, before anything is cut off."""
    width, height = max(1, job.width), max(1, job.height)
    presets = [output.preset for output in job.outputs] or [DESCRIBED]
    sides = (preset.side / (max(width, height) if preset.fit == "fit" else min(width, height)) for preset in presets)
    return int(width * height * min(1.0, max(sides)) ** 2)
