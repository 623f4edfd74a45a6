"""What the system says of each process of the server: memory, processor time, files, threads, start.

Read from ``/proc`` when somebody asks, so that a process needs no time to tell and the figures of a dead one are
gone at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

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


_Identity: TypeAlias = tuple[int, float]
"""A process's id and start."""


@dataclass(frozen=True, slots=True)
class _Spent:
    """Processor time under one name: of who has it now, and of those who had it before."""

    identity: _Identity
    before: float
    seconds: float


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
    on from where the dead one's was seen last, so that it never falls. Not thread-safe.

    Args:
        prefix: Before every metric's name.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._names: dict[_Identity, tuple[str, int]] = {}
        self._spent: dict[str, _Spent] = {}

    def collect(self, processes: Iterable[tuple[str, int]]) -> list[Metric]:
        """Return the metrics of these processes.

        Args:
            processes: Role and process id of each; workers in the order of their starts.
        """
        found = {}
        for role, pid in processes:
            figures = read_process(pid)
            if figures is not None:
                found[pid, figures.start_time_seconds] = (role, figures)
        self._name({identity: role for identity, (role, _) in found.items()})
        families = [self._family(name) for name in PROCESS_METRICS]
        for identity, (_, figures) in found.items():
            name = "{}-{}".format(*self._names[identity])
            spent = self._spent_as(name, identity, figures.cpu_seconds_total)
            for family, metric in zip(families, PROCESS_METRICS, strict=True):
                value = getattr(figures, metric.removeprefix("process_"))
                family.add_metric([name], spent if metric.endswith("_total") else value)
        return list(families)

    def _family(self, name: str) -> CounterMetricFamily | GaugeMetricFamily:
        kind, meaning = PROCESS_METRICS[name]
        family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        return family(self._prefix + name, meaning, labels=[PROCESS_LABEL])

    def _name(self, roles: Mapping[_Identity, str]) -> None:
        self._names = {identity: name for identity, name in self._names.items() if identity in roles}
        for identity, role in roles.items():
            if identity not in self._names:
                taken = set(self._names.values())
                number = next(n for n in range(1, len(taken) + 2) if (role, n) not in taken)
                self._names[identity] = (role, number)

    def _spent_as(self, name: str, identity: _Identity, seconds: float) -> float:
        last = self._spent.get(name)
        before = 0.0
        if last is not None:
            before = last.before if last.identity == identity else last.before + last.seconds
        self._spent[name] = _Spent(identity, before, seconds)
        return before + seconds
