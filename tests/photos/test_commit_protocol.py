"""The commit protocol where things cross: late PUTs, lost leases, clocks that differ, two of everything at once.

Kills of real workers are in ``tests/chaos``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from uuid import UUID

import pytest

from app.db.base import utc_now
from app.db.outbox import OBJECT_DELETE
from app.errors import NotFoundError, RequestInProgressError, UnavailableError
from app.photos import upkeep
from app.photos.ledger import Answer
from app.photos.models import DELETING, PENDING, READY
from app.photos.schemas import BatchDelete
from app.storage.base import StorageTimeoutError, StorageUnavailableError
from tests.photos.world import IMAGE_BYTES, World, image, new_photo


@contextmanager
def once(hooks: dict[str, Callable[[str], object]], name: str, act: Callable[[str], object]) -> Iterator[None]:
    """Act at the next call of a store's method, and only then."""

    def hook(key: str) -> None:
        del hooks[name]
        act(key)

    hooks[name] = hook
    yield
    assert name not in hooks, "the store was not called"


def at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """Run work in so many threads, started together; an exception is a result, too."""
    start = Barrier(count)

    def run(number: int) -> object:
        start.wait()
        try:
            return work(number)
        except UnavailableError as error:
            return error
        except (RequestInProgressError, NotFoundError) as error:
            return error

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def never_guarded(_row: object) -> None:
    """Let every change pass."""


def test_a_put_that_comes_after_the_reapers_removal_is_removed_as_well(any_world: World) -> None:
    owner = any_world.new_user()

    def arrive_late(key: str) -> None:
        any_world.settle()
        assert any_world.store.keys() == []
        any_world.store.lay(key, image())
        raise StorageUnavailableError("the answer is lost")

    with once(any_world.store.after, "put", arrive_late), pytest.raises(UnavailableError):
        any_world.upload(owner, image())

    assert [row.kind for row in any_world.outbox()] == [OBJECT_DELETE]
    any_world.settle()
    any_world.assert_settled()
    any_world.assert_quota()


def test_a_worker_that_lost_its_lease_during_the_put_commits_nothing(any_world: World) -> None:
    owner = any_world.new_user()

    def lose_the_lease(_key: str) -> None:
        any_world.end_leases()
        assert any_world.upkeep.reap_ended_leases() == 1

    with once(any_world.store.after, "put", lose_the_lease), pytest.raises(UnavailableError):
        any_world.upload(owner, image(), key="k")

    assert any_world.rows(READY) == []
    assert any_world.keys() == []
    any_world.settle()
    any_world.assert_settled()
    any_world.assert_quota()
    assert any_world.upload(owner, image(), key="k").is_created


def test_who_loses_to_the_same_bytes_gives_all_back_and_its_key_replays_the_duplicate(any_world: World) -> None:
    owner = any_world.new_user()
    winner: list[Answer] = []

    with once(any_world.store.after, "put", lambda _key: winner.append(any_world.upload(owner, image()))):
        loser = any_world.upload(owner, image(), key="k")
    again = any_world.upload(owner, image(), key="k")

    assert (loser.is_created, loser.document["id"]) == (False, winner[0].document["id"])
    assert (again.is_replay, again.document["id"]) == (True, str(winner[0].document["id"]))
    assert any_world.used(owner) == IMAGE_BYTES
    any_world.settle()
    any_world.assert_settled()


def test_who_loses_its_lease_and_then_to_the_same_bytes_leaves_the_new_owner_of_its_key_alone(
    any_world: World,
) -> None:
    owner = any_world.new_user()

    def be_overtaken(_key: str) -> None:
        any_world.end_leases()
        assert any_world.upload(owner, image(), key="k").is_created

    with once(any_world.store.after, "put", be_overtaken), pytest.raises(UnavailableError):
        any_world.upload(owner, image(), key="k")

    assert any_world.upload(owner, image(), key="k").is_replay
    any_world.settle()
    any_world.assert_settled()
    any_world.assert_quota()


@pytest.mark.parametrize("ahead", [dt.timedelta(hours=1), dt.timedelta(hours=-1)], ids=["ahead", "behind"])
def test_a_reaper_whose_clock_differs_costs_an_upload_at_the_most(
    any_world: World, monkeypatch: pytest.MonkeyPatch, ahead: dt.timedelta
) -> None:
    owner = any_world.new_user()
    monkeypatch.setattr(upkeep, "utc_now", lambda: utc_now() + ahead)
    answers: list[object] = []

    with once(any_world.store.after, "put", lambda _key: any_world.upkeep.reap_ended_leases()):
        answers += at_once(1, lambda _: any_world.upload(owner, image(), key="k"))

    assert isinstance(answers[0], UnavailableError if ahead > dt.timedelta() else Answer)
    monkeypatch.undo()
    assert any_world.upload(owner, image(), key="k").is_created
    any_world.settle()
    any_world.assert_settled()
    any_world.assert_quota()
    assert any_world.used(owner) == IMAGE_BYTES


def test_two_reapers_at_once_undo_each_upload_once(any_world: World) -> None:
    owner = any_world.new_user()
    for number in range(12):
        any_world.reserve(new_photo(owner, image(number)))
    any_world.end_leases()

    reaped = at_once(2, lambda _: any_world.upkeep.reap_ended_leases())

    assert sum(count for count in reaped if isinstance(count, int)) == 12
    assert len(any_world.outbox(OBJECT_DELETE)) == 12
    assert any_world.used(owner) == 0


def test_quota_is_given_back_once_whoever_gives_up_first(any_world: World) -> None:
    owner = any_world.new_user()
    reservation = any_world.reserve(new_photo(owner, key="k"))
    any_world.end_leases()

    def give_up(number: int) -> object:
        if number == 0:
            return any_world.ledger.abandon(reservation)
        if number == 1:
            return any_world.upkeep.reap_ended_leases()
        return any_world.reserve(new_photo(owner, key="k"))

    at_once(3, give_up)

    pending = any_world.rows(PENDING)
    assert len(pending) <= 1
    assert any_world.used(owner) == IMAGE_BYTES * len(pending)
    any_world.settle()
    any_world.assert_settled()
    assert any_world.used(owner) == 0


def test_retries_at_once_after_the_leases_end_take_over_once(any_world: World) -> None:
    owner = any_world.new_user()
    any_world.reserve(new_photo(owner, key="k"))
    any_world.end_leases()

    answers = at_once(6, lambda _: any_world.upload(owner, image(), key="k"))

    ids = {str(answer.document["id"]) for answer in answers if isinstance(answer, Answer)}
    assert len(ids) == 1
    assert all(isinstance(answer, Answer | RequestInProgressError) for answer in answers)
    assert len(any_world.rows(READY)) == 1
    any_world.settle()
    any_world.assert_settled()
    any_world.assert_quota()


def test_a_duplicate_beside_its_permanent_removal_is_whole_or_stored_anew(any_world: World) -> None:
    owner = any_world.new_user()

    def work(number: int) -> object:
        if number % 2:
            return any_world.upload(owner, image())
        for row in any_world.rows(READY):
            any_world.photos.delete(owner, row.id, never_guarded, is_permanent=True)
        return None

    for _ in range(4):
        answers = at_once(4, work)

        assert all(isinstance(answer, Answer | NotFoundError | UnavailableError | None) for answer in answers)
        any_world.settle()
        any_world.assert_settled()
        any_world.assert_quota()


def test_batches_and_removals_of_the_same_photos_queue(any_world: World) -> None:
    owner = any_world.new_user()
    ids = [UUID(str(any_world.upload(owner, image(number)).document["id"])) for number in range(12)]

    def work(number: int) -> object:
        if number == 0:
            for photo_id in reversed(ids):
                at = [photo_id]
                any_world.photos.batch(owner, BatchDelete(action="delete", ids=at, permanent=True))
            return None
        return any_world.photos.batch(owner, BatchDelete(action="delete", ids=ids[number - 1 :], permanent=True))

    answers = at_once(4, work)

    assert not [answer for answer in answers if isinstance(answer, UnavailableError)]
    assert any_world.used(owner) == 0
    any_world.settle()
    any_world.assert_settled()


def test_a_store_that_hangs_costs_the_relay_one_try_a_run(any_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = any_world.new_user()
    for number in range(5):
        photo_id = UUID(str(any_world.upload(owner, image(number)).document["id"]))
        any_world.photos.delete(owner, photo_id, never_guarded, is_permanent=True)

    def hang(_key: str) -> None:
        raise StorageTimeoutError("no answer")

    any_world.store.before["delete"] = hang
    now = utc_now()
    monkeypatch.setattr(upkeep, "utc_now", lambda: now)  # the waits of what failed are not over meanwhile
    runs = [any_world.upkeep.relay_deletes() for _ in range(2)]
    tried = [key for method, key in any_world.store.calls if method == "delete"]
    del any_world.store.before["delete"]
    healed = any_world.upkeep.relay_deletes()
    monkeypatch.undo()

    assert (runs, healed) == ([0, 0], 3)
    assert len(set(tried)) == 2
    assert len(any_world.rows(DELETING)) == 2
    any_world.settle()
    any_world.assert_settled()
