"""Photos by a CDN on real servers: a bucket as its origin, an edge that verifies, an API for tokens and purges.

Rows 19 and 20 of the faults, the CDN's part: when the API or the edge is down, links lead to the object store, the
same bytes come, nobody calls what is down, and links return to the CDN by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.servers.cdn import CdnEdge
from tests.servers.client import Client, new_photo
from tests.servers.nhn_cdn import APP_KEY, ENCRYPT_KEY, SECRET_KEY, NhnCdn
from tests.servers.postgres import PostgresServer
from tests.servers.product import Product, until
from tests.servers.stacks import cloud_stack
from tests.servers.swift import ACCOUNT_PATH, SwiftServer


@dataclass
class World:
    """A product whose photos leave by a CDN.

    Attributes:
        product: The product, one worker.
        edge: The CDN's edge.
        api: The CDN's API.
        owner: Somebody with photos.
        content: The bytes of one.
        photo_id: Its id.
    """

    product: Product
    edge: CdnEdge
    api: NhnCdn
    owner: Client
    content: bytes
    photo_id: str

    def link(self, photo_id: str | None = None) -> dict[str, Any]:
        """Return the link to a photo that the product gives now."""
        answer = self.owner.get(f"/api/v1/photos/{photo_id or self.photo_id}/links")
        assert answer.status_code == 200, answer.text
        link: dict[str, Any] = answer.json()["links"]["original"]
        self.owner.private.add(urlsplit(link["url"]).query)  # a link is a bearer secret: it stands in no log
        return link

    def wait_for(self, via: str, photo_id: str | None = None) -> dict[str, Any]:
        """Wait until links lead by some way, and return one."""
        found: dict[str, Any] = {}

        def is_found() -> bool:
            found.update(self.link(photo_id))
            return bool(found["via"] == via)

        until(is_found, f"links by {via}", 40)
        return found

    def cdn_check(self) -> str:
        """Return what health says of the edge."""
        checks = requests.get(f"{self.product.url}/health", timeout=10).json()["checks"]
        return str(checks["cdn"][0]["status"])

    def fallbacks(self) -> float:
        """Return how many requests for links went by storage instead of the CDN."""
        labels = {"name": "links", "from": "cdn", "to": "storage"}
        return self.product.metric("photo_api_fallback_total", **labels)

    def calls(self, operation: str) -> float:
        """Return how often the product has called something of the CDN."""
        name = "photo_api_external_request_duration_seconds_count"
        return sum(
            value
            for found, labels, value in self.product.metrics()
            if found == name and (labels["service"], labels["operation"]) == ("cdn", operation)
        )


@pytest.fixture(scope="module", params=["nhn", "edge_auth"])
def world(
    request: pytest.FixtureRequest,
    s3_server: SwiftServer,
    postgres_server: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    with cloud_stack(s3_server, postgres_server) as stack, NhnCdn() as api:
        assert stack.s3_config is not None
        bucket = stack.s3_config.bucket
        # The edge reads the bucket without credentials of its own; who may see a photo is what its tokens say.
        s3_server.ask("POST", bucket, headers={"X-Container-Read": ".r:*"})
        edge = CdnEdge(tmp_path_factory.mktemp("edge"), f"{s3_server.url}{ACCOUNT_PATH}/{bucket}", ENCRYPT_KEY)
        api.on_purge = edge.forget
        settings = {
            "PHOTO_API_CDN__BACKEND": request.param,
            "PHOTO_API_CDN__BASE_URL": edge.url,
            "PHOTO_API_CDN__EDGE_AUTH_KEY": ENCRYPT_KEY,
            "PHOTO_API_CDN__NHN_APP_KEY": APP_KEY,
            "PHOTO_API_CDN__NHN_SECRET_KEY": SECRET_KEY,
            "PHOTO_API_CDN__NHN_API_URL": api.url,
            "PHOTO_API_CDN__TIMEOUT_SECONDS": "2",
        }
        product = Product(stack, tmp_path_factory.mktemp("product"), workers=1, settings=settings)
        owner = product.new_user()
        content = new_photo(200_000)
        yield World(product, edge, api, owner, content, str(owner.upload(content)["id"]))
        product.close()
        edge.stop()
        assert product.find_logged({*product.private(), ENCRYPT_KEY, SECRET_KEY}) == set()


@pytest.fixture(autouse=True)
def whole(world: World) -> Iterator[None]:
    """Every test leaves the CDN as it found it."""
    yield
    world.api.fails_with = 0
    world.edge.start()
    world.wait_for("cdn")


def get(url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers=headers, timeout=20)


def test_a_link_leads_to_the_edge_which_gives_the_same_bytes(world: World) -> None:
    link = world.wait_for("cdn")

    first, second, part = get(link["url"]), get(link["url"]), get(link["url"], Range="bytes=1000-1999")

    assert link["url"].startswith(f"{world.edge.url}/originals/")
    assert (first.status_code, first.content == world.content) == (200, True)
    assert (second.headers["X-Cache"], second.content == world.content) == ("HIT", True)
    assert (part.status_code, part.content) == (206, world.content[1000:2000])
    assert get(link["url"].partition("?")[0]).status_code == 403


def test_the_same_photo_has_the_same_link(world: World) -> None:
    world.wait_for("cdn")

    assert len({world.link()["url"] for _ in range(6)}) <= 2  # a window may end in between


@pytest.mark.parametrize("status", [500, 503])
def test_an_edge_that_fails_is_left_alone_and_taken_again_by_itself(world: World, status: int) -> None:
    world.edge.answer_everything(status)
    link = world.wait_for("storage")

    by_storage = get(link["url"])
    world.edge.start()
    again = get(world.wait_for("cdn")["url"])

    assert by_storage.content == again.content == world.content


def test_an_edge_that_is_gone_is_told_by_health_and_by_metrics(world: World) -> None:
    before = world.fallbacks()
    world.edge.stop()
    world.wait_for("storage")

    until(lambda: world.cdn_check() != "pass", "health to see it")
    health = requests.get(f"{world.product.url}/health", timeout=10)

    assert (health.status_code, health.json()["status"]) == (200, "warn")
    until(lambda: world.fallbacks() > before, "the metric, which is published every second")


def test_an_api_that_is_down_is_asked_no_more_and_links_return_to_the_cdn(
    world: World, request: pytest.FixtureRequest
) -> None:
    photos = [str(world.owner.upload(new_photo(3000 + number))["id"]) for number in range(12)]
    world.api.fails_with = 30000

    ways = [world.link(photo_id)["via"] for photo_id in photos]
    asked = len(world.api.asked)
    later = [world.link(photo_id)["via"] for photo_id in photos]

    if "edge_auth" in request.node.name:  # made here: the API's state is nothing to it
        assert {*ways, *later} == {"cdn"}
        return
    assert {*ways, *later} == {"storage"}
    assert len(world.api.asked) - asked <= 2  # the breaker opened within the first calls
    world.api.fails_with = 0
    until(lambda: world.link(photos[0])["via"] == "cdn", "tokens again", 40)


def test_a_photo_that_is_removed_leaves_the_edge_although_the_api_was_down_and_the_server_killed(
    world: World,
) -> None:
    photo_id = str(world.owner.upload(new_photo(5000))["id"])
    url = world.wait_for("cdn", photo_id)["url"]
    assert [get(url).status_code for _ in range(2)] == [200, 200]
    world.api.fails_with = 30000

    assert world.owner.delete(f"/api/v1/photos/{photo_id}?permanent=true").status_code == 204
    still_there = get(url).status_code
    world.product.kill()
    world.product.start()
    world.api.fails_with = 0

    until(lambda: get(url).status_code == 404, "the copy to go", 40)
    assert still_there == 200
    path = urlsplit(url).path
    assert world.edge.url + path in world.api.purged
    until(lambda: world.product.metric("photo_api_cdn_purges_pending") == 0, "the outbox to be empty", 60)


def test_calls_of_the_cdn_are_counted(world: World) -> None:
    world.wait_for("cdn")

    until(lambda: world.calls("probe") > 0, "a look at the edge")
