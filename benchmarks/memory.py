"""What uploads cost in memory: ours, and a Flask route that reads the body at once (``get_data``)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import requests

from benchmarks.processes import PeakMemory
from benchmarks.servers import Servers
from benchmarks.stability.findings import Finding, finding
from tests.fakes.images import jpeg

NAME: Final = "memory"
"""What ``--only`` calls these lines."""

LARGEST_BYTES: Final = 200_000_000
"""The largest upload here; the product has to allow it."""

_MEGABYTE = 1e6
_PER_UPLOAD = 8.388608  # 8 MiB in MB, the goal
_CASES = (("20 MB", 20_000_000, 8), ("200 MB", LARGEST_BYTES, 1))
_TIMEOUT_SECONDS = 120


def measure(servers: Servers, headers: dict[str, str], word: str) -> list[Finding]:
    """Return a line for each size; the ratio is of what all processes together hold more at their peaks.

    Args:
        servers: Running.
        headers: Of an account.
        word: Only lines with this in their name.
    """
    found = []
    for size, size_bytes, at_once in _CASES:
        name = f"memory of {at_once} x {size}"
        if word not in name:
            continue
        ours = _growth(
            servers.product_pids, f"{servers.product.url}/api/v1/photos", headers, _bodies(size_bytes, at_once)
        )
        theirs = _growth(
            servers.baselines_pids, f"{servers.baselines_url}/put-object", {}, _bodies(size_bytes, at_once)
        )
        goal = at_once * _PER_UPLOAD / theirs
        found.append(finding(name, "get_data in Flask", "MB", [ours], [theirs], goal=goal))
    return found


def _bodies(size_bytes: int, number: int) -> list[Callable[[], bytes]]:
    """Return what makes the bodies: they are made in turn, or this process would hold them all."""
    plain = jpeg(640, 480, seed=1, size_bytes=size_bytes)
    return [lambda: plain + os.urandom(16) for _ in range(number)]


def _growth(pids: tuple[int, ...], url: str, headers: dict[str, str], bodies: list[Callable[[], bytes]]) -> float:
    small = jpeg(640, 480, seed=2, size_bytes=200_000)
    for _ in range(4 * len(bodies)):  # whatever is made once, is made before
        _send(url, headers, small + os.urandom(16))
    peak = PeakMemory(pids)
    with ThreadPoolExecutor(len(bodies)) as pool:
        list(pool.map(lambda make: _send(url, headers, make()), bodies))
    return max(1, peak.growth_bytes()) / _MEGABYTE


def _send(url: str, headers: dict[str, str], content: bytes) -> None:
    answer = requests.post(url, content, headers={**headers, "Content-Type": "image/jpeg"}, timeout=_TIMEOUT_SECONDS)
    assert answer.status_code == requests.codes.created, answer.text
