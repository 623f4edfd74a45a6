"""Renditions that nginx sends itself, by the API and by signed links, as it sends originals."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest
import requests

from tests.edge.deliveries import REMEMBERING, Delivery, bucket_delivery, folder_delivery
from tests.edge.test_bytes import compared, problem
from tests.fakes import images
from tests.servers.product import until

BROWSER = "image/avif,image/webp,*/*;q=0.8"
ROUTE = "/api/v1/photos/<uuid:photo_id>/renditions/<preset>"


@dataclass(frozen=True)
class Made:
    """A rendition that the store has, and where it is answered."""

    photo_id: str
    path: str
    content: bytes


@pytest.fixture(scope="module", params=["local", "s3", "local-remembered", "s3-remembered"])
def delivery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivery]:
    """nginx in front of the product in front of one kind of store, asking each time or remembering the answer."""
    store, _, remembers = request.param.partition("-")
    settings = {"RENDITIONS__DELAY_SECONDS": "0", **(REMEMBERING if remembers else {})}
    with ExitStack() as stack:
        if store == "local":
            yield folder_delivery(tmp_path_factory.mktemp("local"), stack, **settings)
        else:
            server = request.getfixturevalue("s3_server")
            yield bucket_delivery(tmp_path_factory.mktemp(store), stack, server, **settings)


@pytest.fixture
def made(delivery: Delivery) -> Made:
    photo = delivery.client.upload(images.jpeg(640, 480, seed=secrets.randbelow(1 << 30)))
    own = photo["links"]["self"]
    # What is made of it without being asked for is over: nothing else reads its original.
    until(lambda: delivery.client.get(own).json()["processing_state"] == "done", "the photo's description", 30)
    path = photo["links"]["thumbnail"] + "&format=webp"
    answer = delivery.client.get(path)
    assert answer.status_code == 200, answer.text
    return Made(photo["id"], path, answer.content)


def asked(delivery: Delivery) -> float:
    """Return how many requests for renditions the server has answered."""
    return delivery.product.metric("photo_api_http_requests_total", route=ROUTE)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Range": "bytes=10-99"}, {"Range": "bytes=-7"}, {"Range": "bytes=9999999-"}, {"If-None-Match": "*"}],
    ids=["whole", "middle", "end", "outside", "any copy"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_rendition_through_nginx_is_what_the_server_answers(
    delivery: Delivery, made: Made, method: str, headers: dict[str, str]
) -> None:
    direct = delivery.client.request(method, made.path, headers=headers)

    for _ in range(2):  # with a copy at nginx, too
        answer = delivery.through.request(method, made.path, headers=headers)

        assert answer.status_code == direct.status_code
        if direct.status_code < 400:
            assert answer.content == direct.content
            assert compared(answer) == compared(direct)
        else:
            assert problem(answer) == problem(direct)


def test_the_bytes_do_not_pass_through_the_server(delivery: Delivery, made: Made) -> None:
    before = delivery.opened()

    answers = [delivery.through.get(made.path) for _ in range(3)]

    assert {answer.content for answer in answers} == {made.content}
    assert delivery.opened() == before


def test_what_accept_decides_is_told_apart_by_nginx(delivery: Delivery, made: Made) -> None:
    path = made.path.removesuffix("&format=webp")
    wanted = {"image/webp": "image/webp", BROWSER: "image/avif", "*/*": "image/jpeg"}

    for _ in range(3):
        got = {accept: delivery.through.get(path, headers={"Accept": accept}) for accept in wanted}
        assert {accept: answer.headers["Content-Type"] for accept, answer in got.items()} == wanted
        assert {answer.headers["Vary"] for answer in got.values()} == {"Accept, Authorization, X-Api-Key"}


def test_a_decision_about_a_rendition_is_remembered_where_that_is_set(delivery: Delivery, made: Made) -> None:
    remembers = (delivery.edge.folder / "decisions").exists()
    delivery.through.get(made.path)
    before = asked(delivery)

    for _ in range(3):
        assert delivery.through.get(made.path).content == made.content

    assert asked(delivery) - before == (0 if remembers else 3)


def test_a_signed_link_to_a_rendition_is_sent_without_the_server(delivery: Delivery, made: Made) -> None:
    links = delivery.client.get(f"/api/v1/photos/{made.photo_id}/links").json()["links"]["renditions"]
    url = delivery.edge.url + links["thumbnail"]["url"]
    first = requests.get(url, timeout=20)
    before = delivery.product.metric("photo_api_http_requests_total", route="/o/<path:link>")

    again = requests.get(url, timeout=20)

    assert (first.content, again.content) == (made.content, made.content)
    assert again.headers["Content-Type"] == "image/webp"
    assert delivery.product.metric("photo_api_http_requests_total", route="/o/<path:link>") == before


def test_a_rendition_that_the_store_has_lost_is_made_anew_behind_nginx(delivery: Delivery, made: Made) -> None:
    with closing(delivery.product.stack.open_store()) as store:
        (key,) = [
            info.key
            for info in store.list(f"renditions/{made.photo_id.replace('-', '')}/")
            if "/thumbnail-" in info.key and info.key.endswith(".webp")
        ]
        store.delete(key)

    def is_answered() -> bool:
        return delivery.through.get(made.path).content == made.content

    until(is_answered, "the rendition that was lost", 30)
