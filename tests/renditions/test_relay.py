"""The relay: what is made of every photo, what becomes of those that cannot be decoded, and when it stands still."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from app.db import outbox
from app.db.base import new_id, utc_now
from app.errors import DatabaseUnavailableError, DecoderKilledError, OverloadedError, UndecodableImageError
from app.images.jobs import HeifNotInstalledError, RenderingFaultError, TooCostlyError
from app.images.presets import Format
from app.images.pressure import Level
from app.photos.removal import remove_ready
from app.renditions.relay import TRIES, Eager
from app.storage.base import StorageUnavailableError
from tests.fakes.object_store import raising
from tests.images.processes import wait_for
from tests.renditions.world import COLOR, THUMBHASH, Instance, name_of, preset


def state_of(instance: Instance, photo_id: object) -> tuple[str | None, ...]:
    (row,) = (row for row in instance.world.rows() if row.id == photo_id)
    return row.processing_state, row.processing_error, row.thumbhash, row.dominant_color


def test_after_an_upload_all_is_made_from_one_decode(anywhere: Instance) -> None:
    photo = anywhere.upload()

    assert anywhere.relay.run_once()

    ((job, background),) = anywhere.engine.jobs
    assert background
    assert job.describes
    assert [(each.preset.name, each.format) for each in job.outputs] == [
        ("thumbnail", Format.WEBP),
        ("preview", Format.WEBP),
    ]
    assert anywhere.rows() == [("preview", "webp", "ready"), ("thumbnail", "webp", "ready")]
    assert state_of(anywhere, photo.id) == ("done", None, THUMBHASH, COLOR)
    assert anywhere.queued() == []
    assert not anywhere.relay.run_once()


def test_where_nothing_is_made_early_a_photo_is_described_all_the_same(here: Instance, tmp_path: Path) -> None:
    lazy = Instance(here.world, tmp_path, eager=Eager((), ()))
    photo = lazy.upload()

    lazy.run_relay()

    assert lazy.rows() == []
    assert state_of(lazy, photo.id) == ("done", None, THUMBHASH, COLOR)
    lazy.close()


def test_a_document_tells_of_the_description_at_once(here: Instance) -> None:
    owner_id = here.world.new_user()
    photo = here.upload(owner_id=owner_id)
    before = here.world.known.get(owner_id, photo.id)

    here.relay.run_once()

    after = here.world.known.get(owner_id, photo.id)
    assert THUMBHASH.encode() not in before.plain
    assert THUMBHASH.encode() in after.plain
    assert after.mark != before.mark


def test_what_is_made_already_is_not_made_again(here: Instance) -> None:
    photo = here.upload()
    here.service.get(photo, preset(), Format.WEBP)

    here.run_relay()

    assert [each.preset.name for each in here.engine.jobs[-1][0].outputs] == ["preview"]
    assert here.queued() == []


def test_what_another_process_makes_is_looked_at_again(here: Instance) -> None:
    photo = here.upload()
    here.claims.take([name_of(photo)])

    here.run_relay()
    (row,) = here.queued()
    here.end_claims()
    here.run_relay()

    assert row.attempts == 0
    assert here.queued() == []
    assert here.rows() == [("preview", "webp", "ready"), ("thumbnail", "webp", "ready")]
    assert len(here.engine.jobs) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [(UndecodableImageError("broken"), "undecodable"), (HeifNotInstalledError("none"), "heif-not-installed")],
    ids=["undecodable", "heif"],
)
def test_a_photo_that_cannot_be_decoded_fails_at_once_and_the_next_one_is_made(
    here: Instance, error: Exception, code: str
) -> None:
    photo, following = here.upload(), here.upload(1)
    here.engine.failure = error
    assert here.relay.run_once()
    here.engine.failure = None

    assert here.relay.run_once()

    assert state_of(here, photo.id)[:2] == ("failed", code)
    assert state_of(here, following.id)[0] == "done"
    assert here.queued() == []
    assert len(here.engine.jobs) == 2


@pytest.mark.parametrize("failing", ["engine", "original", "put"])
def test_what_is_not_the_photos_fault_is_tried_until_it_works(here: Instance, failing: str) -> None:
    photo = here.upload()
    if failing == "engine":
        here.engine.failure = OverloadedError("busy")
    else:
        method = {"original": "open", "put": "put"}[failing]
        here.world.store.before[method] = raising(StorageUnavailableError("down"))

    for _ in range(TRIES + 2):
        assert not here.run_relay()
        here.end_claims()
    (row,) = here.queued()
    here.engine.failure = None
    here.world.store.before.clear()
    assert here.run_relay()

    assert row.attempts == 0
    assert state_of(here, photo.id)[0] == "done"
    assert here.rows() == [("preview", "webp", "ready"), ("thumbnail", "webp", "ready")]
    assert here.queued() == []


def test_a_photo_that_gets_its_decoder_killed_each_time_fails_after_some_tries(here: Instance) -> None:
    photo = here.upload()
    here.engine.failure = DecoderKilledError("killed")

    for _ in range(TRIES):
        assert not here.run_relay()
        here.end_claims()

    assert state_of(here, photo.id)[:2] == ("failed", "internal")
    assert here.queued() == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(TooCostlyError("too slow"), "too-costly"), (RenderingFaultError("an encoder"), "internal")],
    ids=["too much", "fault"],
)
def test_what_may_be_another_ones_fault_fails_a_photo_after_some_tries(
    here: Instance, error: Exception, code: str
) -> None:
    photo = here.upload()
    here.engine.failure = error

    for _ in range(TRIES - 1):
        here.run_relay()
    before = state_of(here, photo.id)[:2]
    here.run_relay()

    assert before == ("waiting", None)
    assert state_of(here, photo.id)[:2] == ("failed", code)
    assert here.queued() == []


def test_a_photo_whose_original_is_lost_fails_after_some_tries(here: Instance) -> None:
    photo = here.upload()
    here.world.store.delete(photo.object_key)

    waits = []
    for _ in range(TRIES - 1):
        assert here.run_relay()
        waits.append(round((here.queued()[0].available_at - utc_now()).total_seconds()))
    here.run_relay()

    assert waits == sorted(set(waits))
    assert state_of(here, photo.id)[:2] == ("failed", "original-lost")
    assert here.queued() == []


def test_an_original_that_is_damaged_fails_after_some_tries(here: Instance) -> None:
    photo = here.upload()
    content = here.original(photo)
    here.world.store.lay(photo.object_key, content[:-1] + b"?", stated=content)

    for _ in range(TRIES):
        here.run_relay()

    assert state_of(here, photo.id)[:2] == ("failed", "original-lost")


def test_a_photo_that_takes_its_worker_down_each_time_fails_in_the_end(here: Instance) -> None:
    photo = here.upload()
    here.engine.meanwhile = raising_exit
    for _ in range(TRIES):
        with pytest.raises(SystemExit):
            here.run_relay()
        here.end_claims()

    here.run_relay()

    assert len(here.engine.jobs) == TRIES
    assert state_of(here, photo.id)[:2] == ("failed", "internal")
    assert here.queued() == []


def raising_exit() -> None:
    raise SystemExit


def test_what_nobody_foresaw_fails_after_some_tries(here: Instance) -> None:
    photo = here.upload()
    here.engine.failure = ZeroDivisionError()

    for _ in range(TRIES):
        here.run_relay()

    assert state_of(here, photo.id)[:2] == ("failed", "internal")
    assert here.queued() == []


def test_one_rendition_that_cannot_be_made_does_not_fail_a_photo_that_was_decoded(here: Instance) -> None:
    photo = here.upload()
    here.run_relay()
    queue(here, photo.id, {"outputs": [["full", "avif"]]})
    here.engine.failure = UndecodableImageError("took too long")

    here.run_relay()

    assert state_of(here, photo.id)[:2] == ("done", None)
    assert here.queued() == []


def queue(instance: Instance, photo_id: UUID, payload: dict[str, object]) -> None:
    with instance.world.database.write() as connection:
        outbox.add(connection, outbox.PHOTO_RENDER, photo_id, payload)


def test_a_photo_that_is_gone_leaves_no_work(here: Instance) -> None:
    photo = here.upload()
    with here.world.database.write() as connection:
        remove_ready(connection, photo.id)

    here.run_relay()

    assert here.queued() == []
    assert here.engine.jobs == []


def test_a_photo_that_is_removed_while_it_is_made_leaves_nothing(here: Instance) -> None:
    photo = here.upload()

    def remove() -> None:
        with here.world.database.write() as connection:
            remove_ready(connection, photo.id)

    here.engine.meanwhile = remove
    here.run_relay()
    here.run_relay()
    here.world.settle()

    assert here.queued() == []
    assert here.world.store.keys() == []
    assert here.world.rows() == []


def test_sizes_and_formats_that_are_no_more_are_passed_over(here: Instance) -> None:
    photo = here.upload()
    here.run_relay()
    queue(here, photo.id, {"outputs": [["poster", "webp"], ["full", "bmp"], ["full", "jpeg"]]})

    here.run_relay()

    assert ("full", "jpeg", "ready") in here.rows()
    assert here.queued() == []


def test_a_format_that_is_not_made_now_waits(here: Instance) -> None:
    photo = here.upload()
    here.run_relay()
    queue(here, photo.id, {"outputs": [["full", "avif"]]})
    here.pressure.level = Level.FEWER_FORMATS

    assert not here.run_relay()

    assert len(here.engine.jobs) == 1
    assert here.queued()[0].attempts == 0


def test_what_can_be_made_now_does_not_wait_for_a_format_that_cannot(here: Instance, tmp_path: Path) -> None:
    both = Instance(here.world, tmp_path, eager=Eager(("thumbnail",), (Format.WEBP, Format.AVIF)))
    photo = both.upload()
    both.pressure.level = Level.FEWER_FORMATS

    assert both.run_relay()
    meanwhile = (both.rows(), state_of(both, photo.id))
    both.pressure.level = Level.NORMAL
    both.run_relay()

    assert meanwhile == ([("thumbnail", "webp", "ready")], ("done", None, THUMBHASH, COLOR))
    assert both.rows() == [("thumbnail", "avif", "ready"), ("thumbnail", "webp", "ready")]
    assert both.queued() == []
    both.close()


def test_a_try_later_on_does_not_fail_a_photo_that_was_described(here: Instance) -> None:
    photo = here.upload()
    here.world.store.before["put"] = raising(StorageUnavailableError("down"))
    here.run_relay()
    here.engine.failure = UndecodableImageError("another moment")

    here.run_relay()

    assert state_of(here, photo.id)[:2] == ("done", None)


def test_the_thread_works_only_while_it_may(here: Instance) -> None:
    here.may_work = False
    here.upload()

    here.relay.start()
    assert here.was_asked.wait(20)
    made_meanwhile = len(here.engine.jobs)
    here.may_work = True
    wait_for(lambda: not here.queued())

    assert made_meanwhile == 0
    assert here.relay.close(30)


def test_the_thread_outlives_a_database_that_fails(here: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    here.upload()
    failures = iter([DatabaseUnavailableError("down"), RuntimeError("nobody knows")])
    take = here.queue.take

    def failing(seconds: float) -> object:
        for failure in failures:
            raise failure
        return take(seconds)

    monkeypatch.setattr(here.queue, "take", failing)
    here.relay.start()

    wait_for(lambda: not here.queued())


def test_an_unknown_photo_leaves_the_queue(here: Instance) -> None:
    queue(here, new_id(), {})

    here.run_relay()

    assert here.queued() == []


def test_it_rests_when_there_is_nothing_to_do(here: Instance) -> None:
    here.upload()
    here.run_relay()
    assert not here.has_rested.is_set()

    here.relay.start()

    assert here.has_rested.wait(20)
    assert here.relay.close(30)
