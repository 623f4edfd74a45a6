"""Rows of renditions: one maker, fenced by its lease and by the photo, on every database."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import UUID

import pytest
from sqlalchemy import Connection, update

from app.db.base import new_id, utc_now
from app.db.outbox import OBJECT_DELETE
from app.errors import NotFoundError
from app.images.presets import Format
from app.photos import rendition_rows, rows
from app.photos.models import DELETING, FAILED, PhotoRendition
from app.photos.rendition_rows import Busy, Claim, Made, Ready, RenditionName
from tests.photos.world import World, image, new_photo

MADE = Made("ab" * 32, 7, 320, 240)
MINUTE = dt.timedelta(minutes=1)

T = TypeVar("T")


@pytest.fixture
def photo_id(any_world: World) -> UUID:
    photo_id: UUID = any_world.upload(any_world.new_user(), image()).document["id"]
    return photo_id


def named(photo_id: UUID, preset: str = "thumbnail", image_format: Format = Format.WEBP) -> RenditionName:
    return RenditionName(photo_id, preset, image_format, "0123456789")


def write(world: World, work: Callable[..., T], *arguments: Any) -> T:
    """Return what one function of the rows comes to in a transaction of its own."""
    return world.database.run_write(lambda connection: work(connection, *arguments))


def claim(world: World, name: RenditionName, lease: dt.timedelta = MINUTE) -> rendition_rows.Claimed:
    return write(world, rendition_rows.claim, name, utc_now() + lease)


def claim_mine(world: World, name: RenditionName) -> Claim:
    claimed = claim(world, name)
    assert isinstance(claimed, Claim)
    return claimed


def make(world: World, name: RenditionName) -> Ready:
    assert write(world, rendition_rows.finish, claim_mine(world, name), MADE)
    found = write(world, rendition_rows.find, name)
    assert found is not None
    return found


def end_lease(world: World, name: RenditionName) -> None:
    with world.database.write() as connection:
        ended = update(PhotoRendition).where(PhotoRendition.photo_id == name.photo_id)
        connection.execute(ended.values(lease_until=utc_now() - MINUTE))


def test_the_key_says_photo_preset_version_and_format() -> None:
    name = RenditionName(UUID(int=10), "preview", Format.JPEG, "00ff00ff00")

    assert name.object_key == f"renditions/{UUID(int=10).hex}/preview-00ff00ff00.jpg"


def test_what_is_claimed_is_made_and_found_with_its_facts(any_world: World, photo_id: UUID) -> None:
    name = named(photo_id)
    mine = claim_mine(any_world, name)
    before = write(any_world, rendition_rows.find, name)

    finished = write(any_world, rendition_rows.finish, mine, MADE)

    found = write(any_world, rendition_rows.find, name)
    assert (before, finished) == (None, True)
    assert found is not None
    assert (found.name, found.object_key, found.made) == (name, name.object_key, MADE)
    assert claim(any_world, name) == found
    (shown,) = any_world.database.ask(rendition_rows.SHOW_RENDITION, name._asdict())
    assert rendition_rows.ready_of(shown) == found


def test_of_many_that_claim_at_once_one_makes_it(any_world: World, photo_id: UUID) -> None:
    start = threading.Barrier(8)

    def one(_number: int) -> rendition_rows.Claimed:
        start.wait(30)
        return claim(any_world, named(photo_id))

    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(one, range(8)))

    assert sum(isinstance(each, Claim) for each in claimed) == 1
    assert sum(isinstance(each, Busy) for each in claimed) == 7


def test_each_photo_preset_format_and_version_is_claimed_apart(any_world: World, photo_id: UUID) -> None:
    name = named(photo_id)
    other_id: UUID = any_world.upload(any_world.new_user(), image(1)).document["id"]
    others = [
        name._replace(photo_id=other_id),
        name._replace(preset="full"),
        name._replace(format=Format.AVIF),
        name._replace(version="fedcba9876"),
    ]

    claimed = [claim(any_world, each) for each in (name, *others)]

    assert all(isinstance(each, Claim) for each in claimed)
    assert len({each.object_key for each in (name, *others)}) == 5


def test_who_waits_learns_until_when(any_world: World, photo_id: UUID) -> None:
    until = utc_now() + MINUTE
    write(any_world, rendition_rows.claim, named(photo_id), until)

    assert claim(any_world, named(photo_id)) == Busy(until)


def test_a_lease_that_ended_is_taken_over_and_its_late_holder_changes_nothing(
    any_world: World, photo_id: UUID
) -> None:
    name = named(photo_id)
    late = claim_mine(any_world, name)
    end_lease(any_world, name)

    mine = claim_mine(any_world, name)

    assert not write(any_world, rendition_rows.renew, late, utc_now() + MINUTE)
    assert not write(any_world, rendition_rows.release, late)
    assert not write(any_world, rendition_rows.finish, late, Made("cd" * 32, 9, 1, 1))
    assert write(any_world, rendition_rows.finish, mine, MADE)
    assert not write(any_world, rendition_rows.finish, late, Made("cd" * 32, 9, 1, 1))
    found = write(any_world, rendition_rows.find, name)
    assert found is not None
    assert found.made == MADE
    assert any_world.outbox(OBJECT_DELETE) == []  # the object is the other's now


def test_a_claim_that_is_given_back_is_free_at_once(any_world: World, photo_id: UUID) -> None:
    mine = claim_mine(any_world, named(photo_id))

    assert write(any_world, rendition_rows.release, mine)

    assert isinstance(claim(any_world, named(photo_id)), Claim)


def test_a_lease_that_is_renewed_is_not_taken_over(any_world: World, photo_id: UUID) -> None:
    name = named(photo_id)
    mine = claim_mine(any_world, name)
    end_lease(any_world, name)

    assert write(any_world, rendition_rows.renew, mine, utc_now() + MINUTE)

    assert isinstance(claim(any_world, name), Busy)


def test_for_a_photo_that_is_not_there_nothing_is_claimed(any_world: World, photo_id: UUID) -> None:
    pending = any_world.reserve(new_photo(any_world.new_user(), image(1)))

    for unknown in (new_id(), pending.photo_id):
        with pytest.raises(NotFoundError):
            claim(any_world, named(unknown))
    assert isinstance(claim(any_world, named(photo_id)), Claim)


def test_what_is_stored_after_its_photo_was_removed_is_not_made_and_its_object_goes(
    any_world: World, photo_id: UUID
) -> None:
    name = named(photo_id)
    mine = claim_mine(any_world, name)
    (photo,) = any_world.rows()
    any_world.photos.delete(photo.owner_id, photo_id, lambda _row: None, is_permanent=True)
    any_world.make_due()
    any_world.upkeep.relay_deletes()
    assert any_world.rows() == []
    any_world.store.lay(name.object_key, b"late")

    finished = write(any_world, rendition_rows.finish, mine, MADE)

    any_world.make_due()
    any_world.upkeep.relay_deletes()
    assert not finished
    any_world.assert_settled()


def test_a_photo_on_its_way_out_gets_no_rendition_even_while_a_claim_is_left(
    any_world: World, photo_id: UUID
) -> None:
    name = named(photo_id)
    mine = claim_mine(any_world, name)
    any_world.set_photo(photo_id, state=DELETING, dedup_key=None)

    finished = write(any_world, rendition_rows.finish, mine, MADE)

    assert not finished
    assert write(any_world, rendition_rows.find, name) is None
    assert [row.payload for row in any_world.outbox(OBJECT_DELETE)] == [{"object_key": name.object_key}]


def test_a_removal_and_a_finish_at_once_leave_no_object_whoever_wins(any_world: World) -> None:
    owner_id = any_world.new_user()
    for number in range(6):
        photo_id: UUID = any_world.upload(owner_id, image(number)).document["id"]
        name = named(photo_id)
        mine = claim_mine(any_world, name)
        any_world.store.lay(name.object_key, b"made")
        start = threading.Barrier(2)

        def finish(mine: Claim = mine, start: threading.Barrier = start) -> bool:
            start.wait(30)
            return write(any_world, rendition_rows.finish, mine, MADE)

        def remove(photo_id: UUID = photo_id, start: threading.Barrier = start) -> None:
            start.wait(30)
            any_world.photos.delete(owner_id, photo_id, lambda _row: None, is_permanent=True)

        with ThreadPoolExecutor(2) as pool:
            running: list[Future[Any]] = [pool.submit(finish), pool.submit(remove)]
            for done in running:
                done.result(60)

    any_world.settle()
    any_world.assert_settled()
    assert any_world.store.keys() == []
    any_world.assert_quota()


def test_a_lost_rendition_is_forgotten_once_and_not_when_it_was_made_anew(any_world: World, photo_id: UUID) -> None:
    name = named(photo_id)
    lost = make(any_world, name)

    first = write(any_world, rendition_rows.forget, lost)
    again = make(any_world, name)
    second = write(any_world, rendition_rows.forget, lost)

    assert (first, second) == (True, False)
    assert write(any_world, rendition_rows.find, name) == again


def test_what_is_made_of_many_photos_is_found_at_once(any_world: World, photo_id: UUID) -> None:
    other_id: UUID = any_world.upload(any_world.new_user(), image(1)).document["id"]
    wanted = [make(any_world, named(photo_id)), make(any_world, named(other_id, "full", Format.AVIF))]
    claim_mine(any_world, named(photo_id, "preview"))

    found = write(any_world, rendition_rows.find_all, [photo_id, other_id, new_id()])

    assert sorted(found, key=lambda each: each.object_key) == sorted(wanted, key=lambda each: each.object_key)


def facts(world: World) -> tuple[Any, ...]:
    (row,) = world.rows()
    return (row.processing_state, row.processing_error, row.thumbhash, row.dominant_color, row.version)


def test_a_photo_waits_fails_and_is_described_without_a_change_of_what_its_owner_says(
    any_world: World, photo_id: UUID
) -> None:
    seen = [facts(any_world)]
    steps: list[Callable[[Connection], bool]] = [
        lambda connection: rendition_rows.mark_failed(connection, photo_id, "undecodable"),
        lambda connection: rendition_rows.mark_waiting(connection, photo_id),
        lambda connection: rendition_rows.describe(connection, photo_id, "aGFzaA==", "#c0ffee"),
        lambda connection: rendition_rows.mark_waiting(connection, photo_id),
    ]

    for step in steps:
        assert any_world.database.run_write(step)
        seen.append(facts(any_world))
        assert not any_world.database.run_write(step)  # that is no news
        assert facts(any_world) == seen[-1]

    assert seen == [
        ("waiting", None, None, None, 1),
        ("failed", "undecodable", None, None, 1),
        ("waiting", None, None, None, 1),
        ("done", None, "aGFzaA==", "#c0ffee", 1),
        ("waiting", None, "aGFzaA==", "#c0ffee", 1),
    ]


def test_a_photo_that_is_not_there_is_not_marked(any_world: World) -> None:
    pending = any_world.reserve(new_photo(any_world.new_user()))

    assert not write(any_world, rendition_rows.mark_failed, pending.photo_id, "undecodable")
    assert not write(any_world, rendition_rows.describe, new_id(), "aGFzaA==", "#c0ffee")
    assert any_world.rows()[0].processing_state != FAILED
    assert write(any_world, rows.find_committed, pending) is None
