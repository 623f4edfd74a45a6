"""The room as a worker opens it, with the real engine: photos are made on demand and by the relay, and it closes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import OverloadedError
from app.images.build import build_engine
from app.images.engine import ImageEngine
from app.images.jobs import Rendered, RenderJob
from app.images.presets import Format
from app.images.pressure import MemoryPressure
from app.renditions.build import RenditionRoom
from app.settings_renditions import RenditionSettings
from app.storage.base import Body
from tests.images.processes import children_of, wait_for
from tests.photos.world import PRESETS
from tests.renditions.world import Instance, preset


class Used:
    """How much of the host's memory is used."""

    def __init__(self) -> None:
        self.ratio = 0.1

    def __call__(self) -> float:
        return self.ratio


@pytest.fixture
def used() -> Used:
    return Used()


@pytest.fixture
def room(here: Instance, tmp_path: Path, used: Used) -> Iterator[RenditionRoom]:
    settings = RenditionSettings(scratch_dir=tmp_path / "scratch", eager_presets=("thumbnail",))
    room = RenditionRoom(
        settings,
        here.world.database,
        here.world.store,
        PRESETS,
        engine=build_engine(settings),
        pressure=MemoryPressure(used),
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


def test_row_40_without_memory_the_relay_stands_still_and_what_is_not_stored_is_refused(
    here: Instance, room: RenditionRoom, used: Used
) -> None:
    photo = here.upload()
    used.ratio = 0.99

    with pytest.raises(OverloadedError):
        room.service.get(photo, preset(), Format.JPEG)

    assert not room.relay._may_work()
    assert here.rows() == []


def test_row_40_with_little_memory_photos_are_shrunk_early(
    here: Instance, room: RenditionRoom, used: Used, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = here.upload()
    jobs: list[RenderJob] = []
    render = ImageEngine.render

    def overheard(engine: ImageEngine, body: Body, job: RenderJob, *, background: bool = False) -> Rendered:
        jobs.append(job)
        return render(engine, body, job, background=background)

    monkeypatch.setattr(ImageEngine, "render", overheard)
    used.ratio = 0.82

    room.service.get(photo, preset(), Format.JPEG)

    assert [job.shrinks_early for job in jobs] == [True]


def test_a_room_that_was_never_used_closes(room: RenditionRoom) -> None:
    room.close()
