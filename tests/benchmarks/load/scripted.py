"""A server that answers by script, byte for byte, for tests of those who count answers."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from benchmarks.load.traffic import Target

Act = Callable[[socket.socket, bytes], bool]
"""Answers a request, given its bytes; returns whether the connection goes on."""


def answer(content: bytes) -> Act:
    """Send bytes and go on."""

    def act(connection: socket.socket, _: bytes) -> bool:
        connection.sendall(content)
        return True

    return act


def answer_and_close(content: bytes) -> Act:
    """Send bytes and close."""

    def act(connection: socket.socket, _: bytes) -> bool:
        connection.sendall(content)
        return False

    return act


def reset(connection: socket.socket, _: bytes) -> bool:
    """Reset the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


class Scripted:
    """What the server saw.

    Attributes:
        target: Where it listens.
        connections: How many there were.
        requests: The bytes of each.
        sources: The addresses they came from.
    """

    def __init__(self, script: Mapping[bytes, Act]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.target = Target("127.0.0.1", self._listener.getsockname()[1])
        self.connections = 0
        self.requests: list[bytes] = []
        self.sources: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, (source, _) = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self.sources.add(source)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(30)
            while request := _read_request(connection):
                self.requests.append(request)
                if not self._script[request.split(b" ", 2)[1]](connection, request):
                    return

    def close(self) -> None:
        """Stop listening, and wait for every connection's end."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._accepting, *self._threads):
            thread.join(30)


@contextmanager
def scripted(script: Mapping[bytes, Act]) -> Iterator[Scripted]:
    """Serve a script, by path, until the block ends."""
    server = Scripted(script)
    try:
        yield server
    finally:
        server.close()


def _read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65_536)
        if not more:
            return b""
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body
