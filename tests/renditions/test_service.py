"""Renditions for who asks: made once, kept, given although they cannot be stored, and refused for a time only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from app.db import outbox
from app.errors import (
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
    UndecodableImageError,
)
from app.images.jobs import HeifNotInstalledError, TooCostlyError
from app.images.presets import Format
from app.images.pressure import Level
from app.photos.removal import remove_ready
from app.photos.rendition_rows import Claim, Ready, RenditionName
from app.renditions.service import NotMadeNowError
from app.stability import Deadline, DeadlineExceededError, deadline_scope
from app.storage.base import StorageFullError, StorageUnavailableError
from tests.accounts.world import at_once
from tests.fakes.object_store import raising
from tests.photos.world import damage
from tests.renditions.world import Instance, name_of, preset

BEST_FIRST = (Format.AVIF, Format.WEBP, Format.JPEG)


def finds(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> list[RenditionName]:
    """Return a list of the renditions that the database is asked for from now on."""
    asked: list[RenditionName] = []
    find = instance.claims.find

    def find_and_note(name: RenditionName) -> Ready | None:
        asked.append(name)
        return find(name)

    monkeypatch.setattr(instance.claims, "find", find_and_note)
    return asked


@pytest.fixture
def beside(here: Instance, tmp_path: Path) -> Iterator[Instance]:
    """Another process on the same database and store."""
    instance = Instance(here.world, tmp_path)
    yield instance
    instance.close()


def test_a_rendition_is_made_once_and_then_found(here: Instance, beside: Instance) -> None:
    photo = here.upload()

    made = here.service.get(photo, preset(), Format.WEBP)
    again = here.service.get(photo, preset(), Format.WEBP)
    elsewhere = beside.service.get(photo, preset(), Format.WEBP)

    assert made.content == b"thumbnail webp "
    assert again.content is None
    assert {each.sha256 for each in (made, again, elsewhere)} == {made.sha256}
    assert len(here.engine.jobs) == 1
    assert beside.engine.jobs == []
    assert here.world.store.keys("renditions/") == [made.object_key]


def test_who_is_remembered_costs_no_question_to_the_database(here: Instance) -> None:
    photo = here.upload()
    made = here.service.get(photo, preset(), Format.WEBP)
    with here.world.database.write() as connection:
        connection.exec_driver_sql("delete from photo_renditions")

    assert here.service.get(photo, preset(), Format.WEBP).object_key == made.object_key
    assert len(here.engine.jobs) == 1


def test_what_is_made_is_what_the_photo_is(here: Instance) -> None:
    photo = here.upload()

    here.service.get(photo, preset("full"), Format.AVIF)

    ((job, background),) = here.engine.jobs
    assert here.engine.bodies == [here.original(photo)]
    assert (job.content_type, job.width, job.height) == (photo.content_type, 4, 3)
    assert [(each.preset.name, each.format) for each in job.outputs] == [("full", Format.AVIF)]
    assert (background, job.describes, job.shrinks_early) == (False, False, False)


def test_many_threads_of_two_processes_make_one_encoding(here: Instance, beside: Instance) -> None:
    photo = here.upload()
    instances = (here, beside)

    answers = at_once(24, lambda number: instances[number % 2].service.get(photo, preset(), Format.WEBP).sha256)

    assert len(set(answers)) == 1
    assert isinstance(answers[0], str), answers[0]
    assert len(here.engine.jobs) + len(beside.engine.jobs) == 1


def test_who_waits_for_another_process_gets_what_it_has_made(here: Instance, beside: Instance) -> None:
    photo = here.upload()
    is_asked = threading.Event()
    found: list[str] = []
    waiting = threading.Thread(
        target=lambda: found.append(beside.service.get(photo, preset(), Format.WEBP).object_key)
    )

    def meanwhile() -> None:
        waiting.start()
        is_asked.set()

    here.engine.meanwhile = meanwhile
    made = here.service.get(photo, preset(), Format.WEBP)
    waiting.join(20)

    assert is_asked.is_set()
    assert found == [made.object_key]
    assert beside.engine.jobs == []


def test_who_waits_too_long_is_told_to_come_again(here: Instance, tmp_path: Path) -> None:
    photo = here.upload()
    here.claims.take([name_of(photo)])
    impatient = Instance(here.world, tmp_path, wait_seconds=0.2)

    with pytest.raises(OverloadedError) as caught:
        impatient.service.get(photo, preset(), Format.WEBP)

    assert caught.value.retry_after_seconds is not None
    assert impatient.engine.jobs == []


def test_nobody_waits_beyond_the_own_deadline(here: Instance) -> None:
    photo = here.upload()
    here.claims.take([name_of(photo)])

    with deadline_scope(Deadline(0.2)), pytest.raises((DeadlineExceededError, UnavailableError)):
        here.service.get(photo, preset(), Format.WEBP)


def test_a_maker_that_died_is_followed_by_the_next_one(here: Instance) -> None:
    photo = here.upload()
    here.claims.take([name_of(photo)])
    here.end_claims()

    made = here.service.get(photo, preset(), Format.WEBP)

    assert made.content is not None
    assert here.rows() == [("thumbnail", "webp", "ready")]


def test_what_a_dead_maker_has_stored_is_adopted(here: Instance, beside: Instance) -> None:
    photo = here.upload()
    beside.engine.salt = "of another machine"
    here.world.store.after["put"] = raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        here.service.get(photo, preset(), Format.WEBP)
    here.world.store.after.clear()
    here.end_claims()

    made = beside.service.get(photo, preset(), Format.WEBP)

    with here.world.store.open(made.object_key) as reader:
        stored = b"".join(reader)
    assert stored == b"thumbnail webp "
    assert (made.size_bytes, made.content) == (len(stored), None)
    assert made.sha256 == here.world.store.head(made.object_key).sha256


@pytest.mark.parametrize("failure", [StorageUnavailableError("down"), StorageFullError("full")], ids=["down", "full"])
def test_what_cannot_be_stored_is_given_all_the_same_and_stored_later(here: Instance, failure: Exception) -> None:
    photo = here.upload()
    here.run_relay()
    here.world.store.before["put"] = raising(failure)

    made = here.service.get(photo, preset("full"), Format.WEBP)
    again = here.service.get(photo, preset("full"), Format.WEBP)

    assert made.content == again.content == b"full webp "
    assert made.row is None
    assert len(here.engine.jobs) == 2
    (row,) = here.queued()
    assert row.payload == {"outputs": [["full", "webp"]]}
    here.world.store.before.clear()
    here.end_claims()
    here.run_relay()
    assert ("full", "webp", "ready") in here.rows()
    assert here.world.store.keys(made.object_key) == [made.object_key]
    assert here.queued() == []


def test_without_its_protection_a_store_that_fails_would_lose_the_rendition(here: Instance) -> None:
    photo = here.upload()
    here.world.store.before["put"] = raising(StorageUnavailableError("down"))
    (mine,) = here.claims.take([name_of(photo)])
    assert isinstance(mine, Claim)
    image = here.maker.render(photo, [here.maker.output_of(mine)]).images[0]

    with pytest.raises(StorageUnavailableError):
        here.objects.store(mine.name.object_key, image)


def test_while_the_database_takes_no_changes_renditions_are_made_and_not_kept(
    here: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = here.upload()

    def refuse(*_: object, **__: object) -> None:
        raise DatabaseReadOnlyError("It takes no changes.")

    monkeypatch.setattr(here.world.database, "run_write", refuse)
    made = here.service.get(photo, preset(), Format.WEBP)
    monkeypatch.undo()

    assert made.content == b"thumbnail webp "
    assert here.rows() == []
    assert here.world.store.keys("renditions/") == []


def test_in_a_mode_that_changes_nothing_renditions_are_made_and_not_kept(here: Instance) -> None:
    photo = here.upload()
    here.may_work = False

    made = here.service.get(photo, preset(), Format.WEBP)

    assert made.content == b"thumbnail webp "
    assert here.rows() == []
    assert here.world.store.keys("renditions/") == []


def test_a_photo_that_nobody_can_decode_is_failed_and_not_tried_again(here: Instance, beside: Instance) -> None:
    photo = here.upload()
    here.engine.failure = UndecodableImageError("broken")

    for instance in (here, here, beside):
        with pytest.raises(UndecodableImageError):
            instance.service.get(photo, preset(), Format.WEBP)

    assert len(here.engine.jobs) == 1
    assert beside.engine.jobs == []
    processing = here.claims.processing(photo.id)
    assert processing is not None
    assert (processing.state, processing.error) == ("failed", "undecodable")
    assert here.rows() == []


def test_a_photo_that_took_too_much_is_refused_for_a_while_and_not_failed(here: Instance) -> None:
    photo = here.upload()
    here.engine.failure = TooCostlyError("too slow")

    for _ in range(2):
        with pytest.raises(TooCostlyError):
            here.service.get(photo, preset(), Format.WEBP)

    assert len(here.engine.jobs) == 1
    processing = here.claims.processing(photo.id)
    assert processing is not None
    assert (processing.state, processing.error) == ("waiting", None)


def test_a_photo_whose_decoder_is_missing_says_so(here: Instance) -> None:
    photo = here.upload()
    here.engine.failure = HeifNotInstalledError("no decoder")

    with pytest.raises(HeifNotInstalledError):
        here.service.get(photo, preset(), Format.WEBP)
    with pytest.raises(HeifNotInstalledError):
        here.service.get(photo, preset(), Format.WEBP)

    processing = here.claims.processing(photo.id)
    assert processing is not None
    assert (processing.state, processing.error) == ("failed", "heif-not-installed")
    assert len(here.engine.jobs) == 1


def test_one_size_that_cannot_be_made_does_not_fail_a_photo_that_was_decoded(here: Instance) -> None:
    photo = here.upload()
    here.run_relay()
    here.engine.failure = UndecodableImageError("took too long")

    with pytest.raises(UndecodableImageError):
        here.service.get(photo, preset("full"), Format.AVIF)

    processing = here.claims.processing(photo.id)
    assert processing is not None
    assert (processing.state, processing.error) == ("done", None)


def test_an_engine_that_is_busy_is_no_fault_of_the_photo_and_leaves_no_claim(here: Instance) -> None:
    photo = here.upload()
    here.engine.failure = OverloadedError("busy", retry_after_seconds=3)

    with pytest.raises(OverloadedError):
        here.service.get(photo, preset(), Format.WEBP)
    here.engine.failure = None

    assert here.rows() == []
    assert here.service.get(photo, preset(), Format.WEBP).content is not None


def test_an_original_that_cannot_be_read_leaves_no_claim(here: Instance) -> None:
    photo = here.upload()
    here.world.store.before["open"] = raising(StorageUnavailableError("down"))

    with pytest.raises(StorageUnavailableError):
        here.service.get(photo, preset(), Format.WEBP)

    assert here.rows() == []
    assert here.engine.jobs == []


def test_a_photo_that_is_removed_while_it_is_rendered_leaves_nothing(here: Instance) -> None:
    photo = here.upload()
    here.engine.meanwhile = lambda: remove(here, photo.id)

    made = here.service.get(photo, preset(), Format.WEBP)
    here.world.settle()

    assert made.content is not None
    assert here.world.store.keys() == []
    assert here.rows() == []
    with pytest.raises(NotFoundError):
        here.claims.take([name_of(photo)])


def remove(instance: Instance, photo_id: UUID) -> None:
    with instance.world.database.write() as connection:
        assert remove_ready(connection, photo_id)


def test_a_rendition_that_the_store_has_lost_is_made_anew(here: Instance) -> None:
    photo = here.upload()
    lost = here.service.get(photo, preset(), Format.WEBP)
    here.world.store.delete(lost.object_key)

    made = here.service.make_anew(photo, preset(), Format.WEBP, lost, is_damaged=False)

    assert here.world.store.keys("renditions/") == [made.object_key]
    assert made.sha256 == lost.sha256
    assert len(here.engine.jobs) == 2


def test_a_rendition_that_the_store_has_damaged_is_made_anew_and_not_adopted(here: Instance) -> None:
    photo = here.upload()
    lost = here.service.get(photo, preset(), Format.WEBP)
    damage(here.world.store, lost.object_key, b"thumbnail webp ")

    here.service.make_anew(photo, preset(), Format.WEBP, lost, is_damaged=True)

    with here.world.store.open(lost.object_key) as reader:
        assert b"".join(reader) == b"thumbnail webp "
    assert here.rows() == [("thumbnail", "webp", "ready")]


def test_what_another_process_has_made_anew_is_not_touched(here: Instance, beside: Instance) -> None:
    photo = here.upload()
    lost = here.service.get(photo, preset(), Format.WEBP)
    beside.service.make_anew(photo, preset(), Format.WEBP, lost, is_damaged=True)
    present = beside.service.get(photo, preset(), Format.WEBP)

    made = here.service.make_anew(photo, preset(), Format.WEBP, lost, is_damaged=True)

    assert made.row == present.row != lost.row
    assert here.world.store.keys("renditions/") == [made.object_key]
    assert (len(here.engine.jobs), len(beside.engine.jobs)) == (1, 1)


def test_who_looks_a_lost_rendition_up_before_it_is_forgotten_does_not_bring_it_back(
    here: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = here.upload()
    lost = here.service.get(photo, preset(), Format.WEBP)
    here.world.store.delete(lost.object_key)
    discard = here.maker.discard

    def look_up_and_discard(row: Ready, *, is_stored: bool) -> None:
        assert here.service.get(photo, preset(), Format.WEBP).row == row
        discard(row, is_stored=is_stored)

    monkeypatch.setattr(here.maker, "discard", look_up_and_discard)
    made = here.service.make_anew(photo, preset(), Format.WEBP, lost, is_damaged=False)

    assert made.row != lost.row
    assert here.world.store.keys("renditions/") == [made.object_key]


def test_while_the_database_takes_no_changes_a_lost_rendition_is_made_and_not_kept(
    here: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = here.upload()
    lost = here.service.get(photo, preset(), Format.WEBP)
    here.world.store.delete(lost.object_key)

    def refuse(*_: object, **__: object) -> None:
        raise DatabaseReadOnlyError("It takes no changes.")

    monkeypatch.setattr(here.world.database, "run_write", refuse)
    made = here.service.make_anew(photo, preset(), Format.WEBP, lost, is_damaged=False)

    assert made.content == b"thumbnail webp "


def test_in_a_mode_that_changes_nothing_a_lost_rendition_is_made_and_not_kept(here: Instance) -> None:
    photo = here.upload()
    lost = here.service.get(photo, preset(), Format.WEBP)
    here.world.store.delete(lost.object_key)
    here.may_work = False

    made = here.service.make_anew(photo, preset(), Format.WEBP, lost, is_damaged=False)

    assert made.content == b"thumbnail webp "
    assert here.rows() == [("thumbnail", "webp", "ready")]
    assert here.world.store.keys("renditions/") == []


def test_under_pressure_avif_is_not_made_but_given_where_it_is_stored(here: Instance) -> None:
    photo, other = here.upload(), here.upload(1)
    here.service.get(photo, preset(), Format.AVIF)
    here.pressure.level = Level.FEWER_FORMATS

    stored = here.service.get(photo, preset(), Format.AVIF)

    assert stored.size_bytes > 0
    with pytest.raises(NotMadeNowError):
        here.service.get(other, preset(), Format.AVIF)
    here.service.get(other, preset(), Format.WEBP)
    assert here.engine.jobs[-1][0].shrinks_early


def test_with_no_memory_left_only_what_is_stored_is_given(here: Instance) -> None:
    photo = here.upload()
    here.service.get(photo, preset(), Format.WEBP)
    here.pressure.level = Level.ORIGINALS_ONLY

    assert here.service.get(photo, preset(), Format.WEBP).size_bytes > 0
    with pytest.raises(NotMadeNowError) as caught:
        here.service.get(photo, preset("full"), Format.WEBP)
    assert caught.value.retry_after_seconds is not None


def test_with_memory_the_first_format_is_made_and_nobody_asks_about_the_others(
    here: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = here.upload()
    here.service.get(photo, preset(), Format.JPEG)
    asked = finds(here, monkeypatch)

    chosen = [here.service.get_best(photo, preset(), BEST_FIRST)[0] for _ in range(3)]

    assert chosen == [Format.AVIF] * 3
    assert asked == [name_of(photo, "thumbnail", Format.AVIF)]


def test_what_another_process_has_stored_is_found_with_one_question_with_memory_and_without(
    here: Instance, beside: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [here.upload(number) for number in range(2)]
    for photo in photos:
        beside.service.get(photo, preset(), Format.AVIF)
    asked = finds(here, monkeypatch)

    for level, photo in zip((Level.NORMAL, Level.ORIGINALS_ONLY), photos, strict=True):
        here.pressure.level = level
        chosen, _ = here.service.get_best(photo, preset(), BEST_FIRST)

        assert (level, chosen) == (level, Format.AVIF)

    assert asked == [name_of(photo, "thumbnail", Format.AVIF) for photo in photos]
    assert here.engine.jobs == []


@pytest.mark.parametrize(
    ("level", "stored", "expected"),
    [
        (Level.SHRINK_EARLY, {Format.JPEG}, Format.AVIF),
        (Level.FEWER_FORMATS, {Format.AVIF, Format.JPEG}, Format.AVIF),
        (Level.FEWER_FORMATS, {Format.JPEG}, Format.WEBP),
        (Level.ORIGINALS_ONLY, {Format.WEBP, Format.AVIF}, Format.AVIF),
        (Level.ORIGINALS_ONLY, {Format.WEBP, Format.JPEG}, Format.WEBP),
        (Level.ORIGINALS_ONLY, {Format.JPEG}, Format.JPEG),
        (Level.ORIGINALS_ONLY, set(), None),
    ],
)
def test_the_best_format_is_the_first_that_is_stored_or_may_be_made(
    here: Instance, beside: Instance, level: Level, stored: set[Format], expected: Format | None
) -> None:
    photo = here.upload()
    for image_format in stored:
        beside.service.get(photo, preset(), image_format)
    here.pressure.level = level

    if expected is None:
        with pytest.raises(NotMadeNowError):
            here.service.get_best(photo, preset(), BEST_FIRST)
    else:
        assert here.service.get_best(photo, preset(), BEST_FIRST)[0] is expected

    assert len(here.engine.jobs) == (expected is not None and expected not in stored)


def test_what_pressure_has_refused_is_made_as_soon_as_there_is_memory(here: Instance) -> None:
    photo = here.upload()
    here.pressure.level = Level.FEWER_FORMATS
    under_pressure, _ = here.service.get_best(photo, preset(), BEST_FIRST)
    here.pressure.level = Level.NORMAL

    chosen, made = here.service.get_best(photo, preset(), BEST_FIRST)

    assert (under_pressure, chosen) == (Format.WEBP, Format.AVIF)
    assert made.content == b"thumbnail avif "


def test_under_pressure_and_without_the_database_what_is_known_is_given(
    here: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, other = here.upload(), here.upload(1)
    here.service.get(photo, preset(), Format.WEBP)
    here.pressure.level = Level.FEWER_FORMATS

    def fail(*_: object) -> None:
        raise DatabaseUnavailableError("down")

    monkeypatch.setattr(here.world.database, "ask", fail)

    assert here.service.get_best(photo, preset(), BEST_FIRST)[0] is Format.WEBP
    with pytest.raises(DatabaseUnavailableError):
        here.service.get_best(other, preset(), BEST_FIRST)
    here.pressure.level = Level.NORMAL
    with pytest.raises(DatabaseUnavailableError):
        here.service.get_best(photo, preset(), BEST_FIRST)


def test_under_pressure_a_lost_rendition_is_not_made_even_where_it_would_not_be_kept(here: Instance) -> None:
    photo = here.upload()
    lost = here.service.get(photo, preset(), Format.WEBP)
    here.world.store.delete(lost.object_key)
    here.may_work = False
    here.pressure.level = Level.ORIGINALS_ONLY

    with pytest.raises(NotMadeNowError):
        here.service.make_anew(photo, preset(), Format.WEBP, lost, is_damaged=False)

    assert len(here.engine.jobs) == 1


def test_a_photo_that_is_no_more_has_no_rendition(here: Instance) -> None:
    photo = here.upload()
    remove(here, photo.id)

    with pytest.raises(NotFoundError):
        here.service.get(photo, preset(), Format.WEBP)

    assert here.engine.jobs == []
    assert outbox.PHOTO_DELETED in [row.kind for row in here.world.outbox()]
