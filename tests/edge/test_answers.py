"""What nginx answers itself, in the form of the server's own answers, and what it lets through untouched."""

from __future__ import annotations

import json
import re
from contextlib import closing

import pytest
import requests

from app.server.edge import FORM_BYTES, JSON_BYTES_MAX, PRIVATE_PATHS
from tests.edge.conftest import NewEdge
from tests.edge.origins import Origin
from tests.servers.base import find_free_port
from tests.servers.client import new_photo
from tests.servers.edge import Edge, wait_for
from tests.servers.product import Product

MEMBERS = {"type", "title", "status", "detail", "request_id", "retryable"}
HOST = "Host: localhost\r\n"


def answer_to(edge: Edge, request: str) -> tuple[int, dict[str, str], str]:
    """Send bytes as they are; return status, headers by lower-case name, and the text behind them."""
    with closing(edge.connect()) as client:
        client.sendall(request.encode("latin-1"))
        client.settimeout(20)
        received = b""
        while not _is_whole(received) and (piece := client.recv(65_536)):
            received += piece
    head, _, body = received.decode().partition("\r\n\r\n")
    line, *fields = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    return int(line.split(" ")[1]), headers, body


def _is_whole(received: bytes) -> bool:
    head, blank, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: ([0-9]+)", head, re.IGNORECASE)
    return bool(blank) and length is not None and len(body) >= int(length[1])


ERRORS = {
    "no HTTP": ("nonsense\r\n\r\n", 400, "malformed-request"),
    "a length that is no number": (f"GET / HTTP/1.1\r\n{HOST}Content-Length: x\r\n\r\n", 400, "malformed-request"),
    "two framings": (
        f"GET / HTTP/1.1\r\n{HOST}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "malformed-request",
    ),
    "no host": ("GET / HTTP/1.1\r\n\r\n", 400, "malformed-request"),
    "two hosts": (f"GET / HTTP/1.1\r\n{HOST}Host: other\r\n\r\n", 400, "malformed-request"),
    "a broken chunk": (
        f"POST /x HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
        "malformed-request",
    ),
    "a method that nginx refuses": (f"TRACE / HTTP/1.1\r\n{HOST}\r\n", 405, "method-not-allowed"),
    "a large body": (
        f"POST /x HTTP/1.1\r\n{HOST}Content-Length: {JSON_BYTES_MAX + 1}\r\n\r\n",
        413,
        "payload-too-large",
    ),
    "a long line": (f"GET /{'x' * 8200} HTTP/1.1\r\n{HOST}\r\n", 414, "uri-too-long"),
    "another host": ("GET / HTTP/1.1\r\nHost: other.example\r\n\r\n", 421, "misdirected-request"),
    "a long header": (f"GET / HTTP/1.1\r\n{HOST}X-Long: {'x' * 8200}\r\n\r\n", 431, "headers-too-large"),
    "many headers": (
        f"GET / HTTP/1.1\r\n{HOST}" + f"X-Many: {'x' * 800}\r\n" * 50 + "\r\n",
        431,
        "headers-too-large",
    ),
    "another coding": (f"POST /x HTTP/1.1\r\n{HOST}Transfer-Encoding: gzip\r\n\r\n", 501, "not-implemented"),
    "another version": (f"GET / HTTP/3.1\r\n{HOST}\r\n", 505, "http-version"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_every_error_of_nginx_is_a_problem_document(edge: Edge, case: str) -> None:
    request, status, slug = ERRORS[case]

    answered, headers, body = answer_to(edge, request)

    document = json.loads(body)
    assert answered == status
    assert headers["content-type"] == "application/problem+json"
    assert headers["server"] == "nginx"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert document.keys() == MEMBERS
    assert (document["status"], document["type"]) == (status, f"urn:photo-api:problem:{slug}")
    assert document["request_id"] == headers["x-request-id"]


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_a_method_that_nginx_refuses_is_told_the_others(edge: Edge, method: str) -> None:
    status, headers, _ = answer_to(edge, f"{method} /x HTTP/1.1\r\n{HOST}\r\n")

    assert status == 405
    assert headers["allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


@pytest.mark.parametrize(
    "path", [*PRIVATE_PATHS, "/metrics/", "/api/v1/admin/breakers", "//metrics", "/x/../%6detrics"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_private_paths_do_not_exist_outside(edge: Edge, method: str, path: str) -> None:
    status, headers, body = answer_to(edge, f"{method} {path} HTTP/1.1\r\n{HOST}Content-Length: 0\r\n\r\n")

    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert '"type":"urn:photo-api:problem:not-found"' in body
    assert edge.logged(headers["x-request-id"])["upstream_status"] == ""


def test_what_only_begins_like_a_private_path_reaches_the_server(edge: Edge) -> None:
    _, headers, _ = answer_to(edge, f"GET /metrics-of-mine HTTP/1.1\r\n{HOST}\r\n")

    assert edge.logged(headers["x-request-id"])["upstream_status"] == "404"


def test_an_unknown_host_gets_health_by_address_and_nothing_else(edge: Edge) -> None:
    probe = answer_to(edge, "GET /health/readiness HTTP/1.1\r\nHost: 10.0.0.7\r\n\r\n")
    old_probe = answer_to(edge, "GET /health HTTP/1.0\r\n\r\n")
    other = answer_to(edge, "GET /openapi.json HTTP/1.1\r\nHost: 10.0.0.7\r\n\r\n")

    assert (probe[0], old_probe[0], other[0]) == (200, 200, 421)


def test_the_servers_own_problems_pass_through_untouched(edge: Edge, origin: Product) -> None:
    sent = {"X-Request-Id": "the-same-for-both"}

    direct, through = [requests.get(f"{url}/nowhere", headers=sent, timeout=20) for url in (origin.url, edge.url)]

    assert (through.status_code, through.content) == (direct.status_code, direct.content)
    ours = {name: value for name, value in through.headers.items() if name not in {"Server", "Date", "Connection"}}
    theirs = {name: value for name, value in direct.headers.items() if name not in {"Server", "Date", "Connection"}}
    assert ours.pop("RateLimit-Policy")
    assert ours == theirs


@pytest.mark.parametrize(
    ("given", "kept"), [("mine.1:2_3-4", True), ("x" * 129, False), ('"}', False), ("a b", False)]
)
def test_a_request_id_is_kept_when_the_server_would_keep_it(edge: Edge, given: str, *, kept: bool) -> None:
    own = requests.get(f"{edge.url}/metrics", headers={"X-Request-Id": given}, timeout=20)
    passed_on = requests.get(f"{edge.url}/nowhere", headers={"X-Request-Id": given}, timeout=20)

    for answer in (own, passed_on):
        assert (answer.headers["X-Request-Id"] == given) is kept
        assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_head_has_the_head_of_get_and_no_body(edge: Edge) -> None:
    answer = requests.head(f"{edge.url}/metrics", timeout=20)

    assert (answer.status_code, answer.content) == (404, b"")
    assert int(answer.headers["Content-Length"]) > 0


def test_a_body_that_is_too_large_is_refused_before_the_server_hears_of_it(edge: Edge, origin: Product) -> None:
    largest = edge.settings.uploads.max_bytes + FORM_BYTES
    before = origin.log_path.stat().st_size

    photo = answer_to(edge, f"POST /api/v1/photos HTTP/1.1\r\n{HOST}Content-Length: {largest + 1}\r\n\r\n")
    other = answer_to(edge, f"POST /api/v1/users HTTP/1.1\r\n{HOST}Content-Length: {JSON_BYTES_MAX + 1}\r\n\r\n")
    chunk = f"{JSON_BYTES_MAX + 1:x}\r\n" + "x" * (JSON_BYTES_MAX + 1) + "\r\n0\r\n\r\n"
    chunked = answer_to(edge, f"POST /api/v1/users HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{chunk}")

    assert (photo[0], other[0], chunked[0]) == (413, 413, 413)
    for _, headers, _ in (photo, other, chunked):
        assert edge.logged(headers["x-request-id"])["upstream_status"] == ""
    assert b"/api/v1/users" not in origin.log_path.read_bytes()[before:]


def test_the_largest_bodies_that_the_server_takes_reach_it(edge: Edge, origin: Product) -> None:
    user = origin.new_user()
    photo = new_photo(edge.settings.uploads.max_bytes)
    form = {"title": "x" * 200}

    stored = user.http.post(f"{edge.url}/api/v1/photos", files={"file": ("a.jpg", photo)}, data=form, timeout=60)
    largest = b'{"email": "' + b"x" * (JSON_BYTES_MAX - 13) + b'"}'
    refused = requests.post(
        f"{edge.url}/api/v1/users", data=largest, headers={"Content-Type": "application/json"}, timeout=20
    )

    assert stored.status_code == 201
    assert len(largest) == JSON_BYTES_MAX
    assert (refused.status_code, edge.logged(refused.headers["X-Request-Id"])["upstream_status"]) == (422, "422")


def test_a_server_that_is_not_there_is_502_with_retry_after(new_edge: NewEdge) -> None:
    edge = new_edge(f"127.0.0.1:{find_free_port()}")

    answer = requests.get(f"{edge.url}/api/v1/photos", timeout=20)

    assert answer.status_code == 502
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Retry-After"] == "2"
    document = answer.json()
    assert document["type"] == "urn:photo-api:problem:bad-gateway"
    assert (document["retryable"], document["retry_after_seconds"]) == (True, 2)
    assert document["request_id"] == answer.headers["X-Request-Id"]
    assert edge.errors == ""


def test_a_server_that_does_not_answer_in_time_is_504(new_edge: NewEdge) -> None:
    with Origin(answers=False) as silent:
        edge = new_edge(
            silent.address,
            EDGE__READ_TIMEOUT_SECONDS="2",
            SERVER__REQUEST_DEADLINE_SECONDS="1",
        )

        answer = requests.get(f"{edge.url}/api/v1/photos", timeout=20)
        wait_for(lambda: len(silent.requests) > 0)

    assert answer.status_code == 504
    assert answer.json()["type"] == "urn:photo-api:problem:gateway-timeout"
    assert answer.headers["Retry-After"] == "2"
    assert len(silent.requests) == 1


def test_the_access_log_has_no_query_no_token_no_file_name(edge: Edge) -> None:
    secret = "s3cret-value"
    headers = {"Authorization": f"Bearer {secret}", "Cookie": f"a={secret}", "Referer": f"http://x/{secret}"}

    read = requests.get(f"{edge.url}/api/v1/photos?token={secret}", headers=headers, timeout=20)
    upper = requests.get(f"{edge.url}/api/v1/{secret.upper()}", headers=headers, timeout=20)
    post = requests.post(f"{edge.url}/s/{secret}.jpg?{secret}", data=b"x" * (JSON_BYTES_MAX + 1), timeout=20)
    _, malformed, _ = answer_to(edge, f"{secret} HTTP/1.1\r\n\r\n")
    ids = [*(answer.headers["X-Request-Id"] for answer in (read, upper, post)), malformed["x-request-id"]]
    lines = [edge.logged(request_id) for request_id in ids]

    assert secret not in (edge.folder / "access.log").read_text(encoding="utf-8").lower()
    assert secret not in edge.errors
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/api/v1/photos", 401),
        ("GET", "(other)", 404),
        ("POST", "(other)", 413),
        ("(none)", "(other)", 400),
    ]


def test_probes_are_not_logged(new_edge: NewEdge) -> None:
    edge = new_edge()

    requests.get(f"{edge.url}/health", timeout=20)
    logged = requests.get(f"{edge.url}/nowhere", timeout=20)

    assert [line["request_id"] for line in edge.log_lines(1)] == [logged.headers["X-Request-Id"]]
