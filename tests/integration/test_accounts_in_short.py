"""Accounts over real HTTP in short; the room's own tests are in ``tests/accounts``."""

from __future__ import annotations

import pytest

from tests.integration.judging import assert_problem
from tests.servers.client import Client
from tests.servers.product import Product, until
from tests.servers.stacks import CLOUD, EMBEDDED, MARIADB

pytestmark = pytest.mark.parametrize("stack_name", [EMBEDDED, CLOUD, MARIADB], indirect=True, scope="session")


def test_an_account_from_registration_to_its_end(product: Product) -> None:
    client = product.new_user()
    photo = client.upload()
    me = client.get("/api/v1/users/me").json()
    assert (me["email"], me["used_bytes"]) == (client.email, photo["size_bytes"])
    assert "password" not in str(me)
    twice = product.client()
    assert twice.post("/api/v1/users", json={"email": client.email, "password": "x" * 20}).status_code == 409

    closed = client.delete("/api/v1/users/me", json={"password": client.password})

    assert closed.status_code == 204
    until(lambda: client.get("/api/v1/users/me").status_code == 401, "every worker to refuse the token", 10)
    refused = client.post("/api/v1/auth/tokens", json={"email": client.email, "password": client.password})
    assert_problem(refused, 401, "invalid-credentials")


def test_wrong_and_unknown_credentials_are_the_same_answer(product: Product, user: Client) -> None:
    stranger = product.client()

    wrong = stranger.post("/api/v1/auth/tokens", json={"email": user.email, "password": "not the password"})
    unknown = stranger.post("/api/v1/auth/tokens", json={"email": "no@example.org", "password": "not the password"})

    first, second = assert_problem(wrong, 401, "invalid-credentials"), assert_problem(unknown, 401)
    first.pop("request_id")
    second.pop("request_id")
    assert first == second
    assert wrong.headers["WWW-Authenticate"].startswith("Bearer")


def test_refresh_rotates_and_log_out_ends_the_session(product: Product, user: Client) -> None:
    first = user.tokens["refresh_token"]

    second = user.post("/api/v1/auth/tokens/refresh", json={"refresh_token": first}).json()
    user.private |= {second["access_token"], second["refresh_token"]}
    sessions = user.get("/api/v1/auth/sessions").json()["items"]
    out = user.delete("/api/v1/auth/tokens", json={"refresh_token": second["refresh_token"]})
    again = user.post("/api/v1/auth/tokens/refresh", json={"refresh_token": second["refresh_token"]})

    assert second["refresh_token"] != first
    assert [session["current"] for session in sessions] == [True]
    assert out.status_code == 204
    assert_problem(again, 401, "invalid-token")
    until(lambda: user.get("/api/v1/photos").status_code == 401, "every worker to know", 10)


def test_credentials_that_do_not_hold_are_401(product: Product, user: Client) -> None:
    token = user.tokens["access_token"]
    head, payload, signature = token.split(".")
    client = product.client()

    for headers in (
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {token}"},
        {"Authorization": f"Bearer {head}.{payload}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"},
        {"Authorization": f"Bearer {head}.{payload}."},
        {"Authorization": f"Bearer {user.tokens['refresh_token']}"},
        {"Authorization": f"Bearer {token}", "X-Api-Key": "pk_x"},
        {"X-Api-Key": "pk_aaaaaaaa_" + "a" * 43},
    ):
        answer = client.get("/api/v1/photos", headers=headers)
        assert_problem(answer, 401, "invalid-token")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert client.get("/api/v1/photos", params={"access_token": token}).status_code == 401
