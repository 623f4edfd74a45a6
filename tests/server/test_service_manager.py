"""The server under systemd: told over a real socket what is so, given sockets it has not opened itself."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.running import (
    MANAGEMENT,
    TINY,
    Server,
    end_next,
    environment,
    migrate,
    running,
    start_next,
    until,
)
from tests.servers.base import find_free_port, stand_still


class Manager:
    """A service manager's socket.

    Attributes:
        messages: What has come, a list of lines per message.
    """

    def __init__(self, path: Path) -> None:
        self.messages: list[list[str]] = []
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def words(self) -> list[str]:
        """Take in what has come; return all words that are no status, in their order."""
        while True:
            try:
                self.messages.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                break
        return [line for lines in self.messages for line in lines if not line.startswith(("STATUS=", "MONOTONIC_"))]

    def count(self, word: str) -> int:
        """Return how often a word has come."""
        return self.words().count(word)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()


def test_ready_is_told_when_the_first_worker_serves_and_not_before(tmp_path: Path, manager: Manager) -> None:
    slow = {"application": "tests.server.tiny:build_when_told", "is_awaited": False}
    with running(tmp_path, NOTIFY_SOCKET=str(manager.path), **slow) as server:  # type: ignore[arg-type]  # a mapping of mixed values
        until(lambda: len(server.pids()) == 2, "workers that start")
        until(lambda: server.said("Booting photo-manage") == 1, "the whole start of the master")
        assert "READY=1" not in manager.words()

        (tmp_path / "go").touch()
        until(lambda: "READY=1" in manager.words(), "READY=1")

        assert server.get("/health/readiness").status == 200


def test_reload_and_stop_are_told(tmp_path: Path, manager: Manager) -> None:
    with running(tmp_path, NOTIFY_SOCKET=str(manager.path)) as server:
        until(lambda: manager.count("READY=1") == 1, "READY=1")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: manager.count("READY=1") == 2, "READY=1 after the reload")
        (tmp_path / ".env").write_text("PHOTO_API_SERVER__THREADS=none\n", encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: manager.count("READY=1") == 3, "READY=1 after a reload that was refused")
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        server.exit_code()

        words = manager.words()

    assert words[:5] == ["READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1"]
    assert set(words[5:]) == {"STOPPING=1"}
    assert ["STATUS=ready: 2 of 2 workers serve"] in [lines[-1:] for lines in manager.messages]


def test_the_watchdog_is_fed_only_while_a_worker_gives_signs_of_life(tmp_path: Path, manager: Manager) -> None:
    with running(tmp_path, NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="600000") as server:
        before = manager.count("WATCHDOG=1")
        until(lambda: manager.count("WATCHDOG=1") > before + 3, "beats")
        for pid in server.pids():
            stand_still(pid)

        until(lambda: server.get("/health/liveness", management=True).status == 503, "silence to be noticed")
        silent, ends = manager.count("WATCHDOG=1"), time.monotonic() + 1.5
        until(lambda: time.monotonic() > ends, "time for seven beats")

        assert manager.count("WATCHDOG=1") - silent <= 1
        for pid in server.pids():
            os.kill(pid, signal.SIGCONT)
        until(lambda: manager.count("WATCHDOG=1") > silent + 3, "beats again")


def test_a_server_that_was_replaced_names_the_new_one_and_does_not_say_that_it_stops(
    tmp_path: Path, manager: Manager
) -> None:
    with running(tmp_path, NOTIFY_SOCKET=str(manager.path)) as server:
        new_master = start_next(server)
        try:
            until(lambda: bool(manager.words()) and server.said("Ready:") == 2, "it to be ready")
            server.process.send_signal(signal.SIGTERM)
            assert server.exit_code() == 0

            words = manager.words()
        finally:
            end_next(new_master)

    assert f"MAINPID={new_master}" in words
    assert "STOPPING=1" not in words


_FREE_FROM = 10  # what systemd hands over stands at 3 and after it

ACTIVATE = """
import os, sys
for target, source in enumerate(map(int, sys.argv[1].split(",")), start=3):
    os.dup2(source, target, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(sys.argv[1].split(","))), LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])
"""


@pytest.mark.parametrize("held", [["management", "public"], ["public"], ["management"]], ids="+".join)
def test_sockets_that_systemd_holds_are_taken_over_and_the_others_opened(tmp_path: Path, held: list[str]) -> None:
    migrate(tmp_path)
    ports = {"public": find_free_port(), "management": find_free_port()}
    sockets = [socket.create_server(("127.0.0.1", ports[name])) for name in held]
    environ = environment(
        PHOTO_API_SERVER__BIND=f"127.0.0.1:{ports['public']}",
        PHOTO_API_SERVER__MANAGEMENT_BIND=f"127.0.0.1:{ports['management']}",
        PHOTO_API_SERVER__WORKERS="1",
        PHOTO_API_LOG__FORMAT="json",
    )
    given = [fcntl.fcntl(each, fcntl.F_DUPFD, _FREE_FROM) for each in sockets]
    command = [sys.executable, "-c", ACTIVATE, ",".join(map(str, given)), "app.server", TINY, MANAGEMENT]
    with (tmp_path / "stdout").open("wb") as out, (tmp_path / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=out, stderr=errors, pass_fds=given)
    for descriptor in given:
        os.close(descriptor)
    for each in sockets:
        each.close()
    server = Server(process, tmp_path, **ports)
    try:
        until(lambda: server.said("Ready:") == 1, "the server to be ready")
        until(lambda: server.get("/health", management=True).status == 200, "health beside it")

        assert server.get("/pid").status == 200
        assert server.get("/metrics").status == 404
        assert server.get("/pid", management=True).status == 404
    finally:
        process.terminate()
        assert server.exit_code() == 0
