"""Asking for a rendition: which one it is, how long it may be kept, and what is answered when it cannot be made."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.test import TestResponse

from app.db import migrate
from app.db.base import new_id
from app.db.engine import Database
from app.errors import OverloadedError, PhotoApiError, SpoolFullError, UndecodableImageError
from app.http import context, problems
from app.http.application import Application
from app.http.identity import Principal
from app.http.openapi import build_document
from app.http.operations import declared_operations, mount
from app.images.jobs import HeifNotInstalledError
from app.images.presets import Format, Preset
from app.photos.photo_cache import Original
from app.photos.serving_routes import PhotoServing
from app.renditions.routes import RenditionRoutes
from app.renditions.serving_routes import RenditionServing
from app.settings import DatabaseSettings
from app.storage.base import (
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectStore,
    StorageTimeoutError,
    StorageUnavailableError,
)
from app.storage.local import LocalObjectStore
from app.storage.probe import BytesBody
from tests.db.conftest import Observer
from tests.fakes.object_store import raising
from tests.http.edge import RememberingObserver
from tests.photos.world import PRESETS, World, image

MADE_AT = dt.datetime(2026, 5, 17, 9, 30, 15, tzinfo=dt.UTC)
BROWSER = "image/avif,image/webp,*/*;q=0.8"
FOR_EVER = "private, max-age=31536000, immutable, no-transform"
FOR_NOW = "private, max-age=3600, no-transform"


@dataclass(frozen=True)
class Made:
    """A rendition."""

    object_key: str
    bytes_: bytes
    content: bytes | None = None
    created_at: dt.datetime = MADE_AT

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.bytes_).hexdigest()

    @property
    def size_bytes(self) -> int:
        return len(self.bytes_)


def content_of(photo_id: UUID, preset: str, image_format: str) -> bytes:
    return f"{photo_id} as {preset} in {image_format}".encode()


@dataclass
class Maker:
    """Makes renditions that say what they are; each lies in the store, or is in hand."""

    world: World
    asked: list[tuple[UUID, str, str]] = field(default_factory=list)
    anew: list[bool] = field(default_factory=list)
    in_hand: bool = False
    failure: Exception | None = None

    def get_best(self, photo: Original, preset: Preset, formats: Sequence[Format]) -> tuple[Format, Made]:
        return formats[0], self._get(photo, preset, formats[0])

    def _get(self, photo: Original, preset: Preset, image_format: Format) -> Made:
        self.asked.append((photo.id, preset.name, image_format.value))
        if self.failure is not None:
            raise self.failure
        content = content_of(photo.id, preset.name, image_format.value)
        key = f"renditions/{photo.id.hex}/{preset.name}-{PRESETS.version(preset.name)}.{image_format.extension}"
        if self.in_hand:
            return Made(key, content, content)
        if key not in set(self.world.store.keys()):
            self.world.store.put(key, BytesBody(content), content_type=image_format.content_type)
        return Made(key, content)

    def make_anew(
        self, photo: Original, preset: Preset, image_format: Format, lost: Made, *, is_damaged: bool
    ) -> Made:
        self.anew.append(is_damaged)
        content = content_of(photo.id, preset.name, image_format.value)
        return Made(lost.object_key, content, content)


class Album:
    """One photo and one of somebody else's; the credential is the owner's id."""

    def __init__(self, database: Database) -> None:
        self.world = World(database)
        self.owner_id, other_id = self.world.new_user(), self.world.new_user()
        self.photo_id = self.upload(self.owner_id, 1, "Zürich 1.PNG")
        self.theirs = self.upload(other_id, 2, None)
        self.maker = Maker(self.world)
        self.scopes = frozenset({"photos:read"})
        self.client = self.client_of(self.world.store)

    def client_of(self, store: ObjectStore) -> FlaskClient:
        app = Application("renditions", static_folder=None)
        context.install(app, RememberingObserver(), deadline_seconds=28, allowed_hosts=[])
        problems.install(app)
        serving = RenditionServing(self.maker, PhotoServing(store, self.world.observer, self.world.photos.has_object))
        mount(app, RenditionRoutes(self.world.photos, PRESETS, serving), self)
        return app.test_client()

    def upload(self, owner_id: UUID, number: int, filename: str | None) -> UUID:
        photo_id: UUID = self.world.upload(owner_id, image(number), filename=filename).document["id"]
        return photo_id

    def authenticate(self, credential: str, *, fresh: bool = False) -> Principal:
        del fresh
        return Principal(UUID(credential), self.scopes)

    def get(self, ending: str = "thumbnail", photo_id: UUID | None = None, **headers: str) -> TestResponse:
        return self.ask("GET", ending, photo_id, **headers)

    def ask(self, method: str, ending: str, photo_id: UUID | None = None, **headers: str) -> TestResponse:
        path = f"/api/v1/photos/{photo_id or self.photo_id}/renditions/{ending}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.open(path, method=method, headers={"X-Api-Key": str(self.owner_id), **named})

    def content(self, preset: str, image_format: str) -> bytes:
        return content_of(self.photo_id, preset, image_format)


@pytest.fixture
def album(tmp_path: Path) -> Iterator[Album]:
    settings = DatabaseSettings(url=SecretStr(f"sqlite:///{tmp_path}/renditions.db"))
    with closing(Database(settings, Observer())) as database:
        migrate.upgrade(database)
        made = Album(database)
        yield made
        made.world.keeper.close()


def slug(answer: TestResponse) -> tuple[int, str]:
    document: dict[str, Any] = answer.get_json()
    return answer.status_code, document["type"].rpartition(":")[2]


@pytest.mark.parametrize("preset", ["thumbnail", "preview", "full"])
@pytest.mark.parametrize("image_format", ["jpeg", "webp", "avif"])
def test_a_client_gets_the_size_and_the_format_that_it_asks_for(album: Album, preset: str, image_format: str) -> None:
    answer = album.get(f"{preset}?format={image_format}", Accept="image/heic")

    assert (answer.status_code, answer.data) == (200, album.content(preset, image_format))
    assert answer.headers["Content-Type"] == f"image/{image_format}"
    assert answer.headers["Content-Length"] == str(len(answer.data))
    assert answer.headers["Vary"] == "Authorization, X-Api-Key"


@pytest.mark.parametrize(
    ("accept", "image_format"), [(BROWSER, "avif"), ("image/webp", "webp"), ("*/*", "jpeg"), ("???", "jpeg")]
)
def test_without_a_format_accept_decides_and_caches_are_told(album: Album, accept: str, image_format: str) -> None:
    answer = album.get(Accept=accept)

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, f"image/{image_format}")
    assert answer.headers["Vary"] == "Accept, Authorization, X-Api-Key"


@pytest.mark.parametrize(
    ("ending", "caching"),
    [
        ("thumbnail", FOR_NOW),
        (f"thumbnail?v={PRESETS.version('thumbnail')}", FOR_EVER),
        (f"preview?v={PRESETS.version('preview')}&format=webp", FOR_EVER),
        (f"thumbnail?v={PRESETS.version('preview')}", FOR_NOW),
        ("thumbnail?v=0123456789", FOR_NOW),
    ],
    ids=["none", "present", "present with format", "of another size", "earlier"],
)
def test_only_the_present_version_is_kept_for_ever(album: Album, ending: str, caching: str) -> None:
    answer = album.get(ending)
    again = album.get(ending, If_None_Match=answer.headers["ETag"])

    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, caching)
    assert (again.status_code, again.headers["Cache-Control"]) == (304, caching)


def test_a_copy_that_is_good_is_confirmed_without_the_store(album: Album) -> None:
    answer = album.get()
    sha256 = hashlib.sha256(album.content("thumbnail", "jpeg")).hexdigest()

    def fail(_key: str) -> None:
        raise StorageUnavailableError("down")

    album.world.store.before["open"] = album.world.store.before["head"] = fail
    by_tag = album.get(If_None_Match=answer.headers["ETag"])
    by_date = album.get(If_Modified_Since=answer.headers["Last-Modified"])

    assert answer.headers["ETag"] == f'"{sha256}"'
    for unchanged in (by_tag, by_date):
        assert (unchanged.status_code, unchanged.data) == (304, b"")
        assert unchanged.headers["Vary"] == answer.headers["Vary"]
    assert album.get().status_code == 503


@pytest.mark.parametrize("in_hand", [False, True])
def test_a_range_and_a_head_are_answered_as_of_an_original(album: Album, *, in_hand: bool) -> None:
    album.maker.in_hand = in_hand
    content = album.content("thumbnail", "jpeg")

    part, head = album.get(Range="bytes=3-9"), album.ask("HEAD", "thumbnail")
    outside = album.get(Range="bytes=9999-")

    assert (part.status_code, part.data) == (206, content[3:10])
    assert part.headers["Content-Range"] == f"bytes 3-9/{len(content)}"
    assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", str(len(content)))
    assert slug(outside) == (416, "range-not-satisfiable")


def test_what_has_just_been_made_is_sent_without_the_store(album: Album) -> None:
    album.maker.in_hand = True

    answer = album.get()

    assert (answer.status_code, answer.data) == (200, album.content("thumbnail", "jpeg"))
    assert album.world.store.keys() == sorted(row.object_key for row in album.world.rows())


@pytest.mark.parametrize("in_hand", [False, True])
def test_nginx_sends_what_the_store_has_and_this_server_what_is_in_hand(
    album: Album, tmp_path: Path, *, in_hand: bool
) -> None:
    album.maker.in_hand = in_hand
    store = LocalObjectStore(tmp_path / "objects")
    key = f"renditions/{album.photo_id.hex}/thumbnail-{PRESETS.version('thumbnail')}.{Format.JPEG.extension}"
    store.put(key, BytesBody(album.content("thumbnail", "jpeg")), content_type="image/jpeg")
    album.client = album.client_of(store)

    answer = album.get(X_Sendfile_Type="X-Accel-Redirect")

    assert (answer.status_code, "X-Accel-Redirect" in answer.headers) == (200, not in_hand)
    assert answer.data == (album.content("thumbnail", "jpeg") if in_hand else b"")


@pytest.mark.parametrize(
    ("error", "is_damaged"), [(ObjectNotFoundError, False), (ObjectCorruptError, True)], ids=["lost", "damaged"]
)
def test_what_the_store_has_lost_or_damaged_is_made_anew(
    album: Album, error: type[Exception], is_damaged: bool
) -> None:
    album.world.store.before["open"] = raising(error("found out"))

    answer = album.get()

    assert (answer.status_code, answer.data) == (200, album.content("thumbnail", "jpeg"))
    assert album.maker.anew == [is_damaged]


def test_a_file_has_the_name_of_the_original_and_its_size(album: Album) -> None:
    answer = album.get("preview?format=avif")

    disposition = answer.headers["Content-Disposition"]
    assert disposition == "inline; filename=\"Z_rich 1-preview.avif\"; filename*=UTF-8''Z%C3%BCrich%201-preview.avif"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_what_is_not_there_and_what_is_anothers_is_never_made(album: Album) -> None:
    answers = [album.get(photo_id=photo_id) for photo_id in (new_id(), album.theirs)]

    assert [slug(answer) for answer in answers] == [(404, "not-found")] * 2
    assert album.maker.asked == []


def test_a_size_that_does_not_exist_is_told_from_a_photo_that_does_not(album: Album) -> None:
    answer = album.get("poster")

    assert slug(answer) == (404, "not-found")
    assert "thumbnail, preview, full" in answer.get_json()["detail"]


@pytest.mark.parametrize(
    "query",
    ["format=gif", "format=JPEG", "format=", "v=", "v=x", f"v={'0' * 33}", "width=300", "format=avif&format=webp"],
)
def test_a_wrong_query_is_422(album: Album, query: str) -> None:
    assert slug(album.get(f"thumbnail?{query}")) == (422, "validation-failed")
    assert album.maker.asked == []


def test_renditions_need_the_scope_of_reading(album: Album) -> None:
    album.scopes = frozenset({"photos:write", "photos:geo"})

    assert slug(album.get()) == (403, "missing-scope")


FAILURES: dict[str, tuple[PhotoApiError, int, str]] = {
    "undecodable": (UndecodableImageError("broken"), 422, "undecodable-image"),
    "heic": (HeifNotInstalledError("no decoder"), 422, "heif-not-supported"),
    "busy": (OverloadedError("busy", retry_after_seconds=7.0), 503, "overloaded"),
    "full": (SpoolFullError("no room"), 503, "spool-full"),
    "storage down": (StorageUnavailableError("down"), 503, "unavailable"),
    "storage slow": (StorageTimeoutError("slow"), 504, "storage-timeout"),
    "original lost": (ObjectNotFoundError("lost"), 502, "object-missing"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_cannot_be_made_says_why_and_is_not_kept(album: Album, case: str) -> None:
    album.maker.failure, status, kind = FAILURES[case]

    answer = album.get(Accept=BROWSER)

    assert slug(answer) == (status, kind)
    assert answer.headers["Cache-Control"] == "no-store"
    assert ("Retry-After" in answer.headers) is (status == 503)
    assert album.maker.anew == []


def test_a_known_photo_that_was_removed_elsewhere_is_gone(album: Album) -> None:
    album.world.remove_elsewhere(album.owner_id, album.photo_id)
    album.maker.failure = ObjectNotFoundError("lost")

    assert slug(album.get()) == (404, "not-found")


def test_the_document_lists_the_sizes_that_there_are() -> None:
    document = build_document(declared_operations(RenditionRoutes), version="1")

    operation = document["paths"]["/api/v1/photos/{photo_id}/renditions/{preset}"]["get"]
    (parameter,) = [each for each in operation["parameters"] if each["name"] == "preset"]
    assert parameter["schema"] == {"type": "string", "enum": [preset.name for preset in PRESETS]}
    assert set(operation["responses"]["200"]["content"]) == {each.content_type for each in Format}
