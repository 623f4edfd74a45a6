"""Idempotency keys over real HTTP; what happens at once is in ``tests/chaos``."""

from __future__ import annotations

import secrets

import pytest

from tests.integration.judging import assert_problem
from tests.servers.client import Client, new_photo
from tests.servers.product import Product
from tests.servers.stacks import CLOUD, EMBEDDED, MARIADB

pytestmark = pytest.mark.parametrize("stack_name", [EMBEDDED, CLOUD, MARIADB], indirect=True, scope="session")


def test_the_same_request_again_gets_the_first_answer_and_stores_nothing(product: Product, owner: Client) -> None:
    content, key = new_photo(), secrets.token_hex(8)
    first = owner.send_form(content, "one.jpg", fields={"title": "x"}, headers={"Idempotency-Key": key})
    used, replays = owner.used_bytes(), product.metric("photo_api_idempotent_replay_total")

    again = owner.send_form(content, "one.jpg", fields={"title": "x"}, headers={"Idempotency-Key": key})

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")
    assert owner.used_bytes() == used
    assert product.metric("photo_api_idempotent_replay_total") == replays + 1


def test_the_answer_is_replayed_even_after_the_photo_has_changed_and_gone(owner: Client) -> None:
    content, key = new_photo(), secrets.token_hex(8)
    first = owner.send(content, key=key).json()
    owner.patch(first["links"]["self"], json={"title": "changed"})
    owner.delete(first["links"]["self"], params={"permanent": "true"})

    again = owner.send(content, key=key)

    assert (again.status_code, again.json()) == (201, first)


@pytest.mark.parametrize("what", ["bytes", "fields", "name"])
def test_a_key_of_another_request_is_refused(owner: Client, what: str) -> None:
    content, headers = new_photo(), {"Idempotency-Key": secrets.token_hex(8)}
    first = owner.send_form(content, "one.jpg", fields={"title": "one"}, headers=headers)

    other = owner.send_form(
        new_photo() if what == "bytes" else content,
        "two.jpg" if what == "name" else "one.jpg",
        fields={"title": "two" if what == "fields" else "one"},
        headers=headers,
    )

    assert first.status_code == 201
    assert_problem(other, 422, "idempotency-key-reused")


def test_a_key_belongs_to_its_owner(owner: Client, user: Client) -> None:
    key = secrets.token_hex(8)

    mine, theirs = owner.send(new_photo(), key=key), user.send(new_photo(), key=key)

    assert (mine.status_code, theirs.status_code) == (201, 201)


def test_a_refused_upload_leaves_its_key_free(owner: Client) -> None:
    key = secrets.token_hex(8)

    refused = owner.send(b"no image at all", key=key)
    taken = owner.send(new_photo(), key=key)

    assert (refused.status_code, taken.status_code) == (415, 201)


def test_a_duplicate_under_a_key_is_replayed_as_a_duplicate(owner: Client) -> None:
    content, key = new_photo(), secrets.token_hex(8)
    photo = owner.upload(content)

    first, again = owner.send(content, key=key), owner.send(content, key=key)

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert (first.json()["id"], first.json()["status"]) == (photo["id"], "duplicate")


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "caf\u00e9"])
def test_a_key_that_cannot_be_one_is_refused(owner: Client, key: str) -> None:
    answer = owner.post(
        "/api/v1/photos",
        data=new_photo(),
        headers={"Content-Type": "image/jpeg", "Idempotency-Key": key.encode("latin-1")},
    )

    assert_problem(answer, 400, "malformed-request")
