"""The two transactions of an upload: what each leaves behind, in every order and with every ending."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from app.db.engine import Database
from app.db.outbox import OBJECT_DELETE, PHOTO_READY, PHOTO_RENDER
from app.errors import (
    DatabaseUnavailableError,
    InvalidTokenError,
    LeaseLostError,
    QuotaExceededError,
    UnavailableError,
)
from app.photos.ledger import Answer, UploadLedger
from app.photos.models import DELETING, PENDING, READY
from app.photos.rows import NewPhoto, Reservation
from app.photos.schemas import UploadForm
from tests.accounts.world import at_once
from tests.photos.world import DOCUMENTS, IMAGE_BYTES, KEY_SECONDS, QUOTA_BYTES, World, image, new_photo


def test_a_reservation_writes_a_pending_row_that_no_reader_sees(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id, form=UploadForm(title="Pier", tags=["sea"]))

    any_world.reserve(photo)

    (row,) = any_world.rows()
    assert (row.state, row.dedup_key, row.size_bytes) == (PENDING, None, IMAGE_BYTES)
    assert any_world.used(owner_id) == IMAGE_BYTES
    assert any_world.outbox() == []
    assert any_world.ledger.find(owner_id, photo.body.sha256, None) is None
    assert any_world.photos.check(owner_id, [photo.body.sha256])[0].photo_id is None


def test_a_commit_makes_the_photo_visible_with_its_news_and_frees_the_lease(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id)
    reserved = any_world.reserve(photo)

    answer = any_world.ledger.commit(photo, reserved)

    assert answer.is_created
    assert not answer.is_replay
    (row,) = any_world.rows(READY)
    assert (row.id, row.lease_token, row.lease_until, row.version) == (reserved.photo_id, None, None, 1)
    news, work = any_world.outbox()
    assert (news.kind, news.photo_id) == (PHOTO_READY, reserved.photo_id)
    assert (work.kind, work.photo_id, work.payload) == (PHOTO_RENDER, reserved.photo_id, {})
    assert news.payload == {"owner_id": str(owner_id), "sha256": photo.body.sha256}
    any_world.assert_quota()


def test_renditions_are_due_when_the_delay_that_is_set_has_passed(any_world: World) -> None:
    photo = new_photo(any_world.new_user())
    reserved = any_world.reserve(photo)
    ledger = UploadLedger(
        any_world.database,
        DOCUMENTS,
        default_quota_bytes=QUOTA_BYTES,
        idempotency_seconds=KEY_SECONDS,
        render_delay_seconds=90,
    )

    ledger.commit(photo, reserved)

    news, work = any_world.outbox()
    assert (work.kind, (work.available_at - work.created_at).total_seconds()) == (PHOTO_RENDER, 90)
    assert news.available_at == news.created_at


def test_what_is_abandoned_gives_its_room_back_and_has_its_object_removed_later(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id, key="k")
    reserved = any_world.reserve(photo)

    any_world.ledger.abandon(reserved)

    (row,) = any_world.rows()
    assert row.state == DELETING
    assert any_world.used(owner_id) == 0
    assert any_world.keys() == []
    (work,) = any_world.outbox()
    assert (work.kind, work.payload) == (OBJECT_DELETE, {"object_key": reserved.object_key})
    # A PUT whose outcome is unknown may still arrive: its object is removed after that.
    assert (work.available_at - work.created_at).total_seconds() == 60


def test_abandoning_twice_gives_back_once(any_world: World) -> None:
    owner_id = any_world.new_user()
    reserved = any_world.reserve(new_photo(owner_id))

    any_world.ledger.abandon(reserved)
    any_world.ledger.abandon(reserved)

    assert any_world.used(owner_id) == 0
    any_world.settle()
    any_world.assert_settled()


def test_abandoning_what_was_committed_changes_nothing(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id)
    reserved = any_world.reserve(photo)
    any_world.ledger.commit(photo, reserved)

    any_world.ledger.abandon(reserved)

    assert [row.id for row in any_world.rows(READY)] == [reserved.photo_id]
    any_world.assert_quota()


def test_a_lease_of_another_upload_neither_commits_nor_abandons(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id)
    reserved = any_world.reserve(photo)
    forged = Reservation(reserved.photo_id, reserved.object_key, "another")

    any_world.ledger.abandon(forged)
    with pytest.raises(LeaseLostError):
        any_world.ledger.commit(photo, forged)

    assert [row.state for row in any_world.rows()] == [PENDING]


def test_a_commit_after_the_reaper_is_fenced_and_its_object_goes(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id)
    reserved = any_world.reserve(photo)
    any_world.settle()
    assert any_world.rows() == []
    any_world.store.put(reserved.object_key, photo.body, content_type="image/png")

    with pytest.raises(LeaseLostError):
        any_world.ledger.commit(photo, reserved)

    any_world.settle()
    any_world.assert_settled()
    assert any_world.store.keys() == []
    assert any_world.used(owner_id) == 0


def test_the_loser_of_a_race_of_the_same_bytes_gives_its_room_back_and_gets_the_winners_photo(
    any_world: World,
) -> None:
    owner_id = any_world.new_user()
    first, second = new_photo(owner_id, key="a"), new_photo(owner_id, key="b")
    reserved = [any_world.reserve(photo) for photo in (first, second)]
    winner = any_world.ledger.commit(first, reserved[0])

    loser = any_world.ledger.commit(second, reserved[1])

    assert not loser.is_created
    assert loser.document["id"] == winner.document["id"]
    assert any_world.used(owner_id) == IMAGE_BYTES
    assert any_world.keys() == ["a", "b"]
    again = any_world.ledger.reserve(second, "t", any_world.keeper.until())
    assert isinstance(again, Answer)
    assert again.is_replay
    assert again.content == loser.content
    any_world.settle()
    assert [row.id for row in any_world.rows()] == [reserved[0].photo_id]


def test_of_ten_commits_of_the_same_bytes_at_once_one_creates(any_world: World) -> None:
    owner_id = any_world.new_user()
    photos = [new_photo(owner_id) for _ in range(10)]
    reserved = [any_world.reserve(photo) for photo in photos]

    answers = at_once(10, lambda number: any_world.ledger.commit(photos[number], reserved[number]))

    assert Counter(type(answer) for answer in answers) == {Answer: 10}
    given = [answer for answer in answers if isinstance(answer, Answer)]
    assert Counter(answer.is_created for answer in given) == {True: 1, False: 9}
    assert len({str(answer.document["id"]) for answer in given}) == 1
    any_world.assert_quota()
    assert any_world.used(owner_id) == IMAGE_BYTES


def test_the_same_bytes_of_two_owners_are_two_photos(any_world: World) -> None:
    photos = [new_photo(any_world.new_user()) for _ in range(2)]

    answers = [any_world.ledger.commit(photo, any_world.reserve(photo)) for photo in photos]

    assert [answer.is_created for answer in answers] == [True, True]


def test_a_pending_or_failed_upload_does_not_block_the_same_photo(any_world: World) -> None:
    owner_id = any_world.new_user()
    stuck, failed, good = new_photo(owner_id), new_photo(owner_id), new_photo(owner_id)
    any_world.reserve(stuck)
    any_world.ledger.abandon(any_world.reserve(failed))

    answer = any_world.ledger.commit(good, any_world.reserve(good))

    assert answer.is_created


def test_a_photo_in_the_trash_is_still_a_duplicate(world: World) -> None:
    owner_id = world.new_user()
    photo = new_photo(owner_id)
    made = world.ledger.commit(photo, world.reserve(photo))
    world.photos.delete(owner_id, made.document["id"], lambda _row: None, is_permanent=False)

    answer = world.ledger.reserve(photo, "t", world.keeper.until())

    assert isinstance(answer, Answer)
    assert not answer.is_created
    assert answer.document["trashed_at"] is not None


def test_without_room_nothing_is_written(any_world: World) -> None:
    owner_id = any_world.new_user(quota_bytes=IMAGE_BYTES * 2 - 1)
    any_world.reserve(new_photo(owner_id, key="a"))

    with pytest.raises(QuotaExceededError):
        any_world.reserve(new_photo(owner_id, image(1), key="b"))

    assert len(any_world.rows()) == 1
    assert any_world.keys() == ["a"]
    any_world.assert_quota()


def test_of_ten_that_want_the_last_room_at_once_one_gets_it(any_world: World) -> None:
    owner_id = any_world.new_user(quota_bytes=IMAGE_BYTES)

    results = at_once(10, lambda number: any_world.reserve(new_photo(owner_id, image(number))))

    assert Counter(type(result) for result in results) == {Reservation: 1, QuotaExceededError: 9}
    any_world.assert_quota()


def test_a_closed_account_stores_nothing(any_world: World) -> None:
    owner_id = any_world.new_user()
    any_world.close_account(owner_id)

    with pytest.raises(InvalidTokenError):
        any_world.reserve(new_photo(owner_id))

    assert any_world.rows() == []


STEPS = ("reserve", "commit", "abandon", "reap", "relay", "trash", "remove")


class Run:
    """Uploads of few contents by one owner, steered step by step; every step may meet any state."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.owner_id = world.new_user(quota_bytes=IMAGE_BYTES * 2)
        self.open: list[tuple[NewPhoto, Reservation]] = []

    def take(self, step: str, content: int) -> None:
        getattr(self, f"_{step}")(content)
        self.world.assert_quota()
        assert 0 <= self.world.used(self.owner_id) <= IMAGE_BYTES * 2

    def _reserve(self, content: int) -> None:
        photo = new_photo(self.owner_id, image(content))
        try:
            reserved = self.world.ledger.reserve(photo, f"{len(self.open)}", self.world.keeper.until())
        except QuotaExceededError:
            return
        if isinstance(reserved, Reservation):
            self.open.append((photo, reserved))

    def _commit(self, content: int) -> None:
        if self.open:
            photo, reserved = self.open[content % len(self.open)]
            try:
                self.world.ledger.commit(photo, reserved)
            except UnavailableError:
                return

    def _abandon(self, content: int) -> None:
        if self.open:
            self.world.ledger.abandon(self.open[content % len(self.open)][1])

    def _reap(self, _content: int) -> None:
        self.world.end_leases()
        self.world.upkeep.reap_ended_leases()

    def _relay(self, _content: int) -> None:
        self.world.make_due()
        self.world.upkeep.relay_deletes()

    def _trash(self, content: int) -> None:
        self._delete(content, is_permanent=False)

    def _remove(self, content: int) -> None:
        self._delete(content, is_permanent=True)

    def _delete(self, content: int, *, is_permanent: bool) -> None:
        ready = [row for row in self.world.rows(READY) if row.owner_id == self.owner_id]
        if ready:
            photo_id = ready[content % len(ready)].id
            self.world.photos.delete(self.owner_id, photo_id, lambda _row: None, is_permanent=is_permanent)


def test_the_quota_is_right_after_every_short_sequence_of_steps(world: World) -> None:
    steps = ("commit", "abandon", "reap", "remove")

    for sequence in itertools.product(steps, repeat=3):
        run = Run(world)
        run.take("reserve", 0)
        run.take("reserve", 0)
        for number, step in enumerate(sequence):
            run.take(step, number)


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2)), max_size=25))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_the_quota_is_right_after_any_sequence_of_steps(world: World, steps: list[tuple[str, int]]) -> None:
    run = Run(world)

    for step, content in steps:
        run.take(step, content)

    world.settle()
    world.assert_quota()
    assert {row.state for row in world.rows()} <= {READY}


class Troubled(Database):
    """A database with trouble around its next transactions.

    Args:
        real: The database.
        before: What happens before each transaction, in order; None: nothing.
        fails: How the first one ends badly: not at all, instead of its commit, or after it.
    """

    def __init__(
        self,
        real: Database,
        *,
        before: Sequence[Callable[[], object] | None] = (),
        fails: Literal["never", "instead", "after"] = "never",
    ) -> None:
        self._real = real
        self._before = list(before)
        self._fails = fails
        self._engine = real.engine

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._real.read() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        if self._before and (happens := self._before.pop(0)) is not None:
            happens()
        fails, self._fails = self._fails, "never"
        with self._real.write() as connection:
            yield connection
            if fails == "instead":
                raise DatabaseUnavailableError("The connection broke.")
        if fails == "after":
            raise DatabaseUnavailableError("The connection broke after the commit.")


def ledger_on(database: Database) -> UploadLedger:
    return UploadLedger(database, DOCUMENTS, default_quota_bytes=QUOTA_BYTES, idempotency_seconds=KEY_SECONDS)


def test_a_loser_whose_winner_was_removed_meanwhile_is_told_to_send_again(any_world: World) -> None:
    owner_id = any_world.new_user()
    winner, loser = new_photo(owner_id), new_photo(owner_id)
    reserved = [any_world.reserve(photo) for photo in (winner, loser)]
    made = any_world.ledger.commit(winner, reserved[0])

    def remove() -> None:
        any_world.photos.delete(owner_id, made.document["id"], lambda _row: None, is_permanent=True)

    with pytest.raises(UnavailableError) as raised:
        ledger_on(Troubled(any_world.database, before=[None, remove])).commit(loser, reserved[1])

    assert raised.value.retry_after_seconds is not None
    any_world.settle()
    assert any_world.rows() == []
    assert any_world.used(owner_id) == 0


def test_a_loser_that_was_reaped_meanwhile_gives_nothing_back_twice(any_world: World) -> None:
    owner_id = any_world.new_user()
    winner, loser = new_photo(owner_id), new_photo(owner_id, key="k")
    reserved = [any_world.reserve(photo) for photo in (winner, loser)]
    any_world.ledger.commit(winner, reserved[0])
    any_world.store.put(reserved[0].object_key, winner.body, content_type="image/png")
    any_world.store.put(reserved[1].object_key, loser.body, content_type="image/png")

    with pytest.raises(LeaseLostError):
        ledger_on(Troubled(any_world.database, before=[None, any_world.settle])).commit(loser, reserved[1])

    any_world.assert_quota()
    any_world.settle()
    any_world.assert_settled()


def test_a_commit_that_fails_is_undone_at_once(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id, key="k")
    reserved = any_world.reserve(photo)
    ledger = ledger_on(Troubled(any_world.database, fails="instead"))

    with pytest.raises(DatabaseUnavailableError):
        ledger.commit(photo, reserved)

    assert any_world.rows(PENDING) == []
    assert any_world.used(owner_id) == 0
    again = any_world.ledger.commit(photo, any_world.reserve(photo))
    assert again.is_created


def test_a_commit_that_took_effect_is_answered_though_the_databases_answer_was_lost(any_world: World) -> None:
    owner_id = any_world.new_user()
    photo = new_photo(owner_id, key="k")
    reserved = any_world.reserve(photo)

    answer = ledger_on(Troubled(any_world.database, fails="after")).commit(photo, reserved)

    assert answer.is_created
    again = any_world.ledger.reserve(photo, "t", any_world.keeper.until())
    assert isinstance(again, Answer)
    assert again.is_replay
    assert again.content == answer.content
    any_world.assert_quota()


def test_an_upload_that_cannot_be_undone_now_is_left_to_the_reaper(any_world: World) -> None:
    owner_id = any_world.new_user()
    reserved = any_world.reserve(new_photo(owner_id))
    ledger = ledger_on(Troubled(any_world.database, fails="instead"))

    ledger.abandon(reserved)

    assert len(any_world.rows(PENDING)) == 1
    any_world.settle()
    any_world.assert_settled()
    assert any_world.used(owner_id) == 0
