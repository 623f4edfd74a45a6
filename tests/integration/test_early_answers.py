"""Answers that come before the body was read leave the connection usable, or say that it ends."""

from __future__ import annotations

import pytest

from tests.servers.client import Client, new_photo, repr_digest
from tests.servers.product import Product

ROUNDS = 15


@pytest.mark.parametrize("size_bytes", [100_000, 1_500_000])
def test_a_known_digest_leaves_the_connection_usable(owner: Client, size_bytes: int) -> None:
    content = new_photo(size_bytes)
    owner.upload(content)

    for _ in range(ROUNDS):
        known = owner.send(content, headers={"Repr-Digest": repr_digest(content)})
        listed = owner.get("/api/v1/photos", params={"limit": "1"})

        assert (known.status_code, listed.status_code) == (200, 200)


def test_a_refusal_leaves_the_connection_usable(user: Client) -> None:
    content = new_photo(1_500_000)

    for _ in range(ROUNDS):
        refused = user.send(content, headers={"Authorization": "Bearer nobody"})
        shown = user.get("/api/v1/users/me")

        assert (refused.status_code, shown.status_code) == (401, 200)


def test_an_answer_before_a_large_body_says_that_the_connection_ends(product: Product) -> None:
    client = product.client()

    refused = client.send(bytes(12_000_000), headers={"Authorization": "Bearer nobody"})

    assert refused.status_code == 401
    assert refused.headers["Connection"] == "close"
