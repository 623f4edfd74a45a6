"""The threads of a worker: never more than their number, none lost."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from app.server.threads import Threads


def test_as_many_tasks_as_threads_run_at_once_and_the_next_one_waits() -> None:
    threads, gate, begun, done = Threads(3, "test-at-once"), threading.Event(), threading.Semaphore(0), []

    def task(number: int) -> None:
        begun.release()
        assert gate.wait(20)
        done.append(number)

    for number in range(4):
        threads.submit(partial(task, number))
    at_once = [begun.acquire(timeout=20) for _ in range(3)]
    fourth = begun.acquire(timeout=0.05)
    gate.set()

    assert (at_once, fourth) == ([True] * 3, False)
    assert begun.acquire(timeout=20)


def test_never_more_threads_than_their_number() -> None:
    threads, used, done = Threads(2, "test-number"), set(), threading.Semaphore(0)

    def task() -> None:
        used.add(threading.current_thread().name)
        done.release()

    for _ in range(20):
        threads.submit(task)
    finished = [done.acquire(timeout=20) for _ in range(20)]

    assert all(finished)
    assert used <= {"test-number-1", "test-number-2"}


def test_a_task_that_fails_costs_no_thread() -> None:
    threads, done = Threads(1, "test-failing"), threading.Event()

    def fail() -> None:
        raise SystemExit(3)

    threads.submit(fail)
    threads.submit(done.set)

    assert done.wait(20)


def test_threads_end_with_the_process() -> None:
    threads, names = Threads(1, "test-daemon"), []
    done = threading.Event()

    def task() -> None:
        names.append(threading.current_thread().daemon)
        done.set()

    threads.submit(task)

    assert done.wait(20)
    assert names == [True]


def test_a_system_without_room_for_threads_says_so_before_there_is_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    with pytest.raises(RuntimeError, match="can't start new thread"):
        Threads(2, "test-no-room")
