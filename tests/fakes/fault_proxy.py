"""A small HTTP/1.1 proxy on loopback that breaks chosen requests in chosen ways, and counts them all.

Faults are chosen by rules over the number, the method and the path of a request, so that a run does the same
every time. Nothing sleeps: what must wait, waits at a :class:`Barrier` until the test lets it go on, or until
the proxy is closed. ``Delay`` and ``Drip`` take real time, which is what they are for.

Bodies with ``Content-Length`` only (what S3 clients and Swift send here); keep-alive on both sides.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

_PIECE_BYTES = 16 * 1024
_HEAD_BYTES = 64 * 1024
_BODILESS = frozenset({204, 304})
_BACKLOG = 256
_QUEUED_SECONDS = 0.2
"""A connection on loopback that takes longer than this waits in vain."""

Side = Literal["request", "response"]


class Barrier:
    """Where a request stops: the test waits until it has come, and lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._released = threading.Event()

    def wait_until_reached(self, seconds: float = 20.0) -> None:
        """Wait for the request; fail the test when it does not come."""
        assert self._reached.wait(seconds), "the barrier was not reached"

    def release(self) -> None:
        """Let the request go on."""
        self._released.set()

    def hold(self, closed: threading.Event) -> None:
        """Stop here until released or until the proxy is closed."""
        self._reached.set()
        while not self._released.wait(0.02):
            if closed.is_set():
                raise ConnectionAbortedError


@dataclass(frozen=True)
class Delay:
    """Forward the request only after some time."""

    seconds: float


@dataclass(frozen=True)
class Status:
    """Answer by itself; the request's body is read and the server behind never sees it."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True)
class Reset:
    """Break the connection hard (RST) after so many bytes of a side's body; None means before its head."""

    side: Side
    after_bytes: int | None = None


@dataclass(frozen=True)
class Cut:
    """Close the connection politely (FIN) after so many bytes of the answer's body."""

    after_bytes: int


@dataclass(frozen=True)
class Flip:
    """Change one bit of byte ``index`` of a side's body."""

    side: Side
    index: int


@dataclass(frozen=True)
class Hold:
    """Stop at a barrier after so many bytes of a side's body; None means before its head."""

    side: Side
    barrier: Barrier
    after_bytes: int | None = None


@dataclass(frozen=True)
class Drip:
    """Send the answer, head and body, in tiny pieces with a pause before each."""

    piece_bytes: int = 1
    pause_seconds: float = 0.05


Fault = Delay | Status | Reset | Cut | Flip | Hold | Drip


@dataclass(frozen=True)
class SeenRequest:
    """A request that came through: its number counts from 1."""

    number: int
    method: str
    path: str
    headers: dict[str, str] = field(repr=False)


@dataclass
class _Rule:
    fault: Fault
    applies: Callable[[SeenRequest], bool]
    times: int | None


class _Finished(Exception):  # noqa: N818 - control flow: this connection is over
    """The connection ends here."""


class FaultProxy:
    """The proxy. A context manager; one thread per client connection.

    Args:
        upstream_port: Where the real server listens on 127.0.0.1.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._is_away = False
        self._in_queue: list[socket.socket] = []
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._upstreams: set[socket.socket] = set()
        self.requests: list[SeenRequest] = []
        self._start(self._accept)

    def inject(
        self,
        fault: Fault,
        *,
        number: int | None = None,
        method: str | None = None,
        path: str = "",
        times: int | None = None,
    ) -> None:
        """Break the requests that fit; the first rule that fits is used.

        Args:
            fault: How.
            number: Only the request with this number.
            method: Only requests with this method.
            path: Only requests whose path contains this.
            times: Only so often; None means always.
        """

        def applies(seen: SeenRequest) -> bool:
            return (
                (number is None or seen.number == number)
                and (method is None or seen.method == method)
                and path in seen.path
            )

        with self._lock:
            self._rules.append(_Rule(fault, applies, times))

    def refuse(self) -> None:
        """End every connection and refuse new ones, until :meth:`heal`."""
        self._leave()

    def swallow(self) -> None:
        """End every connection and let new ones wait in vain, as a firewall that drops them; until :meth:`heal`."""
        self._leave()
        self._listener.listen(0)
        while True:  # its queue is filled up: what comes then is dropped
            filler = socket.socket()
            self._in_queue.append(filler)
            filler.settimeout(_QUEUED_SECONDS)
            try:
                filler.connect(("127.0.0.1", self.port))
            except TimeoutError:
                return

    def heal(self) -> None:
        """Forget all rules, and take connections again."""
        with self._lock:
            self._rules.clear()
        while self._in_queue:
            self._in_queue.pop().close()
        if self._is_away:
            self._is_away = False
            self._listener.listen(_BACKLOG)
            self._start(self._accept)

    def _leave(self) -> None:
        """Keep the port and stop listening at it."""
        if not self._is_away:
            self._is_away = True
            with self._lock:
                listener, self._listener = self._listener, socket.socket()
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", self.port))
        with self._lock:
            connections = [*self._sockets, *self._upstreams]
        for connection in connections:
            _shut(connection)

    def count(self, method: str | None = None) -> int:
        """Return how many requests have come, of one method or of all."""
        with self._lock:
            return sum(method is None or seen.method == method for seen in self.requests)

    @property
    def open_connections(self) -> int:
        """How many client connections are open now."""
        with self._lock:
            return len(self._sockets)

    def wait_until_no_connection(self, seconds: float = 20.0) -> None:
        """Wait until every client connection has been closed, on our side at least."""
        ends = time.monotonic() + seconds
        while self.open_connections:
            assert time.monotonic() < ends, "connections stay open"
            self._closed.wait(0.005)

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._closed.set()
        self.heal()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets, threads = [*self._sockets, *self._upstreams], list(self._threads)
        for connection in sockets:
            _shut(connection)
        for thread in threads:
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        listener = self._listener
        while not self._closed.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:  # what is accepted while all connections end, ends with them
                is_late = listener is not self._listener
                if not is_late:
                    self._sockets.add(client)
            if is_late:
                client.close()
                continue
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        upstream: socket.socket | None = None
        try:
            upstream = socket.create_connection(("127.0.0.1", self._upstream_port), 10)
            upstream.settimeout(None)
            with self._lock:
                self._upstreams.add(upstream)
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                _Exchange(self, client, upstream).run()
        except (OSError, _Finished):
            pass
        finally:
            client.close()
            if upstream is not None:
                upstream.close()
            with self._lock:
                self._sockets.discard(client)
                self._upstreams.discard(upstream or client)

    def see(self, method: str, path: str, headers: dict[str, str]) -> Fault | None:
        """Count a request and return what is to happen to it."""
        with self._lock:
            seen = SeenRequest(len(self.requests) + 1, method, path, headers)
            self.requests.append(seen)
            for rule in self._rules:
                if rule.times != 0 and rule.applies(seen):
                    if rule.times is not None:
                        rule.times -= 1
                    return rule.fault
        return None

    @property
    def closed(self) -> threading.Event:
        """Set when the proxy is closed."""
        return self._closed


class _Exchange:
    """One request and its answer on a pair of connections."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, upstream: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self._fault: Fault | None = None

    def run(self) -> None:
        head, start, headers = _read_head(self._client)
        method, path, _ = start.split(" ", 2)
        self._fault = self._proxy.see(method, path, headers)
        length = int(headers.get("content-length", "0"))
        if isinstance(self._fault, Delay):
            self._proxy.closed.wait(self._fault.seconds)
        if isinstance(self._fault, Status):
            self._answer(self._fault, length)
            return
        self._at("request", None)
        self._upstream.sendall(head)
        self._relay("request", self._client, self._upstream, length)
        head, start, headers = _read_head(self._upstream)
        status = int(start.split(" ", 2)[1])
        self._at("response", None)
        self._send(self._client, head)
        bodiless = method == "HEAD" or status in _BODILESS
        self._relay("response", self._upstream, self._client, 0 if bodiless else int(headers["content-length"]))
        if headers.get("connection", "").lower() == "close":
            raise _Finished

    def _answer(self, fault: Status, length: int) -> None:
        while length:
            length -= len(_receive(self._client, min(length, _PIECE_BYTES)))
        lines = [f"HTTP/1.1 {fault.status} Fault", f"Content-Length: {len(fault.body)}"]
        lines += [f"{name}: {value}" for name, value in fault.headers]
        self._client.sendall("\r\n".join([*lines, "", ""]).encode() + fault.body)

    def _relay(self, side: Side, source: socket.socket, target: socket.socket, length: int) -> None:
        stop = self._stop_offset(side)
        done = 0
        while True:
            if done == stop:
                self._at(side, done)
                stop = None
            if done == length:
                return
            wanted = min(length, length if stop is None else stop) - done
            piece = _receive(source, min(wanted, _PIECE_BYTES))
            self._send(target, self._alter(side, piece, done))
            done += len(piece)

    def _stop_offset(self, side: Side) -> int | None:
        fault = self._fault
        if isinstance(fault, Cut):
            return fault.after_bytes if side == "response" else None
        return fault.after_bytes if isinstance(fault, Reset | Hold) and fault.side == side else None

    def _at(self, side: Side, offset: int | None) -> None:
        """Do what is due at an offset of a side's body (None: before its head)."""
        fault = self._fault
        if isinstance(fault, Cut) and side == "response" and fault.after_bytes == offset:
            raise _Finished
        if not isinstance(fault, Reset | Hold) or fault.side != side or fault.after_bytes != offset:
            return
        if isinstance(fault, Hold):
            fault.barrier.hold(self._proxy.closed)
            return
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Finished

    def _alter(self, side: Side, piece: bytes, offset: int) -> bytes:
        fault = self._fault
        if not isinstance(fault, Flip) or fault.side != side or not offset <= fault.index < offset + len(piece):
            return piece
        altered = bytearray(piece)
        altered[fault.index - offset] ^= 1
        return bytes(altered)

    def _send(self, target: socket.socket, content: bytes) -> None:
        fault = self._fault
        if not isinstance(fault, Drip) or target is not self._client:
            target.sendall(content)
            return
        for at in range(0, len(content), fault.piece_bytes):
            if self._proxy.closed.wait(fault.pause_seconds):
                raise _Finished
            target.sendall(content[at : at + fault.piece_bytes])


def _read_head(connection: socket.socket) -> tuple[bytes, str, dict[str, str]]:
    """Return a message's head: its bytes, its first line, its headers (names in lower case)."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        if len(head) > _HEAD_BYTES:
            raise _Finished
        seen = connection.recv(4096, socket.MSG_PEEK)
        if not seen:
            raise _Finished
        end = (bytes(head[-3:]) + seen).find(b"\r\n\r\n")
        wanted = len(seen) if end < 0 else end + 4 - min(3, len(head))
        head += _receive(connection, wanted)
    start, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return bytes(head), start, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _receive(connection: socket.socket, amount: int) -> bytes:
    piece = connection.recv(amount)
    if not piece:
        raise _Finished
    return piece


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
