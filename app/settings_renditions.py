"""The section ``renditions``: the sizes photos are made in, and what making them may cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator

from app.settings_fields import FilePath, Number, Section, Whole, entries, setting

PRESET_NAMES = ("thumbnail", "preview", "full")
"""The presets, the smallest first."""

FORMAT_NAMES = ("jpeg", "webp", "avif")
"""The formats, the one that everybody reads first."""

Fit: TypeAlias = Literal["fit", "cover"]
"""Whether all of a photo is shown within a square, or the square is filled and what stands over is cut off."""

_FIT = "Whether all of a photo stays in view, or the square is filled and the rest cut off"


def _names_of(names: tuple[str, ...], given: tuple[str, ...]) -> tuple[str, ...]:
    if set(given) - set(names) or len(set(given)) < len(given):
        raise ValueError(f"each of {', '.join(names)} at most once")
    return given


def _named(value: object) -> tuple[str, ...]:
    """Read a list that may be empty; a variable says so by a word, because an empty one is taken for a mistake."""
    return () if value == "none" else entries(value)


_Presets = Annotated[
    tuple[str, ...], BeforeValidator(_named), AfterValidator(lambda given: _names_of(PRESET_NAMES, given))
]
_Formats = Annotated[
    tuple[str, ...], BeforeValidator(_named), AfterValidator(lambda given: _names_of(FORMAT_NAMES, given))
]


class RenditionSettings(Section):
    """Sizes, formats and quality of renditions, and the limits of the processes that make them."""

    thumbnail_side: Whole = setting(320, "Longer side of a thumbnail", low=16, high=1024, unit="pixels")
    thumbnail_fit: Fit = setting("fit", _FIT)
    preview_side: Whole = setting(1080, "Longer side of a preview", low=64, high=4096, unit="pixels")
    preview_fit: Fit = setting("fit", _FIT)
    full_side: Whole = setting(2048, "Longer side of the full view", low=64, high=8192, unit="pixels")
    full_fit: Fit = setting("fit", _FIT)
    jpeg_quality: Whole = setting(80, "Quality of JPEG", low=1, high=100, unit="points")
    webp_quality: Whole = setting(78, "Quality of WebP", low=1, high=100, unit="points")
    avif_quality: Whole = setting(55, "Quality of AVIF", low=1, high=100, unit="points")
    avif_effort: Whole = setting(
        1, "How long AVIF is tried to be made smaller; more costs processor time", low=0, high=9, unit="points"
    )
    eager_presets: _Presets = setting(
        ("thumbnail", "preview"),
        "Presets made right after an upload; the others are made when they are asked for",
        allowed=f"names among {', '.join(PRESET_NAMES)}, parted by commas, or none",
    )
    eager_formats: _Formats = setting(
        ("webp",),
        "Formats they are made in right after an upload",
        allowed=f"names among {', '.join(FORMAT_NAMES)}, parted by commas, or none",
    )
    delay_seconds: Whole = setting(
        0,
        "How long after an upload they are made, so that other work goes first; who asks does not wait for that",
        low=0,
        high=86_400,
        unit="seconds",
    )
    processes: Whole = setting(
        1,
        "Processes per worker that decode and encode; started when they are needed",
        low=1,
        high=64,
        unit="processes",
    )
    jobs_per_process: Whole = setting(
        200, "Photos after which such a process is replaced by a fresh one", low=1, high=100_000, unit="photos"
    )
    idle_seconds: Whole = setting(
        300, "How long such a process waits for work before it is ended", low=1, high=86_400, unit="seconds"
    )
    memory_megabytes: Whole = setting(
        1024, "Memory that such a process may have", low=256, high=65_536, unit="megabytes"
    )
    job_seconds: Number = setting(
        20.0, "How long one photo may take; then its process is killed", low=0.5, high=120, unit="seconds"
    )
    budget_megabytes: Whole = setting(
        512, "Decoded pixels per worker that may be under way at once", low=16, high=65_536, unit="megabytes"
    )
    queue_seconds: Number = setting(
        5.0, "How long a photo waits for its turn before it is refused for now", low=0.05, high=60, unit="seconds"
    )
    scratch_dir: FilePath = setting(
        Path("var/scratch"),
        "Folder of originals while they are decoded; a relative path starts in the working folder",
        allowed="a path",
    )
