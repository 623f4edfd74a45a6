"""One request in a thread: parsed, answered, parked while its client reads slowly, closed once whatever happens."""

from __future__ import annotations

import contextvars
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config

from app.ops.requests import COUNTED_KEY, WAITED_KEY
from app.server.exchange import DROPPED_BYTES_MAX, Exchange, Outcome, SettledConfig

GET = b"GET /photos?a=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = 16 * 1024 * 1024

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Pieces:
    """A response body that counts how it is used; its own iterator, as the application's is."""

    def __init__(self, pieces: Iterable[bytes], *, closing: Exception | None = None) -> None:
        self._pieces = iter(pieces)
        self._closing = closing
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        self.closed += 1
        if self._closing is not None:
            raise self._closing


class Client:
    """A client's end, and the exchange on the other."""

    def __init__(self) -> None:
        self.server, self.client = socket.socketpair()
        self.server.setblocking(False)
        self.client.settimeout(20)
        self.refused: list[Exception] = []

    def exchange(self, received: bytes, application: Application, *, is_last: bool = False) -> Exchange:
        """Make the exchange of a request that has come in."""

        def refuse(_request: Any, writer: Any, _peer: Any, error: Exception) -> None:
            self.refused.append(error)
            writer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        return Exchange(
            self.server,
            ("127.0.0.1", 40_000),
            ("127.0.0.1", 8000),
            received,
            application=application,
            cfg=Config(),
            silence_seconds=0.1,
            waited_seconds=1.5,
            is_last=lambda: is_last,
            refuse=refuse,
        )

    def read(self) -> bytes:
        """Return what has come."""
        return self.client.recv(1 << 20)


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client()
    with made.server, made.client:
        yield made


def answering(body: Iterable[bytes], *headers: tuple[str, str], status: str = "200 OK") -> Application:
    """Return an application that gives this answer."""

    def application(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(status, list(headers))
        return body

    return application


def length(count: int) -> tuple[str, str]:
    return ("Content-Length", str(count))


def test_a_request_is_answered_and_the_connection_kept(client: Client) -> None:
    body = Pieces([b"he", b"", b"llo"])

    outcome = client.exchange(GET, answering(body, length(5))).begin()

    answer = client.read()
    assert outcome is Outcome.KEEP
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"Connection: keep-alive\r\nContent-Length: 5\r\n\r\nhello")
    assert body.closed == 1


def test_the_application_is_told_what_it_needs(client: Client) -> None:
    told: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        told.update(environ)
        return answering([b""], length(0))(environ, start_response)

    client.exchange(GET, application).begin()

    assert (told["PATH_INFO"], told["QUERY_STRING"], told["REMOTE_ADDR"]) == ("/photos", "a=1", "127.0.0.1")
    assert (told[COUNTED_KEY], told[WAITED_KEY], told["wsgi.multithread"]) == (True, 1.5, True)


def test_an_answer_without_a_length_comes_in_chunks_that_end(client: Client) -> None:
    client.exchange(GET, answering([b"hello"])).begin()

    assert client.read().endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")


def test_the_last_answer_says_so(client: Client) -> None:
    outcome = client.exchange(GET, answering([b""], length(0)), is_last=True).begin()

    assert outcome is Outcome.CLOSE
    assert b"\r\nConnection: close\r\n" in client.read()


def test_what_came_behind_a_request_is_the_next_one(client: Client) -> None:
    exchange = client.exchange(GET + GET, answering([b""], length(0)))

    assert (exchange.begin(), exchange.rest, exchange.unread_bytes) == (Outcome.KEEP, GET, 0)


def posted(body: bytes, announced: int | None = None) -> bytes:
    count = len(body) if announced is None else announced
    return b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (count, body)


@pytest.mark.parametrize(
    ("received", "rest", "unread"),
    [
        (posted(b"abc") + GET, GET, 0),
        (posted(b"abc", 10), b"", 7),
        (posted(b"", DROPPED_BYTES_MAX), b"", DROPPED_BYTES_MAX),
    ],
    ids=["all_here", "some_to_come", "all_to_come"],
)
def test_a_body_that_nobody_reads_is_parted_from_the_next_request(
    client: Client, received: bytes, rest: bytes, unread: int
) -> None:
    exchange = client.exchange(received, answering([b""], length(0)))

    assert (exchange.begin(), exchange.rest, exchange.unread_bytes) == (Outcome.KEEP, rest, unread)


@pytest.mark.parametrize(
    "received",
    [
        posted(b"", DROPPED_BYTES_MAX + 1),
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ],
    ids=["too_long", "chunks_without_end"],
)
def test_a_body_too_long_to_drop_ends_the_connection_and_the_answer_says_so(client: Client, received: bytes) -> None:
    outcome = client.exchange(received, answering([b""], length(0))).begin()

    assert outcome is Outcome.CLOSE
    assert b"\r\nConnection: close\r\n" in client.read()


def test_a_body_whose_framing_broke_ends_the_connection(client: Client) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with pytest.raises(Exception, match="chunk"):
            environ["wsgi.input"].read()
        return answering([b""], length(0))(environ, start_response)

    received = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"

    assert client.exchange(received, application).begin() is Outcome.CLOSE


def test_a_client_that_stops_in_its_body_is_a_time_out_of_the_application(client: Client) -> None:
    met: list[BaseException] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            environ["wsgi.input"].read()
        except TimeoutError as error:
            met.append(error)
        return answering([b""], length(0))(environ, start_response)

    client.exchange(posted(b"abc", 10), application).begin()

    assert len(met) == 1


def test_what_is_no_valid_http_is_refused_and_the_connection_ends(client: Client) -> None:
    outcome = client.exchange(b"nonsense\r\n\r\n", answering([])).begin()

    assert (outcome, len(client.refused)) == (Outcome.CLOSE, 1)
    assert client.read().startswith(b"HTTP/1.1 400 ")


def test_a_request_without_a_host_is_refused(client: Client) -> None:
    outcome = client.exchange(b"GET / HTTP/1.1\r\n\r\n", answering([])).begin()

    assert (outcome, len(client.refused)) == (Outcome.CLOSE, 1)


def test_an_older_client_needs_no_host_and_a_newer_one_is_answered_in_our_version(client: Client) -> None:
    older = client.exchange(b"GET / HTTP/1.0\r\n\r\n", answering([b""], length(0))).begin()
    first = client.read()
    newer = client.exchange(GET.replace(b"1.1", b"1.2"), answering([b""], length(0))).begin()

    assert (older, newer) == (Outcome.CLOSE, Outcome.KEEP)
    assert first.startswith(b"HTTP/1.0 200")
    assert client.read().startswith(b"HTTP/1.1 200")


def test_an_application_that_raises_before_its_answer_is_refused(client: Client) -> None:
    def application(_environ: dict[str, Any], _start_response: Any) -> Iterable[bytes]:
        raise RuntimeError("broken")

    outcome = client.exchange(GET, application).begin()

    assert (outcome, [type(error) for error in client.refused]) == (Outcome.CLOSE, [RuntimeError])


def test_an_answer_that_breaks_in_the_middle_is_cut_and_closed(client: Client) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("in the middle")

    body = Pieces(pieces())

    outcome = client.exchange(GET, answering(body, length(8))).begin()

    assert (outcome, client.refused, body.closed) == (Outcome.LOST, [], 1)


def test_a_file_that_became_shorter_is_cut_and_the_log_says_so(
    client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"half")
    file = (tmp_path / "file").open("rb")

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [length(8)])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return wrapped

    outcome = client.exchange(GET, application).begin()

    assert (outcome, client.refused, file.closed) == (Outcome.LOST, [], True)
    assert "an answer broke off" in caplog.messages


def test_an_answer_shorter_than_announced_ends_the_connection(client: Client) -> None:
    body = Pieces([b"half"])

    outcome = client.exchange(GET, answering(body, length(8))).begin()

    assert (outcome, client.refused, body.closed) == (Outcome.LOST, [], 1)


def test_an_answer_of_which_nothing_comes_is_refused(client: Client) -> None:
    outcome = client.exchange(GET, answering([], length(8))).begin()

    assert (outcome, [type(error) for error in client.refused]) == (Outcome.CLOSE, [EOFError])


@pytest.mark.parametrize(
    ("method", "status"), [(b"HEAD", "200 OK"), (b"GET", "304 Not Modified")], ids=["head", "not_modified"]
)
def test_an_answer_that_has_no_body_may_announce_one(client: Client, method: bytes, status: str) -> None:
    request = GET.replace(b"GET", method)

    assert client.exchange(request, answering([], length(8), status=status)).begin() is Outcome.KEEP


def test_an_answer_that_cannot_be_closed_costs_nothing(client: Client) -> None:
    body = Pieces([b"x"], closing=RuntimeError("close"))

    assert client.exchange(GET, answering(body, length(1))).begin() is Outcome.KEEP


def finish(exchange: Exchange, client: Client, size: int) -> tuple[Outcome, bytes]:
    """Read the answer while the exchange goes on whenever there is room."""
    received = bytearray()

    def read() -> None:
        while len(received) < size and (piece := client.client.recv(1 << 20)):
            received.extend(piece)

    reading = threading.Thread(target=read)
    reading.start()
    outcome = Outcome.PARKED
    while outcome is Outcome.PARKED:
        outcome = exchange.go_on()
    reading.join(20)
    return outcome, bytes(received)


def test_a_slow_reader_parks_the_answer_and_gets_all_of_it_in_the_end(client: Client) -> None:
    content = os.urandom(LARGE)
    body = Pieces(content[begin : begin + 65_536] for begin in range(0, LARGE, 65_536))
    exchange = client.exchange(GET, answering(body, length(LARGE)))

    parked = exchange.begin()
    head_length = len(client.client.recv(1 << 16, socket.MSG_PEEK).partition(b"\r\n\r\n")[0]) + 4
    closed_early = body.closed
    outcome, received = finish(exchange, client, head_length + LARGE)

    assert (parked, closed_early) == (Outcome.PARKED, 0)
    assert (outcome, body.closed) == (Outcome.KEEP, 1)
    assert received[head_length:] == content


def test_a_file_is_parked_and_goes_on_too(client: Client, tmp_path: Path) -> None:
    content = os.urandom(LARGE)
    (tmp_path / "file").write_bytes(content)
    file = (tmp_path / "file").open("rb")

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [length(LARGE)])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return wrapped

    exchange = client.exchange(GET, application)
    parked = exchange.begin()
    head_length = len(client.client.recv(1 << 16, socket.MSG_PEEK).partition(b"\r\n\r\n")[0]) + 4
    outcome, received = finish(exchange, client, head_length + LARGE)

    assert (parked, outcome, file.closed) == (Outcome.PARKED, Outcome.KEEP, True)
    assert received[head_length:] == content


def test_the_context_of_a_request_goes_along_from_thread_to_thread(client: Client) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    class Closing(Pieces):
        def close(self) -> None:
            seen.append(variable.get())

    def pieces() -> Iterator[bytes]:
        for _ in range(LARGE // 65_536):
            yield bytes(65_536)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        variable.set("of this request")
        return answering(Closing(pieces()), length(LARGE))(environ, start_response)

    exchange = client.exchange(GET, application)
    assert exchange.begin() is Outcome.PARKED

    other = threading.Thread(target=exchange.abandon)
    other.start()
    other.join(20)

    assert (seen, variable.get()) == (["of this request"], "unset")


def test_a_parked_answer_whose_client_left_is_closed_once(client: Client) -> None:
    body = Pieces(bytes(65_536) for _ in range(LARGE // 65_536))
    exchange = client.exchange(GET, answering(body, length(LARGE)))
    assert exchange.begin() is Outcome.PARKED
    client.client.close()

    assert (exchange.go_on(), exchange.abandon(), body.closed) == (Outcome.LOST, Outcome.LOST, 1)


def test_an_option_of_the_server_is_worked_out_once_and_is_what_gunicorn_says() -> None:
    config, asked = Config(), list[str]()

    class Asked:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(config, name)

    settled = SettledConfig(Asked())

    assert [settled.keepalive for _ in range(3)] == [config.keepalive] * 3
    assert settled.is_ssl == config.is_ssl
    assert asked == ["keepalive", "is_ssl"]
    with pytest.raises(AttributeError):
        _ = settled.no_such_option
