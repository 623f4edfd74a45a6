"""The room as a worker opens it, with the real engine: photos are made on demand and by the relay, and it closes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.images.build import build_engine
from app.images.presets import Format
from app.images.pressure import MemoryPressure
from app.renditions.build import RenditionRoom
from app.settings_renditions import RenditionSettings
from tests.images.processes import children_of, wait_for
from tests.photos.world import PRESETS
from tests.renditions.world import Instance, preset


@pytest.fixture
def room(here: Instance, tmp_path: Path) -> Iterator[RenditionRoom]:
    settings = RenditionSettings(scratch_dir=tmp_path / "scratch", eager_presets=("thumbnail",))
    room = RenditionRoom(
        settings,
        here.world.database,
        here.world.store,
        PRESETS,
        engine=build_engine(settings),
        pressure=MemoryPressure(lambda: 0.1),
        changing=here.world.known.changing,
        may_work=lambda: True,
    )
    yield room
    room.close()


def test_photos_are_made_by_the_relay_and_on_demand(here: Instance, room: RenditionRoom) -> None:
    photo = here.upload()
    before = children_of(os.getpid())
    room.start()
    wait_for(lambda: not here.queued())

    made = room.service.get(photo, preset("full"), Format.JPEG)
    at_work = children_of(os.getpid()) - before
    room.close()

    assert made.content is not None
    assert made.content.startswith(b"\xff\xd8\xff")
    assert here.rows() == [("full", "jpeg", "ready"), ("thumbnail", "webp", "ready")]
    assert here.world.rows()[0].processing_state == "done"
    assert here.world.rows()[0].thumbhash
    assert len(at_work) == 1
    assert not children_of(os.getpid()) & at_work


def test_a_room_that_was_never_used_closes(room: RenditionRoom) -> None:
    room.close()
