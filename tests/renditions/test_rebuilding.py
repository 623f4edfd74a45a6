"""Queueing photos anew: which, what goes with it, and that doing it twice does no harm."""

from __future__ import annotations

from uuid import UUID

import pytest

from app.db.base import new_id
from app.db.outbox import OBJECT_DELETE
from app.errors import NotFoundError
from app.images.presets import Format
from app.photos import rendition_rows
from app.renditions.rebuilding import Rebuild, rebuild
from tests.photos.world import PRESETS, write_rendition
from tests.renditions.world import Instance


def run(
    instance: Instance, photo_id: UUID | None = None, *, only_failed: bool = False, is_dry_run: bool = False
) -> Rebuild:
    return rebuild(
        instance.world.database,
        PRESETS,
        only_failed=only_failed,
        photo_id=photo_id,
        is_dry_run=is_dry_run,
    )


def made(instance: Instance, number: int = 0) -> UUID:
    """Return the id of a photo that went through the relay."""
    photo = instance.upload(number)
    instance.run_relay()
    return photo.id


def test_all_photos_are_queued_and_described_again_and_nothing_is_made_twice(anywhere: Instance) -> None:
    for number in range(3):
        made(anywhere, number)
    before = anywhere.rows()

    done = run(anywhere)
    states = {row.processing_state for row in anywhere.world.rows()}
    while anywhere.run_relay():
        pass

    assert (done.photos, done.removed) == (3, 0)
    assert states == {"waiting"}
    assert {row.processing_state for row in anywhere.world.rows()} == {"done"}
    assert anywhere.rows() == before
    assert [len(job.outputs) for job, _ in anywhere.engine.jobs] == [2, 2, 2, 0, 0, 0]


def test_renditions_of_earlier_versions_and_of_sizes_that_are_no_more_are_removed(anywhere: Instance) -> None:
    photo_id = made(anywhere)
    old = [
        write_rendition(anywhere.world, photo_id, "preview", version="0123456789"),
        write_rendition(anywhere.world, photo_id, "poster", Format.JPEG, version="1234567890"),
    ]

    counted = run(anywhere, is_dry_run=True)
    done = run(anywhere)

    assert (counted.photos, counted.removed) == (done.photos, done.removed) == (1, 2)
    assert len(anywhere.rows()) == 2
    assert sorted(row.payload["object_key"] for row in anywhere.world.outbox(OBJECT_DELETE)) == sorted(old)


def test_a_dry_run_changes_nothing(here: Instance) -> None:
    photo_id = made(here)
    write_rendition(here.world, photo_id, "preview", version="0123456789")
    before = (here.rows(), here.world.rows(), here.world.outbox())

    run(here, is_dry_run=True)

    assert (here.rows(), here.world.rows(), here.world.outbox()) == before


def test_only_what_has_failed_is_taken_where_that_is_wanted(here: Instance) -> None:
    made(here)
    failed = here.upload(1)
    with here.world.database.write() as connection:
        rendition_rows.mark_failed(connection, failed.id, "undecodable")
        connection.exec_driver_sql("delete from outbox")

    done = run(here, only_failed=True)

    assert done.photos == 1
    (row,) = here.queued()
    assert row.photo_id == failed.id
    here.run_relay()
    assert {row.processing_state for row in here.world.rows()} == {"done"}


def test_one_photo_is_taken_where_it_is_named(here: Instance) -> None:
    made(here)
    photo_id = made(here, 1)

    assert run(here, photo_id).photos == 1
    assert [row.photo_id for row in here.queued()] == [photo_id]


def test_a_photo_that_is_not_there_or_has_not_failed_is_named(here: Instance) -> None:
    photo_id = made(here)

    with pytest.raises(NotFoundError):
        run(here, new_id())
    with pytest.raises(NotFoundError, match="failed"):
        run(here, photo_id, only_failed=True)


def test_photos_are_found_piece_by_piece(here: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.renditions.rebuilding._PIECE", 2)
    for number in range(5):
        here.upload(number)

    assert run(here).photos == 5
    assert len({row.photo_id for row in here.queued()}) == 5
