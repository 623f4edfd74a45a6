"""The management process from its master's side: started again when it ends, killed when it hangs."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.server.management_process import START_SECONDS_MAX, ManagementProcess, has_begun, lives
from tests.fakes.clocks import HandClock

TIMEOUT = 30.0


class Heartbeat:
    """The file by which a worker says that it lives: wall clock until its first beat, monotonic after it."""

    def __init__(self) -> None:
        self.at = time.time()

    def last_update(self) -> float:
        return self.at

    def close(self) -> None:
        pass


class Worker:
    """A worker that does nothing until it is told to end."""

    log = logging.getLogger(__name__)
    pid: Any = "[booting]"
    booted = False

    def __init__(self) -> None:
        self.tmp = Heartbeat()

    def init_process(self) -> None:
        signal.pause()


class World:
    """A master with a management process."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.process = ManagementProcess(Worker, logging.getLogger(__name__), self.clock.monotonic)

    def look(self) -> None:
        self.process.tend(timeout=TIMEOUT, unneeded=list, leave=lambda _: None)

    def bury(self, pid: int) -> bool:
        """Wait for a process's end; tell whether it was the management's."""
        _, status = os.waitpid(pid, 0)
        return self.process.buried(pid, os.waitstatus_to_exitcode(status)) is not None

    @property
    def pid(self) -> int:
        assert self.process.worker is not None
        return int(self.process.worker.pid)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for worker in world.process.workers:
        os.kill(worker.pid, signal.SIGKILL)
        os.waitpid(worker.pid, 0)


def test_it_is_started_once_and_again_when_it_is_gone(world: World) -> None:
    world.look()
    first = world.pid
    world.look()
    assert world.pid == first

    os.kill(first, signal.SIGKILL)
    assert world.bury(first)
    world.look()
    assert world.process.worker is None

    world.clock.advance(0.5)
    world.look()
    assert world.pid != first


def test_one_that_has_lived_for_long_is_started_again_at_once(world: World) -> None:
    world.look()
    first = world.pid
    world.clock.advance(10)
    os.kill(first, signal.SIGKILL)
    world.bury(first)

    world.look()

    assert world.pid != first


def test_one_that_gives_no_sign_of_life_is_killed(world: World) -> None:
    world.look()
    assert world.process.worker is not None
    world.process.worker.tmp.at = world.clock.monotonic()
    world.clock.advance(TIMEOUT)
    world.look()
    assert os.waitpid(world.pid, os.WNOHANG) == (0, 0)

    world.clock.advance(1)
    world.look()

    assert world.bury(world.pid)


def test_one_that_never_gets_through_its_start_is_killed(world: World) -> None:
    world.look()
    world.clock.advance(START_SECONDS_MAX + 1)

    world.look()

    assert world.bury(world.pid)


def test_a_sign_of_life_while_it_is_looked_at_is_no_start_that_never_ends(world: World) -> None:
    world.look()
    assert world.process.worker is not None
    world.clock.advance(START_SECONDS_MAX + 1)
    world.process.worker.tmp.at = world.clock.monotonic() + 0.001

    world.look()

    assert os.waitpid(world.pid, os.WNOHANG) == (0, 0)
    assert has_begun(world.process.worker, world.clock.monotonic())


def test_in_a_reload_the_one_before_goes_when_the_new_one_has_begun(world: World) -> None:
    world.look()
    before = world.pid
    world.process.replace()
    world.look()
    world.process.dismiss_earlier()
    assert os.waitpid(before, os.WNOHANG) == (0, 0)

    assert world.process.worker is not None
    world.process.worker.tmp.at = world.clock.monotonic()
    world.process.dismiss_earlier()

    assert world.bury(before)
    assert [worker.pid for worker in world.process.workers] == [world.pid]


def test_one_that_was_dismissed_is_no_failure(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.look()

    world.process.dismiss()

    assert world.bury(world.pid)
    assert [record.message for record in caplog.records if record.name == __name__] == []


def test_another_child_is_not_its_own(world: World) -> None:
    world.look()

    assert world.process.buried(2**22, 0) is None


def test_a_worker_has_begun_with_its_first_beat_and_lives_while_they_are_young() -> None:
    worker, now = Worker(), 1000.0

    assert (has_begun(worker, now), lives(worker, now, 5)) == (False, True)
    worker.tmp.at = now - 5
    assert (has_begun(worker, now), lives(worker, now, 5)) == (True, True)
    worker.tmp.at = now - 6
    assert (has_begun(worker, now), lives(worker, now, 5)) == (True, False)
