"""What is left of a body after its answer; on the wire it is tests/integration/test_early_answers.py."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from app.server.unread_bodies import UnreadBodies

MIB = 1024 * 1024


class Reader:
    """What gunicorn reads a body of announced length with."""

    def __init__(self, length: int) -> None:
        self.length = length


class Body:
    """What gunicorn gives an application as ``wsgi.input``."""

    def __init__(self, length: int, sent: int | None = None) -> None:
        self.reader = Reader(length)
        self._stream = io.BytesIO(bytes(length if sent is None else sent))

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        self.reader.length -= len(chunk)
        return chunk


class Response:
    """gunicorn's response: may be told that the connection ends."""

    def __init__(self) -> None:
        self.is_last = False

    def force_close(self) -> None:
        self.is_last = True

    def start_response(
        self, _status: str, _headers: list[tuple[str, str]], _exc_info: Any = None
    ) -> Callable[..., None]:
        return print


def refuse(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("401 Unauthorized", [])
    return [b"no"]


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def answer(body: Body, connection: socket.socket, application: Any = refuse) -> Response:
    response = Response()
    environ = {"wsgi.input": body, "CONTENT_LENGTH": str(body.reader.length), "gunicorn.socket": connection}
    answered: Any = UnreadBodies(application)(environ, response.start_response)
    assert b"".join(answered) == b"no"
    answered.close()
    return response


@pytest.mark.parametrize("length", [1, 100_000, 4 * MIB])
def test_a_modest_rest_is_dropped_and_the_connection_goes_on(connection: socket.socket, length: int) -> None:
    body = Body(length)

    response = answer(body, connection)

    assert (body.reader.length, response.is_last) == (0, False)
    assert connection.gettimeout() is None


def test_a_large_rest_ends_the_connection_and_is_dropped_up_to_a_bound(connection: socket.socket) -> None:
    body = Body(20 * MIB)

    response = answer(body, connection)

    assert response.is_last
    assert 15 * MIB <= body.reader.length <= 16 * MIB


def test_a_client_that_sends_no_more_is_not_waited_for_again(connection: socket.socket) -> None:
    body = Body(MIB, sent=1000)

    answer(body, connection)

    assert body.reader.length == MIB - 1000


def test_a_body_that_was_read_is_left_alone(connection: socket.socket) -> None:
    body = Body(8 * MIB)

    def read_all(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["wsgi.input"].read(8 * MIB)
        return refuse(environ, start_response)

    assert not answer(body, connection, read_all).is_last
