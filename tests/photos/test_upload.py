"""The commit protocol as a whole: what a client is told when a step fails, and what is left of it."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest

from app.db.outbox import OBJECT_DELETE
from app.errors import (
    DatabaseUnavailableError,
    ImageLimitError,
    LeaseLostError,
    QuotaExceededError,
    SpoolFullError,
    UnavailableError,
    UndecodableImageError,
    UnsupportedMediaTypeError,
)
from app.http.problems import problem_for
from app.images.probe import ImageLimits
from app.photos.ledger import Answer
from app.photos.models import DELETING, PENDING, READY
from app.photos.schemas import PhotoQuery, UploadForm
from app.photos.upload import UploadService
from app.stability import Deadline, DeadlineExceededError, deadline_scope
from app.storage.base import (
    ObjectCorruptError,
    ObjectExistsError,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageTimeoutError,
    StorageUnavailableError,
)
from app.storage.probe import BytesBody
from tests.accounts.world import at_once
from tests.fakes.clocks import HandClock
from tests.fakes.object_store import raising
from tests.photos.world import IMAGE_BYTES, World, image, new_photo

STORE_ERRORS = [
    StorageUnavailableError,
    StorageTimeoutError,
    StorageDeniedError,
    StorageFullError,
    ObjectCorruptError,
    ObjectExistsError,
]


def assert_nothing_visible(world: World, owner_id: UUID) -> None:
    digest = new_photo(owner_id).body.sha256
    assert world.rows(READY) == []
    assert world.rows(PENDING) == []
    assert world.lists.page(owner_id, PhotoQuery()).rows == []
    assert world.photos.check(owner_id, [digest])[0].photo_id is None
    assert world.used(owner_id) == 0


def test_what_is_answered_is_stored_and_visible(any_world: World) -> None:
    owner_id = any_world.new_user()

    answer = any_world.upload(owner_id, image(), title="Pier", tags=["sea"], filename="a.png")

    (row,) = any_world.rows(READY)
    with any_world.store.open(row.object_key) as reader:
        assert b"".join(reader) == image()
    assert answer.document["id"] == row.id
    assert (row.title, row.tags, row.original_filename) == ("Pier", ["sea"], "a.png")
    assert [call for call, _ in any_world.store.calls] == ["put", "open"]
    any_world.assert_settled()


def test_the_row_is_pending_while_the_bytes_are_on_their_way(any_world: World) -> None:
    owner_id = any_world.new_user()
    states: list[list[str]] = []
    any_world.store.before["put"] = lambda _key: states.append([row.state for row in any_world.rows()])
    any_world.store.after["put"] = lambda _key: states.append([row.state for row in any_world.rows()])

    any_world.upload(owner_id, image())

    assert states == [[PENDING], [PENDING]]


@pytest.mark.parametrize("error", STORE_ERRORS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_store_that_fails_leaves_nothing_visible_and_the_same_photo_comes_in_later(
    any_world: World, when: str, error: type[StorageError]
) -> None:
    owner_id = any_world.new_user()
    hooks = getattr(any_world.store, when)
    hooks["put"] = raising(error("It failed."))

    with pytest.raises(UnavailableError) as raised:
        any_world.upload(owner_id, image(), key="k")

    assert_nothing_visible(any_world, owner_id)
    assert [row.state for row in any_world.rows()] == [DELETING]
    assert len(any_world.outbox(OBJECT_DELETE)) == 1
    assert any_world.keys() == []
    if error is StorageFullError:
        assert isinstance(raised.value, StorageFullError)
    else:
        assert type(raised.value) is UnavailableError
        assert raised.value.retry_after_seconds is not None
    del hooks["put"]
    assert any_world.upload(owner_id, image(), key="k").is_created
    any_world.settle()
    any_world.assert_settled()
    any_world.assert_quota()


@pytest.mark.parametrize(("said", "told"), [(9.5, 9.5), (0.5, 2.0), (None, 2.0)])
def test_a_client_is_told_to_come_back_no_sooner_than_the_store_takes_photos_again(
    world: World, said: float | None, told: float
) -> None:
    owner_id = world.new_user()
    world.store.before["put"] = raising(StorageUnavailableError("It is down.", retry_after_seconds=said))

    with pytest.raises(UnavailableError) as raised:
        world.upload(owner_id, image())

    assert raised.value.retry_after_seconds == told


def test_a_deadline_that_passes_during_the_put_undoes_the_upload(world: World) -> None:
    owner_id, clock = world.new_user(), HandClock()
    world.store.before["put"] = lambda _key: clock.advance(2)

    with deadline_scope(Deadline(1, clock)), pytest.raises(UnavailableError):
        world.upload(owner_id, image())

    assert_nothing_visible(world, owner_id)


def test_a_deadline_that_has_passed_writes_nothing(world: World) -> None:
    owner_id = world.new_user()

    with deadline_scope(Deadline(-1)), pytest.raises(DeadlineExceededError):
        world.upload(owner_id, image())

    assert_nothing_visible(world, owner_id)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), RuntimeError("a mistake of ours")])
def test_whatever_ends_an_upload_undoes_it(world: World, error: BaseException) -> None:
    owner_id = world.new_user()
    world.store.before["put"] = raising(error)

    with pytest.raises(type(error)):
        world.upload(owner_id, image())

    assert_nothing_visible(world, owner_id)
    assert world.keeper.renew() == 0


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"%PDF-1.7 no photo", UnsupportedMediaTypeError),
        (b"", UnsupportedMediaTypeError),
        (image()[:-20], UndecodableImageError),
    ],
)
def test_what_is_no_photo_reaches_neither_database_nor_store(
    world: World, content: bytes, error: type[Exception]
) -> None:
    owner_id = world.new_user()

    with pytest.raises(error):
        world.upload(owner_id, content)

    assert world.rows() == []
    assert world.store.calls == []


def test_the_limits_of_images_hold(world: World) -> None:
    uploads = UploadService(
        world.ledger, world.store, world.keeper, limits=ImageLimits(max_pixels=3), observer=world.observer
    )

    with pytest.raises(ImageLimitError):
        uploads.take(world.new_user(), BytesBody(image()), UploadForm(), filename=None, idempotency_key=None)

    assert world.store.calls == []


def test_without_room_nothing_is_sent_to_the_store(world: World) -> None:
    owner_id = world.new_user(quota_bytes=IMAGE_BYTES - 1)

    with pytest.raises(QuotaExceededError):
        world.upload(owner_id, image())

    assert world.store.calls == []


def test_a_known_photo_is_answered_without_the_store(any_world: World) -> None:
    owner_id = any_world.new_user()
    first = any_world.upload(owner_id, image())
    any_world.store.calls.clear()

    again = any_world.upload(owner_id, image())
    early = any_world.uploads.find_duplicate(owner_id, new_photo(owner_id).body.sha256, None)

    assert early is not None
    assert [again.is_created, early.is_created] == [False, False]
    assert {again.document["id"], early.document["id"]} == {first.document["id"]}
    assert any_world.store.calls == []
    assert any_world.observer.heard == {"duplicate": 2}


def test_a_replay_is_heard_as_a_replay(any_world: World) -> None:
    owner_id = any_world.new_user()
    any_world.upload(owner_id, image(), key="k")

    again = any_world.upload(owner_id, image(), key="k")

    assert again.is_replay
    assert any_world.observer.heard == {"replay": 1}
    assert len(any_world.store.keys()) == 1


def test_an_upload_that_was_reaped_during_its_put_is_refused_and_leaves_nothing(any_world: World) -> None:
    owner_id = any_world.new_user()
    any_world.store.before["put"] = lambda _key: any_world.settle()

    with pytest.raises(LeaseLostError):
        any_world.upload(owner_id, image())

    any_world.settle()
    any_world.assert_settled()
    assert_nothing_visible(any_world, owner_id)


def test_twenty_times_the_same_photo_at_once_is_one_photo(any_world: World) -> None:
    owner_id = any_world.new_user()

    answers = at_once(20, lambda _: any_world.upload(owner_id, image()))

    given = [answer for answer in answers if isinstance(answer, Answer)]
    assert len(given) == 20
    assert Counter(answer.is_created for answer in given) == {True: 1, False: 19}
    assert len({answer.document["id"] for answer in given}) == 1
    any_world.settle()
    any_world.assert_settled()
    assert len(any_world.store.keys()) == 1
    assert any_world.used(owner_id) == IMAGE_BYTES


def test_a_lease_is_held_for_the_time_of_the_upload_only(world: World) -> None:
    owner_id = world.new_user()
    renewed: list[int] = []
    world.store.before["put"] = lambda _key: renewed.append(world.keeper.renew())

    world.upload(owner_id, image())

    assert renewed == [1]
    assert world.keeper._tokens == set()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageFullError, 507),
        (QuotaExceededError, 507),
        (SpoolFullError, 503),
        (UnavailableError, 503),
        (DatabaseUnavailableError, 503),
        (LeaseLostError, 503),
    ],
)
def test_errors_of_uploads_have_their_statuses(error: type[Exception], status: int) -> None:
    assert problem_for(error).status == status
