"""The state folder: made at a start, shared by servers of one working folder, and what operators said stays."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.ops import stamps
from app.ops.host_board import MODES, HostBoard
from app.ops.state import PAGE_NAME, VARIABLE, StatePage, find_page
from app.ops.state_file import TEMPORARY_PREFIX
from app.server import state_folder
from app.server.state_folder import CHANGES_NAME, STATE_FOLDER, open_state_folder, record_change, server_runs
from app.stability.board import Decision
from tests.server.running import environment, running, until

FORCED = Decision(1, "forced_open", 0, math.inf, "ada@cli", "the store is being moved")
SAID = Decision(1, "read_only", 0, math.inf, "ada@cli", "the store is being moved")
TRIPPED = Decision(1, "open", 1, math.inf)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "state"


@pytest.fixture(autouse=True)
def _descriptors_closed() -> Iterator[None]:
    descriptors = Path("/proc/self/fd")
    before = {path.name for path in descriptors.iterdir()}
    yield
    for path in [path for path in descriptors.iterdir() if path.name not in before]:
        if path.exists() and path.resolve().name == "lock":
            os.close(int(path.name))


def board_at(folder: Path) -> HostBoard:
    return HostBoard(StatePage(folder / PAGE_NAME))


def start_elsewhere(folder: Path) -> subprocess.Popen[str]:
    """Open the folder in a process that lives until its standard input ends."""
    program = (
        "import sys; from pathlib import Path; from app.server.state_folder import open_state_folder\n"
        "open_state_folder(Path(sys.argv[1]), {}); print('here', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the folder said, and nobody else in this process."""
    return [record for record in caplog.records if record.name == state_folder.__name__]


def test_a_start_makes_the_page_and_names_the_folder(folder: Path) -> None:
    environ: dict[str, str] = {}

    open_state_folder(folder, environ)

    assert environ == {VARIABLE: str(folder)}
    found = find_page(environ)
    assert found is not None
    assert found.entries() == {}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_reload_changes_nothing(folder: Path) -> None:
    environ: dict[str, str] = {}
    open_state_folder(folder, environ)
    board_at(folder).decide("a", TRIPPED)

    open_state_folder(folder.parent / "other", environ)

    assert environ == {VARIABLE: str(folder)}
    assert board_at(folder).read("a") == TRIPPED
    assert not (folder.parent / "other").exists()


def test_the_next_start_keeps_what_operators_said_and_tells_it(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = start_elsewhere(folder)
    board_at(folder).decide("a", FORCED)
    board_at(folder).decide("b", TRIPPED)
    for prefix in (TEMPORARY_PREFIX, stamps.TEMPORARY_PREFIX):
        (folder / f"{prefix}left").touch()
    first.communicate()

    open_state_folder(folder, {})

    assert board_at(folder).read("a") == FORCED
    assert board_at(folder).read("b") is None
    assert sorted(path.name for path in folder.iterdir()) == ["lock", PAGE_NAME]
    (record,) = said(caplog)
    assert (vars(record)["breaker"], vars(record)["state"], vars(record)["by"]) == ("a", "forced_open", "ada@cli")


def test_the_next_start_keeps_an_operator_s_mode_and_tells_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = start_elsewhere(folder)
    HostBoard(StatePage(folder / PAGE_NAME), prefix=MODES).decide("operator", SAID)
    first.communicate()

    open_state_folder(folder, {})

    assert HostBoard(StatePage(folder / PAGE_NAME), prefix=MODES).read("operator") == SAID
    (record,) = said(caplog)
    assert record.message == "a mode stays as an operator left it"
    assert (vars(record)["mode"], vars(record)["state"], vars(record)["by"]) == ("operator", "read_only", "ada@cli")


def test_a_record_of_changes_grows_by_a_line_each_and_outlives_a_start(folder: Path) -> None:
    open_state_folder(folder, {})

    record_change(folder, {"by": "ada@cli", "reason": "one\ntwo"})
    open_state_folder(folder, {})
    record_change(folder, {"by": "\udcff"})

    lines = (folder / CHANGES_NAME).read_text(encoding="ascii").splitlines()
    assert [json.loads(line) for line in lines] == [{"by": "ada@cli", "reason": "one\ntwo"}, {"by": "\udcff"}]


def test_a_record_that_is_cut_by_a_full_disk_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_state_folder(folder, {})
    monkeypatch.setattr(os, "write", lambda *_: 3)

    with pytest.raises(OSError, match="No space left on device"):
        record_change(folder, {"by": "ada@cli"})


def test_a_record_is_not_written_through_a_link(folder: Path, tmp_path: Path) -> None:
    open_state_folder(folder, {})
    (folder / CHANGES_NAME).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"):
        record_change(folder, {"by": "ada@cli"})

    assert not (tmp_path / "elsewhere").exists()


def test_a_second_server_joins_the_page_of_the_first(folder: Path) -> None:
    first = start_elsewhere(folder)
    board_at(folder).decide("b", TRIPPED)

    open_state_folder(folder, {})
    first.communicate()

    assert board_at(folder).read("b") == TRIPPED
    assert server_runs(folder)


def test_a_server_runs_as_long_as_one_of_its_processes_lives(folder: Path) -> None:
    before = server_runs(folder)
    process = start_elsewhere(folder)
    meanwhile = server_runs(folder)
    process.kill()
    process.communicate()

    assert (before, meanwhile, server_runs(folder)) == (False, True, False)


def test_asking_whether_a_server_runs_does_not_hinder_a_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    asking = [os.open(folder / "lock", os.O_RDONLY)]
    fcntl.flock(asking[0], fcntl.LOCK_EX)
    board_at(folder).decide("b", TRIPPED)

    def let_go(_seconds: float) -> None:  # once: all threads of this process sleep so
        while asking:
            os.close(asking.pop())

    monkeypatch.setattr("app.server.state_folder.time.sleep", let_go)

    open_state_folder(folder, {})

    assert board_at(folder).read("b") is None


def test_a_folder_that_cannot_be_made_ends_no_start_and_comes_when_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").touch()
    environ: dict[str, str] = {}

    open_state_folder(tmp_path / "run" / "state", environ)

    page = find_page(environ)
    assert page is not None
    assert HostBoard(page).read("a") is None
    assert not server_runs(tmp_path / "run" / "state")
    assert "share no state" in said(caplog)[0].message
    (tmp_path / "run").unlink()
    later = find_page(environ)
    assert later is not None
    assert HostBoard(later).decide("a", FORCED) == FORCED


def test_workers_of_a_real_server_share_a_page_that_outlives_them_and_a_reload(tmp_path: Path) -> None:
    folder = tmp_path / STATE_FOLDER
    with running(tmp_path) as server:
        board = board_at(folder)
        decided = board.decide("b", TRIPPED)
        victims = server.pids()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(server.pids()) == 2 and not victims & server.pids(), "new workers")
        environs = [Path(f"/proc/{pid}/environ").read_bytes() for pid in server.pids()]
        before = server.pids()
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.pids() - before) == 2, "workers after the reload")

        assert decided == board.read("b") == TRIPPED
        assert server_runs(folder)
        assert len(environs) == 2
    until(lambda: not server_runs(folder), "the end of its last process")
