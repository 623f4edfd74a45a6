"""How much memory is left before the kernel kills something: the machine's, or a control group's around this process.

Groups lie in one another, and each may have its limit; the one that is nearest to its limit counts. What a group
holds of files that were read and nobody uses is given back before anybody is killed, so it does not count as used.
Sources: cgroups(7), the kernel's documentation of cgroup v1 memory and v2, proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


class Memory:
    """Reads what the kernel tells. Thread-safe; a read takes about 100 µs.

    Args:
        proc: Where procfs is.
        groups: Where control groups are.
    """

    def __init__(self, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._groups = groups
        self._page_bytes = os.sysconf("SC_PAGESIZE")

    def resident_bytes(self) -> int:
        """Return this process's resident memory."""
        pages = int((self._proc / "self" / "statm").read_text(encoding="ascii").split()[1])
        return pages * self._page_bytes

    def used_ratio(self) -> float:
        """Return how much is used of what there may be, 0 to 1: the tightest of the machine and all groups."""
        facts = _fields(self._proc / "meminfo")
        machine = 1 - facts["MemAvailable:"] / facts["MemTotal:"]
        return max([machine, *self._group_ratios()])

    def _group_ratios(self) -> Iterator[float]:
        for folder, limit_file, used_file, reclaimable in self._own_groups():
            limit, used = _number(folder / limit_file), _number(folder / used_file)
            if limit and used is not None:
                yield max(0, used - _optional_fields(folder / "memory.stat").get(reclaimable, 0)) / limit

    def _own_groups(self) -> Iterator[tuple[Path, str, str, str]]:
        try:
            lines = (self._proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if not controllers:
                root, files = self._groups, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                root = self._groups / "memory"
                files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            # In a container the path may be the host's, and only the root is there.
            own = PurePosixPath(path.lstrip("/"))
            for folder in dict.fromkeys([own, *own.parents]):
                yield root / folder, *files


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or "max"
        return None


def _optional_fields(path: Path) -> dict[str, int]:
    try:
        return _fields(path)
    except OSError:
        return {}


def _fields(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {words[0]: int(words[1]) for words in lines}
