"""Which slow bodies are kept on the disk, and how much of it they may take."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.server import kept
from app.server.connections import Connection, Phase
from app.server.heads import find_head
from app.server.kept import KEPT_BYTES_MAX, QUICK_SECONDS, BodyKeeper
from tests.fakes.clocks import HandClock

MAX_BODY_BYTES = 1_000_000


class Stage:
    """A keeper, and uploads that have begun."""

    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.keeper = BodyKeeper(folder, MAX_BODY_BYTES, self.clock.monotonic)
        self._sockets: list[socket.socket] = []
        self._connections: list[Connection] = []

    def upload(self, announced: int, arrived: int = 100) -> Connection:
        """Return a connection whose upload has begun to come in now."""
        server, client = socket.socketpair()
        self._sockets += [server, client]
        connection = Connection(server, "", "")
        connection.buffer += b"POST /api/v1/photos HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % announced
        connection.head = find_head(connection.buffer)
        connection.buffer += bytes(arrived)
        connection.phase = Phase.BODY
        connection.offered_at = self.clock.monotonic()
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        for connection in self._connections:
            self.keeper.forget(connection)
        for one in self._sockets:
            one.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def test_a_quick_body_is_for_a_thread_and_a_slow_one_is_kept(stage: Stage) -> None:
    quick, slow = stage.upload(1000), stage.upload(1000)

    assert not stage.keeper.keeps(quick)
    stage.clock.advance(QUICK_SECONDS)
    assert stage.keeper.keeps(slow)


def test_a_kept_body_is_kept_until_it_is_whole(stage: Stage) -> None:
    slow = stage.upload(1000)
    stage.clock.advance(QUICK_SECONDS)
    assert stage.keeper.keeps(slow)

    slow.keep(bytes(899))
    almost = stage.keeper.keeps(slow)
    slow.keep(b"x")

    assert (almost, stage.keeper.keeps(slow), slow.missing_bytes) == (True, False, 0)


def test_a_body_beyond_the_largest_is_not_kept(stage: Stage) -> None:
    large = stage.upload(MAX_BODY_BYTES + 101)
    stage.clock.advance(QUICK_SECONDS)

    assert not stage.keeper.keeps(large)


def test_no_more_is_kept_than_the_disk_is_for_and_what_ends_makes_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.server.kept.KEPT_BYTES_MAX", 1500)
    first, second = stage.upload(1100), stage.upload(1100)
    stage.clock.advance(QUICK_SECONDS)

    together = stage.keeper.keeps(first), stage.keeper.keeps(second)
    first.keep(bytes(300))
    stage.keeper.forget(first)

    assert (together, stage.keeper.keeps(second)) == ((True, False), True)
    assert KEPT_BYTES_MAX > 30 * MAX_BODY_BYTES


def test_forgetting_closes_the_file_once(stage: Stage) -> None:
    slow = stage.upload(1000)
    stage.clock.advance(QUICK_SECONDS)
    stage.keeper.keeps(slow)
    file = slow.kept

    stage.keeper.forget(slow)
    stage.keeper.forget(slow)

    assert file is not None
    assert (file.closed, slow.kept, slow.kept_bytes) == (True, None, 0)


def test_a_folder_that_cannot_be_written_is_said_and_nothing_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path / "missing")
    slow = stage.upload(1000)
    stage.clock.advance(QUICK_SECONDS)

    assert not stage.keeper.keeps(slow)
    said = [record.message for record in caplog.records if record.name == kept.__name__]
    assert said == ["a slow body cannot be kept (No such file or directory)"]
    stage.close()
