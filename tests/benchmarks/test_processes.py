"""What processes use, as the kernel counts it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from benchmarks.processes import PeakMemory, processor_seconds

MEGABYTE = 1_000_000
_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=sys.stdout)
for line in sys.stdin:
    child.stdin.write(line.encode()); child.stdin.flush()
child.stdin.close(); child.wait()
"""
_CHILD = """
import sys, time
print("ready", flush=True)
for line in sys.stdin:
    held = bytearray(b"x") * 50_000_000
    ends = time.process_time() + 0.2
    while time.process_time() < ends: pass
    del held
    print("done", flush=True)
"""


@pytest.fixture
def family() -> Iterator[subprocess.Popen[str]]:
    """A process whose child works when it is told to."""
    command = [sys.executable, "-c", _PARENT, _CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == "ready\n"
        yield parent
        parent.stdin.close()


def work(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    assert parent.stdin is not None
    parent.stdin.write("work\n")
    parent.stdin.flush()
    assert parent.stdout.readline() == "done\n"


def test_the_work_of_children_counts_and_ours_does_not(family: subprocess.Popen[str]) -> None:
    before = processor_seconds((family.pid,))
    work(family)
    taken = processor_seconds((family.pid,)) - before
    ends = time.process_time() + 0.1
    while time.process_time() < ends:
        pass

    assert taken >= 0.18
    assert processor_seconds((family.pid,)) - before - taken < 0.1


def test_memory_counts_at_its_peak_also_when_it_was_given_back(family: subprocess.Popen[str]) -> None:
    peak = PeakMemory((family.pid,))
    quiet = peak.growth_bytes()

    work(family)

    assert quiet < 10 * MEGABYTE
    assert 45 * MEGABYTE < peak.growth_bytes() < 80 * MEGABYTE


def test_processes_that_have_ended_count_nothing() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()

    assert processor_seconds((ended.pid,)) == 0
    assert PeakMemory((ended.pid,)).growth_bytes() == 0
