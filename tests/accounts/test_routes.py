"""The routes of accounts over HTTP: statuses, bodies, headers, and who is admitted."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.accounts.routes import ApiKeyRoutes, SessionRoutes, UserRoutes
from app.accounts.scopes import USER_SCOPES
from app.http.fields import rfc3339
from app.http.operations import operations_of
from tests.accounts.world import EMAIL, PASSWORD, CountingHashing, World, in_days
from tests.fakes.clocks import HandClock

NEW_PASSWORD = "another lighthouse, in the sun"
LOGIN = {"email": EMAIL, "password": PASSWORD}


@pytest.fixture
def user(client: FlaskClient) -> dict[str, Any]:
    return dict(client.post("/api/v1/users", json=LOGIN).json or {})


@pytest.fixture
def pair(client: FlaskClient, user: dict[str, Any]) -> dict[str, Any]:
    return dict(client.post("/api/v1/auth/tokens", json=LOGIN).json or {})


@pytest.fixture
def bearer(pair: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {pair['access_token']}"}


def slug(response: TestResponse) -> str:
    assert response.content_type == "application/problem+json"
    assert response.json is not None
    return str(response.json["type"]).rpartition(":")[2]


def make_key(client: FlaskClient, bearer: dict[str, str], clock: HandClock, *scopes: str) -> dict[str, Any]:
    body = {"name": "script", "scopes": list(scopes), "expires_at": rfc3339(in_days(clock, 30))}
    response = client.post("/api/v1/api-keys", json=body, headers=bearer)
    assert response.status_code == 201, response.text
    return dict(response.json or {})


def test_registration_answers_201_without_the_password(client: FlaskClient) -> None:
    response = client.post("/api/v1/users", json={"email": "Ada@Example.org", "password": PASSWORD})

    assert response.status_code == 201
    assert response.headers["Location"] == "/api/v1/users/me"
    assert response.headers["Cache-Control"] == "private, no-store"
    body = response.json
    assert body is not None
    assert UUID(body.pop("id")).version == 7
    assert body == {
        "email": EMAIL,
        "is_admin": False,
        "quota_bytes": 1_000_000,
        "used_bytes": 0,
        "created_at": "2026-05-04T12:00:00.000000Z",
    }


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"email": EMAIL}, 422),
        ({"password": PASSWORD}, 422),
        ({**LOGIN, "is_admin": True}, 422),
        ({**LOGIN, "id": "x"}, 422),
        ({"email": "ada", "password": PASSWORD}, 422),
        ({"email": EMAIL, "password": "short 7"}, 422),
        ({"email": EMAIL, "password": "x" * 129}, 422),
        ({"email": EMAIL, "password": "12345678"}, 422),
        ({"email": EMAIL, "password": 12_345_678_901}, 422),
        ({"email": None, "password": PASSWORD}, 422),
        ({"email": "a" * 300 + "@example.org", "password": PASSWORD}, 422),
        ([], 422),
        ("ada", 422),
    ],
)
def test_a_bad_registration_is_refused_and_never_repeats_the_password(
    client: FlaskClient, body: Any, status: int
) -> None:
    response = client.post("/api/v1/users", json=body)

    assert response.status_code == status
    assert slug(response) == "validation-failed"
    assert PASSWORD not in response.text
    assert "12345678" not in response.text


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"email": "\\ud800@x.de", "password": "12345678x"}', b"\xff", b"[" * 9999]
)
def test_broken_json_is_400(client: FlaskClient, raw: bytes) -> None:
    response = client.post("/api/v1/users", data=raw, content_type="application/json")

    assert response.status_code == 400
    assert slug(response) == "malformed-request"


def test_a_taken_address_is_409_and_closed_registration_403(
    client: FlaskClient, user: dict[str, Any], world: World, clock: HandClock
) -> None:
    closed = World(world.database, world.ring_path, clock, is_registration_open=False).app().test_client()

    assert slug(client.post("/api/v1/users", json=LOGIN)) == "conflict"
    assert client.post("/api/v1/users", json=LOGIN).status_code == 409
    assert slug(closed.post("/api/v1/users", json=LOGIN)) == "registration-closed"
    assert closed.post("/api/v1/users", json=LOGIN).status_code == 403


def test_a_login_answers_the_members_of_the_contract(pair: dict[str, Any]) -> None:
    assert sorted(pair) == ["access_token", "expires_in", "refresh_token", "token_type"]
    assert (pair["token_type"], pair["expires_in"]) == ("Bearer", 600)


def test_unknown_user_and_wrong_password_get_one_answer_after_one_check_each(
    client: FlaskClient, user: dict[str, Any], hashing: CountingHashing
) -> None:
    answers = []
    for email in (EMAIL, "nobody@example.org"):
        before = hashing.checks
        response = client.post(
            "/api/v1/auth/tokens", json={"email": email, "password": "wrong password"}, headers={"X-Request-Id": "r"}
        )
        answers.append((response.status_code, response.data, dict(response.headers), hashing.checks - before))

    assert answers[0] == answers[1]
    assert answers[0][0] == 401


def test_repeated_failures_are_429_with_retry_after(client: FlaskClient, user: dict[str, Any]) -> None:
    wrong = {"email": EMAIL, "password": "wrong password"}
    statuses = [client.post("/api/v1/auth/tokens", json=wrong).status_code for _ in range(5)]

    response = client.post("/api/v1/auth/tokens", json=LOGIN)

    assert statuses == [401] * 5
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "1"
    assert response.json is not None
    assert response.json["retry_after_seconds"] == 1


def test_refresh_and_logout(client: FlaskClient, pair: dict[str, Any]) -> None:
    given = {"refresh_token": pair["refresh_token"]}

    refreshed = client.post("/api/v1/auth/tokens/refresh", json=given)
    assert refreshed.json is not None
    logged_out = client.delete("/api/v1/auth/tokens", json={"refresh_token": refreshed.json["refresh_token"]})
    unknown = client.delete("/api/v1/auth/tokens", json={"refresh_token": "rt_unknown"})
    afterwards = client.post("/api/v1/auth/tokens/refresh", json=given)

    assert refreshed.status_code == 200
    assert [logged_out.status_code, logged_out.data, unknown.status_code] == [204, b"", 204]
    assert afterwards.status_code == 401
    assert slug(afterwards) == "invalid-token"


def test_sessions_are_listed_with_the_present_one_marked_and_ended_one_by_one(
    client: FlaskClient, pair: dict[str, Any], bearer: dict[str, str]
) -> None:
    client.post("/api/v1/auth/tokens", json=LOGIN, headers={"User-Agent": "Phone/2.0"})
    listed = client.get("/api/v1/auth/sessions", headers=bearer).json
    assert listed is not None
    phone, here = listed["items"]

    ended = client.delete(f"/api/v1/auth/sessions/{phone['id']}", headers=bearer)
    again = client.delete(f"/api/v1/auth/sessions/{phone['id']}", headers=bearer)
    all_of_them = client.delete("/api/v1/auth/sessions", headers=bearer)

    assert (phone["user_agent"], phone["current"], here["current"]) == ("Phone/2.0", False, True)
    assert [ended.status_code, again.status_code, all_of_them.status_code] == [204, 404, 204]
    assert client.get("/api/v1/auth/sessions", headers=bearer).status_code == 401


def test_a_password_change_ends_the_session_it_came_from(client: FlaskClient, bearer: dict[str, str]) -> None:
    wrong = client.patch(
        "/api/v1/users/me", json={"current_password": "wrong", "new_password": NEW_PASSWORD}, headers=bearer
    )
    right = client.patch(
        "/api/v1/users/me", json={"current_password": PASSWORD, "new_password": NEW_PASSWORD}, headers=bearer
    )

    assert (wrong.status_code, slug(wrong)) == (403, "permission-denied")
    assert right.status_code == 200
    assert client.get("/api/v1/users/me", headers=bearer).status_code == 401
    new = client.post("/api/v1/auth/tokens", json={"email": EMAIL, "password": NEW_PASSWORD})
    assert new.status_code == 200


def test_an_account_is_closed_with_its_password(client: FlaskClient, bearer: dict[str, str]) -> None:
    without = client.delete("/api/v1/users/me", headers=bearer)
    wrong = client.delete("/api/v1/users/me", json={"password": "wrong"}, headers=bearer)
    right = client.delete("/api/v1/users/me", json={"password": PASSWORD}, headers=bearer)

    assert [without.status_code, wrong.status_code, right.status_code] == [415, 403, 204]
    assert client.get("/api/v1/users/me", headers=bearer).status_code == 401
    assert client.post("/api/v1/users", json=LOGIN).status_code == 201


def test_an_api_key_is_shown_once_and_works_in_both_headers(
    client: FlaskClient, bearer: dict[str, str], clock: HandClock
) -> None:
    made = make_key(client, bearer, clock, "photos:read")
    listed = client.get("/api/v1/api-keys", headers=bearer)

    assert listed.json == {"items": [{key: value for key, value in made.items() if key != "key"}]}
    assert client.get("/api/v1/users/me", headers={"X-Api-Key": made["key"]}).status_code == 200
    assert client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {made['key']}"}).status_code == 200
    both = client.get("/api/v1/users/me", headers={"X-Api-Key": made["key"], **bearer})
    assert both.status_code == 401


@pytest.mark.parametrize(
    "change",
    [
        {"expires_at": None},
        {"expires_at": "2026-06-01"},
        {"expires_at": "2026-06-01T00:00:00"},
        {"expires_at": "2026-05-04T11:59:59Z"},
        {"expires_at": "2028-01-01T00:00:00Z"},
        {"expires_at": "9999-12-31T23:59:59-23:59"},
        {"scopes": []},
        {"scopes": ["photos:everything"]},
        {"scopes": ["photos:read", "photos:read"]},
        {"scopes": "photos:read"},
        {"name": ""},
        {"name": "   "},
        {"name": "a\nb"},
        {"name": "a\0b"},
        {"name": "x" * 101},
        {"key": "mine"},
    ],
)
def test_a_bad_api_key_request_is_422(client: FlaskClient, bearer: dict[str, str], change: dict[str, Any]) -> None:
    body = {"name": "script", "scopes": ["photos:read"], "expires_at": "2026-06-01T00:00:00Z", **change}

    response = client.post("/api/v1/api-keys", json=body, headers=bearer)

    assert response.status_code == 422
    assert slug(response) == "validation-failed"


def test_an_api_key_request_without_an_end_is_422(client: FlaskClient, bearer: dict[str, str]) -> None:
    response = client.post("/api/v1/api-keys", json={"name": "x", "scopes": ["photos:read"]}, headers=bearer)

    assert response.status_code == 422


def test_a_scope_the_maker_lacks_is_403(client: FlaskClient, bearer: dict[str, str], clock: HandClock) -> None:
    body = {"name": "x", "scopes": ["admin:ops"], "expires_at": rfc3339(in_days(clock, 1))}

    response = client.post("/api/v1/api-keys", json=body, headers=bearer)

    assert (response.status_code, slug(response)) == (403, "missing-scope")


def test_another_users_ids_get_the_answer_of_unknown_ones(
    client: FlaskClient, pair: dict[str, Any], bearer: dict[str, str], clock: HandClock
) -> None:
    key = make_key(client, bearer, clock, "photos:read")
    sessions = client.get("/api/v1/auth/sessions", headers=bearer).json
    assert sessions is not None
    bob = {"email": "bob@example.org", "password": PASSWORD}
    client.post("/api/v1/users", json=bob)
    token = (client.post("/api/v1/auth/tokens", json=bob).json or {})["access_token"]
    as_bob = {"Authorization": f"Bearer {token}", "X-Request-Id": "same"}
    unknown = "01890000-0000-7000-8000-000000000000"

    for path, theirs in (("auth/sessions", sessions["items"][0]["id"]), ("api-keys", key["id"])):
        answers = [client.delete(f"/api/v1/{path}/{one}", headers=as_bob) for one in (theirs, unknown)]

        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].data == answers[1].data
    assert client.get("/api/v1/users/me", headers={"X-Api-Key": key["key"]}).status_code == 200


OPERATIONS = [
    operation
    for routes in (UserRoutes, SessionRoutes, ApiKeyRoutes)
    for operation, _ in operations_of(routes(None))  # type: ignore[arg-type]  # only its marks are read
]
PROTECTED = [(op.method, op.path, op.access) for op in OPERATIONS if "PUBLIC" not in str(op.access)]


def test_the_routes_are_those_of_the_contract() -> None:
    assert sorted(f"{operation.method} {operation.path}" for operation in OPERATIONS) == [
        "DELETE /api/v1/api-keys/<uuid:key_id>",
        "DELETE /api/v1/auth/sessions",
        "DELETE /api/v1/auth/sessions/<uuid:session_id>",
        "DELETE /api/v1/auth/tokens",
        "DELETE /api/v1/users/me",
        "GET /api/v1/api-keys",
        "GET /api/v1/auth/sessions",
        "GET /api/v1/users/me",
        "PATCH /api/v1/users/me",
        "POST /api/v1/api-keys",
        "POST /api/v1/auth/tokens",
        "POST /api/v1/auth/tokens/refresh",
        "POST /api/v1/users",
    ]


@pytest.mark.parametrize(("method", "path", "access"), PROTECTED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic YTpi"},
        {"X-Api-Key": "pk_aaaaaaaa_" + "A" * 43},
    ],
)
def test_without_a_good_credential_a_route_is_401(
    client: FlaskClient, method: str, path: str, access: object, headers: dict[str, str]
) -> None:
    response = client.open(concrete(path), method=method, headers=headers)

    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("method", "path", "access"), PROTECTED)
def test_a_key_is_admitted_by_its_scopes_and_never_where_a_login_is_needed(
    client: FlaskClient, bearer: dict[str, str], clock: HandClock, *, method: str, path: str, access: object
) -> None:
    has_all = make_key(client, bearer, clock, *sorted(USER_SCOPES))["key"]
    lacks_it = make_key(client, bearer, clock, *sorted(USER_SCOPES - {"keys:manage"}))["key"]

    with_all = client.open(concrete(path), method=method, headers={"X-Api-Key": has_all}).status_code
    without = client.open(concrete(path), method=method, headers={"X-Api-Key": lacks_it}).status_code

    needs_login = "SESSION" in str(access)
    needs_scope = access == "keys:manage"
    assert (with_all == 403) is needs_login
    assert (without == 403) is (needs_login or needs_scope)


def concrete(path: str) -> str:
    unknown = "01890000-0000-7000-8000-000000000000"
    return path.replace("<uuid:session_id>", unknown).replace("<uuid:key_id>", unknown)
