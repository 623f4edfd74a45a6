"""The listeners of a worker: taken while there is room, all of the backlog at the end, no spinning without files."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from app.server import acceptor
from app.server.acceptor import Acceptor
from app.server.loop import EventLoop
from tests.fakes.clocks import HandClock
from tests.server.running import until
from tests.servers.base import backlog


class Stage:
    """An acceptor with a listener of its own."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.room = 100
        self.taken: list[socket.socket] = []
        self.addresses: list[tuple[Any, Any]] = []
        self.loop = EventLoop()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.acceptor = Acceptor(self.loop, self._take, lambda: len(self.taken) < self.room, self.clock.monotonic)
        self._clients: list[socket.socket] = []

    def _take(self, client: socket.socket, peer: Any, server: Any) -> None:
        self.taken.append(client)
        self.addresses.append((peer, server))

    def connect(self, count: int) -> None:
        """Connect so many clients."""
        for _ in range(count):
            self._clients.append(socket.create_connection(self.listener.getsockname(), 20))
        waiting = len(self._clients) - len(self.taken)
        # Who connects hears of it before the listener does.
        until(lambda: backlog(self.listener.getsockname()[1]) == waiting, "the kernel to have completed them")

    def close(self) -> None:
        for one in (*self._clients, *self.taken, self.listener):
            one.close()
        self.loop.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


def test_connections_are_taken_with_both_addresses(stage: Stage) -> None:
    stage.acceptor.open([stage.listener])
    stage.connect(3)

    stage.loop.turn(5)

    assert len(stage.taken) == 3
    assert stage.addresses[0] == (stage.taken[0].getpeername(), stage.listener.getsockname())


def test_without_room_they_wait_in_the_kernel_until_there_is_some(stage: Stage) -> None:
    stage.room = 2
    stage.acceptor.open([stage.listener])
    stage.connect(5)
    stage.loop.turn(5)
    stage.acceptor.tend()
    stage.loop.turn(0)
    full = len(stage.taken)

    stage.room = 4
    stage.acceptor.tend()
    stage.loop.turn(5)

    assert (full, len(stage.taken)) == (2, 4)


def test_closing_takes_the_whole_backlog_and_nothing_after_it(stage: Stage) -> None:
    stage.acceptor.open([stage.listener])
    stage.connect(70)

    stage.acceptor.close()
    stage.connect(1)
    stage.acceptor.tend()
    stage.loop.turn(0)

    assert len(stage.taken) == 70


def test_without_a_free_file_it_rests_and_says_so_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Exhausted:
        """A listener whose process has no file left."""

        def __init__(self, listener: socket.socket) -> None:
            self.setblocking, self.fileno = listener.setblocking, listener.fileno
            self.getsockname = listener.getsockname
            self.accept = self._fail

        def _fail(self) -> Any:
            raise OSError(errno.EMFILE, "Too many open files")

    listener = Exhausted(stage.listener)
    stage.acceptor.open([listener])  # type: ignore[list-item]  # as much of a socket as is used
    stage.connect(1)

    for _ in range(5):
        stage.loop.turn(0.01)
        stage.acceptor.tend()
    listener.accept = stage.listener.accept
    stage.clock.advance(0.2)
    stage.acceptor.tend()
    stage.loop.turn(5)

    assert len(stage.taken) == 1
    said = [record.message for record in caplog.records if record.name == acceptor.__name__]
    assert said == ["no file is free for another connection"]
