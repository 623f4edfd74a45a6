"""A JSON service that lies, drips, floods or leads elsewhere: bounded, refused, and nothing of it kept."""

from __future__ import annotations

import gzip
import itertools
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from app.errors import UnavailableError, UpstreamContentError, UpstreamDeniedError, UpstreamTimeoutError
from app.stability import Deadline, deadline_scope
from app.upstream.json_service import JsonAnswer, JsonService
from tests.fakes.raw_server import RawServer, raw_server
from tests.servers.base import find_free_port
from tests.servers.tls import make_certificate, tls_server


@pytest.fixture
def server() -> Iterator[RawServer]:
    with raw_server() as running:
        yield running


@pytest.fixture
def service(server: RawServer) -> Iterator[JsonService]:
    service = JsonService(server.url, name="The test's service", timeout_seconds=60, max_bytes=100_000)
    yield service
    service.close()


def response(body: bytes, *, status: str = "200 OK", head: str = "Content-Type: application/json") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n\r\n".encode() + body


def ask(service: JsonService) -> JsonAnswer:
    return service.call("GET", "/v1/token")


def test_an_object_is_read_with_status_and_headers(server: RawServer, service: JsonService) -> None:
    server.pieces = [response(b'{"a": [1]}', head="Content-Type: application/json;charset=UTF-8\r\nX-Auth-Token: t")]

    answer = service.call("POST", "/v1/token", headers={"Authorization": "s"}, json={"k": "v"})

    assert (answer.status, answer.is_success, answer.document) == (200, True, {"a": [1]})
    assert answer.headers["x-auth-token"] == "t"
    head = server.heads[0].decode().lower()
    assert head.startswith("post /v1/token http/1.1\r\n")
    assert {"authorization: s", "content-type: application/json", "accept-encoding: identity"} <= set(
        head.split("\r\n")
    )


def test_one_connection_serves_call_after_call(server: RawServer, service: JsonService) -> None:
    server.pieces, server.hangs_up = [response(b"{}")], False

    for _ in range(3):
        ask(service)

    assert (len(server.heads), server.connections) == (3, 1)


def test_headers_alone_are_an_answer_where_no_document_is_wanted(server: RawServer, service: JsonService) -> None:
    server.pieces = [response(b"<html>", head="Content-Type: text/html\r\nX-Storage-Url: u")]

    answer = service.call("GET", "/auth/v1.0", wants_document=False)

    assert (answer.headers["X-Storage-Url"], answer.document) == ("u", None)


def test_no_body_is_no_document(server: RawServer, service: JsonService) -> None:
    server.pieces = [b"HTTP/1.1 204 No Content\r\n\r\n"]

    assert ask(service).document is None


@pytest.mark.parametrize("body", [b'{"error": 1}', b"<html>no</html>", b""], ids=["json", "html", "empty"])
def test_a_refusal_is_an_answer_whatever_its_body_is(server: RawServer, service: JsonService, body: bytes) -> None:
    server.pieces = [response(body, status="401 Unauthorized")]

    answer = ask(service)

    assert (answer.status, answer.is_success) == (401, False)
    assert answer.document == ({"error": 1} if body.startswith(b"{") else None)


@pytest.mark.parametrize("status", ["200 OK", "302 Found", "403 Forbidden", "503 Service Unavailable"])
def test_a_look_returns_the_status_whatever_it_is(server: RawServer, service: JsonService, status: str) -> None:
    server.pieces = [f"HTTP/1.1 {status}\r\nContent-Length: 99999999\r\nLocation: /b\r\n\r\n".encode()]

    assert service.look("/a") == int(status[:3])

    assert [head.split(b" ", 2)[:2] for head in server.heads] == [[b"HEAD", b"/a"]]


NOT_AN_OBJECT = {
    "a list": response(b"[1]"),
    "a string": response(b'"a"'),
    "html that says json": response(b"<html>"),
    "json that says html": response(b"{}", head="Content-Type: text/html"),
    "no type": response(b"{}", head="X-A: b"),
    "deep": response(b'{"a":' + b"[" * 40_000 + b"]" * 40_000 + b"}"),
    "deep and unclosed": response(b"[" * 99_000),
    "not a number": response(b'{"a": NaN}'),
    "not utf-8": response(b'{"a": "\xff"}'),
    "two documents": response(b"{}{}"),
    "compressed": response(gzip.compress(b"{}"), head="Content-Type: application/json\r\nContent-Encoding: gzip"),
    "redirect": response(b"{}", status="302 Found", head="Location: http://127.0.0.1:1/x"),
    "redirect for good": response(b"{}", status="308 Permanent Redirect", head="Location: /other"),
    "not modified": response(b"", status="304 Not Modified"),
    "announced too large": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100001\r\n\r\n{",
}


@pytest.mark.parametrize("name", NOT_AN_OBJECT)
def test_what_is_not_one_object_of_fair_size_is_refused_and_asked_once(
    server: RawServer, service: JsonService, name: str
) -> None:
    server.pieces = [NOT_AN_OBJECT[name]]

    with pytest.raises(UpstreamContentError, match=r"^The test's service "):
        ask(service)

    assert len(server.heads) == 1


def test_endless_body_is_cut_at_the_limit(server: RawServer, service: JsonService) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    sent = itertools.count()
    server.pieces = (head if not next(sent) else b" " * 65536 for _ in itertools.repeat(None))

    with pytest.raises(UpstreamContentError, match="more than it may"):
        ask(service)

    assert next(sent) < 1000


def test_endless_chunks_are_cut_at_the_limit(server: RawServer, service: JsonService) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.pieces = itertools.chain([head], itertools.repeat(b"1000\r\n" + b" " * 4096 + b"\r\n"))

    with pytest.raises(UpstreamContentError, match="more than it may"):
        ask(service)


BROKEN_OFF = {
    "fewer bytes than announced": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{}",
    "a chunk that ends early": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}"
    ),
    "chunks without an end": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    ),
    "a head that ends early": b"HTTP/1.1 200 OK\r\nContent-Ty",
    "no answer": b"",
    "no http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a header without an end": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 200_000 + b"\r\n\r\n",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2, 3\r\n\r\n{}",
}


@pytest.mark.parametrize("name", BROKEN_OFF)
def test_what_breaks_off_or_is_no_http_is_unavailable(server: RawServer, service: JsonService, name: str) -> None:
    server.pieces = [BROKEN_OFF[name]]

    with pytest.raises(UnavailableError) as caught:
        ask(service)

    assert type(caught.value) is UnavailableError


@pytest.mark.parametrize(
    "status", ["500 Oops", "503 Service Unavailable", "429 Too Many Requests", "408 Request Timeout"]
)
def test_a_service_that_cannot_now_is_unavailable_and_says_until_when(
    server: RawServer, service: JsonService, status: str
) -> None:
    server.pieces = [response(b"{}", status=status, head="Content-Type: application/json\r\nRetry-After: 7")]

    with pytest.raises(UnavailableError) as caught:
        ask(service)

    assert caught.value.retry_after_seconds == 7


JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"


@pytest.mark.parametrize(
    ("beginning", "drip"),
    [(JSON_HEAD, b" "), (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"", b"")],
    ids=["body", "headers", "interim answers", "silence"],
)
def test_dripping_cannot_hold_a_call_longer_than_its_time(server: RawServer, beginning: bytes, drip: bytes) -> None:
    server.pieces, server.pause_seconds = itertools.chain([beginning], itertools.repeat(drip)), 0.02
    service = JsonService(server.url, name="The test's service", timeout_seconds=0.5)
    started = time.monotonic()

    with pytest.raises(UpstreamTimeoutError, match="did not answer in time"):
        ask(service)

    assert 0.4 < time.monotonic() - started < 20
    service.close()


def test_the_deadline_of_the_request_is_the_shorter_one(server: RawServer, service: JsonService) -> None:
    server.hangs_up = False
    started = time.monotonic()

    with deadline_scope(Deadline(0.3)), pytest.raises(UpstreamTimeoutError):
        ask(service)

    assert time.monotonic() - started < 20


def test_nothing_is_sent_after_the_deadline(server: RawServer, service: JsonService) -> None:
    with deadline_scope(Deadline(-1)), pytest.raises(UpstreamTimeoutError):
        ask(service)

    assert server.heads == []


def test_neither_cookie_nor_netrc_nor_proxy_is_used(
    server: RawServer, service: JsonService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.hangs_up = False
    server.pieces = [response(b"{}", head="Content-Type: application/json\r\nSet-Cookie: a=b; Path=/")]

    ask(service)
    ask(service)

    assert not any(b"cookie" in head.lower() or b"authorization" in head.lower() for head in server.heads)
    assert len(server.heads) == 2


def test_no_error_repeats_the_address_or_what_was_sent(server: RawServer, service: JsonService) -> None:
    server.pieces = [b"HTTP/1.1 200 OK\r\nContent-Le"]
    nowhere = JsonService(f"http://127.0.0.1:{find_free_port()}", name="It", timeout_seconds=20)

    for asked in (service, nowhere):
        with pytest.raises(UnavailableError) as caught:
            asked.call("POST", "/appkey-1", headers={"Authorization": "secret-1"}, json={"key": "secret-2"})

        told = "".join(traceback.format_exception(caught.value.__cause__, chain=False)) + str(caught.value)
        assert not {"appkey-1", "secret-1", "secret-2"} & set(told.replace("/", " ").split())
        assert caught.value.__suppress_context__


def test_a_refused_connection_is_told_by_its_reason() -> None:
    service = JsonService(f"http://127.0.0.1:{find_free_port()}", name="It", timeout_seconds=20)

    with pytest.raises(UnavailableError) as caught:
        ask(service)

    assert "refused" in str(caught.value.__cause__).lower()


def test_answers_do_not_show_what_they_hold() -> None:
    answer = JsonAnswer(200, {"X-Auth-Token": "secret-1"}, {"token": "secret-2"})

    assert "secret" not in repr(answer)


class _Json(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path)


@pytest.fixture
def tls_url(certificate: Path) -> Iterator[str]:
    with tls_server(certificate, _Json) as url:
        yield url


def test_a_certificate_of_the_system_is_believed(
    tls_url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    service = JsonService(tls_url, name="It", timeout_seconds=20)

    assert ask(service).document == {}

    service.close()


def test_a_certificate_that_nobody_vouches_for_is_an_operators_matter(tls_url: str) -> None:
    service = JsonService(tls_url, name="It", timeout_seconds=20)

    with pytest.raises(UpstreamDeniedError, match="certificate"):
        ask(service)

    service.close()
