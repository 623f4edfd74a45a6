"""The system is asked about each process; names come again, so that there are never more series than processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from app.ops import metric_processes
from app.ops.metric_processes import PROCESS_METRICS, ProcessCollector, ProcessFigures, read_process

HERE = os.getpid()


@pytest.fixture
def asleep() -> Iterator[int]:
    """The id of a process that does nothing."""
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        yield process.pid
        process.kill()


def figures(started: float, cpu: float = 0.0) -> ProcessFigures:
    return ProcessFigures(1.0, cpu, 1.0, 1.0, 1.0, started)


def collected(collector: ProcessCollector, processes: Sequence[tuple[str, int]], name: str) -> dict[str, float]:
    return {
        sample.labels["process"]: sample.value
        for family in collector.collect(processes)
        for sample in family.samples
        if sample.name == name
    }


_GROWS = """
import mmap, os, threading, time
while time.process_time() < 0.05: pass
print("before", flush=True)
input()
files = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
threading.Thread(target=threading.Event().wait, daemon=True).start()
kept = mmap.mmap(-1, 32_000_000)  # pages of its own, where a heap may have free ones
for offset in range(0, len(kept), mmap.PAGESIZE):
    kept[offset] = 1
print("after", flush=True)
input()
"""


def test_what_the_system_says_of_a_process_is_read() -> None:
    # Not of this one: threads of other tests may end in it meanwhile.
    with subprocess.Popen(
        [sys.executable, "-c", _GROWS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "before\n"
        before = read_process(process.pid)
        process.stdin.write("grow\n")
        process.stdin.flush()
        assert process.stdout.readline() == "after\n"
        after = read_process(process.pid)
        process.stdin.write("end\n")

    assert before is not None
    assert after is not None
    assert after.open_fds == before.open_fds + 5
    assert after.threads == before.threads + 1
    assert after.resident_memory_bytes > before.resident_memory_bytes + 8_000_000
    assert after.cpu_seconds_total >= before.cpu_seconds_total > 0
    assert after.max_fds >= after.open_fds
    assert abs(after.start_time_seconds - time.time()) < 86_400
    assert after.start_time_seconds == before.start_time_seconds


def test_a_process_that_is_not_there_has_no_figures(asleep: int) -> None:
    os.kill(asleep, signal.SIGKILL)
    os.waitpid(asleep, 0)

    assert read_process(asleep) is None


def test_every_metric_is_there_for_every_process(asleep: int) -> None:
    families = ProcessCollector("x_").collect([("master", asleep), ("worker", HERE)])

    assert [family.name + "_total" * (family.type == "counter") for family in families] == [
        f"x_{name}" for name in PROCESS_METRICS
    ]
    for family in families:
        assert [sample.labels for sample in family.samples] == [{"process": "master-1"}, {"process": "worker-1"}]


def test_a_worker_that_takes_a_dead_ones_place_takes_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    living = {pid: figures(float(pid)) for pid in (10, 11, 12, 13)}
    monkeypatch.setattr(metric_processes, "read_process", living.get)
    collector = ProcessCollector("")

    def started(*pids: int) -> dict[str, float]:
        return collected(collector, [("worker", pid) for pid in pids], "process_start_time_seconds")

    assert started(10, 11) == {"worker-1": 10, "worker-2": 11}
    assert started(11, 12) == {"worker-1": 12, "worker-2": 11}
    assert started(11, 12, 13) == {"worker-1": 12, "worker-2": 11, "worker-3": 13}
    assert started(13) == {"worker-3": 13}
    living[13] = figures(99.0)
    assert started(13) == {"worker-1": 99}, "another process with the same number"


def test_processor_time_never_falls_when_a_name_changes_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    living = {10: figures(1.0, 5.0)}
    monkeypatch.setattr(metric_processes, "read_process", living.get)
    collector = ProcessCollector("")

    def spent(pid: int) -> dict[str, float]:
        return collected(collector, [("worker", pid)], "process_cpu_seconds_total")

    assert spent(10) == {"worker-1": 5}
    living[10] = figures(1.0, 7.0)
    assert spent(10) == {"worker-1": 7}
    living[11] = figures(2.0, 8.0)
    assert spent(11) == {"worker-1": 15}
    living[11] = figures(2.0, 9.0)
    assert spent(11) == {"worker-1": 16}
    living[12] = figures(3.0, 0.5)
    assert spent(12) == {"worker-1": 16.5}


def test_who_dies_while_it_is_asked_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_processes, "read_process", {10: figures(1.0)}.get)

    found = collected(ProcessCollector(""), [("worker", 10), ("worker", 11)], "process_threads")

    assert found == {"worker-1": 1}


def test_another_users_process_has_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (a b) c) S 1")
    monkeypatch.setattr(metric_processes, "_PROC", tmp_path)

    assert read_process(7) is None


def test_two_who_are_asked_in_turn_give_every_process_one_name_and_no_time_falls(tmp_path: Path, asleep: int) -> None:
    old, new = ProcessCollector("", tmp_path), ProcessCollector("", tmp_path)
    olds, news = [("master", os.getppid()), ("worker", HERE)], [("master", asleep), ("worker", HERE)]

    def starts(collector: ProcessCollector, processes: Sequence[tuple[str, int]]) -> dict[str, float]:
        return collected(collector, processes, "process_start_time_seconds")

    first = starts(old, olds)
    both = [starts(new, news), starts(old, olds), starts(new, news)]

    assert first.keys() == {"master-1", "worker-1"}
    assert both[0].keys() == {"master-1", "master-2", "worker-1"}
    assert both[0] == both[1] == both[2]
    assert both[0].items() > first.items()


def test_processor_time_goes_on_where_another_has_seen_it_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    living = {10: figures(1.0, 5.0)}
    monkeypatch.setattr(metric_processes, "read_process", living.get)

    def spent(pid: int) -> dict[str, float]:
        return collected(ProcessCollector("", tmp_path), [("worker", pid)], "process_cpu_seconds_total")

    assert spent(10) == {"worker-1": 5}
    living[10] = figures(1.0, 7.0)
    assert spent(10) == {"worker-1": 7}
    living[11] = figures(2.0, 1.0)
    del living[10]
    assert spent(11) == {"worker-1": 8}


def test_a_process_that_only_waits_to_be_reaped_is_not_told(tmp_path: Path) -> None:
    collector = ProcessCollector("", tmp_path)
    child = subprocess.Popen(["/bin/sleep", "600"])
    before = collected(collector, [("master", child.pid), ("worker", HERE)], "process_threads")
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    after = collected(collector, [("worker", HERE)], "process_threads")

    child.wait()
    assert before.keys() == {"master-1", "worker-1"}
    assert after.keys() == {"worker-1"}
