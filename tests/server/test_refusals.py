"""Unreadable HTTP is refused as everything else is, with a problem document; the worker lives."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from app.http.reasons import REASONS
from app.server.refusals import refusal
from tests.server.running import Server, running, until

HEAD = b"GET /pid HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), PHOTO_API_LOG__LEVEL="DEBUG") as started:
        yield started


def say(port: int, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are; return status, headers and body."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(raw)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, dict(response.getheaders()), response.read()


def judge(status: int, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(body)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Connection"] == "close"
    assert re.fullmatch(r"[0-9a-f]{32}", headers["X-Request-Id"])
    assert document["request_id"] == headers["X-Request-Id"]
    assert document["status"] == status
    assert document["type"].removeprefix("urn:photo-api:problem:") in REASONS
    return document


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (HEAD + b"X: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (HEAD + b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n", 431),
        (b"secret nonsense\r\n\r\n", 400),
        (b"GET /pid HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
        (HEAD + b"secret header: a\r\n\r\n", 400),
        (HEAD + b"X: a\x00secret\r\n\r\n", 400),
        (HEAD + b"X: a\r\n secret\r\n\r\n", 400),
        (HEAD + b"Content-Length: secret\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: secret\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", 400),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
def test_unreadable_http_is_refused_in_words_that_repeat_nothing(server: Server, raw: bytes, status: int) -> None:
    workers = server.pids()

    got = say(server.public, raw)

    document = judge(*got)
    assert (got[0], document["retryable"]) == (status, False)
    assert b"secret" not in got[2]
    assert server.pids() == workers
    assert server.get("/pid").status == 200


@pytest.mark.parametrize(
    ("given", "status"), [(400, 400), (403, 400), (417, 400), (501, 400), (414, 414), (431, 431), (500, 500)]
)
def test_every_status_of_the_server_becomes_a_documented_problem(given: int, status: int) -> None:
    head, _, body = refusal(given).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")

    judge(status, dict(line.split(": ", 1) for line in lines[1:]), body)

    assert lines[0].startswith(f"HTTP/1.1 {status} ")
    assert f"Content-Length: {len(body)}" in lines


UNREADABLE = [
    (b"GET /photos?token=secret-query nonsense HTTP/1.1\r\n\r\n", "InvalidHTTPVersion"),
    (b"GET x?secret-query HTTP/1.1\r\n\r\n", "InvalidRequestLine"),
    (b"secret: secret: secret HTTP/1.1\r\n\r\n", "InvalidRequestMethod"),
    (HEAD + b"Authorization: Bearer secret-token\x00\r\n\r\n", "InvalidHeader"),
    (HEAD + b"X-Api-Key pk_abcdefgh_secret\r\n\r\n", "InvalidHeader"),
    (HEAD + b"Cookie session=secret\r\n\r\n", "InvalidHeader"),
    (HEAD + b"secret header: secret-token\r\n\r\n", "InvalidHeaderName"),
    (HEAD + b"Expect: secret\r\n\r\n", "ExpectationFailed"),
]


@pytest.mark.parametrize(("raw", "kind"), UNREADABLE)
def test_the_log_says_what_kind_of_mistake_it_was_and_nothing_more(server: Server, raw: bytes, kind: str) -> None:
    def refused() -> list[str]:
        return [line["message"] for line in server.log_lines() if "Invalid request" in line["message"]]

    before = len(refused())

    say(server.public, raw)

    expected = f"Invalid request from ip=127.0.0.1: {kind}"
    until(lambda: expected in refused()[before:], expected)
    assert [line for line in server.log_lines() if "secret" in str(line)] == []


def test_the_log_repeats_nothing_of_a_request_that_never_ended_either(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.public)) as connection:
        connection.sendall(b"GET /photos?token=secret HTTP/1.1\r\nCookie: session=secret")

    until(lambda: any("premature" in line["message"] for line in server.log_lines()), "the line")
    assert [line for line in server.log_lines() if "secret" in str(line)] == []
