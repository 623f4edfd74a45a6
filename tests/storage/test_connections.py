"""Connections under TLS: the certificate is verified, and an endpoint whose certificate is not trusted is refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.storage.base import StorageDeniedError
from app.storage.connections import ConnectionPool
from app.storage.reading import WaitBudget
from tests.fakes.clocks import HandClock
from tests.servers.tls import make_certificate, tls_server


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path)


@pytest.fixture
def endpoint_url(certificate: Path) -> Iterator[str]:
    with tls_server(certificate, _Echo) as url:
        yield url


def exchange(pool: ConnectionPool, content: bytes) -> bytes:
    headers = {"Host": "127.0.0.1", "Content-Length": str(len(content))}
    running = pool.request("PUT", "/a", headers, content, budget=WaitBudget(20))
    found = running.response.read()
    running.close(reusable=True)
    return found


def test_trusted_certificate_carries_all_bytes_over_one_connection(
    endpoint_url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    pool = ConnectionPool(endpoint_url, max_connections=2, connect_timeout_seconds=10)

    for content in (b"", b"x", bytes(3_000_000)):
        assert exchange(pool, content) == content

    assert pool.idle_connections == 1
    pool.close()


def test_certificate_that_nobody_vouches_for_is_refused_and_its_slot_given_back(endpoint_url: str) -> None:
    pool = ConnectionPool(endpoint_url, max_connections=1, connect_timeout_seconds=10)

    for _ in range(3):
        with pytest.raises(StorageDeniedError):
            exchange(pool, b"x")

    assert pool.idle_connections == 0


def test_header_with_a_line_break_is_never_sent() -> None:
    pool = ConnectionPool("http://127.0.0.1:9", max_connections=1, connect_timeout_seconds=1)

    with pytest.raises(ValueError, match="line break"):
        pool.request("GET", "/", {"Content-Type": "image/jpeg\r\nX-Evil: 1"}, b"", budget=WaitBudget(1))


def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    clock = HandClock()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    pool = ConnectionPool(endpoint, max_connections=2, connect_timeout_seconds=10, clock=clock)
    opened: list[float] = []
    connect = pool.connect

    def counted(budget: WaitBudget) -> socket.socket:
        opened.append(clock.monotonic())
        return connect(budget)

    monkeypatch.setattr(pool, "connect", counted)
    for seconds in (0.0, 9.9, 10.0):
        clock.advance(seconds)
        assert exchange(pool, b"x") == b"x"

    assert len(opened) == 2
    pool.close()
    server.shutdown()
    server.server_close()
    thread.join()
