"""Links on both stacks: the same bytes by each way, for whoever has them, in exactly one spelling."""

from __future__ import annotations

import datetime as dt
import http.client
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.integration.judging import assert_problem
from tests.servers.client import Client, new_photo
from tests.servers.product import Product, until
from tests.servers.stacks import Stack, swift_stack
from tests.servers.swift import SwiftServer

ORIGIN_ONLY = {"PHOTO_API_LINKS__PRESIGNED": "false"}


@pytest.fixture(scope="module")
def content() -> bytes:
    return new_photo(300_000)


@pytest.fixture(scope="module")
def photo_id(owner: Client, content: bytes) -> str:
    return str(owner.upload(content)["id"])


def link_of(client: Client, photo_id: str) -> dict[str, Any]:
    answer = client.get(f"/api/v1/photos/{photo_id}/links")
    assert answer.status_code == 200, answer.text
    link: dict[str, Any] = answer.json()["links"]["original"]
    client.private.add(urlsplit(link["url"]).query)  # a link is a bearer secret: it stands in no log
    return link


def link_by(client: Client, photo_id: str, via: str) -> dict[str, Any]:
    """Return a link that leads by a way, once it is taken: a look of health at storage may just have been late."""
    until(lambda: link_of(client, photo_id)["via"] == via, f"links by {via}", 30)
    return link_of(client, photo_id)


def follow(product: Product, url: str, **options: Any) -> requests.Response:
    """Follow a link as somebody without an account does."""
    absolute = product.url + url if url.startswith("/") else url
    return requests.request(options.pop("method", "GET"), absolute, timeout=30, **options)


def test_a_link_gives_the_bytes_to_whoever_has_it(
    product: Product, owner: Client, photo_id: str, content: bytes
) -> None:
    link = link_by(owner, photo_id, "storage" if product.stack.objects_folder is None else "origin")

    whole = follow(product, link["url"])
    part = follow(product, link["url"], headers={"Range": "bytes=1000-1999"})

    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["Content-Type"] == "image/jpeg"
    assert (part.status_code, part.content) == (206, content[1000:2000])
    assert dt.timedelta(0) < dt.datetime.fromisoformat(link["expires_at"]) - dt.datetime.now(dt.UTC)


def test_one_link_and_many_are_the_same(product: Product, owner: Client, photo_id: str) -> None:
    def of_many() -> dict[str, Any]:
        (item,) = owner.post("/api/v1/photos/links", json={"ids": [photo_id]}).json()["items"]
        assert item["status"] == 200
        made: dict[str, Any] = item["links"]["original"]
        owner.private.add(urlsplit(made["url"]).query)
        return made

    way = "storage" if product.stack.objects_folder is None else "origin"
    until(lambda: of_many()["via"] == way, f"links by {way}", 30)

    assert urlsplit(of_many()["url"]).path == urlsplit(link_by(owner, photo_id, way)["url"]).path


@pytest.fixture(scope="module")
def origin(new_stack: Callable[[], Stack], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A product that gives links to itself alone."""
    running = Product(new_stack(), tmp_path_factory.mktemp("origin"), settings=ORIGIN_ONLY)
    yield running
    running.close()
    assert running.find_logged(running.private()) == set()


@pytest.fixture(scope="module")
def guest(origin: Product, content: bytes) -> tuple[Client, str]:
    client = origin.new_user()
    return client, str(client.upload(content)["id"])


@pytest.fixture(scope="module")
def link(guest: tuple[Client, str]) -> str:
    made = link_of(*guest)
    assert made["via"] == "origin"
    return str(made["url"])


def test_a_link_stays_the_same_over_workers_and_requests(guest: tuple[Client, str]) -> None:
    client, photo_id = guest
    urls = set()
    for _ in range(12):
        twin = client.twin()  # a connection of its own reaches any worker
        urls.add(link_of(twin, photo_id)["url"])
        twin.close()

    assert len(urls) <= 2  # a window may have ended in between


def test_a_link_to_this_server_holds_for_reading_with_ranges_and_conditions(
    origin: Product, link: str, content: bytes
) -> None:
    whole = follow(origin, link)
    head = follow(origin, link, method="HEAD")
    tag = {"If-None-Match": whole.headers["ETag"]}

    assert (whole.status_code, whole.content) == (200, content)
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(content)))
    assert follow(origin, link, headers=tag).status_code == 304
    assert follow(origin, link, headers={"Range": "bytes=-7"}).content == content[-7:]
    assert follow(origin, link, method="POST").status_code == 405
    age = int(whole.headers["Cache-Control"].split("max-age=")[1].split(",")[0])
    assert 0 < age <= 3600


SPELLINGS: dict[str, Callable[[str], str]] = {
    "upper case": lambda link: link.replace("/o/", "/O/"),
    "upper case inside": lambda link: link.replace("originals", "Originals"),
    "encoded slash": lambda link: "/o/" + link[3:].replace("/", "%2f", 1),
    "encoded slash, upper case": lambda link: "/o/" + link[3:].replace("/", "%2F", 1),
    "encoded letter": lambda link: link.replace("originals", "%6friginals"),
    "path parameter": lambda link: link.replace("?", ";a=b?"),
    "more path": lambda link: link.replace("?", "/?"),
    "another ending": lambda link: link.replace(".jpg?", ".png?"),
    "two slashes": lambda link: "/o/" + link[3:].replace("/", "//", 1),
    "two slashes first": lambda link: f"/{link}",
    "a dot": lambda link: link.replace("/o/", "/o/./"),
    "two dots": lambda link: link.replace("/o/", "/o/x/../"),
    "fragment": lambda link: f"{link}#x",
    "extra parameter": lambda link: f"{link}&x=1",
    "extra parameter first": lambda link: link.replace("?", "?x=1&"),
    "parameter twice": lambda link: f"{link}&{link.rpartition('&')[2]}",
    "other order": lambda link: "?".join(["&".join(part.split("&")[::-1]) for part in link.split("?")]),
    "encoded parameter": lambda link: link.replace("sig=", "s%69g="),
    "longer life": lambda link: link.replace("exp=1", "exp=9"),
    "other key": lambda link: link.replace("kid=", "kid=x"),
    "no signature": lambda link: link.rpartition("&")[0],
    "absolute": lambda link: f"http://127.0.0.1{link}",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_another_spelling_of_a_link_never_gives_the_bytes(origin: Product, link: str, name: str) -> None:
    changed = SPELLINGS[name](link)
    assert changed != link
    connection = http.client.HTTPConnection(origin.url.removeprefix("http://"), timeout=30)

    connection.putrequest("GET", changed)  # as it is: no library tidies it up
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()

    assert answer.status == (404 if name == "upper case" else 403), body


def test_a_link_leads_to_its_own_photo_only(origin: Product, guest: tuple[Client, str], link: str) -> None:
    client, _ = guest
    other = str(link_of(client, str(client.upload()["id"]))["url"])
    path, _, query = link.partition("?")

    answer = follow(origin, f"{other.partition('?')[0]}?{query}")

    assert_problem(answer, 403, "link-not-valid")
    assert follow(origin, f"{path}?{query}").status_code == 200


def test_links_begin_with_the_address_that_is_set_and_never_with_host(
    new_product: Callable[..., Product],
) -> None:
    product = new_product(settings={**ORIGIN_ONLY, "PHOTO_API_LINKS__PUBLIC_URL": "https://photos.example.org"})
    client = product.new_user()
    photo_id = client.upload()["id"]

    answer = client.get(f"/api/v1/photos/{photo_id}/links", headers={"Host": "localhost:9"})

    url = answer.json()["links"]["original"]["url"]
    assert url.startswith("https://photos.example.org/o/")
    assert "localhost" not in answer.text
    assert follow(product, url.removeprefix("https://photos.example.org")).status_code == 200


def test_links_lead_into_a_swift_container_by_temporary_urls(
    s3_server: SwiftServer, tmp_path: Path, content: bytes
) -> None:
    with swift_stack(tmp_path, s3_server) as stack, closing(Product(stack, tmp_path)) as product:
        client = product.new_user()
        link = link_by(client, str(client.upload(content)["id"]), "storage")

        whole = follow(product, link["url"])
        changed = follow(product, link["url"].replace("temp_url_expires=1", "temp_url_expires=9"))

    assert (whole.status_code, whole.content, whole.headers["Content-Type"]) == (200, content, "image/jpeg")
    assert changed.status_code == 401
