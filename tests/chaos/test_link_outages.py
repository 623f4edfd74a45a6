"""Links while the object store or the database is away: they lead another way, never to a 404, and come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fakes.fault_proxy import FaultProxy, Status
from tests.integration.judging import assert_problem
from tests.servers.client import Client, new_photo
from tests.servers.postgres import PostgresServer
from tests.servers.product import Product, until
from tests.servers.stacks import cloud_stack
from tests.servers.swift import SwiftServer

CONTENT = new_photo(200_000)
BACK_SECONDS = 30


class Gallery:
    """A product on Swift and PostgreSQL, a photo in it, and its links."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.client: Client = product.new_user()
        self.photo_id = str(self.client.upload(CONTENT)["id"])
        assert product.stack.proxy is not None
        self.proxy: FaultProxy = product.stack.proxy

    def link(self) -> dict[str, Any]:
        answer = self.client.get(f"/api/v1/photos/{self.photo_id}/links")
        assert answer.status_code == 200, answer.text
        link: dict[str, Any] = answer.json()["links"]["original"]
        return link

    def via(self) -> str:
        return str(self.link()["via"])

    def origin_link(self) -> str:
        """Return a link to this server, as it is given out while the store is away."""
        self.proxy.refuse()
        until(lambda: self.via() == "origin", "links that lead here", BACK_SECONDS)
        url = str(self.link()["url"])
        self.proxy.heal()
        return url

    def follow(self, url: str) -> requests.Response:
        return requests.get(self.product.url + url if url.startswith("/") else url, timeout=30)

    def fallbacks(self) -> float:
        labels = {"name": "links", "from": "storage", "to": "origin"}
        return self.product.metric("photo_api_fallback_total", **labels)


@pytest.fixture
def gallery(s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Gallery]:
    with cloud_stack(s3_server, postgres_server) as stack, closing(Product(stack, tmp_path)) as product:
        made = Gallery(product)
        yield made
        made.proxy.heal()
        postgres_server.start()


def test_links_lead_here_while_storage_is_away_and_back_by_themselves(gallery: Gallery) -> None:
    before = gallery.link()
    gallery.proxy.refuse()

    until(lambda: gallery.via() == "origin", "links that lead here", BACK_SECONDS)
    during = gallery.link()
    refused = gallery.follow(during["url"])
    until(lambda: gallery.fallbacks() > 0, "the metric to tell of it")
    gallery.proxy.heal()
    until(lambda: gallery.via() == "storage", "links that lead to storage again", BACK_SECONDS)
    after = gallery.link()

    assert before["via"] == "storage"
    assert_problem(refused, 503)
    assert [gallery.follow(link["url"]).content for link in (before, after)] == [CONTENT] * 2
    until(lambda: gallery.follow(during["url"]).content == CONTENT, "the link of the outage to hold", BACK_SECONDS)


def test_links_hold_and_show_the_bytes_while_the_database_is_away(
    gallery: Gallery, postgres_server: PostgresServer
) -> None:
    link = gallery.origin_link()
    until(lambda: gallery.follow(link).status_code == 200, "the store to be back", BACK_SECONDS)

    postgres_server.stop()
    answers = [gallery.follow(link) for _ in range(5)]
    postgres_server.start()

    assert [(answer.status_code, answer.content) for answer in answers] == [(200, CONTENT)] * 5


def test_a_photo_that_lost_its_bytes_is_an_outage_and_a_removed_one_is_gone(
    gallery: Gallery, postgres_server: PostgresServer
) -> None:
    link = gallery.origin_link()
    until(lambda: gallery.follow(link).status_code == 200, "the store to be back", BACK_SECONDS)
    (key,) = gallery.product.stack.object_keys()
    with closing(gallery.product.stack.open_store()) as store:
        store.delete(key)

    lost = gallery.follow(link)
    postgres_server.stop()
    untold = gallery.follow(link)
    postgres_server.start()
    path = f"/api/v1/photos/{gallery.photo_id}?permanent=true"
    until(lambda: gallery.client.delete(path).status_code == 204, "the photo to be removed", BACK_SECONDS)
    removed = gallery.follow(link)

    assert_problem(lost, 502, "object-missing")
    assert_problem(untold, 503, "unavailable")
    assert_problem(removed, 404, "not-found")


def test_a_store_that_answers_with_errors_is_never_told_as_a_missing_photo(gallery: Gallery) -> None:
    link = gallery.origin_link()
    until(lambda: gallery.follow(link).status_code == 200, "the store to be back", BACK_SECONDS)

    statuses = []
    for fault in (Status(500), Status(503), Status(403)):
        gallery.proxy.inject(fault)
        statuses.append(gallery.follow(link).status_code)
        gallery.proxy.heal()

    assert statuses == [503, 503, 503]
