"""One way to make a rendition, again and again in a process of its own, and what it costs there.

``python -m benchmarks.renditions.contender WAY FILE SIDES FORMATS SECONDS`` prints what was measured as JSON.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import pillow_heif
import pyvips
from PIL import Image

from app.images.engine import EngineOptions, ImageEngine
from app.images.engine_process import ProcessOptions
from app.images.jobs import Output, RenderJob
from app.images.presets import Format, Preset, Quality
from app.images.probe import ImageLimits, probe
from app.storage.spool import Spool
from benchmarks.processes import PeakMemory, processor_seconds

_QUALITY: Final = Quality()
_AVIF_SPEED: Final = 9 - _QUALITY.avif_effort
_MOST_PIXELS: Final = 100_000_000
_MEMORY_BYTES: Final = 2**32

Work = Callable[[], int]
"""Makes the renditions once; returns their bytes in all."""


class _Unlimited:
    """Admits everything at once."""

    def admit(self, _cost: int, /, *, background: bool) -> Any:
        del background
        return nullcontext()


def engine(path: Path, sides: Sequence[int], formats: Sequence[Format]) -> Work:
    """Return the product's engine: all renditions in one job, in a process of its own."""
    folder = Path(tempfile.mkdtemp())
    process = ProcessOptions(memory_bytes=_MEMORY_BYTES, job_seconds=120, idle_seconds=60)
    options = EngineOptions(process=process, jobs_per_process=10_000, scratch_dir=folder)
    made = ImageEngine(options, turns=_Unlimited(), budget=_Unlimited(), cost=lambda _body, _job: 0)
    with Spool(folder, max_bytes=2**30) as spool, path.open("rb") as file:
        while chunk := file.read(2**20):
            spool.write(chunk)
        body = spool.finish()
    facts = probe(body, ImageLimits(max_pixels=_MOST_PIXELS))
    outputs = tuple(Output(Preset(str(side), side), each) for side in sides for each in formats)
    job = RenderJob(
        content_type=facts.content_type,
        width=facts.width,
        height=facts.height,
        size_bytes=body.size_bytes,
        outputs=outputs,
        quality=_QUALITY,
    )
    return lambda: sum(len(image.content) for image in made.render(body, job).images)


def libvips(path: Path, sides: Sequence[int], formats: Sequence[Format]) -> Work:
    """Return libvips alone as its documentation has it: ``thumbnail`` and a saver, for each rendition anew."""
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)

    def one(side: int, image_format: Format) -> int:
        image = pyvips.Image.thumbnail(str(path), side, height=side, size="down")
        level = _QUALITY.of(image_format)
        if image_format is Format.JPEG:
            return len(image.jpegsave_buffer(Q=level, optimize_coding=True, keep="none"))
        if image_format is Format.WEBP:
            return len(image.webpsave_buffer(Q=level, keep="none"))
        return len(image.heifsave_buffer(Q=level, compression="av1", effort=_QUALITY.avif_effort, keep="none"))

    return lambda: sum(one(side, image_format) for side in sides for image_format in formats)


def pillow(path: Path, sides: Sequence[int], formats: Sequence[Format]) -> Work:
    """Return Pillow at its fastest: a draft, reduced in whole steps first, for each rendition anew."""
    pillow_heif.register_heif_opener()

    def one(side: int, image_format: Format) -> int:
        with Image.open(path) as image:
            image.draft("RGB", (side, side))
            image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=1)
            buffer = io.BytesIO()
            more: dict[str, Any] = {"speed": _AVIF_SPEED, "max_threads": 1} if image_format is Format.AVIF else {}
            image.save(buffer, image_format.value.upper(), quality=_QUALITY.of(image_format), **more)
        return buffer.tell()

    return lambda: sum(one(side, image_format) for side in sides for image_format in formats)


WAYS: Final[Mapping[str, Callable[[Path, Sequence[int], Sequence[Format]], Work]]] = {
    "engine": engine,
    "libvips": libvips,
    "pillow": pillow,
}
"""All ways by their names."""


def measure(work: Work, seconds: float) -> dict[str, float]:
    """Return what one run costs: processor and wall seconds, bytes at the peak, and bytes that were made."""
    own = (os.getpid(),)
    made = work()  # whatever is done once is done before
    peak = PeakMemory(own)
    used, started = processor_seconds(own), time.monotonic()
    runs = 0
    while runs == 0 or time.monotonic() - started < seconds:
        work()
        runs += 1
    wall = time.monotonic() - started
    return {
        "processor_seconds": (processor_seconds(own) - used) / runs,
        "wall_seconds": wall / runs,
        "peak_bytes": peak.highest_bytes(),
        "made_bytes": made,
    }


if __name__ == "__main__":
    way, file, sides, formats, seconds = sys.argv[1:]
    work = WAYS[way](
        Path(file), [int(side) for side in sides.split(",")], [Format(each) for each in formats.split(",")]
    )
    print(json.dumps(measure(work, float(seconds))))
    sys.stdout.flush()
    os._exit(0)  # the engine's process ends with its socket
