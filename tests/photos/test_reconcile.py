"""Comparing both sides: what is found, what is left alone, and that nothing is judged by a listing alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import delete, select, update

from app.db.base import utc_now
from app.photos.models import MAKING, READY, PhotoRendition
from app.photos.reconcile import Reconciliation, reconcile
from app.storage.base import ObjectInfo, StorageUnavailableError
from app.storage.local import LocalObjectStore
from app.storage.probe import BytesBody
from tests.fakes.object_store import MemoryObjectStore
from tests.photos.world import World, image, new_photo, write_rendition

ORPHAN = "originals/{:04d}/left"
LONG_AGO = utc_now() - dt.timedelta(days=2)


class LaggingStore(MemoryObjectStore):
    """A store whose listing does not yet show some keys."""

    def __init__(self) -> None:
        super().__init__()
        self.unlisted: set[str] = set()

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return (info for info in super().list(prefix) if info.key not in self.unlisted)


def compare(world: World, *, grace_seconds: float = 0.0, is_dry_run: bool = True) -> Reconciliation:
    return reconcile(world.database, world.store, grace_seconds=grace_seconds, is_dry_run=is_dry_run)


def test_two_sides_that_agree_are_clean(any_world: World) -> None:
    owner = any_world.new_user()
    for number in range(3):
        any_world.upload(owner, image(number))

    found = compare(any_world, is_dry_run=False)

    assert found.is_clean
    assert (found.objects, found.photos, found.orphans, found.missing) == (3, 3, [], [])


def test_objects_without_a_row_are_reported_and_removed_only_when_asked(any_world: World) -> None:
    photo = any_world.upload(any_world.new_user(), image())
    any_world.store.lay(ORPHAN.format(1), b"left over", modified_at=LONG_AGO)

    dry = compare(any_world)
    kept = any_world.store.keys()
    removing = compare(any_world, is_dry_run=False)

    assert (dry.orphans, dry.removed, dry.is_clean) == ([ORPHAN.format(1)], 0, False)
    assert ORPHAN.format(1) in kept
    assert (removing.orphans, removing.removed, removing.is_clean) == ([ORPHAN.format(1)], 1, True)
    assert [row.id for row in any_world.rows(READY)] == [UUID(str(photo.document["id"]))]
    any_world.assert_settled()


def test_objects_outside_the_photos_own_folder_are_nobodys_business(any_world: World) -> None:
    any_world.store.lay("probe/left", b"x", modified_at=LONG_AGO)

    found = compare(any_world, is_dry_run=False)

    assert (found.objects, any_world.store.keys()) == (0, ["probe/left"])


def test_what_is_younger_than_the_grace_time_is_left_alone_on_both_sides(any_world: World) -> None:
    any_world.upload(any_world.new_user(), image())
    any_world.store.delete(any_world.rows(READY)[0].object_key)
    any_world.store.lay(ORPHAN.format(1), b"new")
    any_world.store.lay(ORPHAN.format(2), b"old", modified_at=LONG_AGO)

    found = compare(any_world, grace_seconds=3600, is_dry_run=False)

    assert (found.orphans, found.missing) == ([ORPHAN.format(2)], [])
    assert any_world.store.keys() == [ORPHAN.format(1)]


def test_the_object_of_an_upload_under_way_has_a_row(any_world: World) -> None:
    reservation = any_world.reserve(new_photo(any_world.new_user()))
    any_world.store.lay(reservation.object_key, image(), modified_at=LONG_AGO)

    found = compare(any_world, is_dry_run=False)

    assert (found.orphans, any_world.store.keys()) == ([], [reservation.object_key])


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_a_photo_without_its_whole_object_is_listed_and_its_row_kept(any_world: World, damage: str) -> None:
    owner = any_world.new_user()
    any_world.upload(owner, image(1))
    lost = any_world.upload(owner, image(2)).document["id"]
    row = any_world.rows(READY)[1]
    any_world.store.delete(row.object_key)
    if damage == "shorter":
        any_world.store.lay(row.object_key, image(2)[:-1])

    found = compare(any_world, is_dry_run=False)

    assert [str(photo_id) for photo_id in found.missing] == [str(lost)]
    assert not found.is_clean
    assert len(any_world.rows(READY)) == 2


def test_damage_done_by_hand_in_a_local_store_hides_no_finding(any_world: World, tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    owner = any_world.new_user()
    for number in range(4):
        any_world.upload(owner, image(number))
        store.put(any_world.rows(READY)[number].object_key, BytesBody(image(number)), content_type="image/png")
    store.put(ORPHAN.format(1), BytesBody(b"left over"), content_type="image/png")
    emptied, doubled, replaced = [
        next(tmp_path.glob("objects/*/*/" + row.object_key.replace("/", ","))) for row in any_world.rows(READY)[:3]
    ]
    next(emptied.iterdir()).unlink()
    (doubled / ("0" * 64)).touch()
    next(replaced.iterdir()).unlink()
    replaced.rmdir()
    replaced.touch()
    (tmp_path / "objects" / ".DS_Store").touch()

    found = reconcile(any_world.database, store, grace_seconds=-60, is_dry_run=True)

    assert found.missing == [row.id for row in any_world.rows(READY)[:3]]
    assert (found.objects, found.photos, found.orphans) == (2, 4, [ORPHAN.format(1)])


def test_a_photo_that_the_listing_does_not_show_yet_is_asked_for_by_name(any_world: World) -> None:
    store = LaggingStore()
    any_world.upload(any_world.new_user(), image())
    key = any_world.rows(READY)[0].object_key
    store.lay(key, image())
    store.lay(ORPHAN.format(1), b"left over", modified_at=LONG_AGO)
    store.unlisted = {key, ORPHAN.format(1)}

    early = reconcile(any_world.database, store, grace_seconds=0, is_dry_run=False)
    store.unlisted = set()
    late = reconcile(any_world.database, store, grace_seconds=0, is_dry_run=False)

    assert (early.objects, early.missing, early.orphans) == (0, [], [])
    assert (late.objects, late.missing, late.removed) == (2, [], 1)


def test_a_photo_that_its_owner_removes_meanwhile_is_not_called_lost(any_world: World) -> None:
    owner = any_world.new_user()
    photo_id = UUID(str(any_world.upload(owner, image()).document["id"]))

    def remove(_key: str) -> None:
        del any_world.store.before["head"]
        any_world.photos.delete(owner, photo_id, lambda _row: None, is_permanent=True)
        any_world.settle()

    any_world.store.before["head"] = remove

    found = compare(any_world)

    assert (found.missing, found.is_clean) == ([], True)


def test_more_objects_and_photos_than_a_page_are_all_compared(world: World) -> None:
    owner = world.new_user(quota_bytes=10**9)
    for number in range(502):
        reservation = world.reserve(new_photo(owner, image(number)))
        world.store.lay(reservation.object_key, image(number), modified_at=LONG_AGO)
        world.set_photo(reservation.photo_id, state=READY)
    for number in range(501):
        world.store.lay(ORPHAN.format(number), b"left over", modified_at=LONG_AGO)
    lost = world.rows(READY)[501]
    world.store.delete(lost.object_key)

    found = compare(world, is_dry_run=False)

    assert (found.objects, found.photos) == (501 + 501, 502)
    assert (len(found.orphans), found.removed, found.missing) == (501, 501, [lost.id])
    assert len(world.store.keys()) == 501


def test_a_store_that_fails_in_the_middle_ends_it_and_calls_nothing_lost(any_world: World) -> None:
    owner = any_world.new_user()
    for number in range(2):
        any_world.upload(owner, image(number))
    seen: list[str] = []

    def fail_later(key: str) -> None:
        seen.append(key)
        if len(seen) == 2:
            raise StorageUnavailableError("gone")

    any_world.store.before["head"] = fail_later

    with pytest.raises(StorageUnavailableError):
        compare(any_world, is_dry_run=False)

    assert len(any_world.rows(READY)) == len(any_world.store.keys()) == 2


RENDITION = b"made by"
"""As many bytes as :func:`write_rendition` says."""


def made(world: World, number: int, preset: str = "full") -> tuple[UUID, str]:
    """Upload a photo that has a rendition; return its id and the rendition's key."""
    photo_id: UUID = world.upload(world.new_user(), image(number)).document["id"]
    key = write_rendition(world, photo_id, preset)
    world.store.lay(key, RENDITION, modified_at=LONG_AGO)
    return photo_id, key


def renditions(world: World) -> list[str]:
    with world.database.read() as connection:
        return sorted(connection.execute(select(PhotoRendition.object_key)).scalars())


def test_renditions_that_are_there_and_named_are_clean(any_world: World) -> None:
    for number in range(3):
        made(any_world, number)

    found = compare(any_world, is_dry_run=False)

    assert found.is_clean
    assert (found.objects, found.photos, found.renditions, found.orphans, found.lost) == (6, 3, 3, [], [])


def test_an_object_that_no_rendition_names_is_reported_and_removed_only_when_asked(any_world: World) -> None:
    photo_id, key = made(any_world, 1)
    left = f"renditions/{photo_id.hex}/full-0000000000.avif"
    any_world.store.lay(left, RENDITION, modified_at=LONG_AGO)

    dry = compare(any_world)
    kept = any_world.store.keys("renditions/")
    removing = compare(any_world, is_dry_run=False)

    assert (dry.orphans, dry.removed, dry.is_clean) == ([left], 0, False)
    assert kept == sorted([key, left])
    assert (removing.orphans, removing.removed, removing.is_clean) == ([left], 1, True)
    assert any_world.store.keys("renditions/") == [key]


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_a_lost_rendition_loses_its_row_when_asked_so_that_it_is_made_anew(any_world: World, damage: str) -> None:
    _, kept = made(any_world, 1)
    _, lost = made(any_world, 2)
    any_world.store.delete(lost)
    if damage == "shorter":
        any_world.store.lay(lost, RENDITION[:-1], modified_at=LONG_AGO)

    dry = compare(any_world)
    named = renditions(any_world)
    removing = compare(any_world, is_dry_run=False)

    assert (dry.lost, dry.forgotten, dry.missing, dry.is_clean) == ([lost], 0, [], False)
    assert named == sorted([kept, lost])
    assert (removing.lost, removing.forgotten, removing.is_clean) == ([lost], 1, True)
    assert renditions(any_world) == [kept]
    assert any_world.store.keys("renditions/") == [kept]  # the next maker finds no damage under its key
    assert len(any_world.rows(READY)) == 2


@pytest.mark.parametrize(("lease_hours", "is_orphan"), [(1, False), (-1, False), (-3, True)])
def test_an_object_of_a_maker_counts_as_named_until_its_lease_is_over_by_the_grace_time(
    any_world: World, lease_hours: int, *, is_orphan: bool
) -> None:
    photo_id: UUID = any_world.upload(any_world.new_user(), image()).document["id"]
    key = write_rendition(any_world, photo_id, "full", state=MAKING)
    any_world.store.lay(key, RENDITION, modified_at=LONG_AGO)
    with any_world.database.write() as connection:
        until = utc_now() + dt.timedelta(hours=lease_hours)
        connection.execute(update(PhotoRendition).values(lease_until=until))

    found = compare(any_world, grace_seconds=2 * 3600)

    assert found.orphans == ([key] if is_orphan else [])
    assert (found.renditions, found.lost) == (0, [])


def test_young_renditions_are_left_alone_on_both_sides(any_world: World) -> None:
    photo_id, lost = made(any_world, 1)
    any_world.store.delete(lost)
    any_world.store.lay(f"renditions/{photo_id.hex}/full-0000000000.avif", RENDITION)

    found = compare(any_world, grace_seconds=3600, is_dry_run=False)

    assert (found.orphans, found.lost, found.is_clean) == ([], [], True)


@pytest.mark.parametrize("change", ["removed", "made anew"])
def test_a_rendition_that_changes_meanwhile_is_not_called_lost(any_world: World, change: str) -> None:
    photo_id, key = made(any_world, 1)
    any_world.store.delete(key)

    def meanwhile(asked: str) -> None:
        if asked != key:
            return
        with any_world.database.write() as connection:
            if change == "removed":
                connection.execute(delete(PhotoRendition))
            else:
                connection.execute(update(PhotoRendition).values(created_at=utc_now()))

    any_world.store.before["head"] = meanwhile

    found = compare(any_world, is_dry_run=False)

    assert (found.renditions, found.lost, found.forgotten, found.is_clean) == (1, [], 0, True)
    assert renditions(any_world) == ([] if change == "removed" else [key])
    assert [row.id for row in any_world.rows(READY)] == [photo_id]


def test_a_lost_rendition_keeps_its_row_while_its_damaged_object_cannot_be_removed(any_world: World) -> None:
    _, lost = made(any_world, 1)
    any_world.store.delete(lost)
    any_world.store.lay(lost, RENDITION[:-1], modified_at=LONG_AGO)

    def fail(_key: str) -> None:
        raise StorageUnavailableError("gone")

    any_world.store.before["delete"] = fail

    with pytest.raises(StorageUnavailableError):
        compare(any_world, is_dry_run=False)

    assert renditions(any_world) == [lost]


def test_more_renditions_than_a_page_are_all_compared(world: World) -> None:
    photo_id: UUID = world.upload(world.new_user(), image()).document["id"]
    keys = [write_rendition(world, photo_id, "full", version=f"{number:010x}") for number in range(501)]
    for key in keys[:-1]:
        world.store.lay(key, RENDITION, modified_at=LONG_AGO)

    found = compare(world, is_dry_run=False)

    assert (found.renditions, found.lost, found.forgotten) == (501, keys[-1:], 1)
    assert len(renditions(world)) == 500
