"""What renditions cost in the engine, in processor time and memory, beside libvips and Pillow alone."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from app.images.presets import Format
from benchmarks.renditions.originals import Original, write_originals
from benchmarks.stability.findings import Finding, finding

NAME: Final = "renditions"
"""What ``--only`` calls all of them."""

SIDES: Final = (320, 1080, 2048)
"""The presets."""

QUICK: Final = ((320, Format.WEBP), (1080, Format.AVIF), (2048, Format.JPEG))
"""Sides and formats of a short run."""
_LIBRARIES: Final = {"libvips": "libvips alone", "pillow": "Pillow alone"}
_GOAL = 1.05
_SET_GOAL = 0.6
_MILLISECONDS = 1e3
_MEGABYTE = 1e6
_TIMEOUT_SECONDS = 300


def measure(*, is_quick: bool) -> Iterator[Finding]:
    """Yield the lines: each beside the library that is best at it, then sets beside single ones, then memory."""
    rounds, seconds = (1, 0.5) if is_quick else (3, 2.0)
    wanted = QUICK if is_quick else [(side, image_format) for side in SIDES for image_format in Format]
    with tempfile.TemporaryDirectory() as folder:
        for original in write_originals(Path(folder)):
            libraries = [name for name in _LIBRARIES if name != "libvips" or "HEIC" not in original.name]
            for side, image_format in wanted:
                costs = {
                    name: [
                        cost_of(name, original, (side,), (image_format,), seconds)["processor_seconds"]
                        for _ in range(rounds)
                    ]
                    for name in ("engine", *libraries)
                }
                yield _beside_the_best(f"{original.name} to {side} {image_format}", costs, libraries)
            yield from _sets(original, libraries, rounds, seconds)


def _beside_the_best(name: str, costs: Mapping[str, Sequence[float]], libraries: Sequence[str]) -> Finding:
    best = min(libraries, key=lambda library: statistics.median(costs[library]))
    sides = ([cost * _MILLISECONDS for cost in costs[way]] for way in ("engine", best))
    return finding(name, _LIBRARIES[best], "ms of cpu", *sides, goal=_GOAL)


def _sets(original: Original, libraries: Sequence[str], rounds: int, seconds: float) -> Iterator[Finding]:
    """Yield three presets in one job beside three jobs, and what is held at the peak beside a library."""
    formats = (Format.WEBP,)
    together = [cost_of("engine", original, SIDES, formats, seconds) for _ in range(rounds)]
    apart = [[cost_of("engine", original, (side,), formats, seconds) for side in SIDES] for _ in range(rounds)]
    yield finding(
        f"{original.name}, a set of three",
        "three jobs of ours",
        "ms of cpu",
        [cost["processor_seconds"] * _MILLISECONDS for cost in together],
        [sum(cost["processor_seconds"] for cost in costs) * _MILLISECONDS for costs in apart],
        goal=_SET_GOAL,
    )
    beside = libraries[0]
    theirs = [cost_of(beside, original, SIDES, formats, seconds) for _ in range(rounds)]
    yield finding(
        f"{original.name}, memory at the peak",
        _LIBRARIES[beside],
        "MB",
        [cost["peak_bytes"] / _MEGABYTE for cost in together],
        [cost["peak_bytes"] / _MEGABYTE for cost in theirs],
    )


def cost_of(
    way: str, original: Original, sides: Sequence[int], formats: Sequence[Format], seconds: float
) -> dict[str, float]:
    """Return what :func:`benchmarks.renditions.contender.measure` measures, in a process of its own.

    Args:
        way: Of :data:`benchmarks.renditions.contender.WAYS`.
        original: Of what photo.
        sides: In which sizes.
        formats: In which formats, each.
        seconds: For how long.
    """
    command = [sys.executable, "-m", "benchmarks.renditions.contender", way, str(original.path)]
    command += [",".join(map(str, sides)), ",".join(formats), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_SECONDS)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured
