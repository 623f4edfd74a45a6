"""What tests of the engine ask about processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_IDLE_FILES = 4  # input, output, errors and the socket; one more is the original of a job
PATIENCE = 30.0
"""So long a test waits for what comes soon, in seconds."""


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def children_of(pid: int) -> set[int]:
    """Return the processes that a process has started and not yet cleared away."""
    children: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            children.update(map(int, (task / "children").read_text().split()))
    return children


def has_a_job(pid: int) -> bool:
    """Return whether a process of the engine has an original."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir())) > _IDLE_FILES


def is_at_work(pid: int) -> bool:
    """Return whether a process of the engine has taken its job: from then on it watches its socket."""
    flags = [line.split()[1] for line in _facts_of_descriptors(pid) if line.startswith("flags:")]
    return any(int(flag, 8) & os.O_ASYNC for flag in flags)


def _facts_of_descriptors(pid: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            yield from descriptor.read_text().splitlines()


def await_gone(pid: int) -> None:
    """Return when a process runs no more; nobody may have cleared it away yet."""
    wait_for(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
