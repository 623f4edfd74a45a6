"""The maintenance tasks: what each leaves, twice at once, with failing stores, and in bounded pieces."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from sqlalchemy import func, insert, select, update

from app.accounts.models import User
from app.db import outbox
from app.db.base import new_id, utc_now
from app.db.outbox import OBJECT_DELETE, PHOTO_DELETED, PHOTO_READY, PHOTO_RENDER, OutboxRow
from app.photos import upkeep as upkeep_module
from app.photos.models import DELETING, PENDING, READY, IdempotencyKey, PhotoTag
from app.photos.upkeep import PhotoUpkeep
from app.stability import Pipeline
from app.storage.base import StorageUnavailableError
from tests.accounts.world import at_once
from tests.fakes.object_store import raising
from tests.photos.world import IMAGE_BYTES, World, image, new_photo

DAY = dt.timedelta(days=1)
DOWN = StorageUnavailableError("The store is down.")


@pytest.fixture
def piece(monkeypatch: pytest.MonkeyPatch) -> int:
    """How much a task does in one run, made small."""
    monkeypatch.setattr(upkeep_module, "_PIECE", 3)
    return 3


def remove(world: World, *photo_ids: object) -> None:
    for row in world.rows(READY):
        if not photo_ids or row.id in photo_ids:
            world.photos.delete(row.owner_id, row.id, lambda _row: None, is_permanent=True)


def count_users(world: World) -> int:
    with world.database.read() as connection:
        return connection.execute(select(func.count()).select_from(User)).scalar_one()


def test_only_uploads_whose_lease_has_ended_are_reaped(any_world: World) -> None:
    owner_id = any_world.new_user()
    any_world.reserve(new_photo(owner_id, image(0), key="k"))
    any_world.end_leases()
    living = any_world.reserve(new_photo(owner_id, image(1)))
    ready = any_world.upload(owner_id, image(2))

    reaped = any_world.upkeep.reap_ended_leases()

    assert reaped == 1
    assert any_world.observer.heard["reaped"] == 1
    assert [row.id for row in any_world.rows(PENDING)] == [living.photo_id]
    assert [row.id for row in any_world.rows(READY)] == [ready.document["id"]]
    assert any_world.keys() == []
    any_world.assert_quota()


def test_a_run_that_reaps_nothing_says_nothing(world: World) -> None:
    assert world.upkeep.reap_ended_leases() == 0

    assert "reaped" not in world.observer.heard


def test_a_removed_photo_loses_its_object_first_and_its_row_last(any_world: World) -> None:
    any_world.upload(any_world.new_user(), image(), tags=["sea"])
    remove(any_world)
    states: list[list[str]] = []
    any_world.store.after["delete"] = lambda _key: states.append([row.state for row in any_world.rows()])

    assert any_world.upkeep.relay_deletes() == 1

    assert states == [[DELETING]]
    any_world.assert_settled()
    assert any_world.rows() == []
    with any_world.database.read() as connection:
        assert connection.execute(select(PhotoTag.tag)).all() == []


def test_a_delayed_delete_waits_for_its_time(world: World) -> None:
    world.ledger.abandon(world.reserve(new_photo(world.new_user())))

    assert world.upkeep.relay_deletes() == 0
    world.make_due()
    assert world.upkeep.relay_deletes() == 1


def test_news_for_others_is_not_the_relays_work(world: World) -> None:
    world.upload(world.new_user(), image())

    assert world.upkeep.relay_deletes() == 0
    assert [row.kind for row in world.outbox()] == [PHOTO_READY, PHOTO_RENDER]


def test_a_store_that_fails_makes_a_delete_wait_longer_each_time_and_up_to_five_minutes(any_world: World) -> None:
    any_world.upload(any_world.new_user(), image())
    remove(any_world)
    any_world.store.before["delete"] = raising(DOWN)

    for seconds in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        any_world.make_due()
        started = utc_now()
        assert any_world.upkeep.relay_deletes() == 0
        (row,) = any_world.outbox(OBJECT_DELETE)
        assert started <= row.available_at - dt.timedelta(seconds=seconds) <= utc_now()

    assert row.attempts == 11
    assert [row.state for row in any_world.rows()] == [DELETING]
    del any_world.store.before["delete"]
    any_world.settle()
    any_world.assert_settled()


def test_a_failing_delete_does_not_keep_the_others_back_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner_id = world.new_user()
    first = world.upload(owner_id, image(0))
    world.upload(owner_id, image(1))
    (stuck,) = [row.object_key for row in world.rows() if row.id == first.document["id"]]
    remove(world)

    def fail(key: str) -> None:
        if key == stuck:
            raise DOWN

    world.store.before["delete"] = fail
    now = utc_now()
    monkeypatch.setattr(upkeep_module, "utc_now", lambda: now)  # the wait of what failed is not over meanwhile

    done = world.upkeep.relay_deletes() + world.upkeep.relay_deletes()

    assert done == 1
    assert [row.object_key for row in world.rows()] == [stuck]


def test_the_depth_of_the_outbox_is_reported_with_its_oldest_age(any_world: World) -> None:
    owner_id = any_world.new_user()
    any_world.upload(owner_id, image())
    any_world.upkeep.relay_deletes()
    remove(any_world)
    any_world.store.before["delete"] = raising(DOWN)
    with any_world.database.write() as connection:
        connection.execute(
            update(OutboxRow)
            .where(OutboxRow.kind == OBJECT_DELETE)
            .values(created_at=utc_now() - dt.timedelta(seconds=50))
        )

    any_world.upkeep.relay_deletes()

    assert any_world.observer.depths[0] == (0, 0.0)
    pending, age = any_world.observer.depths[1]
    assert pending == 1
    assert 50 <= age < 80


def test_it_says_how_many_photos_are_due_to_be_decoded(any_world: World) -> None:
    owner_id = any_world.new_user()
    for number in range(3):
        any_world.upload(owner_id, image(number))
    with any_world.database.write() as connection:
        first = connection.execute(select(func.min(OutboxRow.id)).where(OutboxRow.kind == PHOTO_RENDER)).scalar_one()
        later = utc_now() + dt.timedelta(hours=1)
        connection.execute(update(OutboxRow).where(OutboxRow.id == first).values(available_at=later))

    any_world.upkeep.relay_deletes()

    assert any_world.observer.renders[-1] == 2


def test_what_was_in_the_trash_too_long_is_removed_and_nothing_else(any_world: World) -> None:
    owner_id = any_world.new_user()
    ids = [any_world.upload(owner_id, image(number)).document["id"] for number in range(3)]
    any_world.set_photo(ids[0], trashed_at=utc_now() - 30 * DAY - dt.timedelta(minutes=1))
    any_world.set_photo(ids[1], trashed_at=utc_now() - 30 * DAY + dt.timedelta(minutes=1))

    removed = any_world.upkeep.empty_old_trash()

    assert removed == 1
    assert [row.id for row in any_world.rows(READY)] == ids[1:]
    assert [row.photo_id for row in any_world.outbox(PHOTO_DELETED)] == ids[:1]
    any_world.assert_quota()


def test_a_photo_restored_before_its_turn_stays(world: World) -> None:
    owner_id = world.new_user()
    photo_id = world.upload(owner_id, image()).document["id"]
    world.set_photo(photo_id, trashed_at=utc_now() - 31 * DAY)
    restored: list[object] = []

    class RestoredMeanwhile(PhotoUpkeep):
        """Its owner restores the photo after it was found."""

        def _remove(self, *conditions: object) -> int:
            world.photos.restore(owner_id, photo_id)
            restored.append(photo_id)
            return super()._remove(*conditions)

    keeper = RestoredMeanwhile(
        world.database,
        world.store,
        Pipeline("events"),
        trash_days=30,
        observer=world.observer,
        changing=world.known.changing,
    )

    assert keeper.empty_old_trash() == 0
    assert restored
    assert [row.state for row in world.rows()] == [READY]


def test_a_closed_account_loses_its_photos_then_its_row(any_world: World) -> None:
    owner_id, other_id = any_world.new_user(), any_world.new_user()
    any_world.upload(owner_id, image(0), key="k")
    any_world.upload(other_id, image(0))
    pending = new_photo(owner_id, image(1))
    any_world.reserve(pending)
    any_world.close_account(owner_id)

    assert any_world.upkeep.empty_closed_accounts() == 1
    assert count_users(any_world) == 2  # its photos are not gone yet
    any_world.settle()
    assert any_world.upkeep.empty_closed_accounts() == 1

    assert count_users(any_world) == 1
    assert [row.owner_id for row in any_world.rows()] == [other_id]
    assert any_world.keys() == []
    any_world.assert_settled()
    any_world.assert_quota()


def test_an_open_account_without_photos_stays(world: World) -> None:
    world.new_user()

    assert world.upkeep.empty_closed_accounts() == 0
    assert count_users(world) == 1


def add_keys(world: World, count: int, expires_at: dt.datetime) -> None:
    owner_id = world.new_user()
    rows = [
        {
            "owner_id": owner_id,
            "key": f"{number}",
            "fingerprint": "",
            "photo_id": new_id(),
            "status": 201,
            "answer": {},
            "expires_at": expires_at,
        }
        for number in range(count)
    ]
    with world.database.write() as connection:
        connection.execute(insert(IdempotencyKey), rows)


def test_expired_keys_and_old_news_are_forgotten_and_work_never(any_world: World) -> None:
    add_keys(any_world, 1, utc_now() - dt.timedelta(seconds=1))
    add_keys(any_world, 1, utc_now() + dt.timedelta(seconds=60))
    photo_id = new_id()
    with any_world.database.write() as connection:
        for kind in (PHOTO_READY, PHOTO_DELETED, OBJECT_DELETE):
            outbox.add(connection, kind, photo_id, {})
        connection.execute(update(OutboxRow).values(available_at=utc_now() - 8 * DAY))
        outbox.add(connection, PHOTO_READY, photo_id, {}, delay_seconds=-6 * 86_400)

    forgotten = any_world.upkeep.forget_expired()

    assert forgotten == 3
    assert len(any_world.keys()) == 1
    assert [row.kind for row in any_world.outbox()] == [OBJECT_DELETE, PHOTO_READY]


def five_ended(world: World) -> Callable[[], int]:
    owner_id = world.new_user()
    for number in range(5):
        world.reserve(new_photo(owner_id, image(number)))
    world.end_leases()
    return world.upkeep.reap_ended_leases


def five_removed(world: World) -> Callable[[], int]:
    owner_id = world.new_user()
    for number in range(5):
        world.upload(owner_id, image(number))
    remove(world)
    return world.upkeep.relay_deletes


def five_in_old_trash(world: World) -> Callable[[], int]:
    owner_id = world.new_user()
    for number in range(5):
        photo_id = world.upload(owner_id, image(number)).document["id"]
        world.set_photo(photo_id, trashed_at=utc_now() - 31 * DAY)
    return world.upkeep.empty_old_trash


def five_of_a_closed_account(world: World) -> Callable[[], int]:
    owner_id = world.new_user()
    for number in range(5):
        world.upload(owner_id, image(number))
    world.close_account(owner_id)
    return world.upkeep.empty_closed_accounts


def five_expired_keys(world: World) -> Callable[[], int]:
    add_keys(world, 5, utc_now() - dt.timedelta(seconds=1))
    return world.upkeep.forget_expired


def test_what_is_forgotten_is_forgotten_in_pieces_the_oldest_first(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "_FORGOTTEN_PIECE", 3)
    for seconds in (50, 40, 30, 20):
        add_keys(any_world, 1, utc_now() - dt.timedelta(seconds=seconds))
    with any_world.database.write() as connection:
        for days in (12, 11, 10, 9, 8):
            outbox.add(connection, PHOTO_READY, new_id(), {"days": days}, delay_seconds=-86_400 * days)

    done = [any_world.upkeep.forget_expired() for _ in range(3)]

    assert done == [6, 3, 0]
    assert any_world.keys() == []
    assert any_world.outbox() == []


WORK = [five_ended, five_removed, five_in_old_trash, five_of_a_closed_account]


@pytest.mark.parametrize("prepare", WORK)
def test_a_task_does_a_bounded_piece_and_the_rest_next_time(
    world: World, piece: int, prepare: Callable[[World], Callable[[], int]]
) -> None:
    task = prepare(world)

    assert [task(), task()] == [piece, 5 - piece]

    world.assert_quota()


@pytest.mark.parametrize("prepare", [*WORK, five_expired_keys])
def test_a_task_twice_at_once_does_its_work_once(
    any_world: World, prepare: Callable[[World], Callable[[], int]]
) -> None:
    task = prepare(any_world)

    done = at_once(2, lambda _: task())

    assert all(isinstance(count, int) for count in done)
    any_world.assert_quota()
    any_world.settle()
    any_world.assert_settled()
    assert len(any_world.outbox(PHOTO_DELETED)) in {0, 5}


def test_two_relays_at_once_leave_nothing(any_world: World) -> None:
    owner_id = any_world.new_user()
    for number in range(8):
        any_world.upload(owner_id, image(number))
    remove(any_world)

    at_once(4, lambda _: any_world.upkeep.relay_deletes())

    any_world.assert_settled()
    assert any_world.store.keys() == []
    assert any_world.used(owner_id) == 0 < IMAGE_BYTES
