"""One scrape answers for all processes: totals of all that ever were, gauges of those that live."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram, values

from app.ops.metric_archive import REMEMBERED_FOLDS
from app.ops.metric_collector import FolderCollector
from app.ops.metric_files import FileName, FileReader
from app.ops.metric_values import ValueFile
from tests.ops.metric_deaths import Lifeline
from tests.ops.metric_writers import (
    bury,
    counter,
    files,
    gauge,
    labelled,
    leave_dead_worker,
    nobody_folds,
    samples,
    things,
)


def damage(path: Path) -> None:
    path.write_bytes(b"garbage!" * 100)


def kill(worker: int) -> None:
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[int]:
    """A process that has counted two things and waits to be killed."""
    ready, told = os.pipe()
    lifeline = Lifeline()
    pid = os.fork()
    if not pid:
        file = ValueFile(tmp_path)
        counter(file).inc(2)
        gauge(file, "livesum").set(1)
        os.write(told, b".")
        lifeline.wait()
    try:
        assert os.read(ready, 1) == b"."
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)  # it is reaped here only, so that no other has its number
        os.waitpid(pid, 0)
        lifeline.close()
        os.close(ready)
        os.close(told)


def test_counters_are_totals_of_the_living_and_the_dead(tmp_path: Path) -> None:
    counter(ValueFile(tmp_path)).inc(1)
    counter(ValueFile(tmp_path, "management")).inc(2)
    leave_dead_worker(tmp_path, 4)

    assert things(tmp_path) == 7


def test_gauges_are_those_of_the_living_each_put_together_in_its_way(tmp_path: Path) -> None:
    collector = FolderCollector(tmp_path)
    for number, level in enumerate((3.0, 7.0, 5.0)):
        file = ValueFile(tmp_path)
        for across in ("livesum", "livemin", "livemax"):
            gauge(file, across, across).set(level)
        gauge(file, "livemostrecent", "livemostrecent").set(level, timestamp=[10, 30, 20][number])
        gauge(file, "max", "max").set(level)
    dead = ValueFile(tmp_path)
    for across in ("livesum", "livemin", "livemax", "livemostrecent", "max"):
        gauge(dead, across, across).set(99, timestamp=99)
    with_it = samples(collector)

    bury(dead)

    assert with_it == {"livesum": 114, "livemin": 3, "livemax": 99, "livemostrecent": 99, "max": 99}
    assert samples(collector) == {"livesum": 15, "livemin": 3, "livemax": 7, "livemostrecent": 7, "max": 7}


def test_a_dead_workers_gauges_vanish_even_where_nobody_can_fold(tmp_path: Path) -> None:
    leave_dead_worker(tmp_path, 1, level=9)

    with nobody_folds(tmp_path):
        assert samples(FolderCollector(tmp_path)) == {"things_total": 1}


def test_buckets_are_added_up_and_accumulated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds in ((0.5, 1.5), (1.5, 9.0), (0.5,)):
        file = ValueFile(tmp_path)
        monkeypatch.setattr(values, "ValueClass", file.value_class())
        histogram = Histogram("h", "H.", ["a"], registry=CollectorRegistry(), buckets=[1, 2]).labels("x")
        for value in seconds:
            histogram.observe(value)
        if len(seconds) == 2:
            bury(file)

    collector = FolderCollector(tmp_path)

    for _ in range(2):
        assert labelled(collector, "h_bucket") == {
            (("a", "x"), ("le", "1.0")): 2,
            (("a", "x"), ("le", "2.0")): 4,
            (("a", "x"), ("le", "+Inf")): 5,
        }
        assert labelled(collector, "h_count") == {(("a", "x"),): 5}
        assert labelled(collector, "h_sum") == {(("a", "x"),): 13.0}


def test_a_damaged_file_is_skipped_and_counted_once_and_no_total_falls(tmp_path: Path, worker: int) -> None:
    (bad,) = tmp_path.iterdir()
    counter(ValueFile(tmp_path)).inc(1)
    collector = FolderCollector(tmp_path)
    assert samples(collector) == {"things_total": 3, "level": 1}

    damage(bad)

    for _ in range(3):
        assert samples(collector) == {"things_total": 3, "level": 1}
        assert collector.collect().damaged == 1
    kill(worker)
    for _ in range(3):
        assert samples(collector) == {"things_total": 3}
        assert collector.collect().damaged == 1
    assert FolderCollector(tmp_path).collect().damaged == 1, "the archive remembers it"
    assert len(files(tmp_path)) == 1


def test_a_worker_that_is_dead_and_not_yet_reaped_is_dead(tmp_path: Path, worker: int) -> None:
    collector = FolderCollector(tmp_path)
    assert samples(collector) == {"things_total": 2, "level": 1}

    kill(worker)

    assert samples(collector) == {"things_total": 2}


def test_one_count_that_cannot_be_is_left_out_of_a_dead_workers_file(tmp_path: Path) -> None:
    file = ValueFile(tmp_path)
    counter(file, "broken").inc(1)
    counter(file).inc(2)
    path = bury(file)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack("<d", 1.0), struct.pack("<d", float("nan")), 1))

    found = FolderCollector(tmp_path).collect()

    assert found.damaged == 1
    assert {sample.name: sample.value for family in found.families for sample in family.samples} == {
        "broken_total": 0,
        "things_total": 2,
    }


def test_what_other_files_are_in_the_folder_does_not_matter(tmp_path: Path) -> None:
    counter(ValueFile(tmp_path)).inc(1)
    damage(tmp_path / "counter_1.db")
    damage(tmp_path / "notes.values")
    (tmp_path / "lock").touch()

    assert things(tmp_path) == 1
    assert FolderCollector(tmp_path).collect().damaged == 0
    assert (tmp_path / "notes.values").exists()


@pytest.mark.parametrize("is_read_first", [True, False], ids=["after-its-reading", "before-its-reading"])
def test_what_is_folded_by_another_while_files_are_read_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_read_first: bool
) -> None:
    collector, other = FolderCollector(tmp_path), FolderCollector(tmp_path)
    for number in (1, 2, 4):
        leave_dead_worker(tmp_path, number)
    real = collector._readers.read
    lock = ExitStack()

    def read(name: FileName) -> FileReader | None:
        found = real(name) if is_read_first else None
        lock.close()
        other.fold()
        return found or real(name)

    monkeypatch.setattr(collector._readers, "read", read)

    with lock:
        lock.enter_context(nobody_folds(tmp_path))
        assert samples(collector) == {"things_total": 7}
    assert files(tmp_path) == set()


def test_a_reading_that_was_overtaken_by_too_many_folds_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector, other = FolderCollector(tmp_path), FolderCollector(tmp_path)
    leave_dead_worker(tmp_path, 1000)
    real = collector._readers.read
    lock = ExitStack()
    folded = 0

    def read(name: FileName) -> FileReader | None:
        nonlocal folded
        found = real(name)
        lock.close()
        while folded < REMEMBERED_FOLDS + 4:
            other.fold()
            leave_dead_worker(tmp_path, 1)
            folded += 1
        return found

    monkeypatch.setattr(collector._readers, "read", read)

    with lock:
        lock.enter_context(nobody_folds(tmp_path))
        assert samples(collector) == {"things_total": REMEMBERED_FOLDS + 1004}


def test_a_folder_without_files_has_no_metrics(tmp_path: Path) -> None:
    found = FolderCollector(tmp_path).collect()

    assert (found.families, found.damaged, found.living) == ([], 0, [])


def test_a_start_folds_only_when_many_have_died(tmp_path: Path) -> None:
    collector = FolderCollector(tmp_path)
    for _ in range(3):
        leave_dead_worker(tmp_path, 1)

    collector.fold(from_files=4)
    before = len(files(tmp_path))
    collector.fold(from_files=3)

    assert (before, len(files(tmp_path))) == (3, 0)


def test_a_fold_that_fails_is_logged_and_the_scrape_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leave_dead_worker(tmp_path, 5)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)

    assert things(tmp_path) == 5
    assert "No space left on device" in caplog.text


def test_what_goes_on_failing_is_logged_once_and_anew_when_it_changes_or_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collector, reason = FolderCollector(tmp_path), "No space left on device"

    def fail(*_: object) -> int:
        raise OSError(5, reason)

    def scrape_thrice() -> int:
        caplog.clear()
        for _ in range(3):
            collector.collect()
        return caplog.text.count("dead workers' metrics stay")

    leave_dead_worker(tmp_path, 5)
    said = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail)
        said.append(scrape_thrice())
        reason = "Input/output error"
        said.append(scrape_thrice())
    said.append(scrape_thrice())
    leave_dead_worker(tmp_path, 5)
    monkeypatch.setattr(os, "write", fail)
    said.append(scrape_thrice())

    assert said == [1, 1, 0, 1]


def test_a_file_that_somebody_removed_counts_on_with_what_it_said_last(
    tmp_path: Path, worker: int, caplog: pytest.LogCaptureFixture
) -> None:
    (removed,) = tmp_path.iterdir()
    counter(ValueFile(tmp_path)).inc(1)
    collector = FolderCollector(tmp_path)
    assert samples(collector)["things_total"] == 3

    removed.unlink()

    for _ in range(3):
        assert samples(collector) == {"things_total": 3}, "a gauge that nobody knows now is not shown"
        assert collector.collect().damaged == 1
    assert caplog.text.count(f"somebody removed the metrics file {removed.name}") == 1
    kill(worker)
    for _ in range(2):
        assert samples(collector) == {"things_total": 3}
    assert things(tmp_path) == 3, "the archive has taken it in"
    assert FolderCollector(tmp_path).collect().damaged == 1


def test_a_removed_file_that_two_have_read_is_folded_once(tmp_path: Path, worker: int) -> None:
    (removed,) = tmp_path.iterdir()
    first, second = FolderCollector(tmp_path), FolderCollector(tmp_path)
    for collector in (first, second):
        collector.collect()
    removed.unlink()
    for collector in (first, second):
        collector.collect()
    kill(worker)

    found = [samples(collector) for collector in (first, second, first, second)]

    assert found == [{"things_total": 2}] * 4
    assert things(tmp_path) == 2


def test_what_has_gone_after_more_folds_than_are_remembered_was_folded(tmp_path: Path) -> None:
    slow, other = FolderCollector(tmp_path), FolderCollector(tmp_path)
    path = leave_dead_worker(tmp_path, 1000)
    with nobody_folds(tmp_path):
        slow.collect()
    for _ in range(REMEMBERED_FOLDS + 4):
        other.fold()
        leave_dead_worker(tmp_path, 1)

    assert not path.exists()
    assert samples(slow) == {"things_total": REMEMBERED_FOLDS + 1004}
    assert slow.collect().damaged == 0


def test_an_archive_that_the_system_does_not_give_now_is_what_it_was(tmp_path: Path) -> None:
    leave_dead_worker(tmp_path, 5)
    collector = FolderCollector(tmp_path)
    assert samples(collector) == {"things_total": 5}

    (tmp_path / "archive").unlink()
    (tmp_path / "archive").mkdir()

    assert samples(collector) == {"things_total": 5}


def test_a_name_has_one_meaning_in_a_scrape(tmp_path: Path) -> None:
    old, new = ValueFile(tmp_path), ValueFile(tmp_path)
    counter(old, "thing").inc(1)
    gauge(new, "livesum", "thing").set(2)

    (family,) = FolderCollector(tmp_path).collect().families

    assert [(sample.name, sample.value) for sample in family.samples] == [("thing", 2)]


def test_the_living_are_told_in_the_order_of_their_starts(tmp_path: Path) -> None:
    ValueFile(tmp_path, "management")
    ValueFile(tmp_path)
    leave_dead_worker(tmp_path, 1)

    living = FolderCollector(tmp_path).collect().living

    assert sorted((name.role, name.owner.pid) for name in living) == [
        ("management", os.getpid()),
        ("worker", os.getpid()),
    ]


def test_a_folder_that_is_gone_is_said_once_and_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    collector = FolderCollector(tmp_path / "gone")

    found = [collector.collect() for _ in range(3)]

    assert [reading.families for reading in found] == [[], [], []]
    assert caplog.text.count("the folder of metrics cannot be read") == 1
