"""Where the results of a run go, and who hears how far it is."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

_RESULTS = Path("var/bench")


class Result(Protocol):
    """One line of a table."""

    def facts(self) -> dict[str, object]:
        """Return everything for JSON."""
        ...


def say(progress: str) -> None:
    """Tell of progress where it does not mix with the table."""
    print(progress, file=sys.stderr, flush=True)


def write(
    *, results: Sequence[Result] = (), stability: Sequence[Result] = (), request_cost: Sequence[Result] = ()
) -> None:
    """Write ``var/bench/TIME.json`` and print its path.

    Args:
        results: Of the server.
        stability: Of the library.
        request_cost: Of a request within a process.
    """
    _RESULTS.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC)
    machine = {"cores": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()}
    document = {
        "at": now.isoformat(),
        "machine": machine,
        "results": [result.facts() for result in results],
        "stability": [result.facts() for result in stability],
        "request_cost": [result.facts() for result in request_cost],
    }
    path = _RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"\nWritten to {path}.")
