"""All who are asked know the same names; what cannot be shared takes nobody's names away."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.ops import metric_slots
from app.ops.metric_slots import Slot, SlotName, SlotTable

ONE = Slot(10, 1.5, 2.5, 3.5)
TWO = Slot(11, 4.5, 0.0, 0.5)


def put(table: SlotTable, name: SlotName, slot: Slot) -> None:
    with table.changing() as slots:
        slots[name] = slot


def known(table: SlotTable) -> dict[SlotName, Slot]:
    with table.changing() as slots:
        return dict(slots)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / "processes.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def test_what_one_has_put_down_the_other_finds(tmp_path: Path) -> None:
    first, second = SlotTable(tmp_path), SlotTable(tmp_path)

    put(first, ("worker", 1), ONE)
    put(second, ("master", 2), TWO)

    assert known(first) == known(second) == {("worker", 1): ONE, ("master", 2): TWO}
    assert {path.name for path in tmp_path.iterdir()} == {"processes", "processes.lock"}


def test_without_a_folder_it_is_this_processes_alone() -> None:
    first, second = SlotTable(None), SlotTable(None)

    put(first, ("worker", 1), ONE)

    assert (known(first), known(second)) == ({("worker", 1): ONE}, {})


def test_no_change_is_lost_among_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_slots, "_TRIES", 3000)  # who has the lock may stand still on a busy machine
    begin = threading.Barrier(4)

    def change(role: str) -> None:
        table = SlotTable(tmp_path)
        begin.wait()
        for number in range(10):
            put(table, (role, number), ONE)

    threads = [threading.Thread(target=change, args=(role,)) for role in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(known(SlotTable(tmp_path))) == 40


def test_a_lock_that_nobody_lets_go_of_stops_no_scrape(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = SlotTable(tmp_path), SlotTable(tmp_path)
    put(first, ("worker", 1), ONE)

    with locked(tmp_path):
        for _ in range(2):
            put(second, ("worker", 2), TWO)
        alone = known(second)

    assert alone == {("worker", 1): ONE, ("worker", 2): TWO}
    assert known(SlotTable(tmp_path)) == {("worker", 1): ONE}, "who has no lock writes nothing"
    assert caplog.text.count("cannot be shared now") == 1


@pytest.mark.parametrize("way", ["open", "write", "replace"])
def test_what_cannot_be_written_now_is_kept_and_written_later(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    table = SlotTable(tmp_path)
    put(table, ("worker", 1), ONE)
    with monkeypatch.context() as patched:
        patched.setattr(os, way, full)
        put(table, ("worker", 1), TWO)
        put(table, ("worker", 2), ONE)

    assert caplog.text.count("cannot be shared now (No space left on device)") == 1
    assert known(table) == {("worker", 1): TWO, ("worker", 2): ONE}
    assert known(SlotTable(tmp_path)) == {("worker", 1): TWO, ("worker", 2): ONE}


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"[]", b'{"revision":9,"slots":[[1]]}', b'{"revision":"x","slots":[]}', b'{"revision":9}'],
    ids=["nothing", "garbage", "list", "short", "text", "half"],
)
def test_a_table_that_makes_no_sense_is_written_anew(tmp_path: Path, content: bytes) -> None:
    table = SlotTable(tmp_path)
    put(table, ("worker", 1), ONE)

    (tmp_path / "processes").write_bytes(content)

    assert known(table) == {("worker", 1): ONE}
    assert known(SlotTable(tmp_path)) == {("worker", 1): ONE}


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    table = SlotTable(tmp_path / "gone")

    put(table, ("worker", 1), ONE)

    assert known(table) == {("worker", 1): ONE}
