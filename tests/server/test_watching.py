"""What the management process says of a server is what its workers say, never its own word."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.ops.lifecycle import HostLife, Lifecycle, MasterLife, State
from app.ops.owners import find_owner
from app.ops.sampling import Status
from app.ops.state import PAGE_NAME, StatePage
from app.ops.state_file import make_page
from app.server.watching import FRESH_SECONDS, KEPT_SECONDS, UNKNOWN, WatchedServer
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


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another master: a process that this one has started."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def another_server(world: World, process: subprocess.Popen[bytes], state: State) -> Lifecycle:
    """Let another master say where it is, and have a worker that serves."""
    MasterLife(world.page, clock=world.clock, owner=find_owner(process.pid)).advance(state)
    worker = Lifecycle(page=world.page, master_pid=process.pid, clock=world.clock, owner=find_owner(os.getppid()))
    worker.advance(State.READY)
    return worker


def lose_all(world: World) -> None:
    """Take all from the page that it says."""
    os.truncate(world.path, 0)


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


def test_while_a_server_starts_the_one_it_was_started_by_serves_for_both(
    world: World, other: subprocess.Popen[bytes]
) -> None:
    another_server(world, other, State.READY)

    assert world.watched.state is State.READY
    assert world.watched.is_alive()
    assert world.watched.check_workers().status is Status.PASS


def test_when_the_workers_are_gone_the_server_that_took_over_serves_for_both(
    world: World, other: subprocess.Popen[bytes]
) -> None:
    world.master.advance(State.READY)
    another_server(world, other, State.READY)
    watched = WatchedServer(HostLife(world.page), other.pid, world.clock.monotonic)

    assert [seen.check_workers().status for seen in (world.watched, watched)] == [Status.PASS] * 2


def test_a_server_that_took_over_is_known_when_its_old_master_is_its_parent_no_longer(
    world: World, other: subprocess.Popen[bytes]
) -> None:
    another_server(world, other, State.READY)
    parents = {other.pid: MASTER}
    watched = WatchedServer(HostLife(world.page), MASTER, world.clock.monotonic, lambda pid: parents.get(pid, 0))
    before = watched.state

    parents[other.pid] = 1

    assert (before, watched.state) == (State.READY, State.READY)


def test_a_server_that_neither_has_started_says_nothing_of_this_one(
    world: World, other: subprocess.Popen[bytes]
) -> None:
    another_server(world, other, State.READY)
    watched = WatchedServer(HostLife(world.page), MASTER, world.clock.monotonic, lambda _: 1)

    assert (watched.state, watched.is_alive()) == (State.STARTING, False)
    assert watched.check_workers().output == "no worker serves"


def test_two_servers_whose_workers_all_hang_are_not_called_alive(
    world: World, other: subprocess.Popen[bytes]
) -> None:
    world.worker().advance(State.READY)
    another_server(world, other, State.READY)

    world.clock.advance(FRESH_SECONDS + 0.1)

    assert not world.watched.is_alive()
    assert world.watched.check_workers().status is Status.FAIL


def test_a_worker_of_the_other_server_that_starts_lives_for_a_moment_and_does_not_serve(
    world: World, other: subprocess.Popen[bytes]
) -> None:
    MasterLife(world.page, clock=world.clock, owner=find_owner(other.pid))
    Lifecycle(page=world.page, master_pid=other.pid, clock=world.clock, owner=find_owner(os.getppid()))
    before = (world.watched.is_alive(), world.watched.check_workers().output)

    world.clock.advance(FRESH_SECONDS + 0.1)

    assert before == (True, "no worker serves")
    assert not world.watched.is_alive()


def test_what_a_lost_page_said_holds_for_a_moment(world: World) -> None:
    world.master.advance(State.READY)
    world.worker().advance(State.READY)
    before = world.watched.check_workers().status

    lose_all(world)
    world.clock.advance(KEPT_SECONDS)
    kept = (world.watched.state, world.watched.is_alive(), world.watched.check_workers().status)
    world.clock.advance(0.1)

    assert before is Status.PASS
    assert kept == (State.READY, True, Status.PASS)
    assert (world.watched.state, world.watched.is_alive()) == (State.STARTING, False)


def test_a_worker_that_is_gone_is_not_kept(world: World, other: subprocess.Popen[bytes]) -> None:
    worker = Lifecycle(page=world.page, master_pid=MASTER, clock=world.clock, owner=find_owner(other.pid))
    worker.advance(State.READY)
    before = world.watched.is_alive()

    other.kill()
    other.wait()

    assert (before, world.watched.is_alive()) == (True, False)


def test_a_worker_that_has_taken_its_word_back_is_not_kept(world: World) -> None:
    worker = world.worker()
    worker.advance(State.STOPPED)
    before = world.watched.is_alive()

    worker.close()

    assert (before, world.watched.is_alive()) == (True, False)


def test_a_page_that_never_had_the_masters_word_is_told_as_the_trouble(world: World) -> None:
    known = world.watched.trouble()

    nothing = WatchedServer(HostLife(world.page), MASTER + 1, world.clock.monotonic).trouble()

    assert (known, nothing) == ("", UNKNOWN)


def test_without_a_page_nothing_is_called_alive() -> None:
    watched = WatchedServer(HostLife(None), MASTER)

    assert (watched.state, watched.is_alive(), watched.in_flight) == (State.STARTING, False, 0)
    assert watched.check_workers().status is Status.FAIL
    assert "page" in watched.check_workers().output
