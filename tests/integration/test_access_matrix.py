"""Every route of the OpenAPI document against every kind of principal; a route without a row here fails.

What a route asks for is read from the document's ``security``; a row says how to ask for one's own things, what
the owner gets, and what another user gets who asks for them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
import requests
from sqlalchemy import update

from app.accounts.models import ApiKey, User
from app.accounts.ring_file import open_rings
from app.accounts.scopes import USER_SCOPES
from app.accounts.tokens import AccessTokens
from app.db import migrate
from app.db.base import utc_now
from app.db.engine import Database, SilentObserver
from app.factory import Runtime, create_app
from app.http.openapi import path_of
from app.settings import load_settings
from tests.http.test_openapi import DOCUMENT, documented
from tests.integration.judging import assert_problem
from tests.servers.client import Client, new_photo
from tests.servers.product import Product, until

PUBLIC, SESSION, ANY = "public", "session", "any"
BESIDE_THE_DOCUMENT = {"/openapi.json", "/docs", "/o/{link}"}


class Person:
    """A user with a photo, an API key with every scope, and their ids."""

    def __init__(self, product: Product, *, is_admin: bool = False) -> None:
        self.product = product
        self.client = product.client()
        self.id = self.client.register().json()["id"]
        if is_admin:
            with product.stack.database() as connection:
                connection.execute(update(User).where(User.email == self.client.email).values(is_admin=True))
        self.client.log_in()
        self.content = new_photo()

    @cached_property
    def photo_id(self) -> str:
        return str(self.client.upload(self.content)["id"])

    @cached_property
    def session_id(self) -> str:
        return str(self.client.get("/api/v1/auth/sessions").json()["items"][0]["id"])

    @cached_property
    def key(self) -> dict[str, Any]:
        return self.new_key(USER_SCOPES)

    def new_key(self, scopes: frozenset[Any]) -> dict[str, Any]:
        ends = (utc_now() + dt.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        wanted = {"name": "matrix", "scopes": sorted(scopes), "expires_at": ends}
        answer = self.client.post("/api/v1/api-keys", json=wanted)
        assert answer.status_code == 201, answer.text
        document: dict[str, Any] = answer.json()
        return document


Options = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """How to ask for a person's own things by one route.

    Attributes:
        needs: What a route asks for: ``public``, ``session``, ``any``, or a scope.
        owner: The status that the owner gets.
        other: The status that another user gets who asks for the owner's things.
        options: The request's parts, besides method and path.
        ends: Whether it ends the asker's own sessions.
    """

    needs: str
    owner: int
    other: int
    options: Callable[[Person], Options] = lambda _: {}
    ends: bool = False


def _json(make: Callable[[Person], Options]) -> Callable[[Person], Options]:
    return lambda person: {"json": make(person)}


def _registration(_: Person) -> Options:
    stranger = Client("")
    return {"email": stranger.email, "password": stranger.password}


ROWS: Final = {
    "POST /api/v1/users": Row(PUBLIC, 201, 201, _json(_registration)),
    "GET /api/v1/users/me": Row(ANY, 200, 200),
    "PATCH /api/v1/users/me": Row(
        SESSION,
        200,
        200,
        _json(lambda p: {"current_password": p.client.password, "new_password": "six boats before noon"}),
        ends=True,
    ),
    "DELETE /api/v1/users/me": Row(SESSION, 204, 204, _json(lambda p: {"password": p.client.password}), ends=True),
    "POST /api/v1/auth/tokens": Row(
        PUBLIC, 200, 200, _json(lambda p: {"email": p.client.email, "password": p.client.password})
    ),
    "DELETE /api/v1/auth/tokens": Row(PUBLIC, 204, 204, _json(lambda _: {"refresh_token": "unknown"})),
    "POST /api/v1/auth/tokens/refresh": Row(
        PUBLIC, 200, 200, _json(lambda p: {"refresh_token": p.client.log_in()["refresh_token"]})
    ),
    "GET /api/v1/auth/sessions": Row(SESSION, 200, 200),
    "DELETE /api/v1/auth/sessions": Row(SESSION, 204, 204, ends=True),
    "DELETE /api/v1/auth/sessions/{session_id}": Row(SESSION, 204, 404, ends=True),
    "POST /api/v1/api-keys": Row(
        "keys:manage",
        201,
        201,
        _json(lambda _: {"name": "k", "scopes": ["keys:manage"], "expires_at": _tomorrow()}),
    ),
    "GET /api/v1/api-keys": Row("keys:manage", 200, 200),
    "DELETE /api/v1/api-keys/{key_id}": Row("keys:manage", 204, 404),
    "POST /api/v1/photos": Row(
        "photos:write", 201, 201, lambda _: {"data": new_photo(), "headers": {"Content-Type": "image/jpeg"}}
    ),
    "GET /api/v1/photos": Row("photos:read", 200, 200),
    "POST /api/v1/photos/check": Row(
        "photos:read", 200, 200, _json(lambda p: {"digests": [hashlib.sha256(p.content).hexdigest()]})
    ),
    "POST /api/v1/photos/batch": Row(
        "photos:write", 200, 200, _json(lambda p: {"action": "tag", "ids": [p.photo_id], "add": ["mine"]})
    ),
    "GET /api/v1/photos/{photo_id}": Row("photos:read", 200, 404),
    "PATCH /api/v1/photos/{photo_id}": Row("photos:write", 200, 404, _json(lambda _: {"title": "Changed"})),
    "DELETE /api/v1/photos/{photo_id}": Row("photos:delete", 204, 404),
    "POST /api/v1/photos/{photo_id}/restore": Row("photos:write", 200, 404),
    "GET /api/v1/photos/{photo_id}/original": Row("photos:read", 200, 404),
    "GET /api/v1/photos/{photo_id}/renditions/{preset}": Row("photos:read", 200, 404),
    "GET /api/v1/photos/{photo_id}/links": Row("photos:read", 200, 404),
    "POST /api/v1/photos/links": Row("photos:read", 200, 200, _json(lambda p: {"ids": [p.photo_id]})),
}  # fmt: skip
ROUTES = dict(documented(DOCUMENT))
NEEDS_A_CREDENTIAL = [route for route, operation in ROUTES.items() if operation["security"]]
PUBLIC_ROUTES = [route for route, operation in ROUTES.items() if not operation["security"]]


def needed(route: str) -> str:
    """Return what a route asks for: ``public``, ``session``, ``any``, or a scope."""
    security = ROUTES[route]["security"]
    if not security:
        return PUBLIC
    if not any("apiKey" in requirement for requirement in security):
        return SESSION
    return next((scope for requirement in security for names in requirement.values() for scope in names), ANY)


def ask(route: str, subject: Person, authorization: str | None, method: str | None = None) -> requests.Response:
    """Ask by a route for a person's things with somebody's credential."""
    own_method, _, path = route.partition(" ")
    if "{photo_id}" in path:
        path = path.replace("{photo_id}", subject.photo_id).replace("{preset}", "thumbnail")
    if "{session_id}" in path:
        path = path.replace("{session_id}", subject.session_id)
    if "{key_id}" in path:
        path = path.replace("{key_id}", subject.key["id"])
    options = ROWS[route].options(subject)
    headers = options.pop("headers", {}) | ({"Authorization": authorization} if authorization else {})
    return requests.request(method or own_method, subject.product.url + path, headers=headers, timeout=30, **options)


def bearer(person: Person) -> str:
    return str(person.client.http.headers["Authorization"])


def expired_token(person: Person) -> str:
    """Return a token that the product itself would have made an hour ago."""
    settings = load_settings(person.product.environ, working_folder=person.product.folder)
    rings = open_rings(settings.auth, create=False)

    def made(now: Callable[[], dt.datetime]) -> str:
        return f"Bearer {AccessTokens(rings, 600, now).issue(UUID(person.id), UUID(person.session_id), 1)}"

    assert ask("GET /api/v1/users/me", person, made(utc_now)).status_code == 200
    return made(lambda: utc_now() - dt.timedelta(hours=1))


def expired_key(person: Person) -> str:
    key = person.new_key(USER_SCOPES)
    with person.product.stack.database() as connection:
        ended = utc_now() - dt.timedelta(seconds=1)
        connection.execute(update(ApiKey).where(ApiKey.id == UUID(key["id"])).values(expires_at=ended))
    return f"Bearer {key['key']}"


def revoked_token(person: Person) -> str:
    twin = person.client.twin()
    tokens = twin.log_in()
    assert twin.delete("/api/v1/auth/tokens", json={"refresh_token": tokens["refresh_token"]}).status_code == 204
    return f"Bearer {tokens['access_token']}"


def revoked_key(person: Person) -> str:
    key = person.new_key(USER_SCOPES)
    assert person.client.delete(f"/api/v1/api-keys/{key['id']}").status_code == 204
    return f"Bearer {key['key']}"


def _tomorrow() -> str:
    return (utc_now() + dt.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture(scope="module")
def settled(product: Product) -> Person:
    """An owner whose things all refused requests must leave alone."""
    return Person(product)


@pytest.fixture(scope="module")
def refused(settled: Person) -> dict[str, str]:
    """Every kind of credential that no longer holds, of the owner themself."""
    makers = (expired_token, expired_key, revoked_token, revoked_key)
    return {maker.__name__: maker(settled) for maker in makers} | {"forged": bearer(settled)[:-4] + "AAAA"}


@pytest.fixture(scope="module")
def askers(product: Product) -> dict[str, Person]:
    """Another user, and an administrator: neither may see more of an owner than the other."""
    return {"other": Person(product), "admin": Person(product, is_admin=True)}


def test_every_documented_route_has_a_row_and_every_row_a_route() -> None:
    assert set(ROWS) == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_asks_for_what_its_row_says(route: str) -> None:
    assert needed(route) == ROWS[route].needs


def test_every_route_that_is_served_is_documented(tmp_path: Path) -> None:
    settings = load_settings(
        {"PHOTO_API_SERVER__BIND": "127.0.0.1:1", "PHOTO_API_SERVER__MANAGEMENT_BIND": "127.0.0.1:2"},
        working_folder=tmp_path,
    )
    database = Database(settings.database, SilentObserver())
    migrate.upgrade(database)
    database.close()

    app = create_app(settings)
    runtime: Runtime = app.extensions["photo_api"]
    runtime.close()

    served = {
        f"{method} {path_of(rule.rule)}" for rule in app.url_map.iter_rules() for method in (rule.methods or set())
    }
    wanted = set(ROUTES) | {f"GET {path}" for path in BESIDE_THE_DOCUMENT}
    assert {route for route in served if not route.startswith("HEAD ")} == wanted
    assert {route for route in served if route.startswith("HEAD ")} == {
        route.replace("GET ", "HEAD ", 1) for route in wanted if route.startswith("GET ")
    }


def test_the_document_served_is_the_one_of_this_matrix(product: Product) -> None:
    served = requests.get(f"{product.url}/openapi.json", timeout=30).json()

    assert served["paths"].keys() == DOCUMENT["paths"].keys()
    assert {route: operation["security"] for route, operation in documented(served)} == {
        route: operation["security"] for route, operation in ROUTES.items()
    }


@pytest.mark.parametrize("route", NEEDS_A_CREDENTIAL)
def test_nobody_gets_401(settled: Person, route: str) -> None:
    answer = ask(route, settled, None)

    assert_problem(answer, 401, "invalid-token")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("kind", ["expired_token", "expired_key", "revoked_token", "revoked_key", "forged"])
@pytest.mark.parametrize("route", NEEDS_A_CREDENTIAL)
def test_what_no_longer_holds_gets_401(settled: Person, refused: dict[str, str], route: str, kind: str) -> None:
    answer = ask(route, settled, refused[kind])

    assert_problem(answer, 401, "invalid-token")


@pytest.mark.parametrize("route", ROUTES)
def test_the_owner_gets_what_is_theirs(product: Product, settled: Person, route: str) -> None:
    owner = Person(product) if ROWS[route].ends or "{" in route else settled

    answer = ask(route, owner, bearer(owner))

    assert answer.status_code == ROWS[route].owner, answer.text


@pytest.mark.parametrize("kind", ["other", "admin"])
@pytest.mark.parametrize("route", ROUTES)
def test_another_user_gets_nothing_of_the_owner(
    product: Product, settled: Person, askers: dict[str, Person], route: str, kind: str
) -> None:
    asker = Person(product, is_admin=kind == "admin") if ROWS[route].ends else askers[kind]
    # Where the path names nothing, a request can only be about the asker's own things.
    subject = settled if "{" in route or route.startswith("POST /api/v1/photos/") else asker

    answer = ask(route, subject, bearer(asker))

    assert answer.status_code == ROWS[route].other, answer.text
    if ROWS[route].other == 404:
        assert_problem(answer, 404, "not-found")
    if route in {"POST /api/v1/photos/batch", "POST /api/v1/photos/links"}:
        assert [item["status"] for item in answer.json()["items"]] == [404]
    elif subject is not asker:
        assert settled.photo_id not in answer.text


@pytest.mark.parametrize("route", NEEDS_A_CREDENTIAL)
def test_a_key_does_what_its_scopes_say(settled: Person, route: str) -> None:
    wanted = needed(route)
    without = settled.new_key(USER_SCOPES - {wanted})

    answer = ask(route, settled, f"Bearer {without['key']}")

    if wanted == ANY:
        assert answer.status_code == ROWS[route].owner
    else:
        assert_problem(answer, 403, "permission-denied" if wanted == SESSION else "missing-scope")
    assert settled.client.delete(f"/api/v1/api-keys/{without['id']}").status_code == 204


@pytest.mark.parametrize("kind", ["expired_token", "revoked_key", "forged"])
@pytest.mark.parametrize("route", PUBLIC_ROUTES)
def test_a_public_route_asks_nobody(settled: Person, refused: dict[str, str], route: str, kind: str) -> None:
    answer = ask(route, settled, refused[kind])

    assert answer.status_code == ROWS[route].owner, answer.text


@pytest.mark.parametrize("route", [route for route in ROUTES if route.startswith("GET ")])
def test_head_is_judged_and_answered_as_get_without_a_body(settled: Person, route: str) -> None:
    def both(credential: str | None) -> tuple[requests.Response, requests.Response]:
        return ask(route, settled, credential), ask(route, settled, credential, method="HEAD")

    def are_of_one_length() -> bool:
        got, head = both(bearer(settled))
        return head.headers["Content-Length"] == got.headers["Content-Length"]

    if route.endswith("/links"):
        # They lead another way while a look of health at storage is late, in as many octets more or less.
        until(are_of_one_length, "links that lead one way")
    for credential in (bearer(settled), None):
        got, head = both(credential)

        assert (head.status_code, head.content) == (got.status_code, b"")
        changing = {"Date", "X-Request-Id", "Server"}
        assert set(head.headers) - changing == set(got.headers) - changing
        assert head.headers["Content-Length"] == got.headers["Content-Length"]


def test_deleting_in_a_batch_needs_the_scope_of_deleting(settled: Person) -> None:
    key = settled.new_key(frozenset({"photos:write"}))
    wanted = {"action": "delete", "ids": [settled.photo_id]}

    answer = requests.post(
        f"{settled.product.url}/api/v1/photos/batch", json=wanted, headers={"X-Api-Key": key["key"]}, timeout=30
    )

    assert_problem(answer, 403, "missing-scope")


def test_after_all_that_the_owner_has_everything(settled: Person) -> None:
    photo = settled.client.get(f"/api/v1/photos/{settled.photo_id}").json()

    assert (photo["title"], photo["trashed_at"]) == (None, None)
    assert settled.client.original(photo).content == settled.content
    assert settled.client.get("/api/v1/users/me").json()["id"] == settled.id
    assert settled.key["id"] in settled.client.get("/api/v1/api-keys").text
