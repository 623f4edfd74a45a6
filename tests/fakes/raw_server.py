"""A server on loopback that says exactly the bytes it is told to, to see what a client makes of them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_HEAD_END = b"\r\n\r\n"


@dataclass
class RawServer:
    """What it says, and what it was asked.

    Attributes:
        url: Where it listens.
        pieces: What each request is answered with, piece by piece; may be endless.
        pause_seconds: Between two pieces.
        heads: The heads of the requests.
        connections: How many there were.
        hangs_up: Whether the connection ends after the answer; else it stays open and silent.
    """

    url: str
    pieces: Iterable[bytes] = ()
    pause_seconds: float = 0.0
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    hangs_up: bool = True


@contextmanager
def raw_server() -> Iterator[RawServer]:
    """Serve until the block ends; connections that are still open are closed then."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = RawServer(f"http://127.0.0.1:{listener.getsockname()[1]}")
    stop = threading.Event()
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def accept() -> None:
        with suppress(OSError):
            while not stop.is_set():
                connection, _ = listener.accept()
                connections.append(connection)
                server.connections += 1
                thread = threading.Thread(target=_serve, args=(connection, server, stop), daemon=True)
                threads.append(thread)
                thread.start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield server
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in [accepting, *threads]:
            thread.join(20)
        for connection in connections:
            connection.close()


def _serve(connection: socket.socket, server: RawServer, stop: threading.Event) -> None:
    with suppress(OSError):
        received = b""
        while True:
            while _HEAD_END not in received:
                chunk = connection.recv(65536)
                if not chunk:
                    return
                received += chunk
            head, _, received = received.partition(_HEAD_END)
            server.heads.append(head)
            received = received[_length_of(head) :]  # small bodies come with their heads
            for piece in server.pieces:
                connection.sendall(piece)
                if stop.is_set():
                    return
                if server.pause_seconds:
                    time.sleep(server.pause_seconds)  # a slow server is what is being made here
            if server.hangs_up:
                connection.shutdown(socket.SHUT_RDWR)
                return


def _length_of(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
