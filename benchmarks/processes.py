"""What processes use: processor time and memory, of a server and all its children, as the kernel counts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tests.servers.product import memory_of

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_USER_TICKS, _SYSTEM_TICKS = 11, 12  # fields of /proc/PID/stat behind the name


def processor_seconds(roots: Sequence[int]) -> float:
    """Return the processor time that some processes and their descendants have taken so far.

    Args:
        roots: Their ids; one that has ended counts nothing.
    """
    return sum(map(_ticks, family(roots))) / _TICKS_PER_SECOND


class PeakMemory:
    """How much memory the processes of a server come to hold, from the making of this object on.

    Args:
        roots: The ids of its masters.
    """

    def __init__(self, roots: Sequence[int]) -> None:
        self._before: dict[int, int] = {}
        for pid in family(roots):
            with suppress(FileNotFoundError):
                Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
                self._before[pid] = memory_of(pid, "VmRSS")

    def growth_bytes(self) -> int:
        """Return by how much their peaks exceed what they had, all together."""
        return sum(max(0, memory_of(pid, "VmHWM") - before) for pid, before in self._before.items())

    def highest_bytes(self) -> int:
        """Return their peaks, all together."""
        return sum(memory_of(pid, "VmHWM") for pid in self._before)


def family(roots: Sequence[int]) -> Iterator[int]:
    """Yield the ids of some processes and of all that descend from them.

    Args:
        roots: Their ids.
    """
    for pid in roots:
        yield pid
        children: list[int] = []
        with suppress(FileNotFoundError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(FileNotFoundError):
                    children += map(int, (thread / "children").read_text(encoding="ascii").split())
        yield from family(children)


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
