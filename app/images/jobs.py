"""What the image engine is asked for, and what it answers: plain values that go over a socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.errors import UndecodableImageError
from app.images.presets import Format, Preset, Quality

DESCRIBED: Final = Preset("described", 64)
"""What thumbhash and dominant colour are computed from."""

_SHARP_MARGIN: Final = 1.5
"""What is left to Lanczos: 51 dB or more from a photo decoded in full, for 70 to 85 % of the time."""

_EARLY_MARGIN: Final = 1.0


@dataclass(frozen=True, slots=True)
class Output:
    """One rendition that is wanted."""

    preset: Preset
    format: Format


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderJob:
    """A photo, as its header describes it, and what is to be made of it in one decode.

    Attributes:
        content_type: The media type that the probe found.
        width: Pixels as stored or upright; only the product matters.
        height: Pixels.
        size_bytes: Of the file.
        outputs: The renditions; none where only the description is wanted.
        quality: How they are encoded.
        describes: Whether thumbhash and dominant colour are wanted.
        shrinks_early: Whether to save memory at some cost of sharpness: under memory pressure.
    """

    content_type: str
    width: int
    height: int
    size_bytes: int
    outputs: tuple[Output, ...]
    quality: Quality
    describes: bool = False
    shrinks_early: bool = False

    @property
    def decode_margin(self) -> float:
        """To how many times the sides that are needed a decoder may make a photo smaller while it reads it."""
        return _EARLY_MARGIN if self.shrinks_early else _SHARP_MARGIN


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """One rendition.

    Attributes:
        output: What was wanted.
        content: The encoded bytes.
        width: Pixels.
        height: Pixels.
    """

    output: Output
    content: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a job gave.

    Attributes:
        images: In the order of the job's outputs.
        thumbhash: Base64 of the photo's thumbhash, at most 36 characters; None where it was not wanted.
        dominant_color: ``#rrggbb``; None where it was not wanted.
    """

    images: tuple[RenderedImage, ...]
    thumbhash: str | None = None
    dominant_color: str | None = None


class HeifNotInstalledError(UndecodableImageError):
    """The photo is fine; this server lacks the extra that decodes it."""


class RenderingFaultError(UndecodableImageError):
    """What failed was not the decoder: an encoder, or this program. The photo may be sound."""


class TooCostlyError(UndecodableImageError):
    """The photo may be fine; it takes more time or memory than this server gives to one."""
