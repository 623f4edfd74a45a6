"""Renditions by ``Accept`` while memory is short: what is stored is served at every level, whoever asks how."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.http import context, problems
from app.http.application import Application
from app.http.identity import Principal
from app.http.operations import mount
from app.images.presets import Format
from app.images.pressure import Level
from app.photos.serving_routes import PhotoServing
from app.renditions.routes import RenditionRoutes
from app.renditions.serving_routes import RenditionServing
from app.storage.base import ObjectStore
from app.storage.local import LocalObjectStore
from app.storage.probe import BytesBody
from tests.http.edge import RememberingObserver
from tests.photos.world import PRESETS
from tests.renditions.world import Instance, preset

BROWSER = "image/avif,image/webp,image/jpeg;q=0.9,*/*;q=0.8"
FOR_EVER = "private, max-age=31536000, immutable, no-transform"
ASKED_AGAIN = "private, no-cache, no-transform"
SHORT = [Level.FEWER_FORMATS, Level.ORIGINALS_ONLY]


class Gallery:
    """One photo of one caller, whose renditions another process may have stored."""

    def __init__(self, here: Instance, elsewhere: Instance) -> None:
        self.here, self.elsewhere = here, elsewhere
        self.owner_id = here.world.new_user()
        self.photo = here.upload(owner_id=self.owner_id)
        self.client = self.client_of(here.world.store)

    def client_of(self, store: ObjectStore) -> FlaskClient:
        app = Application("renditions", static_folder=None)
        context.install(app, RememberingObserver(), deadline_seconds=28, allowed_hosts=[])
        problems.install(app)
        serving = RenditionServing(
            self.here.service, PhotoServing(store, self.here.world.observer, self.here.world.photos.has_object)
        )
        mount(app, RenditionRoutes(self.here.world.photos, PRESETS, serving), self)
        return app.test_client()

    def authenticate(self, credential: str, *, fresh: bool = False) -> Principal:
        del fresh
        return Principal(UUID(credential), frozenset({"photos:read"}))

    def store(self, *formats: Format) -> None:
        for image_format in formats:
            self.elsewhere.service.get(self.photo, preset(), image_format)

    def as_files(self, folder: Path) -> LocalObjectStore:
        """Return a store that has all objects as files."""
        files, keys = LocalObjectStore(folder), self.here.world.store.keys()
        for key in keys:
            with self.here.world.store.open(key) as content:
                files.put(key, BytesBody(b"".join(content)), content_type="image/jpeg")
        return files

    def lose(self, image_format: Format) -> None:
        """Let the store lose a rendition that is written down."""
        self.store(image_format)
        self.here.world.store.delete(self.elsewhere.service.get(self.photo, preset(), image_format).object_key)

    def ask(self, method: str = "GET", *, query: str = "", **headers: str) -> TestResponse:
        """Ask as a browser does that follows the link in a photo's document."""
        path = f"/api/v1/photos/{self.photo.id}/renditions/thumbnail?v={PRESETS.version('thumbnail')}{query}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.open(
            path, method=method, headers={"X-Api-Key": str(self.owner_id), "Accept": BROWSER, **named}
        )

    @property
    def made(self) -> list[Format]:
        """What this process has made."""
        return [output.format for job, _ in self.here.engine.jobs for output in job.outputs]


@pytest.fixture
def gallery(here: Instance, tmp_path: Path) -> Iterator[Gallery]:
    elsewhere = Instance(here.world, tmp_path)
    yield Gallery(here, elsewhere)
    elsewhere.close()


def facts(answer: TestResponse) -> tuple[int, str | None, str | None]:
    return answer.status_code, answer.headers.get("Content-Type"), answer.headers["Cache-Control"]


def is_overloaded(answer: TestResponse) -> bool:
    slug = answer.get_json()["type"].rpartition(":")[2]
    return (answer.status_code, slug, "Retry-After" in answer.headers) == (503, "overloaded", True)


@pytest.mark.parametrize("level", SHORT)
@pytest.mark.parametrize("accept", [BROWSER, "image/avif"], ids=["browser", "one format"])
def test_what_is_stored_in_the_best_format_is_served_as_ever(gallery: Gallery, level: Level, accept: str) -> None:
    gallery.store(Format.AVIF)
    gallery.here.pressure.level = level

    whole, head = (gallery.ask(method, Accept=accept) for method in ("GET", "HEAD"))
    unchanged = gallery.ask(Accept=accept, If_None_Match=whole.headers["ETag"])
    part = gallery.ask(Accept=accept, Range="bytes=3-9")

    assert facts(whole) == facts(head) == (200, "image/avif", FOR_EVER)
    assert (whole.data, head.data, part.data) == (b"thumbnail avif ", b"", b"thumbnail avif "[3:10])
    assert (unchanged.status_code, unchanged.headers["Cache-Control"]) == (304, FOR_EVER)
    assert facts(part) == (206, "image/avif", FOR_EVER)
    assert {answer.headers["Vary"] for answer in (whole, head, unchanged, part)} == {
        "Accept, Authorization, X-Api-Key"
    }
    assert gallery.made == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("level", SHORT)
def test_a_copy_of_the_best_format_is_confirmed_by_the_first_request_that_a_process_gets(
    gallery: Gallery, level: Level, method: str
) -> None:
    gallery.store(Format.AVIF)
    gallery.here.pressure.level = level
    sha256 = gallery.elsewhere.service.get(gallery.photo, preset(), Format.AVIF).sha256

    assert gallery.ask(method, If_None_Match=f'"{sha256}"').status_code == 304


def test_what_is_made_for_lack_of_memory_in_another_format_is_not_kept_unasked(gallery: Gallery) -> None:
    gallery.here.pressure.level = Level.FEWER_FORMATS

    answers = [gallery.ask(), gallery.ask("HEAD"), gallery.ask(query="&format=webp")]
    unchanged = gallery.ask(If_None_Match=answers[0].headers["ETag"])

    assert [facts(answer) for answer in answers] == [
        (200, "image/webp", ASKED_AGAIN),
        (200, "image/webp", ASKED_AGAIN),
        (200, "image/webp", FOR_EVER),
    ]
    assert (unchanged.status_code, unchanged.headers["Cache-Control"]) == (304, ASKED_AGAIN)
    assert is_overloaded(gallery.ask(query="&format=avif"))
    assert gallery.made == [Format.WEBP]


def test_who_has_another_format_for_lack_of_memory_gets_the_best_one_when_there_is_memory(gallery: Gallery) -> None:
    gallery.here.pressure.level = Level.FEWER_FORMATS
    before = gallery.ask()
    gallery.here.pressure.level = Level.NORMAL

    after = gallery.ask(If_None_Match=before.headers["ETag"])

    assert facts(after) == (200, "image/avif", FOR_EVER)


def test_with_no_memory_left_the_best_of_what_is_stored_is_served(gallery: Gallery) -> None:
    gallery.store(Format.JPEG)
    gallery.here.pressure.level = Level.ORIGINALS_ONLY

    answers = [gallery.ask(method) for method in ("GET", "HEAD")]
    unchanged = gallery.ask(If_None_Match=answers[0].headers["ETag"])

    assert [facts(answer) for answer in answers] == [(200, "image/jpeg", ASKED_AGAIN)] * 2
    assert answers[0].data == b"thumbnail jpeg "
    assert (unchanged.status_code, unchanged.headers["Cache-Control"]) == (304, ASKED_AGAIN)
    assert gallery.made == []


def test_with_no_memory_left_and_nothing_stored_the_client_is_told_to_come_again(gallery: Gallery) -> None:
    gallery.here.pressure.level = Level.ORIGINALS_ONLY

    answers = [gallery.ask(), gallery.ask(If_None_Match='"of another"'), gallery.ask(query="&format=jpeg")]

    assert [is_overloaded(answer) for answer in answers] == [True] * 3
    assert gallery.ask("HEAD").status_code == 503
    assert gallery.made == []


def test_a_format_that_the_client_does_not_like_best_is_kept_for_ever_where_memory_did_not_choose_it(
    gallery: Gallery,
) -> None:
    gallery.store(Format.WEBP)
    gallery.here.pressure.level = Level.FEWER_FORMATS

    answers = [gallery.ask(Accept="image/webp,*/*;q=0.1"), gallery.ask(Accept="image/webp,image/avif;q=0.9")]

    assert [facts(answer) for answer in answers] == [(200, "image/webp", FOR_EVER)] * 2


@pytest.mark.parametrize(
    ("stored", "expected", "caching"),
    [(Format.AVIF, "image/avif", FOR_EVER), (Format.JPEG, "image/jpeg", ASKED_AGAIN)],
    ids=["the best", "another"],
)
def test_nginx_is_told_of_the_same_rendition_and_how_long_it_is_kept(
    gallery: Gallery, tmp_path: Path, stored: Format, expected: str, caching: str
) -> None:
    gallery.store(stored)
    gallery.client = gallery.client_of(gallery.as_files(tmp_path / "objects"))
    gallery.here.pressure.level = Level.ORIGINALS_ONLY

    answer = gallery.ask(X_Sendfile_Type="X-Accel-Redirect")

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, expected)
    assert answer.headers["X-Photo-Cache-Control"] == caching
    assert "X-Accel-Redirect" in answer.headers


@pytest.mark.parametrize("is_forgotten", [True, False], ids=["forgotten", "read-only"])
@pytest.mark.parametrize(
    ("lost", "given"),
    [([Format.AVIF], Format.WEBP), ([Format.AVIF, Format.WEBP], Format.JPEG), ([Format.WEBP], Format.AVIF)],
    ids=["the best", "two", "another"],
)
def test_what_the_store_has_lost_and_memory_does_not_allow_gives_way_to_the_next_format(
    gallery: Gallery, lost: list[Format], given: Format, *, is_forgotten: bool
) -> None:
    gallery.store(*Format)
    for each in lost:
        gallery.lose(each)
    gallery.here.may_work = is_forgotten
    gallery.here.pressure.level = Level.ORIGINALS_ONLY

    answer, insisting = gallery.ask(), gallery.ask(query=f"&format={lost[0]}")

    assert facts(answer) == (200, given.content_type, FOR_EVER if given is Format.AVIF else ASKED_AGAIN)
    assert answer.data == f"thumbnail {given} ".encode()
    assert is_overloaded(insisting)
    assert gallery.made == []
