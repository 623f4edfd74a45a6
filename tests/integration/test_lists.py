"""Lists: every filter, the order, pages that stay stable, cursors, entity tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import images
from tests.integration.judging import assert_problem
from tests.servers.client import Client, new_photo
from tests.servers.product import Product
from tests.servers.stacks import CLOUD, EMBEDDED, MARIADB

pytestmark = pytest.mark.parametrize("stack_name", [EMBEDDED, CLOUD, MARIADB], indirect=True, scope="session")

Document = dict[str, Any]


@pytest.fixture(scope="module")
def album(product: Product) -> Client:
    """A user with fourteen photos of every kind that a filter tells apart."""
    client = product.new_user()
    by_name = {sample.name: sample.data for sample in images.samples()}
    for index, name in enumerate(("png", "gif", "webp", "avif", "heic")):
        client.send_form(by_name[name], fields={"title": f"format {name}", "tags": ["formats", f"t{index % 2}"]})
    for year in range(2015, 2021):
        photo = client.upload(title=f"Year {year}", taken_at=f"{year}-07-01T12:00:00Z", description="100% _blue_ sky")
        if year % 2:
            client.patch(photo["links"]["self"], json={"favorite": True, "tags": ["odd", "t0"]})
    for index in range(3):
        photo = client.upload(title=f"trash {index}", tags="t0")
        client.delete(photo["links"]["self"])
    return client


FILTERS: list[tuple[Document, Callable[[Document], bool]]] = [
    ({}, bool),
    ({"tag": "t0"}, lambda photo: "t0" in photo["tags"]),
    ({"tag": "nobody has this"}, lambda photo: not photo),
    ({"q": "YEAR 20"}, lambda photo: "Year 20" in photo["title"]),
    ({"q": "% _blue"}, lambda photo: photo["description"] is not None),
    ({"q": "1__% "}, lambda photo: not photo),
    ({"taken_after": "2017-07-01T12:00:00Z"}, lambda photo: (photo["taken_at"] or "") >= "2017-07-01T12"),
    (
        {"taken_before": "2017-07-01T14:00:00+02:00"},
        lambda photo: photo["taken_at"] is not None and photo["taken_at"] < "2017-07-01T12",
    ),
    (
        {"taken_after": "2016-01-01T00:00:00Z", "taken_before": "2018-01-01T00:00:00Z"},
        lambda photo: (photo["taken_at"] or "")[:4] in {"2016", "2017"},
    ),
    ({"content_type": "image/png"}, lambda photo: photo["content_type"] == "image/png"),
    ({"favorite": "true"}, lambda photo: photo["favorite"]),
    ({"favorite": "false"}, lambda photo: not photo["favorite"]),
    ({"tag": "t0", "favorite": "true", "q": "year"}, lambda photo: "odd" in photo["tags"]),
]


@pytest.mark.parametrize(("query", "fits"), FILTERS, ids=[str(query) for query, _ in FILTERS])
@pytest.mark.parametrize("sort", ["-created_at", "created_at", "-taken_at", "taken_at"])
def test_a_filter_shows_what_fits_in_order(
    album: Client, query: Document, fits: Callable[[Document], bool], sort: str
) -> None:
    everything = album.photos(limit=100)

    found = album.photos(**query, sort=sort, limit=2)

    field = sort.removeprefix("-")
    wanted = [photo for photo in everything if fits(photo)]
    wanted.sort(key=lambda photo: (photo[field] or photo["created_at"], photo["id"]), reverse=sort[0] == "-")
    assert [photo["id"] for photo in found] == [photo["id"] for photo in wanted]


def test_the_trash_is_a_list_of_its_own(album: Client) -> None:
    trashed, visible = album.photos(trashed="true"), album.photos()

    assert {photo["title"] for photo in trashed} == {"trash 0", "trash 1", "trash 2"}
    assert all(photo["trashed_at"] for photo in trashed)
    assert not {photo["id"] for photo in trashed} & {photo["id"] for photo in visible}
    assert len(visible) == 11


def test_a_list_holds_nothing_of_another_owner(album: Client, user: Client) -> None:
    assert album.photos()
    assert user.photos() == []


def test_pages_stay_stable_while_photos_come_and_go(user: Client) -> None:
    before = [user.upload()["id"] for _ in range(10)]
    first = user.get("/api/v1/photos", params={"limit": 4}).json()
    shown = [photo["id"] for photo in first["items"]]

    user.upload()
    user.delete(f"/api/v1/photos/{shown[-1]}", params={"permanent": "true"})
    second = user.get("/api/v1/photos", params={"limit": 4, "cursor": first["next_cursor"]}).json()
    user.upload()
    user.delete(f"/api/v1/photos/{shown[0]}")
    third = user.get("/api/v1/photos", params={"limit": 4, "cursor": second["next_cursor"]}).json()

    shown += [photo["id"] for photo in [*second["items"], *third["items"]]]
    assert shown == list(reversed(before))
    assert third["next_cursor"] is None


def test_the_link_to_the_next_page_keeps_the_question(album: Client) -> None:
    answer = album.get("/api/v1/photos", params={"limit": 2, "tag": "t0", "sort": "created_at"})

    following = album.get(answer.links["next"]["url"])

    assert following.status_code == 200
    ids = [photo["id"] for photo in [*answer.json()["items"], *following.json()["items"]]]
    assert ids == [photo["id"] for photo in album.photos(tag="t0", sort="created_at")][:4]
    assert "next" not in album.get("/api/v1/photos", params={"limit": 100}).links


@pytest.mark.parametrize("change", [{"sort": "created_at"}, {"tag": "t0"}, {"trashed": "true"}, {"q": "x"}])
def test_a_cursor_belongs_to_its_list(album: Client, user: Client, change: Document) -> None:
    cursor = album.get("/api/v1/photos", params={"limit": 2}).json()["next_cursor"]

    assert_problem(album.get("/api/v1/photos", params={"cursor": cursor, **change}), 400, "malformed-request")
    assert_problem(user.get("/api/v1/photos", params={"cursor": cursor}), 400, "malformed-request")
    assert album.get("/api/v1/photos", params={"limit": 3, "cursor": cursor}).status_code == 200


@pytest.mark.parametrize("cursor", ["x", "A" * 40, "....", "A" * 512])
def test_a_cursor_that_nobody_signed_is_400(album: Client, cursor: str) -> None:
    assert_problem(album.get("/api/v1/photos", params={"cursor": cursor}), 400, "malformed-request")


def test_a_changed_cursor_is_400(album: Client) -> None:
    cursor = album.get("/api/v1/photos", params={"limit": 2}).json()["next_cursor"]
    at = len(cursor) // 2
    changed = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]

    assert_problem(album.get("/api/v1/photos", params={"cursor": changed}), 400, "malformed-request")


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "x"},
        {"sort": "title"},
        {"taken_after": "yesterday"},
        {"taken_after": "2020-01-01T00:00:00"},
        {"content_type": "image/tiff"},
        {"favorite": "maybe"},
        {"tag": ""},
        {"q": "x" * 101},
        {"unknown": "1"},
    ],
    ids=str,
)
def test_a_query_that_makes_no_sense_is_422_and_names_the_parameter(album: Client, query: Document) -> None:
    document = assert_problem(album.get("/api/v1/photos", params=query), 422, "validation-failed")

    assert [error["parameter"] for error in document["errors"]] == list(query)


def test_a_parameter_given_twice_is_422(album: Client) -> None:
    assert_problem(album.get("/api/v1/photos?limit=1&limit=2"), 422, "validation-failed")


def test_a_list_that_has_not_changed_is_304(user: Client) -> None:
    photo = user.upload()
    tag = user.get("/api/v1/photos").headers["ETag"]

    unchanged = user.get("/api/v1/photos", headers={"If-None-Match": tag})
    user.patch(photo["links"]["self"], json={"title": "new"})
    changed = user.get("/api/v1/photos", headers={"If-None-Match": tag})

    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag
    assert "no-store" not in changed.headers["Cache-Control"]
    assert "private" in changed.headers["Cache-Control"]


def test_a_list_may_be_asked_by_head(user: Client) -> None:
    user.upload()

    got, head = user.get("/api/v1/photos"), user.head("/api/v1/photos")

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["ETag"] == got.headers["ETag"]
    assert head.headers["Content-Length"] == str(len(got.content))


def test_a_new_photo_stands_first(user: Client) -> None:
    ids = [user.upload(new_photo())["id"] for _ in range(3)]

    assert [photo["id"] for photo in user.photos()] == ids[::-1]
