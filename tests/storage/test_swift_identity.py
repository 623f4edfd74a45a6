"""What an identity service answers and what is made of it: NHN's v2.0, Keystone's v3, honest and hostile."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest

from app.stability import Deadline, deadline_scope
from app.storage.base import StorageDeniedError, StorageTokenError
from app.storage.swift_identity import IdentityService, SwiftAccess, SwiftIdentity
from tests.fakes.fault_proxy import Barrier, Cut, Drip, FaultProxy, Reset
from tests.servers.base import find_free_port
from tests.servers.identity import PASSWORD, IdentityServer
from tests.servers.swift import AUTH_PATH, SwiftServer

VERSIONS: tuple[Literal["2", "3"], ...] = ("2", "3")
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def service(s3_server: SwiftServer) -> Iterator[IdentityServer]:
    with IdentityServer(s3_server) as service:
        yield service


def sign_in(identity: SwiftIdentity) -> SwiftAccess:
    service = IdentityService(identity)
    try:
        return service.authenticate()
    finally:
        service.close()


def v2_answer(**changes: Any) -> dict[str, Any]:
    """Return an honest v2.0 answer but for some fields of the token, ``url`` and ``catalogue``."""
    catalogue = [
        {
            "type": "object-store",
            "endpoints": [{"region": "KR1", "publicURL": changes.pop("url", "http://127.0.0.1:9/v1/AUTH_a")}],
        }
    ]
    catalogue = changes.pop("catalogue", catalogue)
    token = {"id": "a-token", "expires": "2999-01-01T00:00:00Z", **changes}
    return {"access": {"token": token, "serviceCatalog": catalogue}}


@pytest.mark.parametrize("version", VERSIONS)
def test_token_life_and_address_come_from_the_answer(
    service: IdentityServer, s3_server: SwiftServer, version: Literal["2", "3"]
) -> None:
    access = sign_in(service.identity(version))

    assert access.token == service.issued[-1]
    assert access.storage_url == f"{s3_server.url}/v1/AUTH_test"
    assert access.lives_seconds == pytest.approx(43_200, abs=2)


def test_tempauth_says_all_in_headers(s3_server: SwiftServer) -> None:
    access = sign_in(s3_server.swift_config("c").identity)

    assert access.token == s3_server.new_token()
    assert access.storage_url == f"{s3_server.url}/v1/AUTH_test"
    assert 3600 < access.lives_seconds <= 86_400


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("skew_seconds", [-7200, 7200])
def test_clock_that_differs_from_ours_changes_no_life(
    service: IdentityServer, version: Literal["2", "3"], skew_seconds: int
) -> None:
    service.skew_seconds = skew_seconds

    assert sign_in(service.identity(version)).lives_seconds == pytest.approx(43_200, abs=2)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"username": "nobody"}, {"tenant_id": "none"}])
def test_wrong_credentials_are_a_denial_that_says_what_to_check(
    service: IdentityServer, version: Literal["2", "3"], wrong: dict[str, str]
) -> None:
    with pytest.raises(StorageDeniedError) as caught:
        sign_in(replace(service.identity(version), **wrong))  # type: ignore[arg-type]  # all are strings

    assert "401" in str(caught.value.__cause__)
    assert "PHOTO_API_STORAGE__SWIFT_AUTH_URL" in str(caught.value.__cause__)
    assert service.asked == 1


def test_wrong_credentials_at_tempauth_are_a_denial(s3_server: SwiftServer) -> None:
    with pytest.raises(StorageDeniedError):
        sign_in(replace(s3_server.swift_config("c").identity, password="wrong"))


def test_region_that_is_not_in_the_catalogue_is_a_denial(service: IdentityServer) -> None:
    with pytest.raises(StorageDeniedError) as caught:
        sign_in(replace(service.identity(), region="KR9"))

    assert "PHOTO_API_STORAGE__SWIFT_REGION" in str(caught.value.__cause__)


def test_without_a_region_the_first_endpoint_is_taken(service: IdentityServer) -> None:
    access = sign_in(replace(service.identity(), region=None))

    assert access.storage_url == "http://127.0.0.1:9/v1/AUTH_elsewhere"


@pytest.mark.parametrize("version", VERSIONS)
def test_address_that_is_given_outweighs_the_catalogue(service: IdentityServer, version: Literal["2", "3"]) -> None:
    given = "http://127.0.0.1:9/v1/AUTH_given/"

    access = sign_in(replace(service.identity(version), region="KR9", storage_url=given))

    assert access.storage_url == given.rstrip("/")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_refusal_is_a_denial(service: IdentityServer, status: int) -> None:
    service.lie = (status, {}, b"")

    with pytest.raises(StorageDeniedError):
        sign_in(service.identity())


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_service_that_cannot_answer_is_no_denial(service: IdentityServer, status: int) -> None:
    service.lie = (status, {}, b"")

    with pytest.raises(StorageTokenError):
        sign_in(service.identity())


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed(service: IdentityServer, status: int) -> None:
    service.lie = (status, {"Location": f"{service.url}/v2.0/tokens"}, b"")

    with pytest.raises(StorageTokenError):
        sign_in(service.identity())

    assert service.asked == 1


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"access": None},
        {"access": {"token": {}}},
        v2_answer(id=""),
        v2_answer(id="two words"),
        v2_answer(id="a\r\nX-Injected: 1"),
        v2_answer(id="a" * 9000),
        v2_answer(id=7),
        v2_answer(expires="tomorrow"),
        v2_answer(expires="1999-01-01T00:00:00Z"),
        v2_answer(expires=12),
        v2_answer(expires="9999-99-99T00:00:00Z"),
        v2_answer(catalogue="none"),
        v2_answer(catalogue=[7]),
        v2_answer(url=""),
        v2_answer(url="file:///etc/passwd"),
        v2_answer(url="http://user:secret@127.0.0.1/v1"),
        v2_answer(url="http://127.0.0.1/v1?to=elsewhere"),
        v2_answer(url="http://127.0.0.1/v1#x"),
        v2_answer(url="http://127.0.0.1/v1\r\nX: 1"),
        v2_answer(url="http://127.0.0.1:99999/v1"),
        v2_answer(url=7),
    ],
    ids=range(23),
)
def test_answer_that_makes_no_sense_is_no_token(service: IdentityServer, document: Any) -> None:
    service.lie = (200, JSON, json.dumps(document).encode())

    with pytest.raises(StorageTokenError):
        sign_in(service.identity())


@pytest.mark.parametrize(
    ("headers", "body"),
    [(JSON, b""), (JSON, b"not JSON"), ({"Content-Type": "text/html"}, b"{}"), (JSON, b" " * 2_000_000)],
    ids=["empty", "no-json", "html", "huge"],
)
def test_answer_that_is_no_json_is_no_token(service: IdentityServer, headers: Mapping[str, str], body: bytes) -> None:
    service.lie = (200, headers, body)

    with pytest.raises(StorageTokenError):
        sign_in(service.identity())


def test_life_without_an_end_is_a_week(service: IdentityServer) -> None:
    service.lie = (200, JSON, json.dumps(v2_answer()).encode())

    assert sign_in(service.identity()).lives_seconds == 7 * 86_400


def test_catalogue_that_leads_out_of_tls_is_refused() -> None:
    identity = SwiftIdentity("https://identity.example.org/v2.0", "2", "u", PASSWORD, tenant_id="t")
    service = IdentityService(identity)

    with pytest.raises(StorageDeniedError) as caught:
        service._access("a-token", "http://storage.example.org/v1/AUTH_a", 60.0)
    service.close()

    assert "TLS" in str(caught.value.__cause__)
    given = IdentityService(replace(identity, storage_url="http://storage.example.org/v1/AUTH_a"))
    assert given._access("a-token", "http://storage.example.org/v1/AUTH_a", 60.0).token == "a-token"
    given.close()


@pytest.mark.parametrize("fault", [Reset("request"), Reset("response"), Cut(10)], ids=["in", "out", "cut"])
def test_connection_that_breaks_off_is_no_denial(service: IdentityServer, fault: Reset | Cut) -> None:
    with FaultProxy(service.port) as proxy:
        proxy.inject(fault)

        with pytest.raises(StorageTokenError):
            sign_in(service.identity(url=proxy.url))


def test_service_that_is_not_there_is_no_denial(service: IdentityServer) -> None:
    with pytest.raises(StorageTokenError):
        sign_in(service.identity(url=f"http://127.0.0.1:{find_free_port()}"))


def test_service_that_drips_is_left_when_the_deadline_passes(service: IdentityServer) -> None:
    with FaultProxy(service.port) as proxy, deadline_scope(Deadline(0.3)):
        proxy.inject(Drip(piece_bytes=1, pause_seconds=0.05))

        with pytest.raises(StorageTokenError):
            sign_in(service.identity(url=proxy.url))


def test_service_that_hangs_is_left_when_the_cap_is_reached(service: IdentityServer) -> None:
    service.hold = Barrier()

    with pytest.raises(StorageTokenError):
        sign_in(replace(service.identity(), timeout_seconds=0.3))


def test_no_secret_stands_in_a_repr_or_an_error(service: IdentityServer, s3_server: SwiftServer) -> None:
    service.lie = (200, JSON, b'{"access": "a-stolen-secret"}')
    identity = service.identity()

    with pytest.raises(StorageTokenError) as caught:
        sign_in(identity)

    told = f"{identity!r} {caught.value} {caught.value.__cause__!r}"
    assert PASSWORD not in told
    assert "a-stolen-secret" not in told
    assert s3_server.url + AUTH_PATH not in told


def test_calls_are_counted_with_their_outcome(service: IdentityServer) -> None:
    heard: list[tuple[str, str, str, str]] = []

    class Observer:
        def external_call(
            self,
            service: str,
            operation: str,
            *,
            outcome: Literal["success", "failure"],
            seconds: float,
            kind: str = "",
        ) -> None:
            assert seconds >= 0
            heard.append((service, operation, outcome, kind))

    source = IdentityService(service.identity(), Observer())
    source.authenticate()
    service.lie = (401, {}, b"")
    with pytest.raises(StorageDeniedError):
        source.authenticate()
    source.close()

    assert heard == [
        ("swift_auth", "token", "success", ""),
        ("swift_auth", "token", "failure", "StorageDeniedError"),
    ]
