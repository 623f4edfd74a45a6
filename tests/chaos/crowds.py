"""Crowds of slow clients: hundreds of connections that one thread keeps at a crawl, and what others feel of them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from math import ceil
from types import TracebackType
from typing import Self

import requests

CLIENTS = 200
PACE_SECONDS = 0.4
_BITE_BYTES = 4096
_PIECE_BYTES = 1024
_KERNEL_BYTES = 4096


class Crowd:
    """Clients that each send a request's beginning and then move a kilobyte or four now and then. A context manager.

    Args:
        port: Of the server on 127.0.0.1.
        begun: What each client sends at once.
        rest: What each sends by and by, a kilobyte at a time; None for clients that read their answer by and by.
        reads: Whether they read on, four kilobytes at a time, once an answer has begun.
        waits: Whether each reader has the beginning of its answer before the next one comes: a crowd, and no burst
            that is refused for being one.
        count: How many clients.
    """

    def __init__(
        self,
        port: int,
        begun: bytes,
        rest: bytes | None = None,
        *,
        reads: bool = True,
        waits: bool = True,
        count: int = CLIENTS,
    ) -> None:
        self._waits = waits and rest is None
        self._reads = reads
        self._port = port
        self._begun = begun
        self._rest = rest
        self._count = count
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._crawl, name="crowd", daemon=True)
        self._clients: list[socket.socket] = []
        self._received: dict[socket.socket, bytearray] = {}
        self._ended: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        for _ in range(self._count):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BYTES)
            client.settimeout(30)
            client.connect(("127.0.0.1", self._port))
            client.sendall(self._begun)
            self._received[client] = bytearray(client.recv(_BITE_BYTES) if self._waits else b"")
            client.setblocking(False)
            self._clients.append(client)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join(30)
        for client in self._clients:
            client.close()

    @property
    def ended(self) -> int:
        """How many the server has cut off, or answered and closed."""
        return len(self._ended)

    def statuses(self) -> list[int]:
        """Return the status codes that have come so far."""
        heads = [bytes(self._received[client][:12]) for client in self._clients]
        return [int(head[9:12]) for head in heads if len(head) == 12]

    def _crawl(self) -> None:
        position = 0
        while not self._ends.wait(PACE_SECONDS):
            for client in self._clients.copy():
                if client not in self._ended:
                    self._move(client, position)
            position += _PIECE_BYTES

    def _move(self, client: socket.socket, position: int) -> None:
        try:
            if self._rest is not None:
                client.sendall(self._rest[position : position + _PIECE_BYTES])
            if not self._reads:
                return
            piece = client.recv(_BITE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if piece:
            self._received[client] += piece
        else:
            self._ended.add(client)


def latencies(ask: Callable[[], requests.Response], count: int, longest: float = 5.0) -> list[float]:
    """Ask one after the other; return how long each good answer took, sorted; what is none took the longest time."""
    found = []
    for _ in range(count):
        began = time.monotonic()
        try:
            is_good = ask().ok
        except requests.RequestException:
            is_good = False
        found.append(time.monotonic() - began if is_good else longest)
    return sorted(found)


def is_undisturbed(alone: Sequence[float], amid: Sequence[float], factor: float = 5.0, floor: float = 0.25) -> bool:
    """Tell whether the 99th percentile amid the crowd is within a factor of that without it, or is short anyway.

    The goal is a factor of 2; the test shares its machine with others.
    """
    return _percentile(amid) <= max(factor * _percentile(alone), floor)


def _percentile(values: Sequence[float]) -> float:
    return values[ceil(0.99 * len(values)) - 1]
