"""The store's side: originals come whole or not at all, renditions go in once."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.errors import SpoolFullError
from app.images.jobs import Output, RenderedImage
from app.images.presets import Format
from app.renditions.objects import RenditionObjects
from app.storage.base import ObjectCorruptError, ObjectInfo, ObjectNotFoundError, StorageUnavailableError
from app.storage.local import LocalObjectStore
from app.storage.probe import BytesBody
from app.storage.spool import MEMORY_BYTES, Spool
from tests.fakes.object_store import raising
from tests.renditions.world import Instance, name_of, preset

PICTURE = RenderedImage(Output(preset(), Format.WEBP), b"a picture", 320, 240)


def test_an_original_comes_as_it_was_uploaded(here: Instance) -> None:
    photo = here.upload()

    with here.objects.fetch(photo) as body:
        fetched = body.open().read()

    assert fetched == here.original(photo)
    assert body.sha256 == photo.sha256
    assert here.world.store.open_readers == 0


def test_an_original_that_is_lost_is_told_from_one_that_cannot_be_read_now(here: Instance) -> None:
    photo = here.upload()
    here.world.store.break_reading = OSError("reset")
    with pytest.raises(StorageUnavailableError):
        here.objects.fetch(photo)
    here.world.store.break_reading = None
    here.world.store.delete(photo.object_key)

    with pytest.raises(ObjectNotFoundError):
        here.objects.fetch(photo)

    assert here.world.store.open_readers == 0


@pytest.mark.parametrize("content", [b"", b"another photo", b"x" * 10_000], ids=["empty", "other", "longer"])
def test_an_object_that_is_not_the_photo_is_damage(here: Instance, content: bytes) -> None:
    photo = here.upload()
    here.world.store.lay(photo.object_key, content)

    with pytest.raises(ObjectCorruptError):
        here.objects.fetch(photo)


def test_a_full_scratch_folder_is_said_and_leaves_nothing(
    here: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = here.upload()

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("app.storage.spool.tempfile.TemporaryFile", full)
    monkeypatch.setattr("app.renditions.objects.Spool", partial(Spool, memory_bytes=1))

    with pytest.raises(SpoolFullError):
        here.objects.fetch(photo)

    assert list(tmp_path.iterdir()) == []
    assert here.world.store.open_readers == 0
    assert photo.size_bytes < MEMORY_BYTES


def test_a_rendition_is_stored_with_its_type_and_its_facts(here: Instance) -> None:
    photo = here.upload()
    key = name_of(photo).object_key

    made = here.objects.store(key, PICTURE)
    again = here.objects.store(key, PICTURE)

    assert made == again
    assert (made.sha256, made.size_bytes) == (BytesBody(b"a picture").sha256, 9)
    assert (made.width, made.height) == (320, 240)
    assert here.world.store.head(key).sha256 == made.sha256


def test_on_a_disk_what_an_earlier_maker_has_left_is_adopted(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "objects")
    store.put("renditions/x/thumbnail-1.webp", BytesBody(b"an earlier picture"), content_type="image/webp")

    made = RenditionObjects(store, tmp_path).store("renditions/x/thumbnail-1.webp", PICTURE)

    assert (made.sha256, made.size_bytes) == (BytesBody(b"an earlier picture").sha256, 18)
    store.close()


def test_an_object_that_does_not_say_what_it_is_is_not_adopted(
    here: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = name_of(here.upload()).object_key
    here.world.store.lay(key, b"another")
    info = here.world.store.head(key)
    nameless = ObjectInfo(key, info.size_bytes, None, info.modified_at)
    monkeypatch.setattr(here.world.store, "head", lambda _key: nameless)

    with pytest.raises(ObjectCorruptError):
        here.objects.store(key, PICTURE)


def test_a_store_that_fails_is_heard(here: Instance) -> None:
    here.world.store.before["put"] = raising(StorageUnavailableError("down"))

    with pytest.raises(StorageUnavailableError):
        here.objects.store("renditions/x/thumbnail-1.webp", PICTURE)
