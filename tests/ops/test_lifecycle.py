"""One word holds in all workers, goes forward only, and every request counts until its body is closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.ops.lifecycle import (
    SERVER_PREFIX,
    WORKER_PREFIX,
    HostLife,
    HostReport,
    Lifecycle,
    MasterLife,
    Phase,
    ServerWord,
    State,
)
from app.ops.owners import find_owner
from app.ops.state import StatePage
from tests.fakes.clocks import HandClock
from tests.server.running import until

ROOT = Path(__file__).resolve().parents[2]
ME = find_owner(os.getpid())


class Gauge:
    def __init__(self) -> None:
        self.values: list[float] = []

    def set(self, value: float) -> None:
        self.values.append(value)


@pytest.fixture
def master(page: StatePage, clock: HandClock) -> MasterLife:
    return MasterLife(page, clock=clock)


@pytest.fixture
def worker(page: StatePage, clock: HandClock, master: MasterLife) -> Lifecycle:
    return Lifecycle(page=page, master_pid=master.word.pid, clock=clock)


def looked(page: StatePage) -> HostReport:
    report = HostLife(page).look()
    assert report is not None
    return report


def test_states_go_forward_only_and_listeners_hear_each_change_once() -> None:
    lifecycle = Lifecycle()
    heard: list[State] = []
    lifecycle.subscribe(heard.append)

    moved = [lifecycle.advance(state) for state in (State.READY, State.READY, State.STOPPED, State.DRAINING)]

    assert moved == [True, False, True, False]
    assert heard == [State.READY, State.STOPPED]
    assert lifecycle.state is State.STOPPED


def test_in_flight_is_exact_over_threads(page: StatePage) -> None:
    gauge = Gauge()
    lifecycle = Lifecycle(gauge, page=page)
    gate = threading.Barrier(9)

    def work() -> None:
        for _ in range(200):
            with lifecycle.request():
                pass
        with lifecycle.request():
            gate.wait(10)
            gate.wait(10)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.wait(10)
    at_work = [lifecycle.in_flight, looked(page).in_flight, gauge.values[-1]]
    gate.wait(10)
    is_idle = lifecycle.wait_idle(10)
    for thread in threads:
        thread.join()

    assert at_work == [8, 8, 8]
    assert is_idle
    assert [lifecycle.in_flight, looked(page).in_flight, gauge.values[-1]] == [0, 0, 0]


def test_no_thread_waits_for_another_that_writes_and_nothing_is_lost(
    page: StatePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle = Lifecycle(page=page)
    writes, go_on = threading.Event(), threading.Event()
    really = os.pwrite

    def slow(descriptor: int, raw: bytes, offset: int) -> int:
        if threading.current_thread() is first:
            writes.set()
            go_on.wait(10)
        return really(descriptor, raw, offset)

    first = threading.Thread(target=lifecycle.enter)
    monkeypatch.setattr(os, "pwrite", slow)
    first.start()
    assert writes.wait(10)

    for _ in range(5):
        lifecycle.enter()
    meanwhile = looked(page).in_flight
    go_on.set()
    first.join()

    assert (meanwhile, lifecycle.in_flight) == (0, 6)
    assert looked(page).in_flight == 6


def test_waiting_for_idle_ends_at_its_time_limit() -> None:
    lifecycle = Lifecycle()
    lifecycle.enter()

    assert not lifecycle.wait_idle(0.01)


def test_whoever_waits_for_idle_is_told_with_the_last_request() -> None:
    lifecycle = Lifecycle()
    lifecycle.enter()
    lifecycle.enter()
    waiter = threading.Thread(target=lifecycle.wait_idle, args=(600,), daemon=True)
    waiter.start()
    until(lambda: bool(lifecycle._idle._waiters), "somebody to wait")  # type: ignore[attr-defined]  # not in typeshed

    lifecycle.leave()
    waits_on = waiter.is_alive()
    lifecycle.leave()
    waiter.join(20)

    assert (waits_on, waiter.is_alive()) == (True, False)


def test_a_worker_that_retires_while_it_boots_goes_on_retiring(worker: Lifecycle) -> None:
    worker.retire()

    worker.advance(State.READY)

    assert (worker.phase, worker.state) == (Phase.RETIRING, State.READY)


def test_a_request_that_raises_is_counted_out() -> None:
    lifecycle = Lifecycle()

    with pytest.raises(KeyError), lifecycle.request():
        raise KeyError

    assert lifecycle.in_flight == 0


def test_what_the_master_says_holds_in_a_worker_with_its_next_look(
    master: MasterLife, worker: Lifecycle, path: Path, clock: HandClock
) -> None:
    elsewhere = Lifecycle(page=StatePage(path), master_pid=master.word.pid, owner=replace(ME, pid=ME.pid + 1))
    worker.advance(State.READY)
    elsewhere.advance(State.READY)
    before = (worker.state, elsewhere.state)

    moved = master.advance(State.DRAINING, by="SIGTERM", lame_duck_ends=1020.0)

    assert moved
    assert before == (State.READY, State.READY)
    assert (worker.state, elsewhere.state) == (State.DRAINING, State.DRAINING)
    assert worker.server == ServerWord(ME.pid, State.DRAINING, clock.monotonic(), "SIGTERM", 1020.0)
    assert not worker.advance(State.READY)


def test_a_worker_that_boots_is_not_ready_because_its_server_is(master: MasterLife, worker: Lifecycle) -> None:
    master.advance(State.READY)

    booting = worker.state
    master.advance(State.DRAINING)

    assert (booting, worker.state) == (State.STARTING, State.DRAINING)


def test_a_worker_that_is_ready_first_does_not_wait_for_its_master(master: MasterLife, worker: Lifecycle) -> None:
    worker.advance(State.READY)

    assert (master.word.state, worker.state) == (State.STARTING, State.READY)


def test_a_worker_ahead_of_its_server_stays_there(master: MasterLife, worker: Lifecycle) -> None:
    worker.advance(State.STOPPED)

    master.advance(State.DRAINING)

    assert worker.state is State.STOPPED


@pytest.mark.parametrize("notices", [lambda worker: worker.state, lambda worker: worker.beat()], ids=["look", "beat"])
def test_listeners_hear_once_what_the_master_says(
    master: MasterLife, worker: Lifecycle, notices: Callable[[Lifecycle], object]
) -> None:
    worker.advance(State.READY)
    heard: list[State] = []
    worker.subscribe(lambda state: heard.append(max(state, worker.state)))  # who listens looks, too

    master.advance(State.DRAINING)
    for _ in range(3):
        notices(worker)
    noticed = heard.copy()
    worker.advance(State.DRAINING)

    assert noticed == heard == [State.DRAINING]


def test_a_master_goes_forward_only_and_may_end_its_lame_duck_early(master: MasterLife, clock: HandClock) -> None:
    master.advance(State.DRAINING, by="SIGTERM", lame_duck_ends=1020.0)
    clock.advance(3)

    early = master.advance(State.DRAINING, by="SIGINT")
    back = master.advance(State.READY)

    assert (early, back) == (True, False)
    assert master.word == ServerWord(ME.pid, State.DRAINING, 1000.0, "SIGTERM", None)


def test_a_word_of_whoever_had_the_masters_number_before_is_not_the_masters(
    page: StatePage, clock: HandClock
) -> None:
    MasterLife(page, clock=clock, owner=replace(ME, started=ME.started - 1)).advance(State.STOPPED)
    worker = Lifecycle(page=page, master_pid=ME.pid, clock=clock)

    worker.advance(State.READY)

    assert worker.server is None
    assert worker.state is State.READY


def test_workers_of_two_servers_go_by_the_word_of_their_own(page: StatePage, clock: HandClock) -> None:
    parent = find_owner(os.getppid())
    old, new = MasterLife(page, clock=clock, owner=parent), MasterLife(page, clock=clock)
    of_old = Lifecycle(page=page, master_pid=parent.pid, clock=clock, owner=parent)
    of_new = Lifecycle(page=page, master_pid=ME.pid, clock=clock)
    for ready in (old, new, of_old, of_new):
        ready.advance(State.READY)

    old.advance(State.DRAINING)

    report = looked(page)
    assert (of_old.state, of_new.state) == (State.DRAINING, State.READY)
    assert {word.pid: word.state for word in report.servers} == {parent.pid: State.DRAINING, ME.pid: State.READY}
    assert [word.pid for word in report.of_master(parent.pid).workers] == [parent.pid]
    assert report.of_master(ME.pid).servers == (new.word,)


def test_a_worker_says_what_it_is_at(page: StatePage, worker: Lifecycle, clock: HandClock) -> None:
    booting = looked(page).workers[0]
    clock.advance(2)
    worker.advance(State.READY)
    worker.waiting = 7
    for _ in range(8):
        worker.enter()
    worker.beat()
    clock.advance(0.5)

    ready = looked(page).workers[0]
    retires = [worker.retire(), worker.retire()]
    retiring = looked(page).workers[0]
    worker.advance(State.DRAINING)
    stopping = looked(page).workers[0]

    assert (booting.pid, booting.master_pid, booting.phase, booting.since) == (ME.pid, ME.pid, Phase.BOOTING, 1000.0)
    assert (ready.phase, ready.in_flight, ready.waiting, ready.age(clock.monotonic())) == (Phase.READY, 8, 7, 0.5)
    assert (retires, retiring.phase, retiring.state) == ([True, False], Phase.RETIRING, State.READY)
    assert (stopping.phase, stopping.state, worker.phase) == (Phase.STOPPING, State.DRAINING, Phase.STOPPING)
    assert not worker.retire()


def test_a_worker_that_finishes_while_its_server_serves_on_is_as_ready_as_that(
    page: StatePage, master: MasterLife, worker: Lifecycle
) -> None:
    master.advance(State.READY)
    worker.advance(State.READY)

    said = [worker.finish(), worker.finish(), worker.retire()]

    assert said == [True, False, False]
    assert looked(page).workers[0].phase is Phase.STOPPING
    assert worker.state is State.READY


def test_a_heartbeat_is_not_renewed_by_requests(page: StatePage, worker: Lifecycle, clock: HandClock) -> None:
    worker.beat()
    clock.advance(9)

    with worker.request():
        report = looked(page)

    assert report.workers[0].age(clock.monotonic()) == 9
    assert report.workers[0].age(0.0) == 0.0


def test_the_host_counts_all_its_workers(page: StatePage, worker: Lifecycle, clock: HandClock) -> None:
    parent = find_owner(os.getppid())
    other = Lifecycle(page=page, master_pid=ME.pid, clock=clock, owner=parent)
    for _ in range(3):
        worker.enter()
    for _ in range(6):
        other.enter()
    worker.waiting, other.waiting = 2, 5
    worker.beat()
    other.beat()

    report = looked(page)

    assert (report.in_flight, report.waiting) == (9, 7)


def test_no_more_requests_wait_than_are_in_flight(page: StatePage, worker: Lifecycle) -> None:
    for _ in range(3):
        worker.enter()
    worker.waiting = 3
    worker.beat()
    before = looked(page).waiting

    worker.leave()
    worker.leave()
    one_left = looked(page).waiting
    worker.leave()

    assert (before, one_left, looked(page).waiting) == (3, 1, 0)


CHILD = """
import os, sys
from pathlib import Path
from app.ops.lifecycle import Lifecycle
from app.ops.state import StatePage

lifecycle = Lifecycle(page=StatePage(Path(sys.argv[1])), master_pid=os.getppid())
for _ in range(5):
    lifecycle.enter()
print("here", flush=True)
input()
"""


def test_what_a_killed_worker_had_in_flight_is_gone_with_it(page: StatePage, path: Path, worker: Lifecycle) -> None:
    worker.enter()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "here\n"
    before = looked(page)

    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    unreaped = looked(page)
    child.communicate()

    assert (before.in_flight, len(before.workers)) == (6, 2)
    assert (unreaped.in_flight, [word.pid for word in unreaped.workers]) == (1, [ME.pid])
    assert StatePage(path).read(f"{WORKER_PREFIX}{child.pid}") is None


def test_a_page_that_was_lost_has_everything_again_after_a_heartbeat(
    page: StatePage, path: Path, master: MasterLife, worker: Lifecycle, clock: HandClock
) -> None:
    worker.advance(State.READY)
    worker.enter()
    master.advance(State.DRAINING)
    path.write_bytes(b"noise")

    meanwhile = (worker.in_flight, worker.state)
    clock.advance(1)
    master.beat()
    worker.beat()
    worker.enter()

    assert meanwhile == (1, State.READY)
    assert worker.state is State.DRAINING
    report = looked(StatePage(path))
    assert (report.in_flight, report.servers) == (2, (master.word,))


def test_without_a_page_each_process_goes_by_what_it_knows(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for page in (None, StatePage(tmp_path / "file" / "page")):
        master, worker = MasterLife(page), Lifecycle(page=page, master_pid=ME.pid)

        master.advance(State.DRAINING)
        worker.advance(State.READY)
        worker.enter()
        worker.beat()

        assert (worker.state, worker.server, worker.in_flight) == (State.READY, None, 1)
        assert master.word.state is State.DRAINING
        assert HostLife(page).look() is None
        assert HostLife(page).server(ME.pid) is None
        worker.close()
        master.close()


def test_whoever_ends_politely_takes_its_entry_along_and_writes_no_other(
    page: StatePage, master: MasterLife, worker: Lifecycle
) -> None:
    worker.enter()
    worker.close()
    master.close()

    worker.leave()
    worker.beat()
    master.beat()

    assert page.entries() == {}
    worker.close()
    master.close()
    assert worker.in_flight == 0
    assert page.losses == 0


def test_who_moved_the_server_is_cut_to_what_has_room(master: MasterLife, page: StatePage) -> None:
    master.advance(State.DRAINING, by="ä" * 100)

    word = HostLife(page).server(ME.pid)

    assert word is not None
    assert word.by == "ä" * 32


@pytest.mark.parametrize("raw", [b"", b"\xff" * 18, b"\xff" * 38, b"\0" * 17 + b"\x09", b"\0" * 500])
def test_an_entry_that_cannot_be_read_is_passed_over(page: StatePage, raw: bytes) -> None:
    page.own(f"{SERVER_PREFIX}{ME.pid}").write(raw[:300])
    page.own(f"{WORKER_PREFIX}{ME.pid}").write(raw[:300])
    page.own("else").write(raw[:300])

    assert looked(page) == HostReport((), ())
    assert HostLife(page).server(ME.pid) is None


def test_counting_a_request_costs_little(page: StatePage) -> None:
    lifecycle = Lifecycle(page=StatePage(page._path))
    plain, shortest = time.thread_time, 1.0

    for _ in range(30):
        began = plain()
        for _ in range(300):
            lifecycle.enter()
            lifecycle.leave()
        shortest = min(shortest, (plain() - began) / 300)

    assert shortest < 50e-6  # five times the goal
