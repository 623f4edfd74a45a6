"""A proxy on loopback before a PostgreSQL: stops chosen commits at a barrier, cuts every connection, or goes silent.

A transaction is chosen by text that the client has sent in it (its parameters travel as text). What must wait,
waits at a :class:`~tests.fakes.fault_proxy.Barrier`; nothing sleeps. Connections without TLS only.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from tests.fakes.fault_proxy import Barrier

_PIECE_BYTES = 64 * 1024
_COMMIT = b"COMMIT\x00"
_ENDS = (_COMMIT, b"ROLLBACK\x00")

When = Literal["before", "after"]
"""Before the server gets the COMMIT, or after it has done it and its answer is on the way."""


@dataclass(frozen=True)
class _Rule:
    text: bytes
    when: When
    barrier: Barrier


@dataclass
class _Pair:
    client: socket.socket
    server: socket.socket
    held: list[Barrier] = field(default_factory=list)

    def close(self) -> None:
        for side in (self.client, self.server):
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class _Ended(threading.Event):
    """Set when the proxy is closed, or the client has gone: then a server rolls back what it began."""

    def __init__(self, closed: threading.Event, client: socket.socket) -> None:
        super().__init__()
        self._closed = closed
        self._client = client

    def is_set(self) -> bool:
        if self._closed.is_set():
            return True
        try:
            return self._client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


class PostgresProxy:
    """The proxy. A context manager; two threads per connection.

    Args:
        upstream_port: Where the real server listens on 127.0.0.1.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._pairs: list[_Pair] = []
        self._refuses = False
        self._had_cut = False
        self._flows = threading.Event()
        self._flows.set()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def url(self, direct: str) -> str:
        """Return SQLAlchemy's URL of a database, through this proxy."""
        return direct.replace(f":{self._upstream_port}/", f":{self.port}/")

    def hold_commit(self, text: str, when: When) -> Barrier:
        """Stop the next commit of a transaction in which the client has sent this text."""
        rule = _Rule(text.encode(), when, Barrier())
        with self._lock:
            self._rules.append(rule)
        return rule.barrier

    def cut(self, *, stays_down: bool = True) -> None:
        """End every connection, and refuse new ones until :meth:`heal` unless it is back at once."""
        with self._lock:
            self._refuses, self._had_cut = stays_down, True
            pairs = list(self._pairs)
        for pair in pairs:
            pair.close()

    def freeze(self) -> None:
        """Carry nothing any more, neither way, and say nothing, until :meth:`heal`: a host that has vanished."""
        self._flows.clear()

    def heal(self) -> bool:
        """Forget rules and take connections again; return whether any were cut since the last time."""
        with self._lock:
            had_cut, self._had_cut = self._had_cut, False
            self._refuses = False
            self._rules.clear()
        self._flows.set()
        return had_cut

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream_port), 10)
            except OSError:  # a test has stopped it
                client.close()
                continue
            server.settimeout(None)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.append(pair)
                refuses: bool = self._refuses
            if refuses:  # since a moment: it was not among those that were cut
                pair.close()
            self._start(self._carry_requests, pair)
            self._start(self._carry_answers, pair)

    def _carry_requests(self, pair: _Pair) -> None:
        sent = bytearray()
        try:
            while piece := pair.client.recv(_PIECE_BYTES):
                sent += piece
                if _COMMIT in piece:
                    self._stop(pair, bytes(sent))
                if any(end in piece for end in _ENDS):
                    sent.clear()
                self._wait_until_it_flows()
                pair.server.sendall(piece)
        except OSError:
            pass
        finally:
            self._forget(pair)

    def _carry_answers(self, pair: _Pair) -> None:
        try:
            while piece := pair.server.recv(_PIECE_BYTES):
                while pair.held:
                    pair.held.pop().hold(self._closed)
                self._wait_until_it_flows()
                pair.client.sendall(piece)
        except OSError:
            pass
        finally:
            self._forget(pair)

    def _wait_until_it_flows(self) -> None:
        while not self._flows.wait(0.02):
            if self._closed.is_set():
                raise ConnectionAbortedError

    def _stop(self, pair: _Pair, sent: bytes) -> None:
        with self._lock:
            rule = next((rule for rule in self._rules if rule.text in sent), None)
            if rule is None:
                return
            self._rules.remove(rule)
        if rule.when == "before":
            ended = _Ended(self._closed, pair.client)
            rule.barrier.hold(ended)
            if ended.is_set():
                raise ConnectionAbortedError
        else:
            pair.held.append(rule.barrier)

    def _forget(self, pair: _Pair) -> None:
        pair.close()
        with self._lock:
            if pair in self._pairs:
                self._pairs.remove(pair)
                return
        pair.client.close()
        pair.server.close()
