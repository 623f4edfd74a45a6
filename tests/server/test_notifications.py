"""What systemd is told, over a real socket; what it is told costs no server its life."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.server.notifications import ServiceNotifier
from tests.fakes.clocks import HandClock


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        yield receiver


def told(manager: socket.socket) -> list[list[str]]:
    """Return what has come, a list of lines per message."""
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode().split("\n"))
        except BlockingIOError:
            return messages


def environ(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(manager.getsockname()), **more}


def test_each_turn_of_the_server_is_a_word_and_a_status(manager: socket.socket) -> None:
    notifier = ServiceNotifier(environ(manager), HandClock().monotonic)

    notifier.ready("r")
    notifier.reloading("l")
    notifier.stopping("s")
    notifier.succeeded_by(7)

    ready, reloading, stopping, succeeded = told(manager)
    assert (ready, stopping) == (["READY=1", "STATUS=r"], ["STOPPING=1", "STATUS=s"])
    assert reloading[:2] == ["RELOADING=1", "STATUS=l"]
    assert reloading[2].startswith("MONOTONIC_USEC=")
    assert succeeded[0] == "MAINPID=7"


def test_the_same_status_is_told_once(manager: socket.socket) -> None:
    notifier = ServiceNotifier(environ(manager))

    for status in ("a", "a", "b", "b"):
        notifier.status(status)
    notifier.ready("c")
    notifier.status("c")

    assert [lines[-1] for lines in told(manager)] == ["STATUS=a", "STATUS=b", "STATUS=c"]


def test_a_socket_without_a_file_is_found_by_its_name(tmp_path: Path) -> None:
    name = f"photo-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")

        ServiceNotifier({"NOTIFY_SOCKET": f"@{name}"}).ready("r")

        assert receiver.recv(100) == b"READY=1\nSTATUS=r"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "\N{SNOWMAN}" * 100])
def test_nobody_who_listens_is_no_error(address: str) -> None:
    ServiceNotifier({"NOTIFY_SOCKET": address}).ready("r")


def test_it_beats_three_times_in_the_interval_and_no_more_often(manager: socket.socket) -> None:
    clock = HandClock()
    notifier = ServiceNotifier(
        environ(manager, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid())), clock.monotonic
    )

    assert notifier.beat_seconds == 10
    for _ in range(31):
        notifier.beat()
        clock.advance(1)

    assert told(manager) == [["WATCHDOG=1"]] * 4


@pytest.mark.parametrize("watched", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_PID": "1"}])
def test_where_nobody_watches_this_process_it_does_not_beat(manager: socket.socket, watched: dict[str, str]) -> None:
    usec = {} if "WATCHDOG_USEC" in watched or not watched else {"WATCHDOG_USEC": "1000000"}
    notifier = ServiceNotifier(environ(manager, **usec, **watched))

    notifier.beat()

    assert notifier.beat_seconds is None
    assert told(manager) == []
