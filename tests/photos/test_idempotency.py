"""Idempotency keys: the same request happens once, whoever asks again, and when."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from uuid import UUID

import pytest
from sqlalchemy import ColumnElement, Connection, update

from app.db.base import utc_now
from app.errors import IdempotencyKeyReusedError, RequestInProgressError
from app.photos import idempotency, removal
from app.photos.ledger import Answer
from app.photos.models import PENDING, READY, IdempotencyKey
from app.photos.rows import NewPhoto, Reservation
from app.photos.schemas import UploadForm
from tests.accounts.world import at_once
from tests.photos.world import IMAGE_BYTES, LEASE_SECONDS, PROBED, World, image, new_photo


def ask(world: World, photo: NewPhoto) -> Answer | Reservation:
    return world.ledger.reserve(photo, "another", world.keeper.until())


def expire_keys(world: World) -> None:
    with world.database.write() as connection:
        connection.execute(update(IdempotencyKey).values(expires_at=utc_now() - dt.timedelta(seconds=1)))


def test_the_same_request_again_gets_the_same_answer_byte_for_byte(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id, key="k", form=UploadForm(title="Pier “2”", tags=["sea", "ä"]))
    first = any_world.ledger.commit(photo, any_world.reserve(photo))

    again = ask(any_world, photo)

    assert isinstance(again, Answer)
    assert again.is_replay
    assert again.is_created
    assert again.content == first.content
    assert len(any_world.rows()) == 1


def test_the_answer_of_a_duplicate_is_replayed_as_a_duplicate(any_world: World) -> None:
    owner_id = any_world.new_user()
    any_world.upload(owner_id, image())
    photo = new_photo(owner_id, key="k")
    first = ask(any_world, photo)

    again = ask(any_world, photo)

    assert isinstance(first, Answer)
    assert isinstance(again, Answer)
    assert (first.is_created, again.is_created) == (False, False)
    assert (first.is_replay, again.is_replay) == (False, True)
    assert again.content == first.content


def test_an_answer_is_replayed_after_its_photo_has_changed_and_gone(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id, key="k")
    first = any_world.ledger.commit(photo, any_world.reserve(photo))
    any_world.photos.delete(owner_id, first.document["id"], lambda _row: None, is_permanent=True)
    any_world.settle()

    again = ask(any_world, photo)

    assert isinstance(again, Answer)
    assert again.content == first.content


@pytest.mark.parametrize("is_finished", [True, False])
def test_another_request_with_the_key_is_refused(any_world: World, *, is_finished: bool) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id, key="k", form=UploadForm(title="a"))
    reserved = any_world.reserve(photo)
    if is_finished:
        any_world.ledger.commit(photo, reserved)

    others = [
        new_photo(owner_id, image(1), key="k", form=UploadForm(title="a")),
        new_photo(owner_id, key="k", form=UploadForm(title="b")),
        NewPhoto(owner_id, photo.body, PROBED, photo.form, "other.png", "k"),
    ]

    for other in others:
        with pytest.raises(IdempotencyKeyReusedError):
            ask(any_world, other)
    assert len(any_world.rows()) == 1
    any_world.assert_quota()


def test_two_owners_keys_are_not_the_same_key(any_world: World) -> None:
    first, second = (new_photo(any_world.new_user(), key="k") for _ in range(2))
    any_world.reserve(first)

    reserved = ask(any_world, second)

    assert isinstance(reserved, Reservation)


def test_while_the_first_request_runs_the_second_is_told_when_to_come_back(any_world: World) -> None:
    photo = new_photo(any_world.new_user(), key="k")
    any_world.reserve(photo)

    with pytest.raises(RequestInProgressError) as raised:
        ask(any_world, photo)

    assert raised.value.retry_after_seconds is not None
    assert LEASE_SECONDS - 10 < raised.value.retry_after_seconds <= LEASE_SECONDS


def test_after_the_lease_a_later_request_takes_over_and_the_first_is_fenced(any_world: World) -> None:
    owner_id = any_world.new_user(quota_bytes=IMAGE_BYTES)
    photo = new_photo(owner_id, key="k")
    first = any_world.reserve(photo)
    any_world.end_leases()

    second = ask(any_world, photo)

    assert isinstance(second, Reservation)
    assert second.photo_id != first.photo_id
    any_world.assert_quota()
    with pytest.raises(Exception, match="given up"):
        any_world.ledger.commit(photo, first)
    answer = any_world.ledger.commit(photo, second)
    assert answer.is_created
    any_world.assert_quota()


def test_after_the_reaper_the_key_is_free(any_world: World) -> None:
    photo = new_photo(any_world.new_user(), key="k")
    any_world.reserve(photo)
    any_world.end_leases()
    any_world.upkeep.reap_ended_leases()

    assert any_world.keys() == []
    assert isinstance(ask(any_world, photo), Reservation)


def test_of_ten_that_take_over_at_once_one_does(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id, key="k")
    any_world.reserve(photo)
    any_world.end_leases()

    results = at_once(10, lambda _: ask(any_world, photo))

    assert Counter(type(result) for result in results) == {Reservation: 1, RequestInProgressError: 9}
    assert len(any_world.rows(PENDING)) == 1
    assert any_world.used(owner_id) == IMAGE_BYTES


def test_of_ten_first_uses_of_a_key_at_once_one_works(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id, key="k")

    results = at_once(10, lambda _: ask(any_world, photo))

    assert Counter(type(result) for result in results) == {Reservation: 1, RequestInProgressError: 9}
    assert any_world.used(owner_id) == IMAGE_BYTES


def test_of_ten_duplicates_with_one_new_key_at_once_all_get_one_answer(any_world: World) -> None:
    owner_id = any_world.new_user()
    any_world.upload(owner_id, image())
    photo = new_photo(owner_id, key="k")

    results = at_once(10, lambda _: ask(any_world, photo))

    assert {type(result) for result in results} == {Answer}
    assert len({result.content for result in results if isinstance(result, Answer)}) == 1


def test_an_expired_key_is_a_new_key(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id, key="k")
    any_world.ledger.commit(photo, any_world.reserve(photo))
    expire_keys(any_world)
    other = new_photo(owner_id, image(1), key="k")

    reserved = ask(any_world, other)

    assert isinstance(reserved, Reservation)
    assert any_world.ledger.commit(other, reserved).is_created
    assert len(any_world.rows(READY)) == 2


def test_a_known_digest_is_not_looked_at_before_the_whole_request_when_its_key_is_known(any_world: World) -> None:
    owner_id = any_world.new_user()
    any_world.upload(owner_id, image(), key="used")
    digest = new_photo(owner_id).body.sha256

    assert any_world.ledger.find(owner_id, digest, "used") is None
    assert any_world.ledger.find(owner_id, digest, "new") is not None
    assert any_world.ledger.find(owner_id, digest, None) is not None


def test_an_answer_given_while_a_take_over_is_judged_is_replayed(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any_world.database.dialect == "sqlite":
        return  # one writer at a time: nothing comes between
    photo = new_photo(any_world.new_user(), key="k")
    reservation = any_world.reserve(photo)
    judge = removal.abandon_pending
    first: list[Answer] = []

    def commit_in_between(connection: Connection, photo_id: UUID, *conditions: ColumnElement[bool]) -> bool:
        if not first:
            first.append(any_world.ledger.commit(photo, reservation))
        return judge(connection, photo_id, *conditions)

    monkeypatch.setattr(idempotency, "abandon_pending", commit_in_between)

    again = ask(any_world, photo)

    assert isinstance(again, Answer)
    assert (again.is_created, again.is_replay) == (True, True)
    assert again.content == first[0].content
    assert any_world.keys() == ["k"]
