"""Workers die by the hundred: totals never fall, and a scrape takes as long as before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.metric_deaths import COUNTED

ROOT = Path(__file__).resolve().parents[2]


def measured(folder: Path, deaths: int, seconds: float) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.metric_deaths", str(deaths)],
        cwd=ROOT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=seconds,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def check(found: dict[str, float], deaths: int) -> None:
    assert found["fallen"] == 0
    assert found["counted"] == (deaths + 2) * COUNTED, "nothing lost, nothing twice"
    assert found["in_flight"] == 2, "of those that live"
    assert found["files"] == 3, "of two workers and the management process"
    assert found["most_files"] < 30, "the folder stays small"
    assert found["processes"] == 4, "with the master"
    assert found["damaged"] == 0


def test_two_hundred_deaths_cost_no_count_and_no_time(tmp_path: Path) -> None:
    found = measured(tmp_path, 200, seconds=120)

    check(found, 200)
    assert found["after"] < 1.5 * found["fresh"]


@pytest.mark.extended
def test_ten_thousand_deaths_cost_no_count_and_no_time(tmp_path: Path) -> None:
    found = measured(tmp_path, 10_000, seconds=1800)

    check(found, 10_000)
    assert found["after"] <= 1.2 * found["fresh"]
