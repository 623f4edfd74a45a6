"""The room of renditions, wired as the factory wires it, around a store in memory and an engine that does as told."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, update

from app.db.base import utc_now
from app.db.outbox import PHOTO_RENDER
from app.images.jobs import Rendered, RenderedImage, RenderJob
from app.images.presets import Format, Preset
from app.images.pressure import Level
from app.photos.models import MAKING, PhotoRendition
from app.photos.photo_cache import Original
from app.photos.rendition_rows import RenditionName
from app.renditions.claims import RenditionClaims
from app.renditions.making import RenditionMaker
from app.renditions.objects import RenditionObjects
from app.renditions.queue import RenderQueue
from app.renditions.relay import Eager, RenditionRelay
from app.renditions.service import RenditionService
from app.storage.base import Body
from tests.photos.world import PRESETS, World, image

THUMBHASH, COLOR = "1QcSHQRnh493V4dIh4eXh1h4kJUI", "#a0b1c2"
WAIT_SECONDS = 20.0


def preset(name: str = "thumbnail") -> Preset:
    found = PRESETS.find(name)
    assert found is not None
    return found


class Engine:
    """Renders as it is told, at once.

    Attributes:
        jobs: All that were asked for, with their class: whether they were background.
        failure: What the next jobs raise; None for nothing.
        meanwhile: Called while a job is at work.
        salt: Stands in every picture.
    """

    def __init__(self) -> None:
        self.jobs: list[tuple[RenderJob, bool]] = []
        self.bodies: list[bytes] = []
        self.failure: Exception | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        self.salt = ""
        self._lock = threading.Lock()

    def render(self, body: Body, job: RenderJob, *, background: bool = False) -> Rendered:
        with self._lock, body.open() as stream:
            self.jobs.append((job, background))
            self.bodies.append(stream.read())
        self.meanwhile()
        if self.failure is not None:
            raise self.failure
        images = tuple(
            RenderedImage(each, f"{each.preset.name} {each.format} {self.salt}".encode(), 320, 240)
            for each in job.outputs
        )
        return Rendered(images, THUMBHASH, COLOR) if job.describes else Rendered(images)


class Pressure:
    """Is at the level that it is told."""

    def __init__(self) -> None:
        self.level = Level.NORMAL


class Instance:
    """One process's room of renditions.

    Args:
        world: The room of photos, which several instances may share.
        scratch: A folder.
        lease_seconds: Of claims.
    """

    def __init__(
        self,
        world: World,
        scratch: Path,
        *,
        lease_seconds: float = 60.0,
        wait_seconds: float = WAIT_SECONDS,
        eager: Eager | None = None,
    ) -> None:
        self.world = world
        self.engine = Engine()
        self.pressure = Pressure()
        self.may_work = True
        self.was_asked = threading.Event()
        self.has_rested = threading.Event()
        self.claims = RenditionClaims(world.database, world.known.changing, lease_seconds=lease_seconds)
        self.objects = RenditionObjects(world.store, scratch)
        self.queue = RenderQueue(world.database)
        self.maker = RenditionMaker(
            self.claims,
            self.objects,
            self.engine,
            PRESETS,
            shrinks_early=lambda: self.pressure.level.shrinks_early,
        )
        self.service = RenditionService(
            self.claims,
            self.maker,
            PRESETS,
            self.pressure,
            wait_seconds=wait_seconds,
            may_keep=lambda: self.may_work,
        )
        self.relay = RenditionRelay(
            self.queue,
            self.claims,
            self.maker,
            PRESETS,
            eager or Eager(("thumbnail", "preview"), (Format.WEBP,)),
            makes=lambda image_format: self.pressure.level.makes(image_format),  # noqa: PLW0108  # the level of that moment
            may_work=self._may_work,
            work_seconds=30.0,
            rests=self.has_rested.set,
        )

    def _may_work(self) -> bool:
        self.was_asked.set()
        return self.may_work

    def upload(self, number: int = 0, *, owner_id: UUID | None = None) -> Original:
        """Take a photo in; return the facts of its bytes."""
        owner_id = owner_id or self.world.new_user()
        document = self.world.upload(owner_id, image(number)).document
        return self.world.known.get(owner_id, document["id"]).original

    def original(self, photo: Original) -> bytes:
        with self.world.store.open(photo.object_key) as reader:
            return b"".join(reader)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return size, format and state of all renditions that are written down."""
        columns = (PhotoRendition.preset, PhotoRendition.format, PhotoRendition.state)
        with self.world.database.read() as connection:
            return [
                (size, name, state) for size, name, state in connection.execute(select(*columns).order_by(*columns))
            ]

    def queued(self) -> list[Row[Any]]:
        return self.world.outbox(PHOTO_RENDER)

    def end_claims(self) -> None:
        """Let the time of every claim be over."""
        with self.world.database.write() as connection:
            ended = utc_now() - dt.timedelta(seconds=1)
            connection.execute(update(PhotoRendition).where(PhotoRendition.state == MAKING).values(lease_until=ended))

    def run_relay(self) -> bool:
        """Let every row be due, and the relay take one."""
        self.world.make_due()
        return self.relay.run_once()

    def close(self) -> None:
        self.relay.close()
        self.claims.close()


def name_of(photo: Original, size: str = "thumbnail", image_format: Format = Format.WEBP) -> RenditionName:
    return RenditionName(photo.id, size, image_format, PRESETS.version(size))
