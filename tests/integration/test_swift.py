"""The product over HTTP on Swift in its own protocol, with tokens of an identity service like NHN Cloud's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import requests

from tests.integration.judging import assert_problem
from tests.integration.test_links import link_by
from tests.servers.client import Client, new_photo
from tests.servers.product import Product, until
from tests.servers.stacks import Stack, swift_stack
from tests.servers.swift import SwiftServer

WORKERS = 2
PROCESSES = WORKERS + 1  # and the management process, each with a token of its own


@pytest.fixture(scope="module")
def stack(s3_server: SwiftServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with swift_stack(tmp_path_factory.mktemp("stack"), s3_server) as made:
        yield made


@pytest.fixture(scope="module")
def product(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    running = Product(stack, tmp_path_factory.mktemp("product"), workers=WORKERS)
    yield running
    running.close()
    assert running.find_logged(running.private()) == set()


@pytest.fixture
def user(product: Product) -> Client:
    return product.new_user()


def test_photo_is_stored_served_and_removed_for_good(product: Product, stack: Stack, user: Client) -> None:
    content = new_photo(3 * 1024 * 1024)

    answer = user.send(content, key="first")
    assert answer.status_code == 201, answer.text
    photo = answer.json()["id"]

    whole = user.get(f"/api/v1/photos/{photo}/original")
    part = user.get(f"/api/v1/photos/{photo}/original", headers={"Range": "bytes=1000-1999"})
    assert hashlib.sha256(whole.content).digest() == hashlib.sha256(content).digest()
    assert (part.status_code, part.content) == (206, content[1000:2000])
    assert len(stack.object_keys()) == 1

    assert user.delete(f"/api/v1/photos/{photo}?permanent=true").status_code == 204
    assert_problem(user.get(f"/api/v1/photos/{photo}/original"), 404)
    until(lambda: stack.object_keys() == [], "the object to be removed")


def test_links_lead_to_the_container_and_give_the_same_bytes(stack: Stack, user: Client) -> None:
    content = new_photo()
    photo = user.send(content, key="linked").json()["id"]

    link = link_by(user, photo, "storage")

    assert stack.s3_config is not None
    assert f"/v1/AUTH_test/{stack.s3_config.bucket}/" in link["url"]
    assert requests.get(link["url"], timeout=20).content == content
    altered = link["url"].replace("temp_url_sig=", "temp_url_sig=0")
    assert requests.get(altered, timeout=20).status_code == 401


def test_dead_tokens_cost_no_request_and_one_call_of_each_process(
    stack: Stack, s3_server: SwiftServer, user: Client
) -> None:
    content = new_photo()
    photo = user.send(content, key="before").json()["id"]
    assert stack.identity is not None
    asked = stack.identity.asked

    s3_server.revoke_tokens()
    for number in range(20):
        assert user.get(f"/api/v1/photos/{photo}/original").content == content
        assert user.send(new_photo(), key=f"after-{number}").status_code == 201

    assert 1 <= stack.identity.asked - asked <= PROCESSES


def test_identity_service_that_is_down_is_not_felt_while_tokens_live(
    stack: Stack, product: Product, user: Client
) -> None:
    assert stack.identity is not None
    photo = user.send(new_photo(), key="first").json()["id"]
    stack.identity.lie = (503, {}, b"")

    try:
        for number in range(5):
            assert user.send(new_photo(), key=f"during-{number}").status_code == 201
            assert user.get(f"/api/v1/photos/{photo}/original").status_code == 200
        until(product.is_ready, "all to be ready, as before")
    finally:
        stack.identity.lie = None


def test_without_any_token_uploads_are_503_and_good_again_when_the_service_is_back(
    stack: Stack, s3_server: SwiftServer, user: Client
) -> None:
    assert stack.identity is not None
    content = new_photo()
    photo = user.send(content, key="first").json()["id"]
    stack.identity.lie = (503, {}, b"")
    s3_server.revoke_tokens()

    try:
        refused = [user.get(f"/api/v1/photos/{photo}/original") for _ in range(6)]
    finally:
        stack.identity.lie = None

    for answer in refused:
        assert_problem(answer, 503)
        assert int(answer.headers["Retry-After"]) >= 1
    until(lambda: user.get(f"/api/v1/photos/{photo}/original").content == content, "the photo to be served again", 40)
