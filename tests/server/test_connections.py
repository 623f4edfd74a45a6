"""A connection's state: when enough of a body is here, and what a client has not read yet."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from app.ops.admission import RequestClass
from app.server.connections import Connection
from app.server.heads import find_head


@pytest.fixture
def connection() -> Iterator[Connection]:
    server, client = socket.socketpair()
    with server, client:
        yield Connection(server, "", "")


def begin(connection: Connection, *fields: bytes, body: bytes = b"") -> None:
    """Let an upload have come in so far."""
    lines = [b"POST /api/v1/photos HTTP/1.1", b"Host: localhost", *fields]
    connection.buffer += b"\r\n".join(lines) + b"\r\n\r\n" + body
    head = find_head(connection.buffer)
    assert head is not None
    connection.head, connection.chunks = head, head.chunk_scan()


def test_its_socket_never_blocks(connection: Connection) -> None:
    assert connection.socket.gettimeout() == 0


@pytest.mark.parametrize(
    ("announced", "arrived", "is_enough"),
    [(0, 0, True), (10, 9, False), (10, 10, True), (1000, 99, False), (1000, 100, True)],
    ids=["none", "nearly_whole", "whole", "little_of_a_long_one", "the_beginning_of_a_long_one"],
)
def test_a_body_is_waited_for_up_to_so_many_bytes(
    connection: Connection, *, announced: int, arrived: int, is_enough: bool
) -> None:
    begin(connection, b"Content-Length: %d" % announced, body=bytes(arrived))

    assert connection.has_body(100) is is_enough


def test_a_client_that_waits_for_a_word_is_not_waited_for(connection: Connection) -> None:
    begin(connection, b"Content-Length: 10", b"Expect: 100-continue")

    assert connection.has_body(100)


def test_chunks_are_waited_for_until_the_last_or_so_many_bytes(connection: Connection) -> None:
    begin(connection, b"Transfer-Encoding: chunked", body=b"32\r\n" + bytes(50) + b"\r\n")

    few = connection.has_body(100)
    connection.buffer += b"32\r\n" + bytes(50) + b"\r\n"

    assert (few, connection.has_body(100)) == (False, True)


def test_the_class_is_the_heads_and_a_read_without_one(connection: Connection) -> None:
    before = connection.request_class
    begin(connection)

    assert (before, connection.request_class) == (RequestClass.READ, RequestClass.UPLOAD)


def test_unsent_bytes_are_those_that_the_client_has_not_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), 20)
        server, peer = listener.accept()
        with client, server:
            connection = Connection(server, peer, listener.getsockname())
            before = connection.unsent_bytes()
            sent = 0
            try:
                while True:
                    sent += server.send(bytes(65_536))
            except BlockingIOError:
                pass

            assert before == 0
            assert 0 < connection.unsent_bytes() <= sent
