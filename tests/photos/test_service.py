"""What an owner does with photos: each change whole, counted in the version, and never on another's photo."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import astuple
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row, select

from app.db.base import new_id
from app.db.outbox import OBJECT_DELETE, PHOTO_DELETED
from app.errors import NotFoundError, PreconditionFailedError
from app.photos.models import DELETING, PhotoTag
from app.photos.schemas import TAGS_MAX, BatchDelete, BatchRestore, BatchTag, PhotoChanges, PhotoQuery
from tests.accounts.world import at_once
from tests.photos.world import DOCUMENTS, World, image, new_photo

INSTANT = dt.datetime(2026, 5, 17, 9, 30, tzinfo=dt.UTC)


def allow(_row: Row[Any]) -> None:
    """Prevent nothing."""


def refuse(_row: Row[Any]) -> None:
    raise PreconditionFailedError("It has changed.")


def upload(world: World, owner_id: UUID, number: int = 0, **fields: Any) -> UUID:
    photo_id: UUID = world.upload(owner_id, image(number), **fields).document["id"]
    return photo_id


def tag_index(world: World, photo_id: UUID) -> set[str]:
    with world.database.read() as connection:
        return set(connection.execute(select(PhotoTag.tag).where(PhotoTag.photo_id == photo_id)).scalars())


def test_a_change_touches_what_was_sent_and_nothing_else(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo_id = upload(any_world, owner_id, title="Pier", description="Wind", tags=["sea"])
    before = any_world.row(owner_id, photo_id)

    after = any_world.photos.change(owner_id, photo_id, PhotoChanges(title="Pier 2"), allow)

    assert (after.title, after.description, after.tags, after.favorite) == ("Pier 2", "Wind", ["sea"], False)
    assert after.version == before.version + 1
    assert after.updated_at > before.updated_at
    assert after.created_at == before.created_at


def test_null_clears(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo_id = upload(any_world, owner_id, title="Pier", description="Wind", taken_at=INSTANT)

    after = any_world.photos.change(
        owner_id, photo_id, PhotoChanges(title=None, description=None, taken_at=None), allow
    )

    assert (after.title, after.description, after.taken_at) == (None, None, None)


def test_a_change_of_nothing_leaves_the_version(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo_id = upload(any_world, owner_id)

    after = any_world.photos.change(owner_id, photo_id, PhotoChanges(), allow)

    assert after.version == 1


@pytest.mark.parametrize("with_place", [False, True])
def test_a_change_says_where_a_photo_was_taken_to_who_may_know_it(any_world: World, *, with_place: bool) -> None:
    owner_id = any_world.new_user()
    photo_id = upload(any_world, owner_id)
    any_world.set_place(photo_id, 54.5, 10.25)

    changed = any_world.photos.change(owner_id, photo_id, PhotoChanges(title="x"), allow, with_place=with_place)
    restored = any_world.photos.restore(owner_id, photo_id, with_place=with_place)

    for row in (changed, restored):
        assert DOCUMENTS.document(row, with_place=with_place).get("place") == (
            {"latitude": 54.5, "longitude": 10.25} if with_place else None
        )
        assert hasattr(row, "latitude") is with_place


def test_the_place_in_the_timeline_follows_the_time_taken(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo_id = upload(any_world, owner_id)

    def timeline() -> tuple[dt.datetime, dt.datetime]:
        (row,) = any_world.rows()
        return row.timeline_at, row.created_at

    assert timeline()[0] == timeline()[1]
    any_world.photos.change(owner_id, photo_id, PhotoChanges(taken_at=INSTANT), allow)
    assert timeline()[0] == INSTANT
    any_world.photos.change(owner_id, photo_id, PhotoChanges(taken_at=None), allow)
    assert timeline()[0] == timeline()[1]


def test_the_index_of_tags_says_what_the_photo_says(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo_id = upload(any_world, owner_id, tags=["sea", "pier"])
    assert tag_index(any_world, photo_id) == {"sea", "pier"}

    for tags in (["pier", "wind"], [], ["a", "b", "a"]):
        after = any_world.photos.change(owner_id, photo_id, PhotoChanges(tags=tags), allow)

        assert after.tags == list(dict.fromkeys(tags))
        assert tag_index(any_world, photo_id) == set(tags)


def test_a_guard_that_refuses_prevents_every_change(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo_id = upload(any_world, owner_id, tags=["sea"])

    with pytest.raises(PreconditionFailedError):
        any_world.photos.change(owner_id, photo_id, PhotoChanges(title="x", tags=["y"]), refuse)
    for is_permanent in (False, True):
        with pytest.raises(PreconditionFailedError):
            any_world.photos.delete(owner_id, photo_id, refuse, is_permanent=is_permanent)

    row = any_world.row(owner_id, photo_id)
    assert (row.version, row.title, row.trashed_at) == (1, None, None)
    assert tag_index(any_world, photo_id) == {"sea"}


def test_of_ten_guarded_changes_of_one_version_at_once_one_is_made(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo_id = upload(any_world, owner_id)

    def only_the_first(row: Row[Any]) -> None:
        if row.version != 1:
            refuse(row)

    results = at_once(
        10,
        lambda number: any_world.photos.change(owner_id, photo_id, PhotoChanges(title=f"{number}"), only_the_first),
    )

    assert sum(isinstance(result, PreconditionFailedError) for result in results) == 9
    assert any_world.row(owner_id, photo_id).version == 2


def test_the_trash_keeps_the_photo_its_room_and_its_object(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo_id = upload(any_world, owner_id)
    used = any_world.used(owner_id)

    any_world.photos.delete(owner_id, photo_id, allow, is_permanent=False)
    any_world.photos.delete(owner_id, photo_id, allow, is_permanent=False)

    row = any_world.row(owner_id, photo_id)
    assert row.trashed_at is not None
    assert row.version == 2  # the second time there was nothing to do
    assert any_world.used(owner_id) == used
    assert any_world.outbox(OBJECT_DELETE) == []
    assert any_world.photos.restore(owner_id, photo_id).trashed_at is None
    assert any_world.photos.restore(owner_id, photo_id).version == 3


def test_what_is_removed_for_good_is_gone_at_once(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo_id = upload(any_world, owner_id, tags=["sea"])
    digest = any_world.rows()[0].sha256

    any_world.photos.delete(owner_id, photo_id, allow, is_permanent=True)

    assert any_world.used(owner_id) == 0
    assert any_world.photos.check(owner_id, [digest])[0].photo_id is None
    assert any_world.lists.page(owner_id, PhotoQuery(tag="sea")).rows == []
    assert [row.kind for row in any_world.outbox() if row.kind in {OBJECT_DELETE, PHOTO_DELETED}] == [
        OBJECT_DELETE,
        PHOTO_DELETED,
    ]
    again = any_world.upload(owner_id, image())
    assert again.is_created


Call = Callable[[World, UUID, UUID], object]
CALLS: dict[str, Call] = {
    "get": lambda world, owner, photo: world.photos.get(owner, photo),
    "change": lambda world, owner, photo: world.photos.change(owner, photo, PhotoChanges(title="mine"), allow),
    "trash": lambda world, owner, photo: world.photos.delete(owner, photo, allow, is_permanent=False),
    "remove": lambda world, owner, photo: world.photos.delete(owner, photo, allow, is_permanent=True),
    "restore": lambda world, owner, photo: world.photos.restore(owner, photo),
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_another_owners_photo_an_unfinished_and_a_removed_one_are_as_unknown_as_any(
    any_world: World, name: str
) -> None:
    owner_id, other_id = any_world.new_user(), any_world.new_user()
    theirs = upload(any_world, other_id)
    removed = upload(any_world, owner_id, 1)
    any_world.set_photo(removed, state=DELETING, dedup_key=None)
    pending = any_world.reserve(new_photo(owner_id, image(2))).photo_id
    before = any_world.rows()
    said = set()

    for photo_id in (theirs, pending, removed, new_id()):
        with pytest.raises(NotFoundError) as raised:
            CALLS[name](any_world, owner_id, photo_id)
        said.add(raised.value.detail)

    assert len(said) == 1
    assert any_world.rows() == before


def test_a_check_tells_of_each_digest_in_order_and_only_of_ones_own(any_world: World) -> None:
    owner_id, other_id = any_world.new_user(), any_world.new_user()
    mine, trashed = upload(any_world, owner_id, 0), upload(any_world, owner_id, 1)
    upload(any_world, other_id, 2)
    any_world.photos.delete(owner_id, trashed, allow, is_permanent=False)
    digests = [new_photo(owner_id, image(number)).body.sha256 for number in (2, 1, 0, 3, 0)]

    items = any_world.photos.check(owner_id, digests)

    assert [item.digest for item in items] == digests
    assert [item.photo_id for item in items] == [None, trashed, mine, None, mine]
    assert [item.trashed_at is not None for item in items] == [False, True, False, False, False]


def test_a_batch_answers_each_item_in_the_order_asked(any_world: World) -> None:
    owner_id, other_id = any_world.new_user(), any_world.new_user()
    mine, trashed, theirs = (
        upload(any_world, owner_id, 0),
        upload(any_world, owner_id, 1),
        upload(any_world, other_id),
    )
    any_world.photos.delete(owner_id, trashed, allow, is_permanent=False)
    ids = [theirs, trashed, mine]

    deleted = any_world.photos.batch(owner_id, BatchDelete(action="delete", ids=ids))
    restored = any_world.photos.batch(owner_id, BatchRestore(action="restore", ids=ids))
    removed = any_world.photos.batch(owner_id, BatchDelete(action="delete", ids=ids, permanent=True))

    assert [(item.id, item.status) for item in deleted] == [(theirs, 404), (trashed, 204), (mine, 204)]
    assert [(item.id, item.status) for item in restored] == [(theirs, 404), (trashed, 200), (mine, 200)]
    assert [item.status for item in removed] == [404, 204, 204]
    assert any_world.row(other_id, theirs).version == 1
    any_world.assert_quota()


def test_a_batch_of_tags_adds_removes_and_grows_versions_only_where_something_changed(any_world: World) -> None:
    owner_id = any_world.new_user()
    first, second = upload(any_world, owner_id, 0, tags=["sea", "old"]), upload(any_world, owner_id, 1, tags=["new"])

    any_world.photos.batch(
        owner_id, BatchTag(action="tag", ids=[first, second], add=["new"], remove=["old", "never there"])
    )

    rows = [any_world.row(owner_id, photo_id) for photo_id in (first, second)]
    assert [(row.tags, row.version) for row in rows] == [(["sea", "new"], 2), (["new"], 1)]
    assert tag_index(any_world, first) == {"sea", "new"}
    assert tag_index(any_world, second) == {"new"}


def test_a_photo_with_too_many_tags_is_left_as_it_is_and_the_rest_done(any_world: World) -> None:
    owner_id = any_world.new_user()
    full = upload(any_world, owner_id, 0, tags=[f"{number}" for number in range(TAGS_MAX)])
    free = upload(any_world, owner_id, 1)

    items = any_world.photos.batch(owner_id, BatchTag(action="tag", ids=[full, free], add=["more"]))

    assert [item.status for item in items] == [422, 200]
    assert len(any_world.row(owner_id, full).tags) == TAGS_MAX
    assert any_world.row(owner_id, free).tags == ["more"]


def test_batches_over_the_same_photos_in_any_order_queue(any_world: World) -> None:
    owner_id = any_world.new_user()
    ids = [upload(any_world, owner_id, number) for number in range(40)]  # long enough to meet in the middle

    results = at_once(
        8,
        lambda number: any_world.photos.batch(
            owner_id,
            BatchTag(action="tag", ids=ids if number % 2 else ids[::-1], add=[f"{number}"]),
        ),
    )

    assert all(isinstance(result, list) for result in results)
    assert {len(any_world.row(owner_id, photo_id).tags) for photo_id in ids} == {8}


def test_many_originals_are_found_at_once_and_only_the_owners_ready_ones(any_world: World) -> None:
    owner_id, other_id = any_world.new_user(), any_world.new_user()
    first, second = upload(any_world, owner_id, 0), upload(any_world, owner_id, 1)
    removed, theirs = upload(any_world, owner_id, 2), upload(any_world, other_id)
    any_world.photos.delete(owner_id, second, allow, is_permanent=False)  # the trash has its bytes, too
    any_world.photos.delete(owner_id, removed, allow, is_permanent=True)

    found = any_world.photos.get_originals(owner_id, [theirs, second, new_id(), removed, first])

    assert set(found) == {first, second}
    assert tuple(found[first]) == astuple(any_world.photos.get(owner_id, first).original)


def test_bytes_belong_to_a_photo_until_it_is_removed(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo_id = upload(any_world, owner_id)
    key = any_world.photos.get(owner_id, photo_id).original.object_key
    before = any_world.photos.has_object(key)

    any_world.photos.delete(owner_id, photo_id, allow, is_permanent=True)

    assert (before, any_world.photos.has_object(key)) == (True, False)
    assert not any_world.photos.has_object(f"{key}0")
