"""Making: one decode for all that is claimed, and what is left when a step fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.db.base import new_id
from app.errors import DatabaseUnavailableError, OverloadedError, UndecodableImageError
from app.images.jobs import HeifNotInstalledError, RenderingFaultError, TooCostlyError
from app.images.presets import Format
from app.photos.rendition_rows import Claim, RenditionName
from app.renditions.making import error_code
from app.stability import DeadlineExceededError
from app.storage.base import StorageDeniedError, StorageFullError, StorageUnavailableError
from tests.fakes.object_store import raising
from tests.renditions.world import THUMBHASH, Instance, name_of


def claims_of(instance: Instance, photo: Any, *sizes: str) -> list[Claim]:
    taken = instance.claims.take([name_of(photo, size) for size in sizes])
    return [each for each in taken if isinstance(each, Claim)]


def test_all_that_is_claimed_is_made_from_one_decode(here: Instance) -> None:
    photo = here.upload()
    mine = claims_of(here, photo, "full", "thumbnail")

    rendered, kept = here.maker.make(photo, mine, describes=True)

    assert len(here.engine.jobs) == 1
    assert rendered.thumbhash == THUMBHASH
    assert [each.mine for each in kept] == mine
    assert [each.ready is not None for each in kept] == [True, True]
    assert here.rows() == [("full", "webp", "ready"), ("thumbnail", "webp", "ready")]


@pytest.mark.parametrize(
    "error",
    [
        UndecodableImageError("broken"),
        OverloadedError("busy"),
        DeadlineExceededError("late"),
        KeyError("nobody knew"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_rendered_leaves_no_claim_and_no_object(here: Instance, error: Exception) -> None:
    photo = here.upload()
    here.engine.failure = error

    with pytest.raises(type(error)):
        here.maker.make(photo, claims_of(here, photo, "full", "thumbnail"))

    assert here.rows() == []
    assert here.world.store.keys("renditions/") == []


@pytest.mark.parametrize(
    "error",
    [StorageUnavailableError("down"), StorageFullError("full"), DeadlineExceededError("late")],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_stored_is_given_and_is_soon_anothers_to_make(here: Instance, error: Exception) -> None:
    photo = here.upload()
    here.world.store.before["put"] = raising(error)

    _, (kept,) = here.maker.make(photo, claims_of(here, photo, "thumbnail"))

    assert kept.ready is None
    assert kept.image.content == b"thumbnail webp "
    assert here.rows() == [("thumbnail", "webp", "making")]


@pytest.mark.parametrize("error", [StorageDeniedError("wrong key"), StorageFullError("full")], ids=["denied", "full"])
def test_what_the_store_has_refused_is_anothers_to_make_at_once(here: Instance, error: Exception) -> None:
    photo = here.upload()
    here.world.store.before["put"] = raising(error)

    here.maker.make(photo, claims_of(here, photo, "thumbnail"))

    assert len(claims_of(here, photo, "thumbnail")) == 1


def test_one_that_cannot_be_stored_keeps_no_other_from_it(here: Instance) -> None:
    photo = here.upload()

    def refuse_full(key: str) -> None:
        if "/full-" in key:
            raise StorageUnavailableError("down")

    here.world.store.before["put"] = refuse_full

    _, kept = here.maker.make(photo, claims_of(here, photo, "full", "thumbnail"))

    assert [each.ready is not None for each in kept] == [False, True]


def test_what_is_stored_and_cannot_be_written_down_is_given_and_adopted_by_the_next(
    here: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = here.upload()
    mine = claims_of(here, photo, "thumbnail")

    def fail(*_: object) -> None:
        raise DatabaseUnavailableError("down")

    monkeypatch.setattr(here.claims, "finish", fail)
    _, (kept,) = here.maker.make(photo, mine)
    monkeypatch.undo()
    here.end_claims()
    here.engine.salt = "of another machine"
    _, (adopted,) = here.maker.make(photo, claims_of(here, photo, "thumbnail"))

    assert kept.ready is None
    assert adopted.ready is not None
    assert adopted.ready.made.size_bytes == len(kept.image.content)


@pytest.mark.parametrize("step", ["fetch", "render", "put", "stored"])
def test_who_is_interrupted_in_between_leaves_what_the_next_one_completes(here: Instance, step: str) -> None:
    photo = here.upload()
    mine = claims_of(here, photo, "thumbnail")
    interrupt(here, step)
    with pytest.raises(KeyboardInterrupt):
        here.maker.make(photo, mine)
    here.world.store.before.clear()
    here.world.store.after.clear()
    here.engine.meanwhile = lambda: None
    here.end_claims()

    _, (kept,) = here.maker.make(photo, claims_of(here, photo, "thumbnail"))

    assert kept.ready is not None
    assert here.world.store.keys("renditions/") == [kept.ready.object_key]


def interrupt(instance: Instance, step: str) -> None:
    store = instance.world.store
    places: dict[str, Callable[[], None]] = {
        "fetch": lambda: store.before.update(open=raising(KeyboardInterrupt())),
        "render": lambda: setattr(instance.engine, "meanwhile", raise_interrupt),
        "put": lambda: store.before.update(put=raising(KeyboardInterrupt())),
        "stored": lambda: store.after.update(put=raising(KeyboardInterrupt())),
    }
    places[step]()


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def test_a_size_that_nobody_knows_is_a_mistake(here: Instance) -> None:
    mine = Claim(RenditionName(new_id(), "poster", Format.WEBP, "0123456789"), "token")

    with pytest.raises(ValueError, match="poster"):
        here.maker.output_of(mine)


def test_the_reason_of_a_failure_has_a_code_that_stays() -> None:
    assert error_code(UndecodableImageError("")) == "undecodable"
    assert error_code(HeifNotInstalledError("")) == "heif-not-installed"
    assert error_code(TooCostlyError("")) == "too-costly"
    assert error_code(RenderingFaultError("")) == "internal"
