"""Keep-alive HTTP connections to one store, bounded in number and in time.

Every send and every receive, of headers too, takes its time from the call's
:class:`app.storage.reading.WaitBudget`. Nothing is retried, no redirect is followed, no proxy is looked up
and no ``Expect: 100-continue`` is sent (it costs up to a second with some stores).

Not here: what the requests mean and how they are signed (``s3.py``).
"""

from __future__ import annotations

import http.client
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

from app.stability import Clock, SystemClock
from app.storage.base import StorageDeniedError, StorageUnavailableError
from app.storage.reading import WaitBudget, storage_timeout
from app.upstream.responses import QuickResponse

T = TypeVar("T")

_SEND_BYTES = 256 * 1024
_REST_BYTES = 64 * 1024

_SYSTEM_CLOCK = SystemClock()
_REUSED_SECONDS = 10.0
"""Servers and balancers close idle connections after 20 seconds or more; a request must not cross with that."""

BROKEN = (OSError, http.client.HTTPException)
"""What a connection raises when the peer breaks off or does not speak HTTP."""


class Exchange:
    """One answered request whose body is still to be read. Close it exactly once, from one thread."""

    def __init__(self, pool: ConnectionPool, connection: socket.socket | None) -> None:
        self._pool = pool
        self._connection = connection
        self._response: http.client.HTTPResponse | None = None
        self._sent = False

    @property
    def response(self) -> http.client.HTTPResponse:
        """The answer: status, headers and the body to read."""
        if self._response is None:
            raise http.client.ResponseNotReady
        return self._response

    def run(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | BinaryIO,
        *,
        budget: WaitBudget,
    ) -> None:
        """Send a request and read the head of the answer.

        Args:
            method: The HTTP method.
            target: Path and query, encoded.
            headers: All headers, ``Host`` and ``Content-Length`` included.
            body: Bytes, or a reader of exactly ``Content-Length`` bytes.
            budget: How long all of it, and reading the answer's body, may wait.

        Raises:
            StorageTimeoutError: The budget is used up.
            OSError: The connection failed, as does ``http.client.HTTPException``.
            ValueError: A header would break the request's head.
        """
        head = _head(method, target, headers)
        connection = self._connection or self._pool.connect(budget)
        self._connection = connection
        # A server may refuse early and close: what it says is worth more than the broken pipe.
        with suppress(BrokenPipeError, ConnectionResetError):
            _send(connection, head, body, budget)
            self._sent = True
        response = QuickResponse(connection, method=method, budget=budget)
        self._response = response
        response.begin()

    def read(self, read: Callable[[], T]) -> T:
        """Return what a function reads from the answer; the exchange is closed when that fails.

        Raises:
            StorageUnavailableError: The connection broke off.
            Exception: What the function raises else.
        """
        try:
            return read()
        except BROKEN as error:
            self.close(reusable=False)
            raise StorageUnavailableError("The object store broke off. Try again.", retry_after_seconds=1) from error
        except BaseException:
            self.close(reusable=False)
            raise

    def finish(self) -> None:
        """Close it after a short answer, which is read to its end first.

        Raises:
            StorageUnavailableError: The connection broke off.
        """
        rest = self.read(partial(self.response.read, _REST_BYTES))
        self.close(reusable=len(rest) < _REST_BYTES)

    def close(self, *, reusable: bool) -> None:
        """Give the connection back.

        Args:
            reusable: Whether the whole answer has been read, so that the next request may follow on it.
        """
        response = self._response
        keep = reusable and self._sent and response is not None and not response.will_close
        if response is not None:
            if keep and not response.isclosed():
                # The last bytes are counted off, but only a read at the end tells the response so.
                keep = response.read(1) == b""
            response.close()
        self._pool.give_back(self._connection, keep=keep)


class ConnectionPool:
    """Up to ``max_connections`` keep-alive connections to one endpoint. Thread-safe.

    Connections are opened when they are needed, so that a pool built before a fork shares none.

    Args:
        endpoint_url: ``http://…`` or ``https://…``; certificates are verified against the system's.
        max_connections: How many there may be at once.
        connect_timeout_seconds: How long to wait for a connection, whether new or given back by others.
        clock: Where "now" comes from, for the age of idle connections.
    """

    def __init__(
        self, endpoint_url: str, *, max_connections: int, connect_timeout_seconds: float, clock: Clock = _SYSTEM_CLOCK
    ) -> None:
        self._clock = clock
        parts = urlsplit(endpoint_url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._connect_timeout_seconds = connect_timeout_seconds
        self._permits = threading.BoundedSemaphore(max_connections)
        self._lock = threading.Lock()
        self._idle: list[tuple[socket.socket, float]] = []
        self._owner = os.getpid()
        self._closed = False

    @property
    def idle_connections(self) -> int:
        """How many open connections wait for a request."""
        with self._lock:
            return len(self._idle)

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | BinaryIO, *, budget: WaitBudget
    ) -> Exchange:
        """Send a request and return its exchange, whose head has been read; the caller closes it.

        Raises:
            StorageTimeoutError: The budget is used up.
            StorageUnavailableError: No connection came free, or it failed.
            StorageDeniedError: The endpoint's certificate does not hold.
        """
        with budget.wait(self._connect_timeout_seconds) as seconds:
            if not self._permits.acquire(timeout=seconds):
                raise StorageUnavailableError("The object store is busy. Try again.", retry_after_seconds=1)
        exchange = Exchange(self, self._take())
        try:
            exchange.run(method, target, headers, body, budget=budget)
        except ssl.SSLCertVerificationError as error:
            exchange.close(reusable=False)
            raise StorageDeniedError("The object store's certificate does not hold; an operator must act.") from error
        except BROKEN as error:
            exchange.close(reusable=False)
            raise StorageUnavailableError(
                "The object store cannot be reached. Try again.", retry_after_seconds=2
            ) from error
        except BaseException:
            exchange.close(reusable=False)
            raise
        return exchange

    def connect(self, budget: WaitBudget) -> socket.socket:
        """Return a new connection.

        Raises:
            StorageTimeoutError: It took longer than the connect timeout or the budget.
            OSError: It failed.
        """
        with budget.wait(self._connect_timeout_seconds) as seconds:
            try:
                plain = socket.create_connection((self._host, self._port), seconds)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is None:
                    return plain
                with ExitStack() as undo:
                    undo.callback(plain.close)
                    secured = self._tls.wrap_socket(plain, server_hostname=self._host)
                    undo.pop_all()
                    return secured
            except TimeoutError as error:
                raise storage_timeout() from error

    def give_back(self, connection: socket.socket | None, *, keep: bool) -> None:
        """Take a connection back from its exchange, which may not have come to have one."""
        with self._lock:
            if keep and not self._closed and connection is not None:
                self._idle.append((connection, self._clock.monotonic()))
                connection = None
        if connection is not None:
            connection.close()
        self._permits.release()

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _take(self) -> socket.socket | None:
        """Return an idle connection that still lives, None when there is none."""
        while True:
            with self._lock:
                if self._owner != os.getpid():
                    # A child must not write on its parent's connections; it lets go of them unused.
                    self._owner, self._idle = os.getpid(), []
                if not self._idle:
                    return None
                connection, idle_since = self._idle.pop()
            if self._clock.monotonic() - idle_since < _REUSED_SECONDS and not _is_stale(connection):
                return connection
            connection.close()


def _head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    head = "\r\n".join(lines).encode("latin-1")
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        message = "a header holds a line break"
        raise ValueError(message)
    return head


def _send(connection: socket.socket, head: bytes, body: bytes | BinaryIO, budget: WaitBudget) -> None:
    """Send the head and the body; a body in memory goes with the head, in one call."""
    if isinstance(body, bytes):
        _send_all(connection, head + body, budget)
        return
    _send_all(connection, head, budget)
    while chunk := body.read(_SEND_BYTES):
        _send_all(connection, chunk, budget)


def _send_all(connection: socket.socket, content: bytes, budget: WaitBudget) -> None:
    """Send everything; not with ``sendall``, which under TLS grants its time-out to each record anew."""
    rest = memoryview(content)
    while rest:
        with budget.wait() as seconds:
            connection.settimeout(seconds)
            try:
                rest = rest[connection.send(rest) :]
            except TimeoutError as error:
                raise storage_timeout() from error


def _is_stale(connection: socket.socket) -> bool:
    """Tell whether the server has closed an idle connection, or said something that nobody asked for."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
