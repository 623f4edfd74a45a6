"""Locks of the library: re-entrant, open in a child, and repaired there by their owners."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

from app.stability import locks
from app.stability.locks import after_fork, make_lock

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # later Pythons warn of forks beside threads, which is the point
from app.stability.locks import after_fork, make_lock

lock = make_lock()
held, done = threading.Event(), threading.Event()


def hold() -> None:
    with lock:
        held.set()
        done.wait(20)


class Owner:
    def broken(self) -> None:
        raise RuntimeError("no repair")

    def repair(self) -> None:
        with lock:
            os.write(1, b"repaired ")


owner, gone = Owner(), Owner()
after_fork(owner.broken)
after_fork(owner.repair)
after_fork(gone.repair)
del gone
threading.Thread(target=hold, daemon=True).start()
held.wait(20)
child = os.fork()
if child == 0:
    os.write(1, b"open" if lock.acquire(blocking=False) else b"closed")
    os._exit(0)
os.waitpid(child, 0)
done.set()
"""


def test_a_lock_that_another_thread_held_is_open_in_the_child_and_its_owner_repairs_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout == "repaired open"
    assert "no repair" in done.stderr


def test_a_lock_can_be_taken_again_by_the_thread_that_has_it() -> None:
    lock = make_lock()

    with lock, lock:
        taken_again = True

    assert taken_again


class Owner:
    def __init__(self) -> None:
        after_fork(self.repair)

    def repair(self) -> None:
        """Do nothing."""


def test_a_registration_keeps_nothing_alive_and_is_forgotten() -> None:
    before = len(locks._repairs)
    for _ in range(100):
        Owner()
    gc.collect()
    kept = Owner()

    assert len(locks._repairs) <= before + 2
    kept.repair()


def test_what_a_child_does_first_can_be_done_anywhere() -> None:
    class Noting:
        def __init__(self) -> None:
            self.repaired = 0

        def repair(self) -> None:
            self.repaired += 1

        def fail(self) -> None:
            raise RuntimeError

    noting, gone = Noting(), Noting()
    after_fork(noting.fail)
    after_fork(gone.repair)
    after_fork(noting.repair)
    del gone

    locks._open_all()

    assert noting.repaired == 1
