"""Claims: kept alive while their makers live, given back, taken over, and fenced."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.db.base import new_id, utc_now
from app.errors import DatabaseUnavailableError, NotFoundError
from app.photos.models import PhotoRendition
from app.photos.rendition_rows import Busy, Claim, Made, Ready
from app.renditions.claims import Processing
from app.stability import DeadlineExceededError
from tests.accounts.world import at_once
from tests.images.processes import wait_for
from tests.renditions.world import COLOR, THUMBHASH, Instance, name_of

MADE = Made("ab" * 32, 7, 320, 240)


def taken(instance: Instance, photo: Any) -> Claim:
    (mine,) = instance.claims.take([name_of(photo)])
    assert isinstance(mine, Claim), mine
    return mine


def lease_of(instance: Instance) -> dt.datetime | None:
    with instance.world.database.read() as connection:
        return connection.execute(select(PhotoRendition.lease_until)).scalar_one()


def test_one_of_many_gets_a_claim_and_the_others_hear_until_when(anywhere: Instance) -> None:
    photo = anywhere.upload()

    claimed = at_once(8, lambda _: anywhere.claims.take([name_of(photo)])[0])

    assert sum(isinstance(each, Claim) for each in claimed) == 1, claimed
    assert sum(isinstance(each, Busy) for each in claimed) == 7, claimed


def test_a_finished_one_is_found_and_ready_for_the_next_who_claims(anywhere: Instance) -> None:
    photo = anywhere.upload()
    mine = taken(anywhere, photo)
    before = anywhere.claims.find(mine.name)

    ready = anywhere.claims.finish(mine, MADE)

    assert before is None
    assert ready is not None
    assert ready.made == MADE
    assert anywhere.claims.find(mine.name) == ready
    assert isinstance(anywhere.claims.take([mine.name])[0], Ready)


def test_who_was_too_slow_finishes_nothing(here: Instance) -> None:
    photo = here.upload()
    slow = taken(here, photo)
    here.end_claims()
    present = taken(here, photo)

    assert here.claims.finish(slow, MADE) is None
    here.claims.give_back([slow])
    here.claims.postpone(slow, queued=False)
    assert here.claims.finish(present, MADE) is not None
    assert len(here.queued()) == 1  # of the upload


def test_what_is_given_back_can_be_claimed_at_once(anywhere: Instance) -> None:
    photo = anywhere.upload()

    anywhere.claims.give_back([taken(anywhere, photo)])

    taken(anywhere, photo)


def test_what_is_postponed_waits_for_a_put_that_may_be_under_way(here: Instance) -> None:
    photo = here.upload()
    mine = taken(here, photo)

    here.claims.postpone(mine, queued=False)

    (busy,) = here.claims.take([mine.name])
    assert isinstance(busy, Busy)
    assert dt.timedelta(seconds=1) < busy.until - utc_now() <= dt.timedelta(seconds=5)
    assert [row.payload for row in here.queued()] == [{}, {"outputs": [["thumbnail", "webp"]]}]


def test_what_the_queue_has_already_is_not_queued_again(here: Instance) -> None:
    photo = here.upload()

    here.claims.postpone(taken(here, photo), queued=True)

    assert [row.payload for row in here.queued()] == [{}]


@pytest.fixture
def busy(here: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instance]:
    """A process that renews its claims five times a second, which last for a minute."""
    monkeypatch.setattr("app.renditions.claims._RENEWALS_PER_LEASE", 300)
    instance = Instance(here.world, tmp_path, lease_seconds=60)
    yield instance
    instance.close()


def test_a_claim_is_renewed_for_as_long_as_it_is_held_and_not_longer(
    busy: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = busy.upload()
    mine = taken(busy, photo)
    first = lease_of(busy)
    assert first is not None
    rounds: list[int] = []
    renew = busy.claims.renew
    monkeypatch.setattr(busy.claims, "renew", lambda: rounds.append(renew()))

    def go_on() -> None:
        """Return when a round of renewals has begun and ended."""
        before = len(rounds)
        wait_for(lambda: len(rounds) >= before + 2)

    with busy.claims.held([mine]):
        wait_for(lambda: (lease_of(busy) or first) > first + dt.timedelta(seconds=1))
        (while_held,) = busy.claims.take([mine.name])
    go_on()
    last = lease_of(busy)
    go_on()

    assert isinstance(while_held, Busy)
    assert lease_of(busy) == last


def test_a_renewal_that_fails_is_tried_again(busy: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = busy.upload()
    mine = taken(busy, photo)
    first = lease_of(busy)
    assert first is not None
    failures = iter([DatabaseUnavailableError("down"), DeadlineExceededError("late"), ZeroDivisionError()])
    renew = busy.claims.renew

    def failing() -> int:
        for failure in failures:
            raise failure
        return renew()

    monkeypatch.setattr(busy.claims, "renew", failing)
    with busy.claims.held([mine]):
        wait_for(lambda: (lease_of(busy) or first) > first)


def test_only_what_is_held_and_still_ones_own_is_renewed(here: Instance) -> None:
    first, second = here.upload(), here.upload(1)
    lost, kept = taken(here, first), taken(here, second)
    here.claims.give_back([lost])

    with here.claims.held([lost, kept]):
        renewed = here.claims.renew()

    assert renewed == 1
    assert here.claims.renew() == 0


def test_a_database_that_fails_when_a_claim_is_given_back_is_no_matter(
    here: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = taken(here, here.upload())

    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailableError("down")

    monkeypatch.setattr(here.world.database, "run_write", fail)

    here.claims.give_back([mine])


def test_what_came_of_a_photo_is_written_down_and_read(anywhere: Instance) -> None:
    photo = anywhere.upload()
    waiting = anywhere.claims.processing(photo.id)
    assert waiting is not None
    anywhere.claims.mark_failed(waiting, "undecodable")
    failed = anywhere.claims.processing(photo.id)
    anywhere.claims.describe(waiting, THUMBHASH, COLOR)
    done = anywhere.claims.processing(photo.id)

    assert waiting == Processing(waiting.owner_id, "waiting", None, photo)
    assert failed == Processing(waiting.owner_id, "failed", "undecodable", photo)
    assert done == Processing(waiting.owner_id, "done", None, photo)


def test_a_photo_that_is_not_there_has_no_claims(anywhere: Instance) -> None:
    assert anywhere.claims.processing(new_id()) is None
    photo = anywhere.upload()
    with pytest.raises(NotFoundError):
        anywhere.claims.take([name_of(photo)._replace(photo_id=new_id())])


def test_a_lost_rendition_is_forgotten_once(here: Instance) -> None:
    mine = taken(here, here.upload())
    ready = here.claims.finish(mine, MADE)
    assert ready is not None

    here.claims.forget(ready)

    assert here.claims.find(mine.name) is None
    again = here.claims.take([mine.name])[0]
    assert isinstance(again, Claim)
    here.claims.forget(ready)
    assert here.rows() == [("thumbnail", "webp", "making")]
