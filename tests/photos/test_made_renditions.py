"""Renditions that are made: found by their photos, in one format and in the versions that count now."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from app.db.base import new_id
from app.db.engine import Database
from app.errors import DatabaseUnavailableError
from app.images.presets import Format
from app.photos.made_renditions import MadeRendition, MadeRenditions
from app.photos.models import MAKING
from tests.photos.world import PRESETS, World, image, write_rendition


def upload(world: World, number: int = 0) -> UUID:
    photo_id: UUID = world.upload(world.new_user(), image(number)).document["id"]
    return photo_id


def test_renditions_are_found_by_their_photos_and_format(any_world: World) -> None:
    first, second, without = (upload(any_world, number) for number in range(3))
    small = write_rendition(any_world, first, "thumbnail")
    write_rendition(any_world, first, "thumbnail", Format.AVIF)
    large = write_rendition(any_world, second, "full")

    found = MadeRenditions(any_world.database, PRESETS).find([second, without, first, new_id()], Format.WEBP)

    assert found == {
        first: [MadeRendition("thumbnail", small, "ab" * 32, "image/webp", 320, 240)],
        second: [MadeRendition("full", large, "ab" * 32, "image/webp", 320, 240)],
    }


def test_what_is_being_made_and_what_was_made_otherwise_is_not_found(any_world: World) -> None:
    photo_id = upload(any_world)
    write_rendition(any_world, photo_id, "thumbnail", state=MAKING)
    write_rendition(any_world, photo_id, "preview", version="0123456789")

    assert MadeRenditions(any_world.database, PRESETS).find([photo_id], Format.WEBP) == {}


def test_without_photos_nothing_is_found(world: World) -> None:
    assert MadeRenditions(world.database, PRESETS).find([], Format.WEBP) == {}


class DeadDatabase(Database):
    """A database that does not answer."""

    def __init__(self) -> None: ...

    def run_read(self, work: object) -> Any:
        del work
        raise DatabaseUnavailableError("No answer.")


def test_while_the_database_fails_there_are_none() -> None:
    assert MadeRenditions(DeadDatabase(), PRESETS).find([new_id()], Format.WEBP) == {}
