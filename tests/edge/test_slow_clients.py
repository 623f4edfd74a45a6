"""Clients that send or read too slowly are cut off, hold nothing of the server, and disturb nobody."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import pytest
import requests

from tests.edge.conftest import NewEdge
from tests.edge.origins import Origin
from tests.servers.edge import Edge

PATIENCE_SECONDS = 1
FAR_TOO_LONG_SECONDS = 8
"""Nearer to this edge's patience than to the one that it would have without its setting, 10 seconds."""
LARGE = 24 << 20


@pytest.fixture(scope="module")
def impatient(new_edge: NewEdge) -> Edge:
    """An edge that waits a second for a client, and limits nobody."""
    return new_edge(EDGE__CLIENT_TIMEOUT_SECONDS=str(PATIENCE_SECONDS), EDGE__UNLIMITED_NETWORKS="127.0.0.0/8")


def read_until_cut(client: socket.socket) -> None:
    """Read until the connection ends."""
    client.settimeout(20)
    with suppress(ConnectionResetError):
        while client.recv(65_536):
            pass


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HTT", id="half a line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ", id="half a head"),
        pytest.param(
            b"POST /api/v1/photos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nxx", id="half a body"
        ),
        pytest.param(
            b"POST /api/v1/photos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nxx",
            id="half a chunk",
        ),
    ],
)
def test_a_client_that_falls_silent_is_cut_off(impatient: Edge, begun: bytes) -> None:
    began = time.monotonic()
    with closing(impatient.connect()) as client:
        client.sendall(begun)

        read_until_cut(client)

    assert 0.8 * PATIENCE_SECONDS <= time.monotonic() - began <= FAR_TOO_LONG_SECONDS


def test_a_head_that_drips_is_cut_off_when_its_time_is_over(impatient: Edge) -> None:
    began = time.monotonic()
    with closing(impatient.connect()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with suppress(OSError):
            while time.monotonic() - began < 20:
                client.sendall(b"X-Drip: 1\r\n")
                time.sleep(0.1)  # the drip

    assert time.monotonic() - began <= FAR_TOO_LONG_SECONDS


def test_a_client_that_does_not_read_is_cut_off_and_held_no_connection_of_the_server(new_edge: NewEdge) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + bytes(LARGE)
    patience_seconds = 5  # the server may stand still for a while, too
    with Origin(answer=answer) as origin:
        edge = new_edge(origin.address, EDGE__CLIENT_TIMEOUT_SECONDS=str(patience_seconds))
        with closing(edge.connect()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            (line,) = edge.log_lines(1)

    assert float(line["upstream_seconds"]) < patience_seconds
    assert line["bytes_sent"] < LARGE
    assert line["duration_seconds"] >= patience_seconds


def test_while_two_hundred_clients_are_slow_the_others_are_answered(new_edge: NewEdge) -> None:
    # Who is waited for longer than a request may take would keep others from an answer, if it held a place.
    edge = new_edge(EDGE__CLIENT_TIMEOUT_SECONDS="120", EDGE__UNLIMITED_NETWORKS="127.0.0.0/8")
    with ExitStack() as closings, requests.Session() as session:
        clients = [closings.enter_context(closing(edge.connect())) for _ in range(200)]
        for client, begun in zip(clients, _begun(), strict=False):
            client.sendall(begun)

        statuses = [session.get(f"{edge.url}/nowhere", timeout=20).status_code for _ in range(60)]
        cut_off = select.select(clients, [], [], 0)[0]

    assert statuses == [404] * 60
    assert cut_off == []


def _begun() -> Iterator[bytes]:
    while True:
        yield b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: "
        yield b"POST /api/v1/photos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\nxx"
