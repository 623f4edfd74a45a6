"""Answers read fast, on real sockets: what http.client would read in them, and nothing that is doubtful."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from app.errors import UpstreamTimeoutError
from app.upstream.responses import QuickResponse
from app.upstream.waiting import WaitBudget
from tests.fakes.bodies import pattern

BODY = pattern(700_000)
HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag:  "a" \r\nX-Two: 1\r\nx-two: 2\r\nX-Empty:\r\n\r\n'


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def answered(
    pair: tuple[socket.socket, socket.socket], sent: bytes, *, seconds: float = 60, method: str = "GET"
) -> QuickResponse:
    """Return what is read of an answer that a thread sends as fast as it is taken; its end is the connection's."""

    def send() -> None:
        try:
            pair[1].sendall(sent)
            pair[1].shutdown(socket.SHUT_WR)
        except OSError:
            return  # the reader has left

    threading.Thread(target=send, daemon=True).start()
    response = QuickResponse(pair[0], method=method, budget=WaitBudget(seconds))
    response.begin()
    return response


@pytest.mark.parametrize("piece_bytes", [1000, 65_536, 262_144, 700_000, 10**9])
def test_a_body_comes_whole_in_pieces_of_the_size_asked_for(
    pair: tuple[socket.socket, socket.socket], piece_bytes: int
) -> None:
    response = answered(pair, HEAD % len(BODY) + BODY)
    pieces = []

    while piece := response.read(piece_bytes):
        pieces.append(piece)

    assert b"".join(pieces) == BODY
    assert {len(piece) for piece in pieces[:-1]} <= {piece_bytes}
    assert response.isclosed()


def test_bytes_behind_the_body_are_not_part_of_it(pair: tuple[socket.socket, socket.socket]) -> None:
    response = answered(pair, HEAD % 3 + b"abcHTTP/1.1")

    assert response.read(100) == b"abc"
    assert response.read(100) == b""


def test_headers_are_found_as_http_client_finds_them(pair: tuple[socket.socket, socket.socket]) -> None:
    response = answered(pair, HEAD % 0)

    found = response.headers
    assert (found["etag"], found.get("X-TWO"), found.get_all("x-two")) == ('"a"', "1", ["1", "2"])
    assert (found["X-Empty"], found["X-None"], found.get("X-None", "d")) == ("", None, "d")
    assert ("ETAG" in found, "X-None" in found, response.status, response.version) == (True, False, 200, 11)


@pytest.mark.parametrize(
    ("head", "is_kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", True),
    ],
)
def test_a_connection_is_used_again_when_the_answers_end_is_known(
    pair: tuple[socket.socket, socket.socket], head: bytes, *, is_kept: bool
) -> None:
    response = answered(pair, head)

    assert response.will_close is not is_kept


def test_interim_answers_are_skipped_and_chunks_put_together(pair: tuple[socket.socket, socket.socket]) -> None:
    interim = b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"

    response = answered(pair, interim + chunked)

    assert response.read(10) == b"abc"


def test_an_answer_to_head_has_no_body(pair: tuple[socket.socket, socket.socket]) -> None:
    response = answered(pair, HEAD % 10, method="HEAD")

    assert (response.read(10), response.headers["Content-Length"]) == (b"", "10")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"220 mail.example.com ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : value\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
    ],
    ids=range(16),
)
def test_what_is_no_clear_head_is_refused(pair: tuple[socket.socket, socket.socket], head: bytes) -> None:
    with pytest.raises(http.client.HTTPException):
        answered(pair, head)


@pytest.mark.parametrize("kept_bytes", [0, 1, 60_000, 300_000, len(BODY) - 1])
def test_a_body_that_ends_early_is_short(pair: tuple[socket.socket, socket.socket], kept_bytes: int) -> None:
    response = answered(pair, HEAD % len(BODY) + BODY[:kept_bytes])

    found = b"".join(iter(lambda: response.read(262_144), b""))

    assert found == BODY[:kept_bytes]


def test_a_server_that_drips_ends_with_the_budget(pair: tuple[socket.socket, socket.socket]) -> None:
    left = threading.Event()
    pair[1].sendall(HEAD % len(BODY))  # there before it is waited for

    def drip() -> None:
        while not left.wait(0.02):
            pair[1].sendall(b"x" * 100)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        response = QuickResponse(pair[0], method="GET", budget=WaitBudget(0.3))
        response.begin()
        started = time.monotonic()

        with pytest.raises(UpstreamTimeoutError):
            list(iter(lambda: response.read(262_144), b""))

        assert time.monotonic() - started < 20  # all that drips would take 140
    finally:
        left.set()
        thread.join()
