"""The routes of photos with the real authenticator: how many statements a request takes, what decides a 304."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from app.db import migrate
from app.db.engine import Database
from app.http import context, problems
from app.http.application import Application
from app.http.operations import mount
from app.photos.original_routes import OriginalRoutes
from app.photos.routes import PhotoRoutes
from app.photos.serving_routes import PhotoServing
from app.settings import DatabaseSettings
from tests.accounts.world import CLIENT, EMAIL, PASSWORD
from tests.accounts.world import World as Accounts
from tests.db.conftest import Observer
from tests.fakes.clocks import HandClock
from tests.http.edge import RememberingObserver
from tests.photos.world import DOCUMENTS, World, image

LIST = "/api/v1/photos"
CACHE_SECONDS = 5.0


class Album:
    """An account with two photos, logged in, on a database that counts its statements."""

    def __init__(self, database: Database, counting: Observer, folder: Path) -> None:
        self.clock = HandClock()
        self.accounts = Accounts(database, folder / "keys" / "ring.json", self.clock, cache_seconds=CACHE_SECONDS)
        self.world = World(database)
        self.counting = counting
        self.owner = self.accounts.accounts.register(EMAIL, PASSWORD)
        pair = self.accounts.sessions.log_in(EMAIL, PASSWORD, CLIENT)
        self.identity = {"Authorization": f"Bearer {pair.access_token}"}
        self.client = self._client()
        ids = [str(self.world.upload(self.owner.id, image(number)).document["id"]) for number in range(2)]
        self.one = f"{LIST}/{ids[0]}"
        self.original, self.other = f"{self.one}/original", f"{LIST}/{ids[1]}"

    def _client(self) -> FlaskClient:
        app = Application("photos", static_folder=None)
        context.install(app, RememberingObserver(), deadline_seconds=28, allowed_hosts=[])
        problems.install(app)
        routes = PhotoRoutes(self.world.photos, self.world.lists, DOCUMENTS, self.world.observer)
        originals = OriginalRoutes(
            self.world.photos, PhotoServing(self.world.store, self.world.observer, self.world.photos.has_object)
        )
        for mounted in (routes, originals):
            mount(app, mounted, self.accounts.authenticator)
        return app.test_client()

    def ask(self, path: str, tag: str | None = None) -> tuple[int, str, int]:
        """Ask for something; return the status, its tag, and how many statements that took."""
        self.counting.queries.clear()
        condition = {} if tag is None else {"If-None-Match": tag}
        answer = self.client.get(path, headers={**self.identity, **condition})
        answer.close()
        return answer.status_code, answer.headers.get("ETag", ""), len(self.counting.queries)


@pytest.fixture
def album(tmp_path: Path) -> Iterator[Album]:
    counting = Observer()
    settings = DatabaseSettings(url=SecretStr(f"sqlite:///{tmp_path}/album.db"))
    with closing(Database(settings, counting)) as database:
        migrate.upgrade(database)
        made = Album(database, counting, tmp_path)
        made.ask(made.one)  # from now on the caller is known
        yield made
        made.world.keeper.close()


PATHS: dict[str, Callable[[Album], str]] = {
    "one": lambda album: album.one,
    "list": lambda _: f"{LIST}?limit=1",
    "original": lambda album: album.original,
}


def test_a_page_takes_one_statement_and_so_does_its_304(album: Album) -> None:
    path = PATHS["list"](album)

    whole = album.ask(path)
    unchanged = album.ask(path, whole[1])

    assert whole[::2] == (200, 1)
    assert unchanged == (304, whole[1], 1)


@pytest.mark.parametrize("what", ["one", "original"])
def test_a_known_photo_takes_no_statement_whether_in_full_or_as_304(album: Album, what: str) -> None:
    path = PATHS[what](album)

    whole = album.ask(path)
    unchanged = album.ask(path, whole[1])

    assert whole[::2] == (200, 0)
    assert unchanged == (304, whole[1], 0)


@pytest.mark.parametrize("what", PATHS)
def test_a_304_says_of_the_photo_only_what_a_cache_needs(album: Album, what: str) -> None:
    path = PATHS[what](album)
    whole = album.client.get(path, headers=album.identity)

    unchanged = album.client.get(path, headers={**album.identity, "If-None-Match": whole.headers["ETag"]})

    kept = ("ETag", "Cache-Control", "Vary")
    assert [unchanged.headers[name] for name in kept] == [whole.headers[name] for name in kept]
    assert not {"Content-Type", "Content-Length", "Content-Disposition", "Link"} & set(unchanged.headers.keys())
    assert unchanged.data == b""


def test_after_a_change_one_statement_tells_of_the_new_photo(album: Album) -> None:
    _, tag, _ = album.ask(album.one)
    album.client.patch(album.one, json={"favorite": True}, headers=album.identity)

    status, newer, statements = album.ask(album.one, tag)

    assert (status, statements) == (200, 1)
    assert newer != tag


def test_a_caller_is_looked_up_again_when_the_belief_has_ended(album: Album) -> None:
    album.clock.advance(CACHE_SECONDS + 0.1)

    assert [album.ask(album.one)[2] for _ in range(2)] == [1, 0]


def test_an_ended_session_is_no_longer_served_although_token_and_caller_were_known(album: Album) -> None:
    album.client.get(album.one, headers=album.identity)
    album.accounts.accounts.change_password(album.owner.id, PASSWORD, "another lighthouse", None)

    status, _, _ = album.ask(album.one)

    assert status == 401


@pytest.mark.parametrize("what", ["one", "list"])
def test_what_is_known_to_be_unchanged_follows_every_change(album: Album, what: str) -> None:
    path = PATHS[what](album) if what == "one" else LIST
    tags = [album.ask(path)[1]]
    for change in ({"title": "a"}, {"favorite": True}, {"tags": ["x"]}):
        album.client.patch(album.one, json=change, headers=album.identity)
        tags.append(album.ask(path, tags[-1])[1])
    album.client.delete(album.one, headers=album.identity)
    tags.append(album.ask(path, tags[-1])[1])

    assert len(set(tags)) == len(tags)


def test_who_goes_on_with_other_bytes_is_told_so_before_anything_else(album: Album) -> None:
    other = {"If-Match": '"x"', "If-None-Match": "*", "Range": "bytes=0-1"}

    answer = album.client.get(album.original, headers={**album.identity, **other})

    assert answer.status_code == 412
    assert answer.get_json()["type"].endswith(":precondition-failed")


def test_a_condition_is_counted_by_whether_the_copy_was_current(album: Album) -> None:
    _, tag, _ = album.ask(album.one)
    heard = album.world.observer.heard

    for given in (tag, "*", 'W/"x"', f'"y", {tag}'):
        album.ask(album.one, given)

    assert (heard["current"], heard["stale"]) == (3, 1)


def test_a_known_photo_that_was_removed_elsewhere_is_gone_and_one_that_lost_its_bytes_is_an_outage(
    album: Album,
) -> None:
    ids = [UUID(path.split("/")[4]) for path in (album.original, album.other)]
    before = [album.ask(f"{LIST}/{photo_id}/original")[0] for photo_id in ids]
    album.world.remove_elsewhere(album.owner.id, ids[0])
    album.world.store.delete(album.world.photos.get(album.owner.id, ids[1]).original.object_key)

    after = [album.ask(f"{LIST}/{photo_id}/original")[0] for photo_id in ids]

    assert (before, after) == ([200, 200], [404, 502])


def test_a_photo_that_is_not_there_is_404_with_and_without_a_condition(album: Album) -> None:
    gone = album.one[:-12] + "0" * 12

    assert [album.ask(gone)[0], album.ask(gone, '"v1"')[0], album.ask(gone, "*")[0]] == [404, 404, 404]
