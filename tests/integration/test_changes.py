"""Changing, trashing, restoring and removing photos; batches; checks of digests."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote_from_bytes
from uuid import uuid4

import pytest

from tests.fakes.naughty import NAUGHTY_TEXTS
from tests.integration.judging import assert_problem, stored
from tests.servers.client import Client, new_photo, tomorrow
from tests.servers.product import Product, until
from tests.servers.stacks import CLOUD, EMBEDDED, MARIADB

pytestmark = pytest.mark.parametrize("stack_name", [EMBEDDED, CLOUD, MARIADB], indirect=True, scope="session")


def test_fields_left_out_stay_and_null_clears(owner: Client) -> None:
    photo = owner.upload(title="one", description="two", tags="a,b", taken_at="2020-01-01T00:00:00Z")

    changed = owner.patch(photo["links"]["self"], json={"title": None, "tags": ["c", "c", "d"], "favorite": True})

    document = changed.json()
    assert changed.status_code == 200
    assert (document["title"], document["description"]) == (None, "two")
    assert (document["tags"], document["favorite"]) == (["c", "d"], True)
    assert document["taken_at"] == photo["taken_at"]
    assert document["updated_at"] > photo["updated_at"]
    assert owner.get(photo["links"]["self"]).json() == document


def test_clearing_the_time_taken_moves_the_photo_to_where_it_was_made(user: Client) -> None:
    old = user.upload(taken_at="2001-01-01T00:00:00Z")
    new = user.upload(taken_at="2002-01-01T00:00:00Z")
    assert [photo["id"] for photo in user.photos(sort="-taken_at")] == [new["id"], old["id"]]

    user.patch(old["links"]["self"], json={"taken_at": None})

    assert [photo["id"] for photo in user.photos(sort="-taken_at")] == [old["id"], new["id"]]


@pytest.mark.parametrize(
    "body",
    [
        {"title": ""},
        {"title": "   "},
        {"title": "x" * 201},
        {"title": "two\nlines"},
        {"title": 5},
        {"description": "x" * 4001},
        {"tags": ["x" * 51]},
        {"tags": ["x"] * 51},
        {"tags": "a"},
        {"tags": None},
        {"favorite": "true"},
        {"favorite": None},
        {"taken_at": "2020-01-01"},
        {"taken_at": "2020-01-01T00:00:00"},
        {"taken_at": "0001-01-01T00:00:00+14:00"},
        {"id": "x"},
        {"sha256": "x"},
        {"unknown": 1},
        [],
        "text",
    ],
    ids=lambda body: str(body)[:40],
)
def test_a_change_that_makes_no_sense_is_422_and_changes_nothing(owner: Client, body: Any) -> None:
    photo = owner.upload(title="kept")

    document = assert_problem(owner.patch(photo["links"]["self"], json=body), 422, "validation-failed")

    assert document["errors"]
    assert owner.get(photo["links"]["self"]).headers["ETag"].startswith('"v1')


@pytest.mark.parametrize("text", NAUGHTY_TEXTS, ids=range(len(NAUGHTY_TEXTS)))
def test_naughty_text_comes_back_as_it_was_or_is_refused(owner: Client, naughty: dict[str, Any], text: str) -> None:
    url = naughty["links"]["self"]
    for field, value in (("title", text), ("description", text), ("tags", [text])):
        answer = owner.patch(url, json={field: value})
        if answer.status_code in {400, 422}:  # 400: half a surrogate pair is no JSON text
            assert_problem(answer, answer.status_code)
            continue
        assert answer.status_code == 200
        wanted = [text.strip()] if field == "tags" else value
        assert answer.json()[field] == owner.get(url).json()[field] == wanted
    for query in ("q", "tag", "cursor"):
        raw = f"{query}={quote_from_bytes(text.encode('utf-8', 'surrogatepass'))}"
        assert owner.get(f"/api/v1/photos?{raw}").status_code in {200, 400, 422}


@pytest.fixture(scope="module")
def naughty(owner: Client) -> dict[str, Any]:
    """A photo whose texts are changed again and again."""
    return owner.upload()


def test_if_match_lets_only_the_current_version_through(owner: Client) -> None:
    url = owner.upload()["links"]["self"]
    tag = owner.get(url).headers["ETag"]

    first = owner.patch(url, json={"title": "one"}, headers={"If-Match": tag})
    second = owner.patch(url, json={"title": "two"}, headers={"If-Match": tag})
    weak = owner.patch(url, json={"title": "two"}, headers={"If-Match": f"W/{first.headers['ETag']}"})
    removed = owner.delete(url, headers={"If-Match": tag})
    star = owner.patch(url, json={"title": "three"}, headers={"If-Match": "*"})
    several = owner.patch(url, json={"title": "four"}, headers={"If-Match": f'"x", {star.headers["ETag"]}'})

    assert (first.status_code, star.status_code, several.status_code) == (200, 200, 200)
    for answer in (second, weak, removed):
        assert_problem(answer, 412, "precondition-failed")
    assert owner.get(url).json()["title"] == "four"
    assert owner.get(url).headers["ETag"] == several.headers["ETag"]


def test_the_trash_keeps_a_photo_and_restore_brings_it_back(owner: Client) -> None:
    photo = owner.upload()
    url = photo["links"]["self"]
    used = owner.used_bytes()

    deleted = owner.delete(url)
    again = owner.delete(url)
    in_trash = owner.get(url)
    restored = owner.post(f"{url}/restore")
    twice = owner.post(f"{url}/restore")

    assert (deleted.status_code, again.status_code, deleted.content) == (204, 204, b"")
    assert (in_trash.status_code, in_trash.json()["trashed_at"] is not None) == (200, True)
    assert (restored.status_code, restored.json()["trashed_at"]) == (200, None)
    assert twice.json() == restored.json()
    assert owner.used_bytes() == used
    assert owner.original(photo).status_code == 200


def test_a_permanent_delete_is_final_and_leaves_nothing(product: Product, user: Client) -> None:
    content = new_photo()
    photo = user.upload(content)
    url = photo["links"]["self"]

    deleted = user.delete(url, params={"permanent": "true"})

    assert deleted.status_code == 204
    for answer in (user.get(url), user.original(photo), user.post(f"{url}/restore"), user.delete(url)):
        assert_problem(answer, 404, "not-found")
    assert user.photos() == user.photos(trashed="true") == []
    assert user.used_bytes() == 0
    until(lambda: stored(product, user) == (0, 0), "row and object to go")
    assert user.upload(content)["id"] != photo["id"]


@pytest.mark.parametrize("path", ["", "/original", "/restore"])
def test_an_unknown_id_and_another_owners_are_the_same_404(owner: Client, user: Client, path: str) -> None:
    url = user.upload()["links"]["self"]
    method = "POST" if path == "/restore" else "GET"

    foreign = assert_problem(owner.request(method, f"{url}{path}"), 404, "not-found")
    unknown = assert_problem(owner.request(method, f"/api/v1/photos/{uuid4()}{path}"), 404, "not-found")

    assert foreign.pop("request_id") != unknown.pop("request_id")
    assert foreign == unknown
    assert_problem(owner.delete(url), 404, "not-found")
    assert_problem(owner.patch(url, json={"title": "mine"}), 404, "not-found")
    assert user.get(url).json()["title"] is None


def test_a_batch_answers_each_item_by_itself_in_order(owner: Client, user: Client) -> None:
    first, second, full = (owner.upload(tags=f"old,{index}") for index in range(3))
    owner.patch(full["links"]["self"], json={"tags": [f"t{index}" for index in range(50)]})
    foreign, unknown = user.upload(), {"id": str(uuid4())}
    ids = [photo["id"] for photo in (second, unknown, full, foreign, first)]

    tagged = owner.post("/api/v1/photos/batch", json={"action": "tag", "ids": ids, "add": ["new"], "remove": ["old"]})

    items = tagged.json()["items"]
    assert tagged.status_code == 200
    assert [item["id"] for item in items] == ids
    assert [item["status"] for item in items] == [200, 404, 422, 404, 200]
    assert owner.get(first["links"]["self"]).json()["tags"] == ["0", "new"]
    assert user.get(foreign["links"]["self"]).json()["tags"] == []
    assert {photo["id"] for photo in owner.photos(tag="new")} == {first["id"], second["id"]}


def test_a_batch_deletes_restores_and_removes(owner: Client) -> None:
    ids = [owner.upload()["id"] for _ in range(3)]
    used = owner.used_bytes()

    def batch(action: str, **more: Any) -> list[int]:
        answer = owner.post("/api/v1/photos/batch", json={"action": action, "ids": ids, **more})
        return [item["status"] for item in answer.json()["items"]]

    def trashed() -> set[str]:
        return {photo["id"] for photo in owner.photos(trashed="true")} & set(ids)

    assert (batch("delete"), trashed()) == ([204] * 3, set(ids))
    assert (batch("restore"), trashed()) == ([200] * 3, set())
    assert owner.used_bytes() == used
    assert batch("delete", permanent=True) == [204] * 3
    assert batch("restore") == [404] * 3
    assert owner.used_bytes() < used


@pytest.mark.parametrize(
    "body",
    [
        {"action": "explode", "ids": [str(uuid4())]},
        {"action": "delete", "ids": []},
        {"action": "delete", "ids": ["x"]},
        {"action": "delete", "ids": [str(uuid4()) for _ in range(101)]},
        {"action": "delete", "ids": [str(uuid4())] * 2},
        {"action": "restore", "ids": [str(uuid4())], "permanent": True},
        {"ids": [str(uuid4())]},
    ],
    ids=["action", "none", "no-id", "many", "twice", "foreign-field", "no-action"],
)
def test_a_batch_that_makes_no_sense_is_422(owner: Client, body: Any) -> None:
    assert_problem(owner.post("/api/v1/photos/batch", json=body), 422, "validation-failed")


def test_a_batch_may_delete_only_with_the_scope(product: Product, owner: Client) -> None:
    photo = owner.upload()
    body = {"name": "writer", "scopes": ["photos:write"], "expires_at": tomorrow()}
    key = owner.post("/api/v1/api-keys", json=body).json()["key"]
    owner.private.add(key)
    writer = product.client()
    writer.http.headers["X-Api-Key"] = key

    refused = writer.post("/api/v1/photos/batch", json={"action": "delete", "ids": [photo["id"]]})
    tagged = writer.post("/api/v1/photos/batch", json={"action": "tag", "ids": [photo["id"]], "add": ["x"]})

    assert_problem(refused, 403, "missing-scope")
    assert tagged.json()["items"][0]["status"] == 200


def test_check_tells_which_photos_are_there(owner: Client, user: Client) -> None:
    mine, theirs, trashed, nowhere = (new_photo() for _ in range(4))
    owner.upload(mine)
    user.upload(theirs)
    gone = owner.upload(trashed)
    owner.delete(gone["links"]["self"])
    digests = [hashlib.sha256(content).hexdigest() for content in (nowhere, trashed, theirs, mine, mine)]

    answer = owner.post("/api/v1/photos/check", json={"digests": digests})

    items = answer.json()["items"]
    assert answer.status_code == 200
    assert [item["digest"] for item in items] == digests
    assert [item["photo_id"] is not None for item in items] == [False, True, False, True, True]
    assert [item["trashed_at"] is not None for item in items] == [False, True, False, False, False]


@pytest.mark.parametrize("digests", [[], ["x"], ["A" * 64], ["a" * 64] * 1001, "a" * 64])
def test_check_refuses_what_is_no_digest(owner: Client, digests: Any) -> None:
    assert_problem(owner.post("/api/v1/photos/check", json={"digests": digests}), 422, "validation-failed")


def test_the_etag_of_an_upload_is_the_photos(user: Client) -> None:
    uploaded = user.send(new_photo())

    unchanged = user.get(uploaded.headers["Location"], headers={"If-None-Match": uploaded.headers["ETag"]})

    assert (uploaded.status_code, unchanged.status_code) == (201, 304)
