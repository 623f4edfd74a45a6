"""Following a signed link: the bytes for whoever has it, without the database; everything else is refused or told."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.test import TestResponse

from app.accounts.keyring import DerivedRings, KeyRings
from app.db import migrate
from app.db.base import utc_now
from app.db.engine import Database
from app.errors import DatabaseUnavailableError
from app.http import context, problems
from app.http.application import Application
from app.photos.origin_routes import OriginLinks
from app.photos.service import PhotoService
from app.photos.serving_routes import PhotoServing
from app.photos.signed_links import SignedLinks
from app.settings import DatabaseSettings
from app.storage.base import (
    ObjectStore,
    StorageDeniedError,
    StorageError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageUnavailableError,
)
from app.storage.local import LocalObjectStore
from app.storage.probe import BytesBody
from tests.db.conftest import Observer
from tests.http.edge import RememberingObserver
from tests.photos.world import World, image, write_rendition

CONTENT = image()
LIFE_SECONDS = 3000


class DeadDatabase(PhotoService):
    """What knows of photos, while the database does not answer."""

    def has_object(self, object_key: str) -> bool:
        raise DatabaseUnavailableError(f"No answer about {object_key[:0]}it.")


class Origin:
    """One uploaded photo and a link to it, on a database that counts its statements."""

    def __init__(self, database: Database, counting: Observer) -> None:
        self.counting = counting
        self.world = World(database)
        self.owner_id = self.world.new_user()
        photo_id = self.world.upload(self.owner_id, CONTENT).document["id"]
        self.row = self.world.photos.get(self.owner_id, photo_id).original
        self.links = SignedLinks(KeyRings(DerivedRings(b"k" * 32)))
        self.link = self.link_to(self.row.object_key)
        self.client = self.client_of(self.world.photos)
        counting.queries.clear()

    def link_to(self, key: str) -> str:
        ends = utc_now() + dt.timedelta(seconds=LIFE_SECONDS)
        return self.links.make(key, sha256=self.row.sha256, content_type=self.row.content_type, expires_at=ends)

    def client_of(
        self, photos: PhotoService, store: ObjectStore | None = None, links: SignedLinks | None = None
    ) -> FlaskClient:
        app = Application("origin", static_folder=None)
        app.url_map.merge_slashes = False
        context.install(app, RememberingObserver(), deadline_seconds=28, allowed_hosts=[])
        problems.install(app)
        store = self.world.store if store is None else store
        observer = self.world.observer
        OriginLinks(links or self.links, store, PhotoServing(store, observer, photos.has_object), observer).mount(app)
        return app.test_client()


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    counting = Observer()
    settings = DatabaseSettings(url=SecretStr(f"sqlite:///{tmp_path}/origin.db"))
    with closing(Database(settings, counting)) as database:
        migrate.upgrade(database)
        made = Origin(database, counting)
        yield made
        made.world.keeper.close()


def slug(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, answer.get_json()["type"].rpartition(":")[2]


def test_a_link_gives_the_bytes_without_a_login_and_without_the_database(origin: Origin) -> None:
    answer = origin.client.get(origin.link)

    assert (answer.status_code, answer.data, answer.headers["Content-Type"]) == (200, CONTENT, "image/png")
    assert answer.headers["ETag"] == f'"{origin.row.sha256}"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert "Set-Cookie" not in answer.headers
    assert origin.counting.queries == []


def test_a_copy_lives_no_longer_than_its_link(origin: Origin) -> None:
    caching = origin.client.get(origin.link).headers["Cache-Control"]

    kind, age, rest = caching.split(", ")
    assert (kind, rest) == ("private", "no-transform")
    assert LIFE_SECONDS - 60 < int(age.removeprefix("max-age=")) <= LIFE_SECONDS


def test_head_says_what_get_would(origin: Origin) -> None:
    got, head = origin.client.get(origin.link), origin.client.head(origin.link)

    assert (head.status_code, head.data) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Last-Modified", "Accept-Ranges", "Content-Disposition"):
        assert head.headers[name] == got.headers[name]


def test_a_range_is_answered_with_its_bytes(origin: Origin) -> None:
    part = origin.client.get(origin.link, headers={"Range": "bytes=3-6"})
    outside = origin.client.get(origin.link, headers={"Range": "bytes=999999-"})
    other = origin.client.get(origin.link, headers={"Range": "bytes=3-6", "If-Range": '"other"'})

    assert (part.status_code, part.data) == (206, CONTENT[3:7])
    assert part.headers["Content-Range"] == f"bytes 3-6/{len(CONTENT)}"
    assert slug(outside) == (416, "range-not-satisfiable")
    assert (other.status_code, other.data) == (200, CONTENT)


def test_a_copy_that_is_current_is_known_by_its_link_and_costs_no_call(origin: Origin) -> None:
    whole = origin.client.get(origin.link)
    origin.world.store.calls.clear()

    by_tag = origin.client.get(origin.link, headers={"If-None-Match": whole.headers["ETag"]})
    calls = list(origin.world.store.calls)
    by_date = origin.client.get(origin.link, headers={"If-Modified-Since": whole.headers["Last-Modified"]})
    stale = origin.client.get(origin.link, headers={"If-None-Match": '"other"'})

    assert (by_tag.status_code, by_tag.data, by_tag.headers["ETag"]) == (304, b"", whole.headers["ETag"])
    assert by_tag.headers["Cache-Control"].startswith("private, max-age=")
    assert (by_date.status_code, calls) == (304, [])
    assert (stale.status_code, stale.data) == (200, CONTENT)


def test_the_date_is_the_stores_own(origin: Origin) -> None:
    head = origin.client.head(origin.link)

    stored = origin.world.store.head(origin.row.object_key).modified_at.replace(microsecond=0)
    assert parsedate_to_datetime(head.headers["Last-Modified"]) == stored


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("/o/originals/", "/o/originals%2F"),
        ("/o/originals/", "/o/originals%2f"),
        ("/o/originals/", "/o/originals//"),
        ("/o/originals/", "/o/Originals/"),
        ("/o/originals/", "/o/./originals/"),
        ("/o/originals/", "/o/x/../originals/"),
        ("/o/originals/", "/o/originals;/"),
        ("/o/", "/o/%6f/"),
        (".png?", ".png/?"),
        (".png?", ".png%20?"),
        (".png?", ".jpg?"),
        ("?exp=", "?exp=1&exp="),
        ("?exp=", "?%65xp="),
        ("&kid=", "&x=1&kid="),
        ("&sig=", "&sig=A"),
    ],
)
def test_another_spelling_is_refused_before_anything_is_asked(origin: Origin, part: str, other: str) -> None:
    assert part in origin.link
    origin.world.store.calls.clear()

    answer = origin.client.get(origin.link.replace(part, other, 1))

    assert slug(answer) == (403, "link-not-valid")
    assert answer.headers["Cache-Control"] == "no-store"
    assert (origin.world.store.calls, origin.counting.queries) == ([], [])


@pytest.mark.parametrize(
    "target", ["/o/x", "/o/originals/x.png?exp=1&kid=a&sig=b", "/o/%00", "/o/..", "/o/a/../../b"]
)
def test_what_is_no_link_is_refused(origin: Origin, target: str) -> None:
    assert slug(origin.client.get(target)) == (403, "link-not-valid")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_a_link_is_for_reading_only(origin: Origin, method: str) -> None:
    assert slug(origin.client.open(origin.link, method=method)) == (405, "method-not-allowed")


def test_a_link_that_has_ended_is_refused(origin: Origin) -> None:
    ended = SignedLinks(
        KeyRings(DerivedRings(b"k" * 32)), now=lambda: utc_now() + dt.timedelta(seconds=LIFE_SECONDS + 2)
    )

    assert slug(origin.client_of(origin.world.photos, links=ended).get(origin.link)) == (403, "link-not-valid")


def test_who_goes_on_with_other_bytes_is_told_so_before_anything_else(origin: Origin) -> None:
    answer = origin.client.get(origin.link, headers={"If-Match": '"x"', "If-None-Match": "*"})

    assert slug(answer) == (412, "precondition-failed")


def test_a_removed_photo_is_gone_and_one_that_lost_its_bytes_is_an_outage(origin: Origin) -> None:
    origin.world.store.delete(origin.row.object_key)
    lost = origin.client.get(origin.link)
    origin.world.photos.delete(origin.owner_id, origin.row.id, lambda _row: None, is_permanent=True)
    removed = origin.client.get(origin.link)

    assert slug(lost) == (502, "object-missing")
    assert slug(removed) == (404, "not-found")


def test_a_link_leads_to_a_rendition_as_long_as_its_photo_is_there(origin: Origin) -> None:
    content = b"a small picture"
    sha256 = hashlib.sha256(content).hexdigest()
    key = write_rendition(origin.world, origin.row.id, "thumbnail", sha256=sha256)
    origin.world.store.put(key, BytesBody(content), content_type="image/webp")
    ends = utc_now() + dt.timedelta(seconds=LIFE_SECONDS)
    link = origin.links.make(key, sha256=sha256, content_type="image/webp", expires_at=ends)

    shown = origin.client.get(link)
    origin.world.store.delete(key)
    lost = origin.client.get(link)
    origin.world.photos.delete(origin.owner_id, origin.row.id, lambda _row: None, is_permanent=True)
    origin.world.settle()
    removed = origin.client.get(link)

    assert (shown.status_code, shown.data, shown.headers["Content-Type"]) == (200, content, "image/webp")
    assert slug(lost) == (502, "object-missing")
    assert slug(removed) == (404, "not-found")


def test_what_nobody_can_tell_is_not_told_to_be_gone(origin: Origin) -> None:
    origin.world.store.delete(origin.row.object_key)

    answer = origin.client_of(DeadDatabase(origin.world.database, origin.world.known)).get(origin.link)

    assert slug(answer) == (503, "unavailable")


def test_the_bytes_come_while_the_database_does_not_answer(origin: Origin) -> None:
    answer = origin.client_of(DeadDatabase(origin.world.database, origin.world.known)).get(origin.link)

    assert (answer.status_code, answer.data) == (200, CONTENT)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageUnavailableError("down"), 503),
        (StorageThrottledError("busy"), 503),
        (StorageTimeoutError("slow"), 504),
        (StorageDeniedError("no"), 503),
    ],
    ids=["down", "throttled", "slow", "denied"],
)
@pytest.mark.parametrize("call", ["head", "open"])
def test_an_outage_of_the_store_is_never_told_as_a_missing_photo(
    origin: Origin, call: str, error: StorageError, status: int
) -> None:
    def fail(_key: str) -> None:
        raise error

    origin.world.store.before[call] = fail

    assert origin.client.get(origin.link).status_code == status


def test_other_bytes_than_the_link_was_made_for_are_damage(origin: Origin) -> None:
    key = origin.row.object_key
    origin.world.store.delete(key)
    origin.world.store.put(key, BytesBody(CONTENT + b"!"), content_type="image/png")

    for method in ("GET", "HEAD"):
        assert origin.client.open(origin.link, method=method).status_code == 502
    assert slug(origin.client.get(origin.link)) == (502, "object-corrupt")
    assert origin.world.observer.heard["mismatch"] == 3


def test_a_link_to_a_local_store_finds_the_file_by_its_folder(origin: Origin, tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "objects")
    store.put(origin.row.object_key, BytesBody(CONTENT), content_type="image/png")
    links = SignedLinks(KeyRings(DerivedRings(b"k" * 32)), files=store)
    origin.links = links
    link = origin.link_to(origin.row.object_key)

    answer = origin.client_of(origin.world.photos, store=store, links=links).get(link)

    assert link.startswith(f"/o/{store.folder_of(origin.row.object_key)}/")
    assert (answer.status_code, answer.data) == (200, CONTENT)
