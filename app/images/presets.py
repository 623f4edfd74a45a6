"""Presets and formats of renditions, and the version that names how they are made.

The version stands in object keys and in URLs: where another size, quality or way of making is configured, other
renditions are asked for, and nobody takes an old one for a new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from app.settings_renditions import RenditionSettings

ENCODER_VERSION: Final = 2
"""Grows whenever the engine makes something else of the same photo with the same options."""


class Format(StrEnum):
    """What renditions are encoded in."""

    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"

    @property
    def content_type(self) -> str:
        """The media type."""
        return f"image/{self.value}"

    @property
    def extension(self) -> str:
        """The ending of file names, without the dot."""
        return "jpg" if self is Format.JPEG else self.value


@dataclass(frozen=True, slots=True)
class Preset:
    """One size.

    Attributes:
        name: ``thumbnail``, ``preview`` or ``full``.
        side: The longer side in pixels (``fit``), or both (``cover``); a smaller photo is never enlarged.
        fit: ``fit`` keeps all of the photo, ``cover`` fills a square (a smaller one of a small photo) and cuts off
            the rest.
    """

    name: str
    side: int
    fit: Literal["fit", "cover"] = "fit"


@dataclass(frozen=True, slots=True)
class Quality:
    """How formats are encoded.

    Attributes:
        jpeg: 1 to 100.
        webp: 1 to 100.
        avif: 1 to 100.
        avif_effort: 0 (fast) to 9 (small).
    """

    jpeg: int = 80
    webp: int = 78
    avif: int = 55
    avif_effort: int = 1

    def of(self, image_format: Format) -> int:
        """Return the quality of a format, 1 to 100."""
        return int(getattr(self, image_format.value))


class Presets:
    """All presets of this server, by their names, and how they are encoded.

    Args:
        presets: The smallest first.
        quality: Of the formats.
    """

    def __init__(self, presets: Mapping[str, Preset], quality: Quality) -> None:
        self._presets = dict(presets)
        self.quality = quality
        self._versions = {name: _version_of(preset, quality) for name, preset in presets.items()}

    def __iter__(self) -> Iterator[Preset]:
        """Yield the presets, the smallest first."""
        return iter(self._presets.values())

    def find(self, name: str) -> Preset | None:
        """Return a preset by its name, or None."""
        return self._presets.get(name)

    def version(self, name: str) -> str:
        """Return the version of what is made for a preset now: ten hex digits."""
        return self._versions[name]


def configured(settings: RenditionSettings) -> Presets:
    """Return the presets that are configured, the smallest first."""
    presets = [
        Preset("thumbnail", settings.thumbnail_side, settings.thumbnail_fit),
        Preset("preview", settings.preview_side, settings.preview_fit),
        Preset("full", settings.full_side, settings.full_fit),
    ]
    quality = Quality(settings.jpeg_quality, settings.webp_quality, settings.avif_quality, settings.avif_effort)
    return Presets({preset.name: preset for preset in presets}, quality)


def _version_of(preset: Preset, quality: Quality) -> str:
    facts = json.dumps([ENCODER_VERSION, asdict(preset), asdict(quality)], sort_keys=True)
    return hashlib.blake2b(facts.encode(), digest_size=5).hexdigest()
