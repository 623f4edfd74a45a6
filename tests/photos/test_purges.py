"""Removed photos leave the CDN: at once and again after their objects, at least once, whatever fails or dies."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from uuid import UUID

import pytest
from sqlalchemy import delete, update

from app.db import outbox
from app.db.base import new_id, utc_now
from app.db.outbox import CDN_PURGE, OBJECT_DELETE, OutboxRow
from app.errors import UnavailableError, UpstreamDeniedError
from app.photos.models import Photo
from app.photos.purges import PhotoPurges
from app.photos.removal import remove_ready
from app.photos.schemas import BatchDelete
from app.photos.service import PhotoService
from app.photos.upkeep import PhotoUpkeep
from app.stability import Pipeline
from tests.photos.world import World, image


class Cdn:
    """Remembers what it is told to purge, or fails."""

    def __init__(self) -> None:
        self.orders: list[list[str]] = []
        self.error: BaseException | None = None
        self.before: Callable[[], None] = lambda: None

    def purge(self, paths: Sequence[str]) -> None:
        self.before()
        if self.error is not None:
            raise self.error
        self.orders.append(sorted(paths))

    def close(self) -> None:
        """Nothing is open."""


class Pending:
    """Keeps the last figure."""

    def __init__(self) -> None:
        self.count = -1

    def purges_pending(self, count: int) -> None:
        self.count = count


class Purging:
    """A room of photos behind a CDN."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cdn = Cdn()
        self.pending = Pending()
        self.purges = PhotoPurges(world.database, self.cdn, self.pending)
        self.owner_id = world.new_user()

    def upload(self, number: int = 0) -> tuple[UUID, str]:
        """Take a photo in; return its id and its path at the CDN."""
        photo_id = self.world.upload(self.owner_id, image(number)).document["id"]
        (key,) = [row.object_key for row in self.world.rows() if row.id == photo_id]
        return photo_id, f"/{key}"

    def remove(self, photo_id: UUID, *, purges: bool = True) -> None:
        with self.world.database.write() as connection:
            assert remove_ready(connection, photo_id, purges=purges)

    def rows(self) -> int:
        return len(self.world.outbox(CDN_PURGE))


@pytest.fixture
def purging(world: World) -> Purging:
    return Purging(world)


def make_due(purging: Purging) -> None:
    with purging.world.database.write() as connection:
        connection.execute(update(OutboxRow).values(available_at=utc_now() - dt.timedelta(seconds=1)))


def test_a_removed_photo_is_purged_at_once_and_again_after_its_object(any_world: World) -> None:
    purging = Purging(any_world)
    photo_id, path = purging.upload()
    purging.remove(photo_id)

    early = purging.purges.relay_purges()
    waits = purging.pending.count
    make_due(purging)
    any_world.upkeep.relay_deletes()
    late = purging.purges.relay_purges()

    assert (early, waits, late) == (0, 1, 1)
    assert purging.cdn.orders == [[path], [path]]
    assert purging.rows() == purging.pending.count == 0
    assert purging.purges.relay_purges() == 0


def test_an_object_that_goes_while_the_cdn_is_told_is_purged_once_more(purging: Purging) -> None:
    photo_id, path = purging.upload()
    purging.remove(photo_id)
    purging.cdn.before = lambda: void(purging.world.upkeep.relay_deletes())

    assert purging.purges.relay_purges() == 0
    make_due(purging)
    assert purging.purges.relay_purges() == 1

    assert purging.cdn.orders == [[path], [path]]


def void(_result: object) -> None:
    """Return nothing."""


def test_many_photos_are_one_order_of_at_most_a_hundred(purging: Purging) -> None:
    with purging.world.database.write() as connection:
        for number in range(101):
            outbox.add(connection, CDN_PURGE, new_id(), {"object_key": f"o/{number}.jpg"})

    done = [purging.purges.relay_purges(), purging.purges.relay_purges(), purging.purges.relay_purges()]

    assert done == [100, 1, 0]
    assert [len(order) for order in purging.cdn.orders] == [100, 1]


@pytest.mark.parametrize(
    "error", [UnavailableError("Down."), UpstreamDeniedError("Refused.")], ids=["down", "denied"]
)
def test_a_cdn_that_does_not_take_it_is_told_at_longer_and_longer_intervals(
    any_world: World, error: UnavailableError
) -> None:
    purging = Purging(any_world)
    photo_id, path = purging.upload()
    purging.remove(photo_id)
    any_world.upkeep.relay_deletes()
    purging.cdn.error = error

    for seconds in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        make_due(purging)
        started = utc_now()
        assert purging.purges.relay_purges() == 0
        (row,) = any_world.outbox(CDN_PURGE)
        assert started <= row.available_at - dt.timedelta(seconds=seconds) <= utc_now()

    purging.cdn.error = None
    make_due(purging)
    assert purging.purges.relay_purges() == 1
    assert purging.cdn.orders == [[path]]


def test_a_process_that_dies_after_it_told_the_cdn_tells_it_again(
    purging: Purging, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_id, path = purging.upload()
    purging.remove(photo_id)
    purging.world.upkeep.relay_deletes()
    tell = purging.cdn.purge

    def told_and_died(paths: Sequence[str]) -> None:
        tell(paths)
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(purging.cdn, "purge", told_and_died)
        with pytest.raises(SystemExit):
            purging.purges.relay_purges()

    assert purging.purges.relay_purges() == 1
    assert purging.cdn.orders == [[path], [path]]


def test_a_removal_that_is_rolled_back_orders_nothing(purging: Purging) -> None:
    photo_id, _ = purging.upload()

    def remove_and_fail() -> None:
        with purging.world.database.write() as connection:
            remove_ready(connection, photo_id, purges=True)
            raise KeyError

    with pytest.raises(KeyError):
        remove_and_fail()

    assert purging.rows() == 0


def test_without_a_cdn_nothing_is_written(purging: Purging) -> None:
    photo_id, _ = purging.upload()

    purging.remove(photo_id, purges=False)

    assert purging.rows() == 0
    assert len(purging.world.outbox(OBJECT_DELETE)) == 1


def test_each_way_to_remove_a_photo_for_good_orders_a_purge_and_the_trash_does_not(purging: Purging) -> None:
    world, owner_id = purging.world, purging.owner_id
    service = PhotoService(world.database, world.known, purges=True)
    upkeep = PhotoUpkeep(
        world.database,
        world.store,
        Pipeline("events"),
        trash_days=30,
        observer=world.observer,
        changing=world.known.changing,
        purges=True,
    )
    one, many, old, closed = (purging.upload(number)[0] for number in range(4))

    for photo_id in (one, many, old):
        service.delete(owner_id, photo_id, lambda _row: None, is_permanent=False)
    trashed = purging.rows()
    service.delete(owner_id, one, lambda _row: None, is_permanent=True)
    service.batch(owner_id, BatchDelete(action="delete", ids=[many], permanent=True))
    with world.database.write() as connection:
        long_ago = utc_now() - dt.timedelta(days=31)
        connection.execute(update(Photo).where(Photo.id == old).values(trashed_at=long_ago))
    upkeep.empty_old_trash()
    before_closing = purging.rows()
    world.close_account(owner_id)
    upkeep.empty_closed_accounts()

    assert (trashed, before_closing, purging.rows()) == (0, 3, 4)
    assert {row.photo_id for row in world.outbox(CDN_PURGE)} == {one, many, old, closed}


def test_an_upload_that_was_given_up_orders_no_purge(purging: Purging) -> None:
    with purging.world.database.write() as connection:
        connection.execute(delete(OutboxRow))

    purging.world.end_leases()
    purging.world.upkeep.reap_ended_leases()

    assert purging.rows() == 0


def test_a_key_that_no_link_was_made_for_holds_nobody_up(purging: Purging) -> None:
    with purging.world.database.write() as connection:
        outbox.add(connection, CDN_PURGE, new_id(), {"object_key": "a//b"})
        outbox.add(connection, CDN_PURGE, new_id(), {"object_key": "o/ä b.jpg"})

    assert purging.purges.relay_purges() == 2
    assert purging.cdn.orders == [["/o/%C3%A4%20b.jpg"]]


def test_orders_that_nobody_took_for_a_week_are_dropped(purging: Purging) -> None:
    with purging.world.database.write() as connection:
        outbox.add(connection, CDN_PURGE, new_id(), {"object_key": "o/a.jpg"})
        connection.execute(update(OutboxRow).values(available_at=utc_now() - dt.timedelta(days=8)))

    purging.world.upkeep.forget_expired()

    assert purging.rows() == 0
