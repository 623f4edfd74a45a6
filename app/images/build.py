"""The image engine as the settings want it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.images.budget import PixelBudget
from app.images.cost import cost_of
from app.images.engine import EngineObserver, EngineOptions, ImageEngine
from app.images.engine_process import ProcessOptions

if TYPE_CHECKING:
    from app.settings_renditions import RenditionSettings

_MIB: Final = 1024 * 1024


def build_engine(settings: RenditionSettings, observer: EngineObserver | None = None) -> ImageEngine:
    """Build the engine of one worker; nothing is started before the first photo.

    Args:
        settings: How much it may take.
        observer: Who hears of its work.

    Raises:
        OSError: The scratch folder cannot be made.
    """
    settings.scratch_dir.mkdir(parents=True, exist_ok=True)
    process = ProcessOptions(
        memory_bytes=settings.memory_megabytes * _MIB,
        job_seconds=settings.job_seconds,
        idle_seconds=settings.idle_seconds,
    )
    options = EngineOptions(
        process=process, jobs_per_process=settings.jobs_per_process, scratch_dir=settings.scratch_dir
    )
    return ImageEngine(
        options,
        turns=PixelBudget(settings.processes, settings.queue_seconds),
        budget=PixelBudget(settings.budget_megabytes * _MIB, settings.queue_seconds),
        cost=cost_of,
        observer=observer,
    )
