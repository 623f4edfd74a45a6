"""Links while the CDN, the store or the database is away: they lead another way, never to a 404, and come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from app.cdn.nginx_secure_link import SecureLinkSigner
from app.photos.links import LinkService, cdn_way
from tests.fakes.fault_proxy import FaultProxy, Status
from tests.integration.judging import assert_problem
from tests.server.running import stopped
from tests.servers.cdn import CdnEdge
from tests.servers.client import Client, new_photo
from tests.servers.nhn_cdn import APP_KEY, ENCRYPT_KEY, SECRET_KEY, NhnCdn
from tests.servers.postgres import PostgresServer
from tests.servers.product import Product, until
from tests.servers.stacks import cloud_stack
from tests.servers.swift import ACCOUNT_PATH, SwiftServer

CONTENT = new_photo(200_000)
OTHER_CONTENT = new_photo(100_000)
BACK_SECONDS = 40
SECRET = "a-secret-of-this-edge-alone"


@dataclass(frozen=True)
class Stored:
    """What a link needs to know of a photo."""

    object_key: str
    sha256: str = "0" * 64
    content_type: str = "image/jpeg"


class Gallery:
    """A product on Swift and PostgreSQL, a photo in it, and its links."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.client: Client = product.new_user()
        self.photo_id = str(self.client.upload(CONTENT)["id"])
        assert product.stack.proxy is not None
        self.proxy: FaultProxy = product.stack.proxy

    def link(self) -> dict[str, Any]:
        return _original(self.client.get(f"/api/v1/photos/{self.photo_id}/links"))

    def via(self) -> str:
        return str(self.link()["via"])

    def origin_link(self) -> str:
        """Return a link to this server, as it is given out while the store is away."""
        self.proxy.refuse()
        url = str(self.until_via("origin")["url"])
        self.proxy.heal()
        return url

    def follow(self, url: str) -> requests.Response:
        return requests.get(self.product.url + url if url.startswith("/") else url, timeout=30)

    def fallbacks(self, source: str, target: str) -> float:
        labels = {"name": "links", "from": source, "to": target}
        return self.product.metric("photo_api_fallback_total", **labels)

    def until_via(self, via: str) -> dict[str, Any]:
        """Wait until every worker gives links by a way, and return one."""
        found: list[dict[str, Any]] = []

        def is_the_way_of_all() -> bool:
            # Whoever answers first; only then each of them, for which the others have to stand still.
            found[:] = [self.link()]
            if found[0]["via"] == via:
                found[:] = [self._link_of(pid) for pid in self.product.worker_pids()]
            return {link["via"] for link in found} == {via}

        until(is_the_way_of_all, f"links by {via}", BACK_SECONDS)
        return found[0]

    def _link_of(self, worker: int) -> dict[str, Any]:
        """Return the link that one worker gives."""
        with stopped(*(self.product.worker_pids() - {worker})), closing(self.client.twin()) as twin:
            return _original(twin.get(f"/api/v1/photos/{self.photo_id}/links"))


def _original(answer: requests.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    link: dict[str, Any] = answer.json()["links"]["original"]
    return link


@pytest.fixture
def gallery(s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Gallery]:
    with cloud_stack(s3_server, postgres_server) as stack, closing(Product(stack, tmp_path)) as product:
        made = Gallery(product)
        yield made
        made.proxy.heal()
        postgres_server.start()


@pytest.fixture
def edge_of_all(
    s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path: Path
) -> Iterator[tuple[Gallery, CdnEdge]]:
    """A gallery behind a CDN, whose origin is the bucket."""
    with cloud_stack(s3_server, postgres_server) as stack:
        assert stack.s3_config is not None
        bucket = stack.s3_config.bucket
        s3_server.ask("POST", bucket, headers={"X-Container-Read": ".r:*"})
        (tmp_path / "edge").mkdir()
        edge = CdnEdge(tmp_path / "edge", f"{s3_server.url}{ACCOUNT_PATH}/{bucket}", SECRET, "secure_link")
        settings = {
            "PHOTO_API_CDN__BACKEND": "nginx_secure_link",
            "PHOTO_API_CDN__BASE_URL": edge.url,
            "PHOTO_API_CDN__SECURE_LINK_SECRET": SECRET,
        }
        try:
            with closing(Product(stack, tmp_path, settings=settings)) as product:
                yield Gallery(product), edge
        finally:
            edge.stop()


def test_all_three_ways_give_the_same_bytes_and_each_is_taken_again_by_itself(
    edge_of_all: tuple[Gallery, CdnEdge],
) -> None:
    gallery, edge = edge_of_all
    cdn = gallery.until_via("cdn")
    by_cdn = gallery.follow(cdn["url"])

    edge.stop()
    storage = gallery.until_via("storage")
    by_storage = gallery.follow(storage["url"])
    gallery.proxy.refuse()
    origin = gallery.until_via("origin")
    refused = gallery.follow(origin["url"])
    gallery.proxy.heal()
    gallery.until_via("storage")
    edge.start()
    again = gallery.until_via("cdn")
    until(lambda: gallery.follow(origin["url"]).status_code == 200, "the store to be back", BACK_SECONDS)

    answers = [by_cdn, by_storage, gallery.follow(origin["url"]), gallery.follow(again["url"])]
    assert [(answer.status_code, answer.content) for answer in answers] == [(200, CONTENT)] * 4
    assert cdn["url"].startswith(edge.url)
    assert_problem(refused, 503)
    assert int(refused.headers["Retry-After"]) > 0
    until(lambda: gallery.fallbacks("cdn", "storage") > 0, "the metric of the first step")
    until(lambda: gallery.fallbacks("storage", "origin") > 0, "the metric of the second step")


def test_without_a_look_at_the_edge_links_lead_to_where_nobody_answers(
    edge_of_all: tuple[Gallery, CdnEdge],
) -> None:
    """The control of the tests around it."""
    gallery, edge = edge_of_all
    edge.stop()
    blind = LinkService([cdn_way(SecureLinkSigner(edge.url, secret=SECRET), lambda: True)], window_seconds=600)
    (key,) = gallery.product.stack.object_keys()

    (link,) = blind.links([Stored(key)])

    with pytest.raises(requests.ConnectionError):
        gallery.follow(link.url)


def test_links_lead_past_a_cdn_whose_tokens_are_not_to_be_had_and_back(
    s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    (tmp_path / "edge").mkdir()
    with cloud_stack(s3_server, postgres_server) as stack, NhnCdn() as api:
        assert stack.s3_config is not None
        bucket = stack.s3_config.bucket
        s3_server.ask("POST", bucket, headers={"X-Container-Read": ".r:*"})
        edge = CdnEdge(tmp_path / "edge", f"{s3_server.url}{ACCOUNT_PATH}/{bucket}", ENCRYPT_KEY)
        settings = {
            "PHOTO_API_CDN__BACKEND": "nhn",
            "PHOTO_API_CDN__BASE_URL": edge.url,
            "PHOTO_API_CDN__EDGE_AUTH_KEY": ENCRYPT_KEY,
            "PHOTO_API_CDN__NHN_APP_KEY": APP_KEY,
            "PHOTO_API_CDN__NHN_SECRET_KEY": SECRET_KEY,
            "PHOTO_API_CDN__NHN_API_URL": api.url,
        }
        try:
            with closing(Product(stack, tmp_path, settings=settings)) as product:
                gallery = Gallery(product)
                by_cdn = gallery.until_via("cdn")
                gallery.photo_id = str(gallery.client.upload(OTHER_CONTENT)["id"])  # no token of it is remembered
                api.status = 500
                past_it = gallery.until_via("storage")
                for _ in range(20):  # more than the breaker needs
                    gallery.via()
                asked = len(api.asked)
                ways = {gallery.via() for _ in range(20)}
                calls = len(api.asked) - asked
                api.status = 200
                back = gallery.until_via("cdn")

                links = (by_cdn, past_it, back)
                contents = [requests.get(link["url"], timeout=30).content for link in links]
        finally:
            edge.stop()

    assert contents == [CONTENT, OTHER_CONTENT, OTHER_CONTENT]
    assert "cdn" not in ways
    assert calls < 20  # the breaker keeps links from waiting for what does not come


def test_an_edge_that_only_fails_is_skipped_as_one_that_is_gone(edge_of_all: tuple[Gallery, CdnEdge]) -> None:
    gallery, edge = edge_of_all
    gallery.until_via("cdn")

    edge.answer_everything(503)
    gallery.until_via("storage")
    edge.start()

    assert gallery.follow(gallery.until_via("cdn")["url"]).content == CONTENT


def test_links_lead_here_while_storage_is_away_and_back_by_themselves(gallery: Gallery) -> None:
    before = gallery.until_via("storage")
    gallery.proxy.refuse()

    during = gallery.until_via("origin")
    refused = gallery.follow(during["url"])
    until(lambda: gallery.fallbacks("storage", "origin") > 0, "the metric to tell of it")
    gallery.proxy.heal()
    after = gallery.until_via("storage")

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
