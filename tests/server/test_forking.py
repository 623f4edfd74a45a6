"""Processes of the server: no signal is lost at a fork, and every end has its exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError

from app.server.forking import fork, fork_worker, name_process

TRIES = 30


def exit_code(pid: int) -> int:
    """Wait for a child's end; return its exit code, or its signal as a negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def leave(code: object) -> Callable[[], None]:
    def run() -> None:
        sys.exit(code)  # type: ignore[arg-type]  # anything may be given

    return run


def fail() -> None:
    raise ValueError("on purpose")


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    """Have handlers as the master has: a child that ran one of them would go on."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("run", "code"),
    [(lambda: None, 0), (leave(0), 0), (leave(None), 0), (leave(7), 7), (leave("words"), 1), (fail, 1)],
    ids=["returns", "0", "None", "7", "words", "raises"],
)
def test_a_process_ends_with_the_code_of_its_end(run: Callable[[], None], code: int) -> None:
    assert exit_code(fork(run)) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_to_end_that_comes_before_there_are_handlers_ends_it(number: signal.Signals) -> None:
    def wait_for_ever() -> None:
        signal.alarm(10)  # whoever has lost the signal
        while True:
            signal.pause()

    for _ in range(TRIES):
        pid = fork(wait_for_ever)
        os.kill(pid, number)

        assert exit_code(pid) == -number


def test_other_signals_of_the_master_do_not_end_it() -> None:
    reader, writer = os.pipe()

    def wait_for_word() -> None:
        os.read(reader, 1)

    pid = fork(wait_for_word)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        os.kill(pid, number)
    os.write(writer, b"x")

    assert exit_code(pid) == 0
    os.close(reader)
    os.close(writer)


def test_the_parent_hears_its_signals_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    exit_code(fork(lambda: None))

    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_process_is_shown_by_its_name() -> None:
    shown = Path("/proc/self/comm").read_text(encoding="ascii").strip()
    try:
        name_process("photo-worker")

        assert Path("/proc/self/comm").read_text(encoding="ascii") == "photo-worker\n"
    finally:
        name_process(shown)


class Closable:
    """Something that leaves a mark when it is closed."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def close(self) -> None:
        self._mark.touch()


class Worker:
    """A worker of gunicorn, as far as a fork is concerned."""

    pid: Any = "[booting]"
    log = logging.getLogger(__name__)

    def __init__(self, folder: Path, error: Exception | None, *, booted: bool) -> None:
        self.tmp = Closable(folder / "tmp-closed")
        self.booted = booted
        self._error = error

    def init_process(self) -> None:
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    ("error", "booted", "code"),
    [
        (None, True, 0),
        (ValueError(), False, Arbiter.WORKER_BOOT_ERROR),
        (ValueError(), True, 1),
        (AppImportError(), False, Arbiter.APP_LOAD_ERROR),
    ],
    ids=["well", "at its start", "later", "no application"],
)
def test_a_worker_closes_what_is_not_its_own_and_leaves_and_tells_its_master_how_it_ended(
    tmp_path: Path, error: Exception | None, *, booted: bool, code: int
) -> None:
    worker = Worker(tmp_path, error, booted=booted)

    pid = fork_worker(
        worker,
        "photo-worker",
        unneeded=[Closable(tmp_path / "unneeded-closed")],
        leave=lambda left: (tmp_path / f"left-{left.pid}").touch(),
    )

    assert worker.pid == pid
    assert exit_code(pid) == code
    assert {path.name for path in tmp_path.iterdir()} == {"unneeded-closed", "tmp-closed", f"left-{pid}"}
