"""Removal: a photo's renditions go with it, its row goes last, and what is made late goes later."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from app.db.base import utc_now
from app.db.outbox import CDN_PURGE, OBJECT_DELETE
from app.images.presets import Format
from app.photos.models import DELETING, MAKING, PhotoPlace, PhotoRendition
from app.photos.removal import remove_old_renditions, remove_ready
from app.storage.base import StorageUnavailableError
from tests.photos.world import PRESETS, World, image, write_rendition

VERSIONS = {preset.name: PRESETS.version(preset.name) for preset in PRESETS}
OLD = "0000000000"


@pytest.fixture
def photo(any_world: World) -> Any:
    """The row of a photo."""
    any_world.upload(any_world.new_user(), image())
    (row,) = any_world.rows()
    return row


def stored(world: World, photo_id: UUID, preset: str, image_format: Format = Format.WEBP, **facts: Any) -> str:
    """Write down and store a rendition; return its key."""
    key = write_rendition(world, photo_id, preset, image_format, **facts)
    world.store.lay(key, b"rendition")
    return key


def renditions(world: World) -> list[str]:
    with world.database.read() as connection:
        return list(connection.execute(select(PhotoRendition.object_key)).scalars())


def remove(world: World, photo_id: UUID, *, purges: bool = False) -> bool:
    return world.database.run_write(lambda connection: remove_ready(connection, photo_id, purges=purges))


def test_every_rendition_goes_with_its_photo(any_world: World, photo: Any) -> None:
    for preset in VERSIONS:
        stored(any_world, photo.id, preset)
    stored(any_world, photo.id, "full", Format.AVIF, version=OLD)
    used = any_world.used(photo.owner_id)

    removed = remove(any_world, photo.id)

    assert removed
    assert renditions(any_world) == []
    assert (used, any_world.used(photo.owner_id)) == (photo.size_bytes, 0)  # renditions cost their owner nothing
    any_world.upkeep.relay_deletes()
    assert any_world.store.keys() == []
    any_world.assert_settled()


def test_where_a_photo_was_taken_goes_with_it(any_world: World, photo: Any) -> None:
    any_world.set_place(photo.id, 54.5, 10.25)

    remove(any_world, photo.id)
    any_world.upkeep.relay_deletes()

    with any_world.database.read() as connection:
        assert connection.execute(select(PhotoPlace.photo_id)).all() == []


def test_the_photos_row_stays_until_its_last_object_is_gone(any_world: World, photo: Any) -> None:
    keys = [stored(any_world, photo.id, preset) for preset in VERSIONS] + [photo.object_key]
    remove(any_world, photo.id)

    def fail(key: str) -> None:
        if key == blocked:
            raise StorageUnavailableError("not now")

    any_world.store.before["delete"] = fail
    for blocked in sorted(keys[:-1]) + keys[-1:]:
        any_world.make_due()
        any_world.upkeep.relay_deletes()
        assert [row.state for row in any_world.rows()] == [DELETING]
        assert any_world.store.keys(blocked) == [blocked]

    blocked = ""
    any_world.make_due()
    any_world.upkeep.relay_deletes()
    any_world.assert_settled()


def test_a_cdn_is_told_of_every_object(any_world: World, photo: Any) -> None:
    keys = [stored(any_world, photo.id, preset) for preset in VERSIONS]
    write_rendition(any_world, photo.id, "full", Format.AVIF, state=MAKING)

    remove(any_world, photo.id, purges=True)

    told = [row.payload["object_key"] for row in any_world.outbox(CDN_PURGE)]
    assert sorted(told) == sorted([*keys, photo.object_key])


@pytest.mark.parametrize("lease_seconds", [120, -3600, None], ids=["held", "ended", "none"])
def test_what_is_being_made_is_removed_when_no_put_of_it_can_be_under_way(
    any_world: World, photo: Any, lease_seconds: float | None
) -> None:
    key = write_rendition(any_world, photo.id, "full", state=MAKING)
    until = None if lease_seconds is None else utc_now() + dt.timedelta(seconds=lease_seconds)
    with any_world.database.write() as connection:
        connection.execute(update(PhotoRendition).values(lease_until=until))

    remove(any_world, photo.id)

    any_world.upkeep.relay_deletes()
    assert any_world.rows() == []  # nobody was ever given a link to it, and so the photo's row need not wait
    (late,) = any_world.outbox(OBJECT_DELETE)
    seconds = (late.available_at - utc_now()).total_seconds()
    assert late.payload == {"object_key": key}
    assert seconds == pytest.approx(60 + max(0.0, lease_seconds or 0.0), abs=20)
    any_world.store.lay(key, b"late")
    any_world.make_due()
    any_world.upkeep.relay_deletes()
    any_world.assert_settled()


def test_a_late_removal_does_not_take_the_row_before_the_original_is_gone(any_world: World, photo: Any) -> None:
    write_rendition(any_world, photo.id, "full", state=MAKING)
    remove(any_world, photo.id)
    any_world.make_due()

    def fail(key: str) -> None:
        if key == photo.object_key:
            raise StorageUnavailableError("not now")

    any_world.store.before["delete"] = fail
    any_world.upkeep.relay_deletes()
    any_world.upkeep.relay_deletes()

    assert [row.payload["object_key"] for row in any_world.outbox(OBJECT_DELETE)] == [photo.object_key]
    assert [row.state for row in any_world.rows()] == [DELETING]


def test_old_renditions_go_and_those_of_now_and_of_other_photos_stay(any_world: World, photo: Any) -> None:
    now = [stored(any_world, photo.id, preset) for preset in VERSIONS]
    for preset in (*VERSIONS, "poster"):
        stored(any_world, photo.id, preset, version=OLD)
    write_rendition(any_world, photo.id, "full", Format.AVIF, version=OLD, state=MAKING)
    any_world.upload(photo.owner_id, image(1))
    other = any_world.rows()[1]
    others = stored(any_world, other.id, "full", version=OLD)

    removed = any_world.database.run_write(lambda connection: remove_old_renditions(connection, photo.id, VERSIONS))

    any_world.make_due()
    any_world.upkeep.relay_deletes()
    assert removed == 5
    assert sorted(renditions(any_world)) == sorted([*now, others])
    assert any_world.store.keys("renditions/") == sorted([*now, others])
    assert len(any_world.rows()) == 2
    assert any_world.outbox(CDN_PURGE) == []


def test_where_no_size_is_made_any_more_every_rendition_is_old(any_world: World, photo: Any) -> None:
    stored(any_world, photo.id, "full")

    assert any_world.database.run_write(lambda connection: remove_old_renditions(connection, photo.id, {})) == 1
    assert renditions(any_world) == []
