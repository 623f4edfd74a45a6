"""What the system says of each process of the server: memory, processor time, files, threads, start.

Read from ``/proc`` when somebody asks, so that a process needs no time to tell and the figures of a dead one are
gone at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from app.ops.metric_slots import Slot, SlotName, SlotTable
from app.ops.owners import find_owner

PROCESS_LABEL: Final = "process"
PROCESS_METRICS: Final[Mapping[str, tuple[str, str]]] = {
    "process_resident_memory_bytes": ("gauge", "Memory in use, pages shared with others included."),
    "process_cpu_seconds_total": ("counter", "Processor time, user and system."),
    "process_open_fds": ("gauge", "Open file descriptors."),
    "process_max_fds": ("gauge", "How many file descriptors may be open."),
    "process_threads": ("gauge", "Threads."),
    "process_start_time_seconds": ("gauge", "When the process began, in seconds since 1970."),
}
"""Kind and meaning of each metric, without our prefix."""

_PROC = Path("/proc")
_BOOT_TIME = re.compile(r"^btime (\d+)$", re.MULTILINE)
_OPEN_FILES = re.compile(r"^Max open files\s+(\d+)", re.MULTILINE)
_UTIME, _STIME, _THREADS, _START, _RSS = 11, 12, 17, 19, 21  # of the fields behind the name, see proc(5)


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """What one process uses.

    Attributes:
        resident_memory_bytes: Memory.
        cpu_seconds_total: Processor time since its start.
        open_fds: Open file descriptors.
        max_fds: The limit of those.
        threads: Threads.
        start_time_seconds: Its start, UNIX seconds.
    """

    resident_memory_bytes: float
    cpu_seconds_total: float
    open_fds: float
    max_fds: float
    threads: float
    start_time_seconds: float


def read_process(pid: int) -> ProcessFigures | None:
    """Return what a process uses; None when there is none, or the system does not tell."""
    folder = _PROC / str(pid)
    try:
        fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        limit = _OPEN_FILES.search((folder / "limits").read_text(encoding="ascii"))
        booted = _BOOT_TIME.search((_PROC / "stat").read_text(encoding="ascii"))
        ticks = os.sysconf("SC_CLK_TCK")
        return ProcessFigures(
            resident_memory_bytes=int(fields[_RSS]) * os.sysconf("SC_PAGESIZE"),
            cpu_seconds_total=(int(fields[_UTIME]) + int(fields[_STIME])) / ticks,
            open_fds=sum(1 for _ in (folder / "fd").iterdir()),
            max_fds=float(limit[1]) if limit else float("inf"),
            threads=int(fields[_THREADS]),
            start_time_seconds=(int(booted[1]) if booted else 0) + int(fields[_START]) / ticks,
        )
    except (OSError, ValueError, IndexError):
        return None


class ProcessCollector:
    """Makes metrics of the figures, under names that come again.

    A process is called by its role and the lowest number that no living process of this role has: a worker that
    takes a dead one's place takes its name, and there are never more series than processes. Its processor time goes
    on from where the dead one's was seen last, so that it never falls. In a folder, all who are asked about its
    processes know the same names, and tell of all that have one. Not thread-safe.

    Args:
        prefix: Before every metric's name.
        folder: The server's, where the names are shared (:mod:`app.ops.metric_slots`); None for this process alone.
    """

    def __init__(self, prefix: str, folder: Path | None = None) -> None:
        self._prefix = prefix
        self._table = SlotTable(folder)

    def collect(self, processes: Iterable[tuple[str, int]]) -> list[Metric]:
        """Return the metrics of these processes.

        Args:
            processes: Role and process id of each; workers in the order of their starts.
        """
        families = [self._family(name) for name in PROCESS_METRICS]
        with self._table.changing() as slots:
            for (role, number), figures in self._found(processes, slots).items():
                slot = slots[role, number]
                for family, metric in zip(families, PROCESS_METRICS, strict=True):
                    value = getattr(figures, metric.removeprefix("process_"))
                    spent = slot.before + slot.seconds
                    family.add_metric([f"{role}-{number}"], spent if metric.endswith("_total") else value)
        return list(families)

    def _family(self, name: str) -> CounterMetricFamily | GaugeMetricFamily:
        kind, meaning = PROCESS_METRICS[name]
        family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        return family(self._prefix + name, meaning, labels=[PROCESS_LABEL])

    def _found(
        self, processes: Iterable[tuple[str, int]], slots: dict[SlotName, Slot]
    ) -> dict[SlotName, ProcessFigures]:
        """Read all processes and give each its slot."""
        read = {}
        for role, pid in processes:
            figures = read_process(pid)
            if figures is not None:
                read[pid, figures.start_time_seconds] = (role, figures)
        if self._table.is_shared:
            read |= _others(read.keys(), slots)
        names = {slot.identity: name for name, slot in slots.items() if slot.identity in read}
        found = {}
        for (pid, started), (role, figures) in read.items():
            name = names.get((pid, started))
            if name is None:
                taken = set(names.values())
                number = next(n for n in range(1, len(taken) + 2) if (role, n) not in taken)
                name = names[pid, started] = (role, number)
            slots[name] = _advanced(slots.get(name), pid, started, figures.cpu_seconds_total)
            found[name] = figures
        return found


def _others(
    known: Collection[tuple[int, float]], slots: dict[SlotName, Slot]
) -> dict[tuple[int, float], tuple[str, ProcessFigures]]:
    """Return the processes that have a slot and live, and that nobody here has named: another server's master."""
    others = {}
    for (role, _), slot in slots.items():
        if slot.identity not in known:
            figures = read_process(slot.pid)
            is_same = figures is not None and figures.start_time_seconds == slot.started
            if figures is not None and is_same and find_owner(slot.pid).lives():  # not one that waits to be reaped
                others[slot.identity] = (role, figures)
    return others


def _advanced(last: Slot | None, pid: int, started: float, seconds: float) -> Slot:
    if last is None:
        return Slot(pid, started, 0.0, seconds)
    if last.identity == (pid, started):
        return Slot(pid, started, last.before, max(last.seconds, seconds))
    return Slot(pid, started, last.before + last.seconds, seconds)
