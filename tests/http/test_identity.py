"""Where a credential stands in a request, and whom an operation admits."""

from __future__ import annotations

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from app.errors import InvalidTokenError, MissingScopeError, PermissionDeniedError
from app.http.identity import AUTHENTICATED, PUBLIC, SESSION, Access, admit
from tests.http.edge import KEY, SESSION_TOKEN, USER_ID, KnownCallers, bearer


def request(headers: dict[str, str]) -> Request:
    return EnvironBuilder(headers=list(headers.items())).get_request()


@pytest.mark.parametrize(
    "headers",
    [
        bearer(),
        {"Authorization": f"bearer {SESSION_TOKEN}"},
        {"Authorization": f"BEARER  {SESSION_TOKEN} "},
        bearer(KEY),
        {"X-Api-Key": KEY},
    ],
)
def test_a_credential_is_a_bearer_or_an_api_key(headers: dict[str, str]) -> None:
    principal = admit(request(headers), AUTHENTICATED, KnownCallers())

    assert principal is not None
    assert principal.user_id == USER_ID


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {SESSION_TOKEN}"},
        {"Authorization": SESSION_TOKEN},
        {"Authorization": f"Bearer {SESSION_TOKEN} {SESSION_TOKEN}"},
        {"Authorization": "Bearer forged"},
        {"X-Api-Key": "forged"},
        {"X-Api-Key": f"Bearer {KEY}"},
        {**bearer(), "X-Api-Key": KEY},
        {"Cookie": f"access_token={SESSION_TOKEN}"},
    ],
)
def test_no_credential_two_or_one_that_does_not_hold_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidTokenError):
        admit(request(headers), AUTHENTICATED, KnownCallers())


def test_a_public_operation_asks_nobody_even_when_a_credential_is_wrong() -> None:
    assert admit(request(bearer("forged")), PUBLIC, KnownCallers()) is None


def test_an_operation_for_sessions_refuses_a_key() -> None:
    principal = admit(request(bearer()), SESSION, KnownCallers())

    assert principal is not None
    with pytest.raises(PermissionDeniedError) as refused:
        admit(request(bearer(KEY)), SESSION, KnownCallers())
    assert not isinstance(refused.value, MissingScopeError)


@pytest.mark.parametrize("credential", [SESSION_TOKEN, KEY])
def test_a_scope_is_asked_of_tokens_and_keys_alike(credential: str) -> None:
    assert admit(request(bearer(credential)), "photos:read", KnownCallers()) is not None
    with pytest.raises(MissingScopeError, match="photos:write"):
        admit(request(bearer(credential)), "photos:write", KnownCallers())


def test_every_kind_of_access_says_whom_it_admits() -> None:
    assert all(access.value for access in Access)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("access", ["photos:read", AUTHENTICATED, SESSION])
def test_what_changes_something_is_never_judged_by_what_was_believed_a_moment_ago(
    method: str, access: Access | str
) -> None:
    callers = KnownCallers()

    admit(EnvironBuilder(method=method, headers=list(bearer().items())).get_request(), access, callers)

    assert callers.asked_fresh == [method not in {"GET", "HEAD"} or access is SESSION]
