"""The room of renditions, put together for one worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from app.images.presets import Format
from app.renditions.claims import Changing, RenditionClaims
from app.renditions.decoding import UploadDecoder
from app.renditions.making import RenditionMaker
from app.renditions.objects import RenditionObjects
from app.renditions.queue import RenderQueue
from app.renditions.relay import Eager, RenditionRelay
from app.renditions.service import RenditionService

if TYPE_CHECKING:
    from app.db.engine import Database
    from app.images.engine import ImageEngine
    from app.images.presets import Presets
    from app.images.pressure import MemoryPressure
    from app.settings_renditions import RenditionSettings
    from app.storage.base import ObjectStore

_STORAGE_SECONDS: Final = 60.0
"""How long an original and its renditions may be under way between the store and here, where nobody waits."""


class RenditionRoom:
    """Finds, makes and queues renditions. :meth:`start` once, :meth:`close` once.

    Args:
        settings: Of renditions.
        database: Where they are written down.
        store: Where they and the originals are.
        presets: The sizes.
        engine: Decodes and encodes; closed with the room.
        pressure: How much is made now.
        changing: Surrounds a change of what photos' documents say.
        may_work: Whether work that nobody waits for is done now, and anything is written for it.

    Attributes:
        service: For who asks.
        relay: For those that nobody has asked for yet.
        decoder: For uploads that are decoded first.
    """

    def __init__(
        self,
        settings: RenditionSettings,
        database: Database,
        store: ObjectStore,
        presets: Presets,
        *,
        engine: ImageEngine,
        pressure: MemoryPressure,
        changing: Changing,
        may_work: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._claims = RenditionClaims(database, changing)
        maker = RenditionMaker(
            self._claims,
            RenditionObjects(store, settings.scratch_dir),
            engine,
            presets,
            shrinks_early=lambda: pressure.level.shrinks_early,
        )
        turn_seconds = 2 * settings.queue_seconds + settings.job_seconds
        self.service = RenditionService(
            self._claims, maker, presets, pressure, wait_seconds=turn_seconds, may_keep=may_work
        )
        self.relay = RenditionRelay(
            RenderQueue(database),
            self._claims,
            maker,
            presets,
            Eager(settings.eager_presets, tuple(Format(name) for name in settings.eager_formats)),
            makes=lambda image_format: pressure.level.makes(image_format),  # noqa: PLW0108  # the level of that moment
            may_work=lambda: may_work() and pressure.level.renders,
            work_seconds=turn_seconds + _STORAGE_SECONDS,
            rests=engine.prune,
        )
        self.decoder = UploadDecoder(engine)

    def start(self) -> None:
        """Start the relay. The engine starts with its first photo."""
        self.relay.start()

    def close(self, drain_seconds: float = 5.0) -> None:
        """Stop, and end all processes of the engine.

        Args:
            drain_seconds: How long photos at work may go on.
        """
        self.relay.stop()
        self._engine.close(drain_seconds)
        self.relay.close(drain_seconds)
        self._claims.close()
