"""Requests of killed workers are in the totals, once there are any."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import values

from app.ops.metric_collector import FolderCollector
from app.ops.metrics import Metrics
from app.server import cut_requests
from app.server.cut_requests import CutRequests
from app.server.metrics_folder import VARIABLE


@pytest.fixture(autouse=True)
def _value_class_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)


def total(folder: Path) -> float:
    """Return what a scrape adds up."""
    return sum(
        sample.value
        for family in FolderCollector(folder).collect().families
        for sample in family.samples
        if sample.name == cut_requests.NAME
    )


def test_they_are_added_to_what_a_scrape_finds(tmp_path: Path) -> None:
    cut = CutRequests({VARIABLE: str(tmp_path)})

    cut.add(2)
    cut.add(3)

    assert total(tmp_path) == 5


def test_nothing_cut_leaves_no_file(tmp_path: Path) -> None:
    CutRequests({VARIABLE: str(tmp_path)}).add(0)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("environ", [{}, {VARIABLE: "/nowhere/at/all"}], ids=["unnamed", "missing"])
def test_without_a_folder_nothing_is_counted_and_nothing_breaks(environ: dict[str, str]) -> None:
    cut = CutRequests(environ)

    cut.add(1)
    cut.add(1)


def test_it_is_the_metric_that_workers_count_in() -> None:
    metrics = Metrics(version="1")

    (family,) = metrics.drain_timeouts.collect()
    assert (f"{family.name}_total", family.documentation) == (cut_requests.NAME, cut_requests.MEANING)
