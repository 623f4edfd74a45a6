"""The image engine as the settings want it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from app.images.budget import PixelBudget
from app.images.cost import cost_of
from app.images.engine import EngineObserver, EngineOptions, ImageEngine
from app.images.engine_process import ProcessOptions

if TYPE_CHECKING:
    from app.settings_renditions import RenditionSettings

_MIB: Final = 1024 * 1024

QueueName: TypeAlias = Literal["turn", "budget"]
"""What jobs wait for before they begin: a process, then room for their pixels."""


class Observer(EngineObserver, Protocol):
    """Who hears of the engine's work, and of those who wait for it. Thread-safe."""

    def engine_queue(self, name: QueueName, in_use: int, waiting: int) -> None:
        """So much is taken, processes or bytes, and so many jobs wait for more."""
        ...


def build_engine(settings: RenditionSettings, observer: Observer | None = None) -> ImageEngine:
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
    told = observer.engine_queue if observer is not None else _untold
    seconds = settings.queue_seconds
    return ImageEngine(
        options,
        turns=PixelBudget(settings.processes, seconds, observe=partial(told, "turn")),
        budget=PixelBudget(settings.budget_megabytes * _MIB, seconds, observe=partial(told, "budget")),
        cost=cost_of,
        observer=observer,
    )


def _untold(_name: QueueName, _in_use: int, _waiting: int) -> None:
    """Tell nobody."""
