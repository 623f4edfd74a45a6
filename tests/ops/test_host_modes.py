"""The reasons for a mode, as one process of a host has them together."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from app.errors import DatabaseReadOnlyError, ReadOnlyError, UnavailableError
from app.images.pressure import LIMITS
from app.ops.host_modes import HostModes
from app.ops.memory import Memory
from app.ops.modes import Changes, ModeName
from app.ops.state import PAGE_NAME, StatePage
from app.settings import UploadSettings
from app.stability import CircuitBreaker


class Metrics:
    """The gauges that follow."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.mode = Gauge("mode", "Mode.", ("mode",), registry=registry)
        self.spool_free = Gauge("spool_free", "Room.", registry=registry)
        self.memory_usage = Gauge("memory_usage", "Memory.", registry=registry)
        self.degrade_level = Gauge("degrade_level", "Level.", registry=registry)


def modes_of(folder: Path, breaker: CircuitBreaker | None = None, page: StatePage | None = None) -> HostModes:
    return HostModes(page, UploadSettings(spool_dir=folder), Metrics(), breaker)


@pytest.fixture(autouse=True)
def used(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How much memory this host has used; a test may say otherwise."""
    ratio = [0.1]
    monkeypatch.setattr(Memory, "used_ratio", lambda _self: ratio[0])
    return ratio


def test_without_a_reason_everything_is_taken(tmp_path: Path) -> None:
    here = modes_of(tmp_path)

    here.modes.admit(Changes.BYTES, 1)

    assert (here.board, here.modes.current().name) == (None, ModeName.NORMAL)


def test_an_open_breaker_before_the_store_refuses_bytes_and_no_records(tmp_path: Path) -> None:
    breaker = CircuitBreaker("storage_write")
    here = modes_of(tmp_path, breaker)

    breaker.open_for(60)

    with pytest.raises(UnavailableError):
        here.modes.admit(Changes.BYTES, 1)
    here.modes.admit(Changes.RECORDS, None)


def test_what_the_database_has_refused_one_process_no_process_takes(tmp_path: Path) -> None:
    first, second = (modes_of(tmp_path, page=StatePage(tmp_path / PAGE_NAME)) for _ in range(2))

    first.modes.note_refused()

    for here in (first, second):
        with pytest.raises((ReadOnlyError, DatabaseReadOnlyError)):
            here.modes.admit(Changes.RECORDS, None)


def test_whoever_looks_at_the_mode_finds_that_renditions_are_left_out(tmp_path: Path, used: list[float]) -> None:
    metrics = Metrics()
    here = HostModes(None, UploadSettings(spool_dir=tmp_path), metrics, None)
    used[0] = LIMITS[1]

    mode = here.modes.current()

    assert (mode.name, [reason.name for reason in mode.reasons]) == (ModeName.DEGRADED, ["renditions"])
    assert [sample.value for metric in metrics.degrade_level.collect() for sample in metric.samples] == [2]
    here.modes.admit(Changes.BYTES, None)
