"""What is no valid HTTP, on a real server: refused and cut off, nothing smuggled in, nothing left behind.

Every request that two readers could understand in two ways carries a second one inside or behind it, for a route that
counts how often it was served. The control is the same server with a front that trusts every head.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.crowds import is_undisturbed
from tests.server.running import Server, running, until

PATIENCE_SECONDS = 1
NEVER_SECONDS = 60.0  # for a server that waits on
PROMPT_SECONDS = 20.0
THREADS = 4
SMUGGLED = b"GET /pid HTTP/1.1\r\nHost: localhost\r\n\r\n"
COUNTED = "photo_api_dedup_total"
HOST = b"Host: localhost\r\n"
STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def fields(*lines: bytes, path: bytes = b"/slow", method: bytes = b"POST") -> bytes:
    """Return a head with a host and these lines."""
    return b"%s %s HTTP/1.1\r\n%s" % (method, path, HOST) + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def chunked(body: bytes) -> bytes:
    return fields(b"Transfer-Encoding: chunked") + body


def talk(server: Server, *pieces: bytes) -> list[int]:
    """Send, read until the server closes, and return the status codes of its answers."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", server.public), NEVER_SECONDS) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            while piece := connection.recv(65_536):
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    return [int(code) for code in STATUS_LINE.findall(bytes(received))]


class Watched:
    """A server of one worker, and what it holds when it is warm."""

    def __init__(self, server: Server) -> None:
        self.server = server
        (self.pid,) = server.pids()
        for _ in range(3 * THREADS):
            assert server.get("/pid").status == 200
        self.descriptors = self.count("fd")
        self.served = server.metric(COUNTED)

    def count(self, what: str) -> int:
        return len(list(Path(f"/proc/{self.pid}/{what}").iterdir()))

    def require_nothing_left(self) -> None:
        """Nothing is in flight, no descriptor is left, no thread was lost, and none was made beyond the places."""
        server = self.server
        until(lambda: server.metric("photo_api_in_flight_requests") == 0, "nothing in flight")
        until(lambda: self.count("fd") <= self.descriptors, "the descriptors to be back")
        assert server.pids() == {self.pid}
        assert server.metric("photo_api_exceptions_total") == 0
        for _ in range(3 * THREADS):
            assert server.get("/pid").status == 200


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with running(
        tmp_path_factory.mktemp("bad-http"),
        workers=1,
        PHOTO_API_SERVER__THREADS=str(THREADS),
        PHOTO_API_SERVER__CLIENT_TIMEOUT_SECONDS=str(PATIENCE_SECONDS),
    ) as server:
        yield Watched(server)


LINES = [
    pytest.param(b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", id="two spaces"),
    pytest.param(b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", id="space behind the version"),
    pytest.param(b"GET /\r\n\r\n", id="version 0.9"),
    pytest.param(b"GET / HTTP/9.9\r\n" + HOST + b"\r\n", id="version 9.9"),
    pytest.param(b"GET / HTTP/1.1\n" + HOST + b"\r\n", id="line feed alone"),
    pytest.param(b"GET / HTTP/1.1\r" + HOST + b"\r\n", id="carriage return alone"),
    pytest.param(b"G\0T / HTTP/1.1\r\n" + HOST + b"\r\n", id="null in the method"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="a preface of HTTP 2"),
    pytest.param(b"\r\n\r\n\r\n\r\n", id="empty lines"),
]


@pytest.mark.parametrize("request_", LINES)
def test_a_broken_request_line_is_400_and_the_end(watched: Watched, request_: bytes) -> None:
    statuses = talk(watched.server, request_)

    assert statuses == [400]


FRAMINGS = [
    pytest.param(fields(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", id="length and chunks"),
    pytest.param(fields(b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n", id="chunks and length"),
    pytest.param(fields(b"Content-Length: 4", b"Content-Length: 44") + b"abcd", id="two lengths"),
    pytest.param(fields(b"Content-Length: 4, 44") + b"abcd", id="two lengths in one line"),
    pytest.param(fields(b"Content-Length: +4") + b"abcd", id="signed length"),
    pytest.param(fields(b"Content-Length: -4") + b"abcd", id="negative length"),
    pytest.param(fields(b"Content-Length: 0x4") + b"abcd", id="hexadecimal length"),
    pytest.param(fields(b"Content-Length: 4_0") + b"abcd", id="length with an underscore"),
    pytest.param(fields("Content-Length: \N{FULLWIDTH DIGIT FOUR}".encode()) + b"abcd", id="wide digit"),
    pytest.param(fields(b"Content-Length:") + b"abcd", id="empty length"),
    pytest.param(fields(b"Content-Length : 4") + b"abcd", id="space before the colon of the length"),
    pytest.param(fields(b"Content-Length\x0b: 4") + b"abcd", id="vertical tab before the colon of the length"),
    pytest.param(fields(b"Content-Length\xa0: 4") + b"abcd", id="hard space before the colon of the length"),
    pytest.param(fields(b"Transfer-Encoding : chunked") + b"0\r\n\r\n", id="space before the colon of the coding"),
    pytest.param(fields(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n", id="unknown coding"),
    pytest.param(fields(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n", id="chunks that are not the last"),
    pytest.param(fields(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x") + b"0\r\n\r\n", id="two codings"),
    pytest.param(fields(b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n", id="vertical tab before the coding"),
    pytest.param(fields(b"Transfer-Encoding:", b" chunked") + b"0\r\n\r\n", id="folded coding"),
    pytest.param(fields(b"X: a", b" Content-Length: 4") + b"abcd", id="folded length"),
    pytest.param(fields(b"X: a\rContent-Length: 4") + b"abcd", id="carriage return in a field"),
    pytest.param(fields(b"X: a\nContent-Length: 4") + b"abcd", id="line feed in a field"),
    pytest.param(fields(b"X: a\0b"), id="null in a field"),
    pytest.param(fields(b"X Y: a"), id="space in a name"),
    pytest.param(fields(b": a"), id="no name"),
    pytest.param(fields(b"no colon"), id="no colon"),
]


@pytest.mark.parametrize("path", [b"/slow", b"/health"], ids=["a route", "a probe"])
@pytest.mark.parametrize("request_", FRAMINGS)
def test_a_body_of_two_lengths_is_refused_and_nothing_behind_it_is_served(
    watched: Watched, request_: bytes, path: bytes
) -> None:
    served = watched.server.metric(COUNTED)

    statuses = talk(watched.server, request_.replace(b"/slow", path).replace(b"POST", b"GET") + SMUGGLED)

    assert statuses in ([400], [501])
    assert watched.server.metric(COUNTED) == served


CHUNKS = [
    pytest.param(b"5\n01234\r\n0\r\n\r\n", id="line feed behind the size"),
    pytest.param(b"0x5\r\n01234\r\n0\r\n\r\n", id="prefix of the size"),
    pytest.param(b"+5\r\n01234\r\n0\r\n\r\n", id="sign of the size"),
    pytest.param(b"-5\r\n01234\r\n0\r\n\r\n", id="negative size"),
    pytest.param(b"5_0\r\n01234\r\n0\r\n\r\n", id="underscore in the size"),
    pytest.param(b"\r\n01234\r\n0\r\n\r\n", id="no size"),
    pytest.param(b"zz\r\n01234\r\n0\r\n\r\n", id="no number"),
    pytest.param(b"5\r\n0123456\r\n0\r\n\r\n", id="more than the size"),
    pytest.param(b"5\r\n01234XX0\r\n\r\n", id="no line end behind a chunk"),
    pytest.param(b"F" * 16 + b"\r\n01234\r\n0\r\n\r\n", id="size beyond 64 bits"),
    pytest.param(b"5;a=\nb\r\n01234\r\n0\r\n\r\n", id="line feed in an extension"),
    pytest.param(b"5;" + b"a" * 70_000 + b"\r\n01234\r\n0\r\n\r\n", id="endless extension"),
    pytest.param(b"0\r\nno colon\r\n\r\n", id="broken trailer"),
]


@pytest.mark.parametrize("body", CHUNKS)
def test_broken_chunks_end_the_connection_and_nothing_behind_them_is_served(watched: Watched, body: bytes) -> None:
    served = watched.server.metric(COUNTED)

    statuses = talk(watched.server, fields(b"Transfer-Encoding: chunked", path=b"/nowhere") + body + SMUGGLED)

    assert statuses in ([], [400], [404], [405])  # the route does not read its body
    assert watched.server.metric(COUNTED) == served


def serves_what_stands_in_a_body(server: Server, path: bytes, method: bytes) -> bool:
    """Send bodies that are requests; tell whether one of them was served."""
    served = server.metric(COUNTED)
    length = b"Content-Length: %d" % len(SMUGGLED)
    in_chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    last = fields(b"Connection: close", path=b"/nowhere", method=b"GET")

    by_length = talk(server, fields(length, path=path, method=method) + SMUGGLED + last)
    by_chunks = talk(server, fields(b"Transfer-Encoding: chunked", path=path, method=method) + in_chunks + last)

    assert by_length[-1] == 404
    assert by_chunks[1:] in ([], [404]) or path == b"/health"  # chunks that nobody has read end the connection
    return server.metric(COUNTED) != served


@pytest.mark.parametrize("path", [b"/slow?seconds=0", b"/health", b"/nowhere"], ids=["route", "probe", "nowhere"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_what_stands_in_a_body_is_never_a_request(watched: Watched, path: bytes, method: bytes) -> None:
    assert not serves_what_stands_in_a_body(watched.server, path, method)


def test_a_front_that_trusts_every_head_serves_it(tmp_path: Path) -> None:
    with running(tmp_path, workers=1, application="tests.server.trusting:build") as server:
        assert serves_what_stands_in_a_body(server, b"/health", b"GET")


TOO_LARGE = [
    pytest.param(b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, id="a long line"),
    pytest.param(b"GET /" + b"a" * 200_000, 414, id="a line without end"),
    pytest.param(b"a" * 200_000, 414, id="bytes without end"),
    pytest.param(fields(b"X: " + b"a" * 9_000), 431, id="a long field"),
    pytest.param(fields(*[b"X-%d: a" % number for number in range(150)]), 431, id="many fields"),
    pytest.param(fields(*[b"X: a"] * 9_000), 431, id="a head full of fields"),
    pytest.param(b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 50_000, 431, id="fields without end"),
    pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 300_000, 431, id="a field without end"),
]


@pytest.mark.parametrize(("request_", "status"), TOO_LARGE)
def test_what_is_too_large_is_told_so(watched: Watched, request_: bytes, status: int) -> None:
    statuses = talk(watched.server, request_)

    assert statuses == [status]


SLOW = [
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300), [408], id="a hello of TLS"),
    pytest.param(b"G", [408], id="half a line"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: loc", [408], id="half a head"),
    pytest.param(fields(b"Content-Length: 1000") + b"a", [408], id="half a body"),
    pytest.param(fields(b"Transfer-Encoding: chunked") + b"5\r\na", [408], id="half a chunk"),
    pytest.param(fields(b"Transfer-Encoding: chunked") + b"5\r\n01234\r\n0\r\n", [408], id="no end of the chunks"),
]


@pytest.mark.parametrize(("begun", "expected"), SLOW)
def test_what_does_not_come_to_its_end_is_408_after_the_time_out(
    watched: Watched, begun: bytes, expected: list[int]
) -> None:
    began = time.monotonic()

    statuses = talk(watched.server, begun)

    assert statuses == expected
    assert PATIENCE_SECONDS * 0.9 <= time.monotonic() - began <= PATIENCE_SECONDS + PROMPT_SECONDS


def test_a_head_that_drips_has_no_more_time_than_one_that_stops(watched: Watched) -> None:
    began = time.monotonic()
    received = bytearray()
    with closing(socket.create_connection(("127.0.0.1", watched.server.public), NEVER_SECONDS)) as connection:
        connection.settimeout(0.05)
        connection.sendall(b"GET / HTTP/1.1\r\n")
        while not received:
            connection.sendall(b"X: a\r\n")
            try:
                received += connection.recv(4096)
            except TimeoutError:
                continue

    assert STATUS_LINE.findall(bytes(received)) == [b"408"]
    assert time.monotonic() - began <= PATIENCE_SECONDS + PROMPT_SECONDS


def seconds_of_good_requests(server: Server, count: int = 60) -> list[float]:
    """Ask a probe and a route in turn; return how long each took, sorted, without the slowest tenth.

    Where the flood has threads or the loop, all wait for them; one that waits for the machine says nothing.
    """
    found = []
    for number in range(count):
        began = time.monotonic()
        assert server.get("/health" if number % 2 else "/pid").status == 200
        found.append(time.monotonic() - began)
    return sorted(found)[: -count // 10]


FLOODS = [
    pytest.param(fields(*[b"X: a"] * 9_000), id="fields"),
    pytest.param(fields(b"Connection: close", *[b"X: " + b"a" * 600] * 90), id="large fields"),
    pytest.param(b"GET /" + b"a" * 60_000, id="lines"),
    pytest.param(fields(b"Transfer-Encoding: chunked", path=b"/nowhere") + b"1\r\na\r\n" * 20_000, id="chunks"),
    pytest.param(b"\r\n" * 30_000, id="empty lines"),
]


@pytest.mark.parametrize("request_", FLOODS)
def test_a_flood_of_it_disturbs_nobody(watched: Watched, request_: bytes) -> None:
    ends = threading.Event()
    answered: list[list[int]] = []

    def flood() -> None:
        while not ends.is_set():
            answered.append(talk(watched.server, request_))

    alone = seconds_of_good_requests(watched.server)
    threads = [threading.Thread(target=flood, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        amid = seconds_of_good_requests(watched.server)
    finally:
        ends.set()
        for thread in threads:
            thread.join(NEVER_SECONDS)

    assert len(answered) > len(threads)
    assert is_undisturbed(alone, amid), (alone, amid)


def test_after_all_that_nothing_is_left(watched: Watched) -> None:
    for case in [*LINES, *FRAMINGS, *TOO_LARGE]:
        request_ = case.values[0]
        assert isinstance(request_, bytes)
        with socket.create_connection(("127.0.0.1", watched.server.public), NEVER_SECONDS) as connection:
            connection.sendall(request_[:2_000])  # and the client leaves

    watched.require_nothing_left()
