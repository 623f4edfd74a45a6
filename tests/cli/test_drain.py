"""``drain``: the right process is asked once, and followed to its end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.cli.main import main
from app.ops.lifecycle import HostLife, MasterLife, State
from app.ops.owners import find_owner
from app.ops.state import PAGE_NAME, StatePage
from app.server.state_folder import STATE_FOLDER
from tests.server.running import until

ROOT = Path(__file__).resolve().parents[2]

MASTER = """
import os, signal, sys
from app.ops.lifecycle import Lifecycle, MasterLife, State
from app.ops.state import find_page
from app.server.state_folder import STATE_FOLDER, open_state_folder

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
open_state_folder(STATE_FOLDER, os.environ)
page = find_page(os.environ)
master, worker = MasterLife(page), Lifecycle(page=page, master_pid=os.getpid())
for _ in range(3):
    worker.enter()
master.advance(State[sys.argv[1]])
print("here", flush=True)
signal.sigwait({signal.SIGTERM})
master.advance(State.DRAINING, by="SIGTERM")
print("asked", flush=True)
for _ in range(3):
    signal.sigwait({signal.SIGTERM, signal.SIGUSR1}) == signal.SIGUSR1 or os._exit(3)
    worker.leave()
os._exit(0)
"""
"""A server: has three requests in flight, finishes one at each SIGUSR1, and ends with 3 when it is asked twice."""


class Master:
    """A process that plays a server in the folder of the test."""

    def __init__(self, state: State = State.READY) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MASTER, state.name],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.heard("here")

    def heard(self, word: str) -> None:
        """Wait until it says so."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def finish_one(self) -> None:
        """Let it finish a request."""
        before = self.in_flight()
        self.process.send_signal(signal.SIGUSR1)
        until(lambda: self.process.poll() is not None or self.in_flight() < before, "a request to be finished")

    def in_flight(self) -> int:
        """Return what is in flight, as the page says."""
        report = HostLife(StatePage(STATE_FOLDER / PAGE_NAME, writable=False)).look()
        assert report is not None
        return report.of_master(self.pid).in_flight


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PHOTO_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def start() -> Iterator[Callable[..., Master]]:
    started: list[Master] = []

    def begun(state: State = State.READY) -> Master:
        started.append(Master(state))
        return started[-1]

    yield begun
    for master in started:
        with suppress(ProcessLookupError):
            master.process.kill()
        master.process.communicate()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def ran(*arguments: str) -> tuple[int, str, str]:
        code = main(["drain", *arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return ran


Run = Callable[..., tuple[int, str, str]]
Start = Callable[..., Master]


def page() -> StatePage:
    return StatePage(STATE_FOLDER / PAGE_NAME)


def spawned(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "app", "drain", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
    )


@pytest.mark.parametrize("state", [State.STARTING, State.READY])
def test_a_server_is_asked_to_drain(start: Start, run: Run, state: State) -> None:
    master = start(state)

    code, out, err = run()

    master.heard("asked")
    assert (code, out, err) == (0, f"Server {master.pid} was asked to drain.\n", "")


def test_a_server_that_drains_already_is_not_asked_again(start: Start, run: Run) -> None:
    master = start()
    run()
    master.heard("asked")

    code, out, _ = run()
    for _ in range(3):
        master.finish_one()

    assert (code, out) == (0, f"Server {master.pid} drains already.\n")
    assert master.process.wait(60) == 0  # 3, had it been asked twice


def test_waiting_ends_with_the_server(start: Start) -> None:
    master = start()
    command = spawned("--wait", "--json")
    master.heard("asked")
    for _ in range(3):
        assert command.poll() is None
        master.finish_one()

    out, err = command.communicate(timeout=60)

    (server,) = json.loads(out)["servers"]
    assert (command.returncode, err) == (0, "")
    assert server.pop("seconds") >= 0
    assert server.pop("in_flight") in range(4)  # as it was last seen, by who may have looked once
    assert server == {"pid": master.pid, "before": "ready", "asked": True, "gone": True}


def test_who_waits_on_a_terminal_sees_what_is_in_flight(start: Start) -> None:
    master = start()
    ours, theirs = pty.openpty()
    command = spawned("--wait", stdout=theirs)
    os.close(theirs)
    shown = ""

    def sees(words: str) -> bool:
        nonlocal shown
        shown += os.read(ours, 4096).decode()
        return words in shown

    until(lambda: sees("draining, 3 in flight, 0 waiting, 1 workers"), "three requests")
    master.finish_one()
    until(lambda: sees("draining, 2 in flight, 0 waiting, 1 workers"), "two requests")
    master.finish_one()
    master.finish_one()
    until(lambda: sees(f"Server {master.pid} is gone, after "), "the end")
    command.communicate(timeout=60)
    os.close(ours)  # no sooner: an unbuffered command writes the end of its line by itself

    assert command.returncode == 0
    assert shown.startswith(f"Server {master.pid} was asked to drain.")


def test_who_waits_elsewhere_sees_the_beginning_and_the_end(start: Start) -> None:
    master = start()
    command = spawned("--wait")
    master.heard("asked")
    for _ in range(3):
        master.finish_one()

    out, _ = command.communicate(timeout=60)

    first, last = out.splitlines()
    assert first == f"Server {master.pid} was asked to drain."
    assert last.startswith(f"Server {master.pid} is gone, after ")


def test_the_time_is_over_for_the_command_not_for_the_drain(start: Start, run: Run) -> None:
    master = start()
    run()
    master.heard("asked")

    code, out, err = run("--wait", "--timeout", "0.3", "--json")

    (server,) = json.loads(out)["servers"]
    assert code == 1
    assert (server["gone"], server["seconds"], server["in_flight"]) == (False, None, 3)
    assert "is still there after 0.3 s (draining, 3 in flight, 0 waiting, 1 workers)" in err
    assert master.process.poll() is None


def test_two_servers_are_drained_unless_one_is_named(start: Start, run: Run) -> None:
    old, new = start(), start()

    named = run("--pid", str(old.pid))
    old.heard("asked")
    both = run()
    new.heard("asked")

    assert named[1] == f"Server {old.pid} was asked to drain.\n"
    assert both[0] == 0
    assert sorted(both[1].splitlines()) == sorted(
        [f"Server {old.pid} drains already.", f"Server {new.pid} was asked to drain."]
    )


def test_a_server_that_is_not_here_is_not_drained(start: Start, run: Run) -> None:
    master = start()

    code, out, err = run("--pid", "1")

    assert (code, out) == (1, "")
    assert err == f"No server with the process id 1 runs in this folder; there is: {master.pid}\n"


def test_where_no_server_runs_nothing_is_drained(run: Run) -> None:
    code, out, err = run("--wait")

    assert (code, out) == (1, "")
    assert err.startswith("No server runs in this folder; nothing was drained.")


def test_what_a_dead_server_has_left_is_no_server(start: Start, run: Run) -> None:
    master = start()
    master.process.kill()
    master.process.wait()

    code, _, err = run()

    assert code == 1
    assert err.startswith("No server runs in this folder")


def test_another_process_with_the_number_of_a_master_is_left_alone(start: Start, run: Run) -> None:
    start().process.send_signal(signal.SIGTERM)
    bystander = find_owner(os.getpid())
    MasterLife(page(), owner=replace(bystander, started=bystander.started - 1)).advance(State.READY)

    code, _, err = run("--pid", str(bystander.pid))  # a signal would end these tests

    assert code == 1
    assert err.startswith(f"No server with the process id {bystander.pid} runs in this folder")


def test_a_number_that_changes_hands_in_the_last_moment_is_left_alone(
    start: Start, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = start()
    really = os.pidfd_open

    def late(_pid: int) -> int:
        descriptor = really(os.getpid())  # whose number it is now
        master.process.kill()
        master.process.wait()
        return descriptor

    monkeypatch.setattr(os, "pidfd_open", late)

    code, out, _ = run()

    assert (code, out) == (0, f"Server {master.pid} has ended by itself.\n")


@pytest.mark.parametrize("at", ["open", "send"])
def test_a_server_that_ends_by_itself_meanwhile_is_drained(
    start: Start, run: Run, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = start()

    def gone(*_: object) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(*((os, "pidfd_open") if at == "open" else (signal, "pidfd_send_signal")), gone)

    code, out, _ = run("--wait")

    assert (code, out) == (0, f"Server {master.pid} has ended by itself.\n")


def test_who_may_not_signal_it_is_told_who_may(start: Start, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    master = start()

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(signal, "pidfd_send_signal", refused)

    code, _, err = run()

    assert code == 1
    assert err == (
        f"Server {master.pid} may not be signalled by this user. Run this as the server's user, or as root.\n"
    )


@pytest.mark.parametrize(
    "harm", [Path.unlink, Path.touch, lambda page: page.write_bytes(b"")], ids=["no page", "page", "bad page"]
)
def test_a_folder_that_cannot_be_read_says_so(
    start: Start, run: Run, harm: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start().process
    process.kill()
    process.wait()

    def refused(_: Path) -> bool:
        raise PermissionError

    harm(STATE_FOLDER / PAGE_NAME)
    monkeypatch.setattr("app.server.state_folder.server_runs", refused)

    code, _, err = run()

    assert code == 1
    assert err == "var/run/state cannot be read. Run this as the server's user, or as root.\n"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda: (STATE_FOLDER / PAGE_NAME).write_bytes(b"noise"), "cannot be read"),
        (lambda: [page().remove(name) for name in page().entries() or {}], "has not said its process id"),
    ],
    ids=["noise", "empty"],
)
def test_a_server_that_cannot_be_found_is_drained_by_hand(
    start: Start, run: Run, harm: Callable[[], object], said: str
) -> None:
    start()
    harm()

    code, _, err = run()

    assert code == 1
    assert said in err
    assert "SIGTERM to its master yourself" in err
    assert len(err.splitlines()) == 1


def test_a_server_whose_lock_was_deleted_is_found_by_its_page(start: Start, run: Run) -> None:
    master = start()
    (STATE_FOLDER / "lock").unlink()

    code, out, _ = run()

    assert (code, out) == (0, f"Server {master.pid} was asked to drain.\n")


def test_it_works_while_the_configuration_is_wrong(start: Start, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    master = start()
    monkeypatch.setenv("PHOTO_API_SERVER__WORKERS", "many")

    code, out, _ = run()

    assert (code, out) == (0, f"Server {master.pid} was asked to drain.\n")


def test_a_time_without_waiting_is_wrong_usage(run: Run) -> None:
    code, _, err = run("--timeout", "5")

    assert code == 2
    assert "--timeout goes with --wait only" in err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon", "86401", "5s"])
def test_a_time_that_is_none_is_wrong_usage(run: Run, seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--wait", f"--timeout={seconds}")

    assert ended.value.code == 2
    assert "is no number of seconds; give one that is more than 0 and at most 86400" in capsys.readouterr().err
