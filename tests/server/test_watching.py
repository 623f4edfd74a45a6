"""What the management process says of a server is what its workers say, never its own word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.ops.lifecycle import HostLife, Lifecycle, MasterLife, State
from app.ops.sampling import Status
from app.ops.state import PAGE_NAME, StatePage
from app.ops.state_file import make_page
from app.server.watching import FRESH_SECONDS, WatchedServer
from tests.fakes.clocks import HandClock

MASTER = os.getpid()


class World:
    """A page, a master and a worker on it, all this process."""

    def __init__(self, folder: Path) -> None:
        make_page(folder / PAGE_NAME, {})
        self.path = folder / PAGE_NAME
        self.page = StatePage(self.path)
        self.clock = HandClock()
        self.master = MasterLife(self.page, clock=self.clock)
        self.watched = WatchedServer(HostLife(self.page), MASTER, self.clock.monotonic)

    def worker(self) -> Lifecycle:
        return Lifecycle(page=self.page, master_pid=MASTER, clock=self.clock)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_state_is_the_masters_word(world: World) -> None:
    seen = [world.watched.state]
    for state in (State.READY, State.DRAINING, State.STOPPED):
        world.master.advance(state)
        seen.append(world.watched.state)

    assert seen == [State.STARTING, State.READY, State.DRAINING, State.STOPPED]


def test_without_a_worker_nobody_lives_and_nobody_serves(world: World) -> None:
    result = world.watched.check_workers()

    assert not world.watched.is_alive()
    assert (result.status, result.output) == (Status.FAIL, "no worker serves")


def test_a_worker_that_starts_lives_and_does_not_serve(world: World) -> None:
    world.worker()

    assert world.watched.is_alive()
    assert world.watched.check_workers().status is Status.FAIL


def test_a_worker_that_serves_passes_and_its_requests_are_counted(world: World) -> None:
    worker = world.worker()
    worker.advance(State.READY)
    worker.enter()

    result = world.watched.check_workers()

    assert result.status is Status.PASS
    assert result.observed == {"serving": 1.0, "silent": 0.0, "in_flight": 1.0, "waiting": 0.0}
    assert world.watched.in_flight == 1


def test_a_worker_whose_loop_is_silent_for_too_long_does_not_live(world: World) -> None:
    worker = world.worker()
    worker.advance(State.READY)
    worker.beat()

    world.clock.advance(FRESH_SECONDS)
    assert world.watched.is_alive()
    world.clock.advance(0.1)

    assert not world.watched.is_alive()
    assert world.watched.check_workers().output == "no worker serves"


def test_the_workers_of_another_server_say_nothing_of_this_one(world: World) -> None:
    other = Lifecycle(page=world.page, master_pid=MASTER + 1, clock=world.clock)
    other.advance(State.READY)

    assert not world.watched.is_alive()


def test_without_a_page_nothing_is_called_alive() -> None:
    watched = WatchedServer(HostLife(None), MASTER)

    assert (watched.state, watched.is_alive(), watched.in_flight) == (State.STARTING, False, 0)
    assert watched.check_workers().status is Status.FAIL
    assert "page" in watched.check_workers().output
