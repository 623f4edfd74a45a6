"""A server's processes die one after another while it is scraped: ``python -m tests.ops.metric_deaths DEATHS``.

Two workers live on; each of the others counts, is killed by SIGKILL and reaped. Prints what was measured as JSON.
Others use this machine too: so it is processor times, the least of several scrapes, and what a scrape takes after the
deaths is measured by turns with what it takes of another two workers beside whom nobody has died.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from app.ops.metrics import Metrics

ROUTES: Final = [f"/api/v1/photos/<uuid:photo_id>/{number}" for number in range(30)]
COUNTED: Final = 3
_SCRAPE_EVERY = 10
_SCRAPES_TIMED = 25


class Lifeline:
    """What living workers hang on: they end when this process does, however it ends."""

    def __init__(self) -> None:
        self._watched, self._held = os.pipe()

    def wait(self) -> None:
        """Wait, in a worker, until the process that made this has ended."""
        os.close(self._held)
        os.read(self._watched, 1)
        os._exit(0)

    def close(self) -> None:
        """Let go."""
        os.close(self._watched)
        os.close(self._held)


def worker(told: int, lifeline: Lifeline | None) -> None:
    """Be a worker: count, say so, and wait for the end or die at once."""
    metrics = Metrics(version="1")
    if lifeline is not None:
        for route in ROUTES:
            for code in (200, 304, 404):
                metrics.request_answered("GET", route, code, 0.012)
    metrics.request_answered("GET", ROUTES[0], 200, 0.012)
    metrics.in_flight_requests.set(1)
    for _ in range(COUNTED):
        metrics.duplicate()
    os.write(told, b".")
    if lifeline is not None:
        lifeline.wait()
    os.kill(os.getpid(), signal.SIGKILL)


def start(lifeline: Lifeline | None = None) -> int:
    """Start a worker, that lives on when it has a lifeline, and wait until it has counted; return its id."""
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        worker(told, lifeline)
    os.close(told)
    assert os.read(ready, 1) == b"."
    os.close(ready)
    return pid


def sample(text: str, name: str) -> float:
    """Return the value of a sample without labels."""
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def totals(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return all that must never fall: counters, and the numbers of histograms."""
    return {
        (found.name, tuple(sorted(found.labels.items()))): found.value
        for family in text_string_to_metric_families(text)
        if family.type in {"counter", "histogram"}
        for found in family.samples
    }


def scrape_seconds(*scraped: Metrics) -> list[float]:
    """Return the processor time of a scrape of each."""
    least = [float("inf")] * len(scraped)
    for _ in range(_SCRAPES_TIMED):
        for place, metrics in enumerate(scraped):
            before = time.process_time()
            metrics.exposition()
            least[place] = min(least[place], time.process_time() - before)
    return least


def server(folder: Path, lifeline: Lifeline) -> tuple[Metrics, list[int]]:
    """Start two workers that live on; return their management process's metrics, and their ids."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    living = [start(lifeline) for _ in range(2)]
    return Metrics(version="1", role="management"), living


def main(folder: Path, elsewhere: Path, deaths: int) -> dict[str, float]:
    """Let so many workers die and return what was measured; ``elsewhere`` is the folder where nobody does."""
    lifeline = Lifeline()
    untouched, others = server(elsewhere, lifeline)
    management, living = server(folder, lifeline)
    try:
        before = totals(management.exposition()[0].decode())
        fallen, most_files = 0, 0
        for death in range(deaths):
            os.waitpid(start(), 0)
            most_files = max(most_files, len(list(folder.iterdir())))
            if death % _SCRAPE_EVERY == _SCRAPE_EVERY - 1:
                after = totals(management.exposition()[0].decode())
                fallen += sum(after.get(series, -1.0) < value for series, value in before.items())
                before = after
        text = management.exposition()[0].decode()
        fresh, scraped = scrape_seconds(untouched, management)
        return {
            "fresh": fresh,
            "after": scraped,
            "fallen": fallen,
            "most_files": most_files,
            "files": len(list(folder.glob("*.values"))),
            "counted": sample(text, "photo_api_dedup_total"),
            "in_flight": sample(text, "photo_api_in_flight_requests"),
            "damaged": sample(text, "photo_api_metric_files_skipped_total"),
            "processes": text.count("photo_api_process_threads{"),
        }
    finally:
        for pid in (*others, *living):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    with TemporaryDirectory() as beside:
        found = main(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]), Path(beside), int(sys.argv[1]))
    sys.stdout.write(json.dumps(found))
