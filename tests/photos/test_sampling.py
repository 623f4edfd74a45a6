"""The daily sample: what it finds, how much it reads, and where it stops."""

from __future__ import annotations

import itertools
from uuid import UUID

import pytest

from app.photos.models import READY
from app.photos.sampling import RUN_SECONDS, DailySample
from app.storage.base import StorageUnavailableError
from tests.fakes.clocks import HandClock
from tests.fakes.object_store import raising
from tests.photos.world import World, damage, image

DAY_SECONDS = 86_400.0
_STRIDE = 0x9E3779B97F4A7C15F39CC0605CEDC835  # of the golden ratio: its multiples lie evenly


class Sampling:
    """A sample over five photos."""

    def __init__(self, world: World, *, per_day: int = 1440) -> None:
        self.world = world
        self.clock = HandClock()
        owner = world.new_user()
        for number in range(5):
            world.upload(owner, image(number))
        self.rows = world.rows(READY)
        self._turns = iter(range(10**9))
        self.sample = DailySample(
            world.database,
            world.store,
            per_day=per_day,
            observer=world.observer,
            random_id=lambda: UUID(int=next(self._turns) * _STRIDE % 2**128),
            monotonic=self.clock.monotonic,
        )
        world.store.calls.clear()

    def run_for(self, seconds: float) -> int:
        read = 0
        for _ in range(int(seconds / RUN_SECONDS)):
            self.clock.advance(RUN_SECONDS)
            read += self.sample.run()
        return read

    @property
    def opened(self) -> list[str]:
        return [key for method, key in self.world.store.calls if method == "open"]


def test_a_day_reads_what_was_asked_for_and_each_photo_comes_to_be_read(any_world: World) -> None:
    sampling = Sampling(any_world, per_day=200)

    read = sampling.run_for(DAY_SECONDS)

    assert 198 <= read <= 200
    assert any_world.observer.heard["sampled sound"] == read
    days = itertools.count()
    while set(sampling.opened) != {row.object_key for row in sampling.rows}:
        assert next(days) < 50  # a photo that was uploaded right behind another is seldom chosen
        sampling.run_for(DAY_SECONDS)
    assert any_world.store.open_readers == 0


def test_it_is_spread_over_the_day(world: World) -> None:
    sampling = Sampling(world, per_day=240)

    read = [sampling.run_for(3600) for _ in range(24)]

    assert set(read) <= {9, 10, 11}


def test_a_run_after_a_long_pause_is_bounded(world: World) -> None:
    sampling = Sampling(world, per_day=100_000)
    sampling.clock.advance(DAY_SECONDS)

    assert sampling.sample.run() == 20


def test_a_run_ends_when_reading_takes_long(world: World) -> None:
    sampling = Sampling(world, per_day=100_000)
    world.store.before["open"] = lambda _key: sampling.clock.advance(4)
    sampling.clock.advance(600)

    assert sampling.sample.run() == 3


def test_none_a_day_reads_none(world: World) -> None:
    sampling = Sampling(world, per_day=0)

    assert sampling.run_for(DAY_SECONDS) == 0
    assert sampling.opened == []


def test_without_photos_there_is_nothing_to_read(world: World) -> None:
    sampling = Sampling(world)
    for row in sampling.rows:
        world.set_photo(row.id, state="deleting")

    assert sampling.run_for(DAY_SECONDS / 24) == 0
    assert sampling.opened == []


def test_damage_is_counted_logged_with_its_photo_and_changes_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    sampling = Sampling(world)
    altered = sampling.rows[0]  # the one that is chosen first
    with world.store.open(altered.object_key) as reader:
        damage(world.store, altered.object_key, b"".join(reader))

    read = sampling.run_for(600)

    found = {record.photo_id for record in caplog.records if record.levelname == "ERROR"}  # type: ignore[attr-defined]  # from `extra`
    assert found == {str(altered.id)}
    assert world.observer.heard["sampled damaged"] + world.observer.heard["sampled sound"] == read
    assert world.observer.heard["sampled damaged"] > 0
    assert [row.id for row in world.rows(READY)] == [row.id for row in sampling.rows]


def test_another_object_than_the_photos_is_damage(world: World) -> None:
    sampling = Sampling(world)
    for row in sampling.rows:
        world.set_photo(row.id, sha256="0" * 64)

    read = sampling.run_for(600)

    assert world.observer.heard["sampled damaged"] == read > 0


def test_a_lost_object_is_counted_and_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    sampling = Sampling(world)
    for row in sampling.rows:
        world.store.delete(row.object_key)

    read = sampling.run_for(600)

    assert world.observer.heard["sampled missing"] == read > 0
    assert "a stored photo is missing" in caplog.text


def test_a_photo_that_is_removed_meanwhile_is_no_loss(world: World) -> None:
    sampling = Sampling(world)

    def remove(key: str) -> None:
        world.store.before.clear()
        world.store.delete(key)
        (row,) = (row for row in sampling.rows if row.object_key == key)
        world.set_photo(row.id, state="deleting")

    world.store.before["open"] = remove
    sampling.run_for(60)

    assert world.observer.heard["sampled missing"] == 0


def test_it_stops_at_the_first_failure_of_the_store_and_goes_on_later(world: World) -> None:
    sampling = Sampling(world, per_day=100_000)
    world.store.before["open"] = raising(StorageUnavailableError("The store is down."))
    sampling.clock.advance(600)

    failed = sampling.sample.run()
    asked = len(sampling.opened)
    world.store.before.clear()

    assert (failed, asked) == (0, 1)
    assert sampling.run_for(60) == 20
    assert set(world.observer.heard) == {"sampled sound"}
