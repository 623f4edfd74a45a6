"""One process of the deployment does the maintenance, task by task, and one failure stops nothing else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from app.ops.maintenance import MaintenanceThread, Task
from app.ops.metrics import Metrics


def note(seen: list[str], word: str) -> Callable[[], int]:
    """Return a task's work that writes down that it was done."""

    def run() -> int:
        seen.append(word)
        return 0

    return run


def set_event(event: threading.Event) -> Callable[[], int]:
    def run() -> int:
        event.set()
        return 0

    return run


class HandClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Lease:
    """A lease as all processes see it: one owner at a time."""

    def __init__(self) -> None:
        self.owner: str | None = None
        self.asked: list[str] = []

    def ask(self, owner: str) -> bool:
        self.asked.append(owner)
        if self.owner in {None, owner}:
            self.owner = owner
            return True
        return False


def counter_value(metrics: Metrics, task: str, outcome: str) -> float:
    value: float = metrics.maintenance_runs.labels(task, outcome)._value.get()
    return value


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the thread's own module has logged; other threads of this process may log, too."""
    return [record for record in caplog.records if record.name == "app.ops.maintenance"]


def test_only_the_process_that_holds_the_lease_works_and_the_other_takes_over() -> None:
    clock, lease = HandClock(), Lease()
    done: list[str] = []

    def thread_of(owner: str) -> MaintenanceThread:
        tasks = [Task("reap", 1.0, note(done, owner))]
        return MaintenanceThread(lambda: lease.ask(owner), tasks, lease_seconds=30, clock=clock)

    first, second = thread_of("first"), thread_of("second")

    assert (first.run_due(), second.run_due()) == (1, 0)
    lease.owner = None
    clock.now += 15
    assert (second.run_due(), first.run_due()) == (1, 0)
    assert done == ["first", "second"]


def test_the_lease_is_not_asked_for_before_every_task_nor_by_a_process_that_waits() -> None:
    clock, lease = HandClock(), Lease()
    holder = MaintenanceThread(
        lambda: lease.ask("a"), [Task(name, 1.0, lambda: 0) for name in "xyz"], lease_seconds=30, clock=clock
    )
    waiting = MaintenanceThread(
        lambda: lease.ask("b"), [Task(name, 1.0, lambda: 0) for name in "xyz"], lease_seconds=30, clock=clock
    )

    for _ in range(10):
        clock.now += 1
        holder.run_due()
        waiting.run_due()

    assert lease.asked == ["a", "b"]


def test_tasks_run_when_their_time_has_come() -> None:
    clock = HandClock()
    ran: list[str] = []
    tasks = [Task("often", 1, note(ran, "often")), Task("seldom", 5, note(ran, "seldom"))]
    thread = MaintenanceThread(lambda: True, tasks, clock=clock)

    for _ in range(6):
        thread.run_due()
        clock.now += 1

    assert (ran.count("often"), ran.count("seldom")) == (6, 2)


def test_both_outcomes_of_every_task_are_counted_from_zero_on() -> None:
    metrics = Metrics(version="1")

    MaintenanceThread(lambda: True, [Task("sweep", 5.0, lambda: 0)], runs=metrics.maintenance_runs)

    text = metrics.exposition()[0].decode()
    for outcome in ("success", "failure"):
        assert f'photo_api_maintenance_runs_total{{outcome="{outcome}",task="sweep"}} 0.0' in text


def test_a_task_that_raises_is_logged_and_counted_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(version="1")
    clock = HandClock()

    def fail() -> int:
        raise RuntimeError("broken")

    tasks = [Task("bad", 1, fail), Task("good", 1, lambda: 3)]
    thread = MaintenanceThread(lambda: True, tasks, clock=clock, runs=metrics.maintenance_runs)
    with caplog.at_level(logging.INFO):
        thread.run_due()
        clock.now += 1
        thread.run_due()

    assert counter_value(metrics, "bad", "failure") == 2
    assert counter_value(metrics, "good", "success") == 2
    failures = [record for record in said(caplog) if record.levelno == logging.ERROR]
    assert [record.__dict__["task"] for record in failures] == ["bad", "bad"]


def test_a_lease_that_cannot_be_asked_for_means_not_ours_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    ran: list[str] = []

    def refuse() -> bool:
        raise ConnectionError

    thread = MaintenanceThread(refuse, [Task("t", 1, note(ran, "t"))], lease_seconds=10, clock=clock)
    for _ in range(3):
        thread.run_due()
        clock.now += 5

    assert ran == []
    assert len(said(caplog)) == 1


def test_closing_stops_promptly_and_gives_the_lease_back() -> None:
    began, released = threading.Event(), threading.Event()
    thread = MaintenanceThread(
        lambda: True, [Task("t", 3600, set_event(began))], lease_seconds=3600, release=released.set
    )
    thread.start()
    assert began.wait(10)

    assert thread.close(seconds=10)

    assert released.is_set()


def test_closing_does_not_wait_for_ever_for_a_task_that_hangs() -> None:
    began, end = threading.Event(), threading.Event()

    def hang() -> int:
        began.set()
        end.wait(30)
        return 0

    thread = MaintenanceThread(lambda: True, [Task("t", 1, hang)])
    thread.start()
    assert began.wait(10)

    assert not thread.close(seconds=0.05)
    end.set()
    assert thread.close(seconds=10)


def test_closing_before_starting_is_harmless() -> None:
    assert MaintenanceThread(lambda: True, []).close()


def test_work_that_has_to_stand_still_does_and_leaves_the_lease_to_another_process() -> None:
    clock, lease = HandClock(), Lease()
    done: list[str] = []
    may_work = {"first": True, "second": True}

    def give_back() -> None:
        lease.owner = None

    def thread_of(owner: str) -> MaintenanceThread:
        return MaintenanceThread(
            lambda: lease.ask(owner),
            [Task("reap", 1.0, note(done, owner))],
            lease_seconds=30,
            release=give_back,
            may_work=lambda: may_work[owner],
            clock=clock,
        )

    first, second = thread_of("first"), thread_of("second")
    ran = [first.run_due(), second.run_due()]
    may_work["first"] = False
    clock.now += 15
    ran += [first.run_due(), second.run_due()]
    may_work["first"] = True
    clock.now += 15
    ran += [first.run_due(), second.run_due()]

    assert ran == [1, 0, 0, 1, 0, 1]
    assert done == ["first", "second", "second"]
