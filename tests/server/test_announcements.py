"""The master's word reaches page and systemd, and goes on without either."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from app.ops.lifecycle import HostLife, Lifecycle, State
from app.ops.state import PAGE_NAME, VARIABLE, StatePage
from app.ops.state_file import make_page
from app.server.announcements import Announcements, WorkerTold


@pytest.fixture
def page(tmp_path: Path) -> StatePage:
    make_page(tmp_path / PAGE_NAME, {})
    return StatePage(tmp_path / PAGE_NAME)


def state_on(page: StatePage) -> State | None:
    word = HostLife(page).server(os.getpid())
    return None if word is None else word.state


def test_each_turn_is_on_the_page_and_the_last_one_leaves_nothing_there(page: StatePage, tmp_path: Path) -> None:
    word = Announcements({VARIABLE: str(tmp_path)})
    seen = [state_on(page)]
    word.ready("r")
    seen.append(state_on(page))
    word.draining("SIGTERM", 20.0, 1020.0)
    seen.append(state_on(page))
    drained = HostLife(page).server(os.getpid())
    word.lame_duck_ends(1005.0)
    ended = HostLife(page).server(os.getpid())
    word.stopped()

    assert seen == [State.STARTING, State.READY, State.DRAINING]
    assert drained is not None
    assert ended is not None
    assert (drained.by, drained.lame_duck_ends, ended.lame_duck_ends) == ("SIGTERM", 1020.0, 1005.0)
    assert state_on(page) is None


def test_a_reload_that_ends_while_the_server_drains_makes_it_ready_no_more(tmp_path: Path, page: StatePage) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        word = Announcements({VARIABLE: str(tmp_path), "NOTIFY_SOCKET": str(tmp_path / "notify")})
        word.draining("SIGTERM", 0.0, 0.0)
        assert manager.recv(100).startswith(b"STOPPING=1")

        word.ready("r")

        assert state_on(page) is State.DRAINING
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_only_the_beat_of_a_server_whose_workers_live_reaches_the_watchdog(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        word = Announcements({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"})

        word.beat(is_alive=False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        word.beat(is_alive=True)

        assert manager.recv(100) == b"WATCHDOG=1"
        assert word.beat_seconds == 1.0


def test_workers_of_this_master_are_heard(page: StatePage, tmp_path: Path) -> None:
    word = Announcements({VARIABLE: str(tmp_path)})
    worker = Lifecycle(page=page, master_pid=os.getpid())
    worker.retire()

    retiring = word.workers()
    worker.enter()
    worker.finish()

    assert retiring == {os.getpid(): WorkerTold(is_retiring=True, is_finishing=False, in_flight=0)}
    assert word.workers() == {os.getpid(): WorkerTold(is_retiring=False, is_finishing=True, in_flight=1)}


def test_workers_of_other_masters_are_not(page: StatePage, tmp_path: Path) -> None:
    word = Announcements({VARIABLE: str(tmp_path)})
    Lifecycle(page=page, master_pid=os.getpid() + 1)

    assert word.workers() == {}


def test_a_server_that_says_ready_is_found_among_others(page: StatePage, tmp_path: Path) -> None:
    del page
    word = Announcements({VARIABLE: str(tmp_path)})

    assert word.find_ready((0, os.getpid())) is None
    word.ready("r")
    assert word.find_ready((0, 2**22, os.getpid())) == os.getpid()


def test_without_a_page_the_word_is_the_masters_own() -> None:
    word = Announcements({})

    word.ready("r")

    assert word.is_ready
    assert word.workers() == {}
    assert word.find_ready((os.getpid(),)) is None
