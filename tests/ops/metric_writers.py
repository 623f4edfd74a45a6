"""Files of metrics as processes leave them, living and dead, and what a folder of them comes to."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from app.ops.metric_collector import FolderCollector
from app.ops.metric_files import Role, file_name
from app.ops.metric_values import FileValue, ValueFile
from app.ops.owners import Owner, find_owner

_NO_PID = 900_000_000  # the kernel gives none so high


def counter(file: ValueFile, name: str = "things", **labels: str) -> FileValue:
    """Return a counter's number in a file."""
    return file.value_class()("counter", name, f"{name}_total", tuple(labels), tuple(labels.values()), "Things.")


def gauge(file: ValueFile, across: str, name: str = "level") -> FileValue:
    """Return a gauge's number in a file."""
    return file.value_class()("gauge", name, name, (), (), "A level.", across)


def dead_owner() -> Owner:
    """Return a process that never was."""
    return Owner(_NO_PID + secrets.randbelow(90_000_000), 1, find_owner(os.getpid()).boot)


def bury(file: ValueFile, role: Role = "worker") -> Path:
    """Let a file's owner be dead; return its path."""
    file.close()
    return file.path.rename(file.path.with_name(file_name(role, dead_owner(), secrets.token_hex(4))))


def leave_dead_worker(folder: Path, things: float, *, level: float = 5.0) -> Path:
    """Leave the file of a worker that has counted things and died; return its path."""
    file = ValueFile(folder)
    counter(file).inc(things)
    gauge(file, "livesum").set(level)
    return bury(file)


def samples(collector: FolderCollector) -> dict[str, float]:
    """Return the samples without labels that a scrape finds, by their names."""
    return {
        sample.name: sample.value
        for family in collector.collect().families
        for sample in family.samples
        if not sample.labels
    }


def things(folder: Path) -> float:
    """Return how many things a new reader of the folder finds."""
    return samples(FolderCollector(folder)).get("things_total", 0.0)


@contextmanager
def nobody_folds(folder: Path) -> Iterator[None]:
    """Hold the lock of the archive."""
    descriptor = os.open(folder / "archive.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def files(folder: Path) -> set[str]:
    """Return the names of all files but the archive's own."""
    return {path.name for path in folder.iterdir()} - {"archive", "archive.lock"}


def labelled(collector: FolderCollector, name: str) -> Mapping[tuple[tuple[str, str], ...], float]:
    """Return the samples of one name by their labels."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in collector.collect().families
        for sample in family.samples
        if sample.name == name
    }
