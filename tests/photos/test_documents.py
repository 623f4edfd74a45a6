"""Photos as JSON: written by hand, and exactly what the model describes."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple
from uuid import UUID

import orjson
import pytest

from app.images.presets import configured
from app.photos.documents import GEO_SCOPE, PhotoDocuments, entity_tag, version_prefix, write_json
from app.photos.queries import FIND, FIND_ORIGINALS, FIND_WITH_PLACE, LOCK
from app.photos.schemas import PhotoPage, PhotoView, UploadAnswer
from app.settings_renditions import RenditionSettings
from tests.photos.world import DOCUMENTS, PRESETS, World, image

INSTANT = dt.datetime(2026, 5, 17, 9, 30, 15, 250_000, dt.UTC)


@pytest.fixture
def photo_id(any_world: World) -> UUID:
    owner_id = any_world.new_user()
    answer = any_world.upload(
        owner_id,
        image(),
        filename="DSCF0412.JPG",
        title="First “light”",
        description="From the pier,\nbefore the wind.",
        tags=["sea", "ä"],
        taken_at=INSTANT,
    )
    photo_id: UUID = answer.document["id"]
    return photo_id


def fill(world: World, photo_id: UUID) -> None:
    found = {"thumbhash": "1QcSHQRnh493V4dIh4eXh1h4kJUI", "dominant_color": "#3a5f7d", "processing_state": "done"}
    world.set_photo(photo_id, favorite=True, trashed_at=INSTANT, camera="FUJIFILM X100V", **found)
    world.set_place(photo_id, 54.3233, 10.1228)


def document(world: World, photo_id: UUID, *, with_place: bool) -> dict[str, object]:
    (row,) = [row for row in world.rows() if row.id == photo_id]
    found = world.row(row.owner_id, photo_id, FIND_WITH_PLACE if with_place else FIND)
    return DOCUMENTS.document(found, with_place=with_place)


@pytest.mark.parametrize("with_place", [True, False])
def test_a_document_says_what_the_model_says_field_by_field(
    any_world: World, photo_id: UUID, *, with_place: bool
) -> None:
    fill(any_world, photo_id)
    written = orjson.loads(write_json(document(any_world, photo_id, with_place=with_place)))

    view = PhotoView.model_validate(written, extra="forbid")

    fields = set(PhotoView.model_fields) - (set() if with_place else {"place"})
    assert set(written) == fields
    (row,) = any_world.rows()
    expected = {name: getattr(row, name) for name in fields - {"links", "place", "animated"}}
    assert {name: getattr(view, name) for name in expected} == expected
    assert view.links.self == f"/api/v1/photos/{photo_id}"
    assert view.links.original == f"/api/v1/photos/{photo_id}/original"
    for preset in PRESETS:
        link = f"/api/v1/photos/{photo_id}/renditions/{preset.name}?v={PRESETS.version(preset.name)}"
        assert getattr(view.links, preset.name) == link
    assert (view.place is not None) is with_place
    if view.place is not None:
        assert (view.place.latitude, view.place.longitude) == (54.3233, 10.1228)


def test_what_is_not_known_is_null_and_never_left_out(any_world: World) -> None:
    answer = any_world.upload(any_world.new_user(), image())

    written = orjson.loads(answer.content)

    assert set(written) == set(UploadAnswer.model_fields)
    for name in ("title", "description", "taken_at", "trashed_at", "camera", "original_filename", "thumbhash"):
        assert written[name] is None
    UploadAnswer.model_validate(written, extra="forbid")


def test_a_photo_without_a_place_has_none_for_who_may_know_it(any_world: World, photo_id: UUID) -> None:
    assert "place" not in document(any_world, photo_id, with_place=True)


def test_what_is_asked_for_others_does_not_touch_the_place() -> None:
    assert "photo_places" in str(FIND_WITH_PLACE)
    for query in (FIND, LOCK, FIND_ORIGINALS):
        assert "photo_places" not in str(query)


@pytest.mark.parametrize(("frames", "animated"), [(1, False), (2, True)])
def test_a_photo_of_several_pictures_says_so(
    any_world: World, photo_id: UUID, frames: int, *, animated: bool
) -> None:
    any_world.set_photo(photo_id, frames=frames)

    assert document(any_world, photo_id, with_place=False)["animated"] is animated


def test_instants_are_in_utc_and_end_in_z(any_world: World, photo_id: UUID) -> None:
    written = orjson.loads(write_json(document(any_world, photo_id, with_place=False)))

    assert written["taken_at"] == "2026-05-17T09:30:15.250000Z"
    assert written["created_at"].endswith("Z")


def test_a_page_is_what_its_model_says(any_world: World, photo_id: UUID) -> None:
    page = {"items": [document(any_world, photo_id, with_place=True)], "next_cursor": None}

    PhotoPage.model_validate_json(write_json(page), extra="forbid")


class Facts(NamedTuple):
    """What a page's tag is made of, of one photo."""

    id: UUID
    version: int
    thumbhash: str | None = None
    dominant_color: str | None = None
    processing_state: str = "waiting"
    processing_error: str | None = None


ONE, TWO = Facts(UUID(int=1), 1), Facts(UUID(int=2), 5)


@pytest.mark.parametrize(
    ("photos", "cursor", "scopes"),
    [
        ([ONE], None, []),
        ([TWO, ONE], None, []),
        ([ONE, TWO._replace(version=6)], None, []),
        ([ONE, TWO._replace(id=UUID(int=3))], None, []),
        ([ONE, TWO], "next", []),
        ([ONE, TWO._replace(thumbhash="1QcSHQ")], None, []),
        ([ONE, TWO._replace(dominant_color="#3a5f7d")], None, []),
        ([ONE, TWO._replace(processing_state="done")], None, []),
        ([ONE, TWO._replace(processing_error="undecodable")], None, []),
        ([ONE, TWO], None, [GEO_SCOPE]),
        ([], None, []),
    ],
    ids=["fewer", "order", "version", "id", "cursor", "thumbhash", "color", "state", "error", "place", "none"],
)
def test_a_page_has_another_tag_when_anything_it_shows_is_another(
    photos: list[Facts], cursor: str | None, scopes: list[str]
) -> None:
    tag = DOCUMENTS.page_tag([ONE, TWO], None, [])

    assert tag == DOCUMENTS.page_tag([ONE, TWO], None, ["photos:read"])
    assert DOCUMENTS.page_tag(photos, cursor, scopes) != tag


NOTHING_FOUND = {
    "thumbhash": None,
    "dominant_color": None,
    "processing_state": "waiting",
    "processing_error": None,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("thumbhash", "1QcSHQ"),
        ("dominant_color", "#102030"),
        ("processing_state", "failed"),
        ("processing_error", "undecodable"),
    ],
)
def test_what_was_found_out_makes_another_document_of_the_same_version(name: str, value: str) -> None:
    before, after = (DOCUMENTS.mark(found, 7) for found in (NOTHING_FOUND, {**NOTHING_FOUND, name: value}))

    assert before != after
    assert before.startswith(version_prefix(7))
    assert after.startswith(version_prefix(7))
    assert entity_tag(after, tells_place=True) != entity_tag(after, tells_place=False) == after


def test_documents_with_links_of_other_versions_are_other_documents() -> None:
    others = PhotoDocuments(configured(RenditionSettings(thumbnail_side=200)))

    assert others.form != DOCUMENTS.form
    assert others.mark(NOTHING_FOUND, 1) != DOCUMENTS.mark(NOTHING_FOUND, 1)
    assert others.page_tag([ONE], None, []) != DOCUMENTS.page_tag([ONE], None, [])
