"""Stamps: what one process changes, all others see; what cannot be told is told to be unknown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.ops.stamps import CHANGING_SECONDS, FILE_BYTES, GROUPS, STAMPS_NAME, Stamps, open_stamps
from app.ops.state import VARIABLE
from tests.fakes.clocks import HandClock

ROOT = Path(__file__).resolve().parents[2]
OWING_SECONDS = 300.0
KEY = "photo:1"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / STAMPS_NAME


@pytest.fixture
def stamps(path: Path, clock: HandClock) -> Stamps:
    return Stamps(path, owing_seconds=OWING_SECONDS, clock=clock)


@pytest.fixture
def others(path: Path, clock: HandClock) -> Stamps:
    return Stamps(path, owing_seconds=OWING_SECONDS, clock=clock)


def test_a_stamp_stays_until_its_key_changes_and_all_see_the_same(stamps: Stamps, others: Stamps) -> None:
    before = stamps.stamp(KEY)

    assert before is not None
    assert [stamps.stamp(KEY), others.stamp(KEY)] == [before, before]
    others.begin([KEY])
    assert [stamps.stamp(KEY), others.stamp(KEY)] == [None, None]
    others.settle([KEY])
    after = stamps.stamp(KEY)
    assert after is not None
    assert after != before
    assert others.stamp(KEY) == after


def test_other_keys_keep_their_stamps(stamps: Stamps) -> None:
    others = [f"photo:{number}" for number in range(2, 100)]
    before = [stamps.stamp(key) for key in others]

    stamps.begin([KEY])
    stamps.settle([KEY])

    assert [stamps.stamp(key) for key in others] == before


def test_no_stamp_comes_twice(stamps: Stamps) -> None:
    seen = set()
    for _ in range(1000):
        stamps.settle([KEY])
        seen.add(stamps.stamp(KEY))

    assert len(seen) == 1000


def test_a_change_that_never_ended_is_forgotten_after_two_minutes(stamps: Stamps, clock: HandClock) -> None:
    stamps.begin([KEY])
    clock.advance(CHANGING_SECONDS - 1)
    assert stamps.stamp(KEY) is None

    clock.advance(2)

    assert stamps.stamp(KEY) is not None


def test_owing_is_a_stamp_that_says_so_for_a_time(stamps: Stamps, others: Stamps, clock: HandClock) -> None:
    stamps.settle([KEY], owing=True)
    owing = others.stamp(KEY)

    assert owing is not None
    assert others.is_owing(owing)
    clock.advance(OWING_SECONDS + 1)
    assert not others.is_owing(owing)


def test_a_mark_of_before_the_host_was_started_anew_counts_as_ended(path: Path) -> None:
    long_running, just_started = HandClock(), HandClock()
    long_running.advance(1_000_000.0)
    Stamps(path, clock=long_running).begin([KEY])

    assert Stamps(path, clock=just_started).stamp(KEY) is not None


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(os.urandom(FILE_BYTES))
    path.with_name("new").replace(path)


LOSSES: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "replaced": replace,
    "emptied": lambda path: os.truncate(path, 0),
    "cut off": lambda path: os.truncate(path, 100),
}


@pytest.mark.parametrize("how", LOSSES)
def test_a_file_that_is_lost_is_made_anew_and_nothing_remembered_counts(
    stamps: Stamps, others: Stamps, path: Path, how: str
) -> None:
    before = {key: stamps.stamp(key) for key in map(str, range(50))}
    assert {key: others.stamp(key) for key in before} == before

    LOSSES[how](path)

    after = {key: stamps.stamp(key) for key in before}
    assert not set(before.values()) & {stamp for stamp in after.values() if stamp is not None}
    others.begin([KEY])
    others.settle([KEY])
    assert stamps.stamp(KEY) == others.stamp(KEY)
    assert path.stat().st_size == FILE_BYTES


def test_a_change_told_into_a_file_without_a_name_is_told_again(stamps: Stamps, others: Stamps, path: Path) -> None:
    stamps.stamp(KEY)
    before = others.stamp(KEY)
    path.unlink()
    others.stamp(KEY)
    remembered = others.stamp(KEY)

    assert stamps.settle([KEY])

    assert others.stamp(KEY) not in {before, remembered}


def test_what_cannot_be_made_lets_nothing_be_remembered_and_comes_back(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "absent" / STAMPS_NAME
    stamps = Stamps(path, clock=clock)

    assert stamps.stamp(KEY) is None
    assert not stamps.settle([KEY])
    assert stamps.losses > 0
    path.parent.mkdir()
    clock.advance(1.1)
    assert stamps.stamp(KEY) is not None


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_something_else_in_the_place_is_never_followed(
    tmp_path: Path, path: Path, clock: HandClock, kind: str
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(target)
    else:
        os.mkfifo(path)

    Stamps(path).settle([KEY])

    assert target.read_bytes() == b"mine"


def test_a_restart_keeps_the_file_and_forgets_nothing_that_was_told(path: Path, clock: HandClock) -> None:
    first = Stamps(path, clock=clock)
    first.settle([KEY])
    told = first.stamp(KEY)
    inode = path.stat().st_ino

    assert Stamps(path, clock=clock).stamp(KEY) == told
    assert path.stat().st_ino == inode


def test_of_two_processes_that_start_at_once_the_first_makes_the_file(
    stamps: Stamps, others: Stamps, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int | None] = []

    def late(*arguments: Any, **named: Any) -> tuple[int, str]:
        monkeypatch.undo()
        seen.append(others.stamp(KEY))
        return tempfile.mkstemp(*arguments, **named)

    monkeypatch.setattr("app.ops.stamps.tempfile.mkstemp", late)

    seen += [stamps.stamp(KEY), others.stamp(KEY)]

    assert seen[0] is not None
    assert set(seen) == {seen[0]}
    assert (stamps.losses, others.losses) == (0, 0)


def test_a_file_system_without_hard_links_serves_too(
    stamps: Stamps, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError("no hard links")

    monkeypatch.setattr("app.ops.stamps.os.link", refused)

    assert stamps.stamp(KEY) is not None
    assert [each.name for each in path.parent.iterdir()] == [STAMPS_NAME]


_WRITER = """
import sys
from pathlib import Path
from app.ops.stamps import Stamps
stamps = Stamps(Path(sys.argv[1]))
stamps.settle(["photo:1"])
print("ready", flush=True)
while True:
    stamps.begin(["photo:1"])
    stamps.settle(["photo:1"])
"""


def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_file_and_no_lock(path: Path) -> None:
    stamps = Stamps(path)
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            writer.send_signal(signal.SIGKILL)

        assert path.stat().st_size == FILE_BYTES
        assert stamps.settle([KEY])
        assert stamps.stamp(KEY) is not None
    assert stamps.losses == 0


def test_a_fork_sees_what_its_parent_changes_and_the_other_way_around(path: Path) -> None:
    stamps = Stamps(path)
    before = stamps.stamp(KEY)
    child = os.fork()
    if child == 0:
        is_same = stamps.stamp(KEY) == before
        stamps.settle([KEY])
        os._exit(0 if is_same else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stamps.stamp(KEY) != before


def test_a_process_without_a_server_shares_with_nobody(tmp_path: Path) -> None:
    alone, other = open_stamps({}), open_stamps({})
    before = other.stamp(KEY)

    alone.settle([KEY])

    assert other.stamp(KEY) == before
    assert not list(tmp_path.iterdir())


def test_a_process_of_a_server_shares_the_file_in_its_folder(tmp_path: Path) -> None:
    first, second = open_stamps({VARIABLE: str(tmp_path)}), open_stamps({VARIABLE: str(tmp_path)})

    first.settle([KEY])

    assert first.stamp(KEY) == second.stamp(KEY)
    assert (tmp_path / STAMPS_NAME).stat().st_size == GROUPS * 8
    assert (tmp_path / STAMPS_NAME).stat().st_mode & 0o077 == 0
