"""A front on a free port that a test turns by hand, its clients, and an application whose slow answers wait."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gunicorn.config import Config

from app.ops.admission import Admission, AdmissionOptions
from app.server.connections import Connection
from app.server.exchange import Exchange
from app.server.front import AHEAD_BYTES, Front, FrontOptions
from app.server.loop import EventLoop
from app.server.refusals import refusal
from app.server.threads import Threads

GET = b"GET /quick HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"
PROBE = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE_BYTES = 16 * 1024 * 1024


def post(announced: int, body: bytes = b"", path: bytes = b"/api/v1/photos") -> bytes:
    """Return an upload, whole or begun."""
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (path, announced, body)


class Counts:
    """Counts requests in flight, and what was refused."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.most = 0
        self.waiting: list[int] = []
        self.reasons: list[str] = []

    def enter(self) -> None:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)

    def leave(self) -> None:
        self.in_flight -= 1

    def backpressure(self, waiting: int) -> None:
        self.waiting.append(waiting)

    def rejected(self, reason: str) -> None:
        self.reasons.append(reason)


class Stage:
    """A front on a free port, turned by the test, and an application whose slow answers wait for a gate."""

    def __init__(
        self,
        *,
        places: int = 2,
        queue: int = 2,
        silence: float = 20.0,
        connections: int = 100,
        parked: int = 100,
        spool: Path | None = None,
    ) -> None:
        self.gate = threading.Event()
        self.served: list[str] = []
        self.counts = Counts()
        self.is_last = False
        self.loop = EventLoop()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.front = Front(
            self.loop,
            FrontOptions(
                max_connections=connections,
                keep_alive_seconds=20,
                silence_seconds=silence,
                max_parked=parked,
                spool_folder=spool or Path(tempfile.gettempdir()),
                max_body_bytes=8 * AHEAD_BYTES,
            ),
            admission=Admission(
                AdmissionOptions(
                    max_concurrent=places,
                    max_queue=queue,
                    max_wait_seconds=20,
                    target_seconds=10,
                    interval_seconds=20,
                )
            ),
            open_exchange=self._open,
            submit=Threads(places, "test-request").submit,
            answer_probe=self._probe,
            is_last=lambda: self.is_last,
            counter=self.counts,
            observer=self.counts,
        )
        self.front.listen([self.listener])
        self._clients: list[socket.socket] = []

    def _open(self, connection: Connection, received: bytes, waited: float) -> Exchange:
        return Exchange(
            connection.socket,
            connection.peer,
            connection.server,
            received,
            application=self._application,
            cfg=Config(),
            silence_seconds=20,
            kept=connection.kept,
            waited_seconds=waited,
            is_last=lambda: self.is_last,
            refuse=lambda _request, writer, _peer, _error: writer.sendall(refusal(400)),
        )

    def _application(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.served.append(path)
        if path == "/slow":
            assert self.gate.wait(20)
        if path == "/large":
            start_response("200 OK", [("Content-Length", str(LARGE_BYTES))])
            return (bytes(65_536) for _ in range(LARGE_BYTES // 65_536))
        body = b"read %d" % len(environ["wsgi.input"].read()) if path == "/api/v1/photos" else b"hello"
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    @staticmethod
    def _probe(path: bytes, _request_id: str, _is_last: bool) -> bytes | None:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup" if path == b"/health" else None

    def client(self, *sent: bytes) -> socket.socket:
        """Connect and send."""
        connected = socket.create_connection(("127.0.0.1", self.port), 20)
        for piece in sent:
            connected.sendall(piece)
        self._clients.append(connected)
        return connected

    def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        """Turn the front until a condition holds."""
        ends = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends, "waited in vain"
            self.front.turn(0.01)

    def answer(self, client: socket.socket) -> bytes:
        """Turn until a client has a whole short answer, or its end."""
        client.setblocking(False)
        received = bytearray()

        def is_whole() -> bool:
            with contextlib.suppress(BlockingIOError):
                piece = client.recv(65_536)
                received.extend(piece)
                if not piece:
                    return True
            head, end, body = bytes(received).partition(b"\r\n\r\n")
            return bool(end) and len(body) >= int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])

        self.until(is_whole)
        return bytes(received)

    def is_closed(self, client: socket.socket) -> bool:
        """Tell whether the server has closed its side."""
        client.setblocking(False)
        try:
            while client.recv(65_536):
                pass
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        return True

    def close(self) -> None:
        self.gate.set()
        for client in self._clients:
            client.close()
        self.until(lambda: self.front.connections == 0)
        assert self.front._held_bytes == 0
        assert not self.front._keeper._reserved
        self.listener.close()
        self.loop.close()


def status(answer: bytes) -> int:
    return int(answer.split()[1])
