"""Links are given to owners alone, for one photo or a hundred, and what is not there is said without a leak."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.test import TestResponse

from app.accounts.keyring import DerivedRings, KeyRings
from app.db import migrate
from app.db.base import new_id, utc_now
from app.db.engine import Database
from app.errors import UnavailableError
from app.http import context, problems
from app.http.application import Application
from app.http.identity import Principal
from app.http.operations import mount
from app.images.presets import Format
from app.photos.link_routes import LinkRoutes
from app.photos.links import Link, LinkService, Way, Window, origin_way
from app.photos.made_renditions import MadeRenditions
from app.photos.signed_links import SignedLinks
from app.settings import DatabaseSettings
from tests.db.conftest import Observer
from tests.http.edge import RememberingObserver
from tests.photos.world import PRESETS, World, image, write_rendition

MANY = "/api/v1/photos/links"
MOST = 100


class Album:
    """Photos of two owners; the credential is the owner's id."""

    def __init__(self, database: Database, counting: Observer) -> None:
        self.counting = counting
        self.world = World(database)
        self.owner_id, self.other_id = self.world.new_user(), self.world.new_user()
        self.mine = [self.upload(self.owner_id, number) for number in range(3)]
        self.theirs = self.upload(self.other_id, 9)
        self.scopes = frozenset({"photos:read"})
        self.cdn_works = True
        signed = SignedLinks(KeyRings(DerivedRings(b"k" * 32)))
        cdn = Way("cdn", self.cdn, lambda: self.cdn_works)
        self.client = self.client_of(LinkService([cdn, origin_way(signed)], window_seconds=600))
        counting.queries.clear()

    def upload(self, owner_id: UUID, number: int) -> str:
        return str(self.world.upload(owner_id, image(number)).document["id"])

    def make(self, photo_id: str, preset: str, image_format: Format = Format.WEBP) -> str:
        """Write down that a rendition is made; return its key."""
        return write_rendition(self.world, UUID(photo_id), preset, image_format)

    def cdn(self, photo: Any, window: Window) -> Link:
        return Link(f"https://cdn.example.org/{photo.object_key}?x", window.expires_at, "cdn")

    def client_of(self, links: LinkService) -> FlaskClient:
        app = Application("links", static_folder=None)
        context.install(app, RememberingObserver(), deadline_seconds=28, allowed_hosts=[])
        problems.install(app)
        mount(app, LinkRoutes(self.world.photos, MadeRenditions(self.world.database, PRESETS), links), self)
        return app.test_client()

    def authenticate(self, credential: str, *, fresh: bool = False) -> Principal:
        del fresh
        return Principal(UUID(credential), self.scopes)

    def get(self, photo_id: object) -> TestResponse:
        return self.client.get(f"/api/v1/photos/{photo_id}/links", headers=self.headers)

    def post(self, ids: list[str]) -> TestResponse:
        return self.client.post(MANY, json={"ids": ids}, headers=self.headers)

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Api-Key": str(self.owner_id)}


@pytest.fixture
def album(tmp_path: Path) -> Iterator[Album]:
    counting = Observer()
    settings = DatabaseSettings(url=SecretStr(f"sqlite:///{tmp_path}/links.db"))
    with closing(Database(settings, counting)) as database:
        migrate.upgrade(database)
        made = Album(database, counting)
        yield made
        made.world.keeper.close()


def test_a_link_says_where_until_when_and_by_which_way(album: Album) -> None:
    answer = album.get(album.mine[0])

    row = album.world.photos.get(album.owner_id, UUID(album.mine[0])).original
    document = answer.get_json()
    link = document["links"]["original"]
    none = {"thumbnail": None, "preview": None, "full": None}
    assert document == {"id": album.mine[0], "links": {"original": link, "renditions": none}}
    assert (link["via"], link["url"]) == ("cdn", f"https://cdn.example.org/{row.object_key}?x")
    assert dt.datetime.fromisoformat(link["expires_at"]) - utc_now() > dt.timedelta(seconds=600)
    assert answer.headers["Cache-Control"] == "private, no-store"


def test_many_links_come_in_the_order_of_the_request(album: Album) -> None:
    wanted = [album.mine[2], album.mine[0], album.mine[1]]

    answer = album.post(wanted)

    items = answer.get_json()["items"]
    assert [(item["id"], item["status"]) for item in items] == [(photo_id, 200) for photo_id in wanted]
    assert [item["links"] for item in items] == [album.get(photo_id).get_json()["links"] for photo_id in wanted]
    assert answer.headers["Cache-Control"] == "private, no-store"


def test_a_hundred_links_cost_two_statements(album: Album) -> None:
    ids = [*album.mine, *(str(new_id()) for _ in range(MOST - len(album.mine)))]
    album.counting.queries.clear()

    answer = album.post(ids)

    assert len(answer.get_json()["items"]) == MOST
    assert len(album.counting.queries) == 2


def test_renditions_that_are_made_have_links_of_the_same_way(album: Album) -> None:
    keys = {preset: album.make(album.mine[0], preset) for preset in ("thumbnail", "full")}

    links = album.get(album.mine[0]).get_json()["links"]

    assert links["renditions"]["preview"] is None
    for preset, key in keys.items():
        link = links["renditions"][preset]
        assert (link["via"], link["url"]) == ("cdn", f"https://cdn.example.org/{key}?x")
        assert (link["content_type"], link["width"], link["height"]) == ("image/webp", 320, 240)
        assert link["expires_at"] == links["original"]["expires_at"]


def test_links_lead_to_renditions_of_the_format_that_is_asked_for(album: Album) -> None:
    key = album.make(album.mine[0], "preview", Format.AVIF)
    path = f"/api/v1/photos/{album.mine[0]}/links?format="

    one = album.client.get(f"{path}avif", headers=album.headers).get_json()["links"]
    body = {"ids": album.mine, "format": "avif"}
    items = album.client.post(MANY, json=body, headers=album.headers).get_json()["items"]

    assert one["renditions"]["preview"]["url"] == f"https://cdn.example.org/{key}?x"
    assert [item["links"]["renditions"]["preview"] for item in items] == [one["renditions"]["preview"], None, None]
    assert album.get(album.mine[0]).get_json()["links"]["renditions"]["preview"] is None
    assert album.client.get(f"{path}gif", headers=album.headers).status_code == 422


def test_what_is_not_there_and_what_is_anothers_get_the_same_404(album: Album) -> None:
    unknown = str(new_id())

    one = [album.get(photo_id) for photo_id in (unknown, album.theirs)]
    items = album.post([unknown, album.mine[0], album.theirs]).get_json()["items"]

    assert [answer.status_code for answer in one] == [404, 404]
    assert [item["status"] for item in items] == [404, 200, 404]
    for item in (items[0], items[2]):
        assert (item["links"], item["detail"]) == (None, "There is no such photo.")


def test_a_removed_photo_has_no_links_and_one_in_the_trash_has(album: Album) -> None:
    for photo_id, is_permanent in ((album.mine[0], True), (album.mine[1], False)):
        album.world.photos.delete(album.owner_id, UUID(photo_id), lambda _row: None, is_permanent=is_permanent)

    assert [album.get(photo_id).status_code for photo_id in album.mine] == [404, 200, 200]
    assert [item["status"] for item in album.post(album.mine).get_json()["items"]] == [404, 200, 200]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": []},
        {"ids": ["x"]},
        {"ids": "x"},
        {"ids": [1]},
        {"ids": [str(UUID(int=number)) for number in range(MOST + 1)]},
        {"ids": [str(UUID(int=1))] * 2},
        {"ids": [str(UUID(int=1))], "more": 1},
        {"ids": [str(UUID(int=1))], "format": "png"},
    ],
    ids=["nothing", "none", "no_id", "text", "number", "too_many", "twice", "unknown", "format"],
)
def test_a_wrong_body_is_422(album: Album, body: dict[str, Any]) -> None:
    answer = album.client.post(MANY, json=body, headers=album.headers)

    assert (answer.status_code, len(album.counting.queries)) == (422, 0)


def test_links_need_the_scope_of_reading(album: Album) -> None:
    album.scopes = frozenset({"photos:write", "photos:delete"})

    assert [album.get(album.mine[0]).status_code, album.post(album.mine).status_code] == [403, 403]


def test_without_the_cdn_links_lead_here_and_with_it_back(album: Album) -> None:
    heard = []

    for works in (True, False, True):
        album.cdn_works = works
        (item,) = album.post([album.mine[0]]).get_json()["items"]
        heard.append((item["links"]["original"]["via"], item["links"]["original"]["url"].partition("/o")[0]))

    assert heard == [("cdn", heard[0][1]), ("origin", ""), ("cdn", heard[0][1])]


def test_when_no_way_works_it_is_an_outage(album: Album) -> None:
    def fail(_photo: Any, _window: Window) -> Link:
        raise UnavailableError("No key is active.")

    client = album.client_of(LinkService([Way("origin", fail)], window_seconds=600))

    answer = client.get(f"/api/v1/photos/{album.mine[0]}/links", headers=album.headers)

    assert answer.status_code == 503
