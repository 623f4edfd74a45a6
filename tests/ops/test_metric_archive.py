"""What dead workers have counted is kept in one file; no death on the way counts anything twice or loses it."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from app.ops.metric_archive import REMEMBERED_FOLDS, ArchiveFile, FileReaders
from app.ops.metric_collector import FolderCollector
from app.ops.metric_files import SeriesBook, list_files
from app.ops.metric_values import ValueFile
from tests.ops.metric_writers import bury, counter, files, gauge, leave_dead_worker, nobody_folds, samples, things

_WAYS = ("open", "pread", "write", "replace", "unlink", "close")


class Folding:
    """A process's way to the archive of a folder."""

    def __init__(self, folder: Path) -> None:
        book = SeriesBook()
        self.archive = ArchiveFile(folder, book)
        self._readers = FileReaders(folder, book)

    def fold(self) -> None:
        self.archive.fold(self._readers)

    def total(self) -> float:
        return sum(self.archive.load().totals.values())


def killed_at(step: int, work: Callable[[], None], *, half: bool) -> bool:
    """Do some work in a child that is killed before its ``step``-th call of the system; return whether it was.

    Args:
        step: From 0 on.
        work: What to do.
        half: Let a write that is killed have written half.
    """
    child = os.fork()
    if not child:
        steps = count()

        def watched(real: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                if next(steps) == step:
                    if half and real is real_write:
                        real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        real_write = os.write
        for name in _WAYS:
            setattr(os, name, watched(getattr(os, name)))
        work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("half", [False, True], ids=["before-a-write", "within-a-write"])
def test_a_kill_at_any_instant_counts_nothing_twice_and_loses_nothing(tmp_path: Path, *, half: bool) -> None:
    steps = 0
    for step in count():
        folder = tmp_path / str(step)
        folder.mkdir()
        leave_dead_worker(folder, 1)
        Folding(folder).fold()
        for number in (2, 4):
            leave_dead_worker(folder, number)

        was_killed = killed_at(step, Folding(folder).fold, half=half)

        with nobody_folds(folder):
            assert things(folder) == 7, f"read after step {step}"
        leave_dead_worker(folder, 8)
        assert things(folder) == 15, f"folded after step {step}"
        assert things(folder) == 15, f"read again after step {step}"
        assert files(folder) == set(), f"left after step {step}"
        if not was_killed:
            break
        steps += 1
    assert steps > 15


def test_the_same_death_again_and_again_loses_nothing(tmp_path: Path) -> None:
    for number in range(60):
        leave_dead_worker(tmp_path, 1)

        killed_at(number, Folding(tmp_path).fold, half=True)

    assert things(tmp_path) == 60
    assert files(tmp_path) == set()


@pytest.mark.parametrize("way", ["write", "replace", "unlink"])
def test_what_cannot_be_done_now_is_done_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    for number in (1, 2):
        leave_dead_worker(tmp_path, number)
    folding = Folding(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, way, full)
        if way == "unlink":
            folding.fold()
        else:
            with pytest.raises(OSError, match="No space left"):
                folding.fold()

    with nobody_folds(tmp_path):
        assert things(tmp_path) == 3
    assert things(tmp_path) == 3
    leave_dead_worker(tmp_path, 4)
    assert things(tmp_path) == 7
    assert files(tmp_path) - {"archive.new"} == set()


def test_several_scrapers_at_once_see_totals_that_only_rise_and_end_exact(tmp_path: Path) -> None:
    deaths = 200
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    scrapers = []
    for _ in range(3):
        child = os.fork()
        if not child:
            os._exit(watch_rising(folder, deaths))
        scrapers.append(child)

    try:
        for _ in range(deaths):
            path = leave_dead_worker(elsewhere, 1)
            path.rename(folder / path.name)  # at once: a listing may miss a file that changes its name in the folder
    finally:
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in scrapers]

    assert ends == [0, 0, 0]
    assert things(folder) == deaths
    assert files(folder) == set()


def watch_rising(folder: Path, end: int) -> int:
    """Scrape until the end is reached; return 0 when no total fell or came too far."""
    collector, seen = FolderCollector(folder), 0.0
    deadline = time.monotonic() + 60
    while seen < end and time.monotonic() < deadline:
        now = samples(collector).get("things_total", 0.0)
        if now < seen:
            return 1
        seen = now
    return 0 if seen == end else 2


def test_only_one_process_folds_and_the_others_do_not_wait(tmp_path: Path) -> None:
    leave_dead_worker(tmp_path, 1)

    with nobody_folds(tmp_path):
        Folding(tmp_path).fold()

        assert len(list_files(tmp_path)) == 1
    Folding(tmp_path).fold()
    assert list_files(tmp_path) == []


def test_the_living_are_left_alone(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    counter(file).inc(1)
    folding = Folding(tmp_path)

    folding.fold()
    leave_dead_worker(tmp_path, 2)
    folding.fold()

    assert file.path.exists()
    assert folding.total() == 2


def test_a_new_worker_with_a_dead_ones_number_counts_for_itself(tmp_path: Path) -> None:
    first = ValueFile(tmp_path)
    counter(first).inc(5)
    dead = bury(first)
    pid = dead.name.split("-")[1]
    again = ValueFile(tmp_path)
    counter(again).inc(1)
    again.path.rename(tmp_path / f"worker-{pid}-2-0123abcd.values")

    Folding(tmp_path).fold()
    counter(ValueFile(tmp_path)).inc(10)

    assert things(tmp_path) == 16


def test_a_name_is_forgotten_when_it_can_matter_no_more(tmp_path: Path) -> None:
    folding = Folding(tmp_path)

    for _ in range(REMEMBERED_FOLDS * 3):
        leave_dead_worker(tmp_path, 1)
        folding.fold()

    archive = folding.archive.load()
    assert len(archive.swallowed) == REMEMBERED_FOLDS
    assert (archive.fold, folding.total()) == (REMEMBERED_FOLDS * 3, REMEMBERED_FOLDS * 3)


def test_a_file_that_cannot_be_removed_is_never_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = leave_dead_worker(tmp_path, 1)
    real = Path.unlink

    def unlink(path: Path, *, missing_ok: bool = False) -> None:
        if path == stays:
            raise PermissionError
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)

    for _ in range(REMEMBERED_FOLDS * 2):
        leave_dead_worker(tmp_path, 1)
        Folding(tmp_path).fold()

    assert stays.exists()
    assert things(tmp_path) == REMEMBERED_FOLDS * 2 + 1


def test_what_a_worker_had_no_time_to_name_is_removed(tmp_path: Path) -> None:
    file = leave_dead_worker(tmp_path, 1)
    file.rename(tmp_path / f"{file.name}.new")
    (tmp_path / f"{ValueFile(tmp_path).path.name}.new").touch()

    Folding(tmp_path).fold()

    assert things(tmp_path) == 0
    assert len(files(tmp_path)) == 2, "a living one's stays"


def test_gauges_of_the_dead_are_dropped(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    for across in ("livesum", "livemin", "livemax", "livemostrecent", "max"):
        gauge(file, across, f"level_{across}").set(3)
    bury(file)

    Folding(tmp_path).fold()

    assert samples(FolderCollector(tmp_path)) == {}


@pytest.mark.parametrize("content", [b"", b"garbage", b"photo-api archive 1 9 00000000\n{}"])
def test_a_damaged_archive_is_what_it_was_when_it_was_read_last(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    leave_dead_worker(tmp_path, 5)
    collector = FolderCollector(tmp_path)
    assert samples(collector) == {"things_total": 5}

    (tmp_path / "archive").write_bytes(content)

    assert samples(collector) == {"things_total": 5}
    leave_dead_worker(tmp_path, 1)
    assert samples(collector) == {"things_total": 6}
    assert things(tmp_path) == 6, "it is whole again"
    assert collector.collect().damaged == 1
    assert caplog.text.count("archive of metrics is damaged") == 1


def test_an_archive_that_was_removed_is_written_again(tmp_path: Path) -> None:
    leave_dead_worker(tmp_path, 5)
    collector = FolderCollector(tmp_path)
    assert samples(collector) == {"things_total": 5}

    (tmp_path / "archive").unlink()

    assert samples(collector) == {"things_total": 5}
    leave_dead_worker(tmp_path, 1)
    assert samples(collector) == {"things_total": 6}
    assert things(tmp_path) == 6


def test_a_file_that_the_system_does_not_give_now_is_folded_another_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = leave_dead_worker(tmp_path, 5)
    leave_dead_worker(tmp_path, 1)
    folding = Folding(tmp_path)
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path) == held:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        folding.fold()
        first = folding.total()
    folding.fold()

    assert (first, folding.total()) == (1, 6)
