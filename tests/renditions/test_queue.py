"""The queue of photos that are to be decoded: one worker at a time, and none is lost with its worker."""

from __future__ import annotations

from app.db import outbox
from app.db.base import new_id, utc_now
from tests.accounts.world import at_once
from tests.renditions.world import Instance


def add(instance: Instance, payload: dict[str, object] | None = None, *, delay_seconds: float = 0.0) -> None:
    with instance.world.database.write() as connection:
        outbox.add(connection, outbox.PHOTO_RENDER, new_id(), payload or {}, delay_seconds=delay_seconds)


def test_an_upload_queues_its_photo(here: Instance) -> None:
    photo = here.upload()

    task = here.queue.take(60)

    assert task is not None
    assert (task.photo_id, task.outputs, task.attempts) == (photo.id, None, 1)


def test_a_row_is_taken_by_one_of_many(anywhere: Instance) -> None:
    add(anywhere)

    taken = at_once(8, lambda _: anywhere.queue.take(60))

    tasks = [each for each in taken if each is not None]
    assert len(tasks) == 1, taken


def test_several_are_taken_the_oldest_first(anywhere: Instance) -> None:
    add(anywhere, {"outputs": [["full", "avif"]]})
    add(anywhere, {"outputs": [["preview", "webp"]]})

    first, second, third = (anywhere.queue.take(60) for _ in range(3))

    assert first is not None
    assert second is not None
    assert first.outputs == (("full", "avif"),)
    assert second.outputs == (("preview", "webp"),)
    assert third is None


def test_other_kinds_and_what_is_not_due_are_left_alone(here: Instance) -> None:
    add(here, delay_seconds=60)
    with here.world.database.write() as connection:
        outbox.add(connection, outbox.OBJECT_DELETE, new_id(), {"object_key": "x"})

    assert here.queue.take(60) is None


def test_what_a_dead_worker_has_taken_is_due_again(here: Instance) -> None:
    add(here)
    first = here.queue.take(60)
    here.world.make_due()

    second = here.queue.take(60)

    assert first is not None
    assert second is not None
    assert (first.attempts, second.attempts) == (1, 2)


def test_a_worker_that_was_too_slow_changes_nothing(anywhere: Instance) -> None:
    add(anywhere)
    slow = anywhere.queue.take(60)
    anywhere.world.make_due()
    present = anywhere.queue.take(60)
    assert slow is not None
    assert present is not None

    anywhere.queue.done(slow)
    anywhere.queue.postpone(slow, 1000, counted=True)
    (row,) = anywhere.queued()

    assert (row.available_at - utc_now()).total_seconds() < 61
    anywhere.queue.done(present)
    assert anywhere.queued() == []


def test_a_lease_that_was_lost_is_not_ones_own_because_the_number_comes_again(anywhere: Instance) -> None:
    add(anywhere)
    slow = anywhere.queue.take(60)
    anywhere.world.make_due()
    present = anywhere.queue.take(60)
    assert slow is not None
    assert present is not None
    anywhere.queue.postpone(present, 30, counted=False)

    anywhere.queue.done(slow)

    assert len(anywhere.queued()) == 1


def test_an_attempt_that_is_not_counted_leaves_the_number(here: Instance) -> None:
    add(here)
    for counted, attempts in ((False, 0), (True, 1), (False, 1), (True, 2)):
        here.world.make_due()
        task = here.queue.take(60)
        assert task is not None

        here.queue.postpone(task, 30, counted=counted)

        (row,) = here.queued()
        assert row.attempts == attempts
        assert 25 < (row.available_at - utc_now()).total_seconds() <= 30
