"""NHN's API: ``header.isSuccessful`` decides, and its codes stay out of what clients are told."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.cdn.nhn_api import NhnApi
from app.errors import UnavailableError, UpstreamContentError, UpstreamDeniedError, UpstreamTimeoutError
from tests.fakes.call_observer import RememberingObserver
from tests.servers.nhn_cdn import APP_KEY, ENCRYPT_KEY, SECRET_KEY, NhnCdn

BODY = {"encryptKey": ENCRYPT_KEY, "durationSeconds": 60, "singlePath": "/a"}


@pytest.fixture
def server() -> Iterator[NhnCdn]:
    with NhnCdn() as running:
        yield running


@pytest.fixture
def observer() -> RememberingObserver:
    return RememberingObserver()


@pytest.fixture
def api(server: NhnCdn, observer: RememberingObserver) -> Iterator[NhnApi]:
    api = NhnApi(server.url, app_key=APP_KEY, secret_key=SECRET_KEY, timeout_seconds=20, observer=observer)
    yield api
    api.close()


def ask(api: NhnApi) -> Any:
    return api.ask("token", "/auth-token", BODY)


def test_a_success_is_a_document_and_is_counted(server: NhnCdn, api: NhnApi, observer: RememberingObserver) -> None:
    document = ask(api)

    assert document["authToken"]["singlePathToken"].startswith("exp=")
    assert observer.calls == [("cdn", "token", "success", "")]


@pytest.mark.parametrize("code", [10033, 10038, 20001, 20002])
def test_a_code_that_an_operator_has_to_mend_is_a_denial(
    server: NhnCdn, api: NhnApi, observer: RememberingObserver, code: int
) -> None:
    server.fails_with = code

    with pytest.raises(UpstreamDeniedError) as caught:
        ask(api)

    assert str(code) in str(caught.value.__cause__)
    assert str(code) not in caught.value.detail
    assert observer.calls == [("cdn", "token", "failure", "UpstreamDeniedError")]


@pytest.mark.parametrize("code", [-1, 10004, 30000, 30001, 80500])
def test_any_other_code_is_an_api_that_cannot_now(server: NhnCdn, api: NhnApi, code: int) -> None:
    server.fails_with = code

    with pytest.raises(UnavailableError) as caught:
        ask(api)

    assert type(caught.value) is UnavailableError
    assert str(code) not in caught.value.detail


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_status_that_refuses_is_a_denial(server: NhnCdn, api: NhnApi, status: int) -> None:
    server.status = status

    with pytest.raises(UpstreamDeniedError):
        ask(api)


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no header": lambda _answer: {},
    "a header that is none": lambda _answer: {"header": "SUCCESS"},
    "successful as a word": lambda answer: {**answer, "header": {**answer["header"], "isSuccessful": "true"}},
    "successful as a number": lambda answer: {**answer, "header": {**answer["header"], "isSuccessful": 1}},
    "a list": lambda answer: [answer],
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_is_not_of_this_api_is_refused(server: NhnCdn, api: NhnApi, lie: str) -> None:
    server.lie = LIES[lie]

    with pytest.raises(UpstreamContentError):
        ask(api)


def test_a_failure_without_a_code_is_one(server: NhnCdn, api: NhnApi) -> None:
    server.lie = lambda _answer: {"header": {"isSuccessful": False, "resultCode": "secret"}}

    with pytest.raises(UnavailableError) as caught:
        ask(api)

    assert "secret" not in str(caught.value.__cause__)


def test_an_api_that_hangs_costs_its_timeout(server: NhnCdn) -> None:
    server.gate.clear()
    api = NhnApi(
        server.url, app_key=APP_KEY, secret_key=SECRET_KEY, timeout_seconds=0.2, observer=RememberingObserver()
    )

    with pytest.raises(UpstreamTimeoutError):
        ask(api)

    api.close()


def test_neither_key_is_shown(server: NhnCdn, api: NhnApi) -> None:
    server.fails_with = 20002

    with pytest.raises(UpstreamDeniedError) as caught:
        ask(api)

    told = repr(api) + "".join(traceback.format_exception(caught.value))
    assert not any(key in told for key in (APP_KEY, SECRET_KEY, ENCRYPT_KEY))
