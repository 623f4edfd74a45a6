"""Every hostile file through every decoder: an error or a picture, in bounded time and memory.

The engine would kill a process that breaks these bounds; here it is shown that it hardly ever has to. The
decoders run in a process of their own with the memory that an engine process has.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import pyvips

from tests.fakes.hostile_images import hostile_images, tolerated_images
from tests.fakes.photos import photos

TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/avif", "image/heic", "image/heif")
MEMORY_BYTES = 1 << 30
LITTLE_MEMORY_BYTES = 350 << 20
SECONDS = 8.0  # of a processor
GROWTH_MIB = 256
DAMAGES = 4

DECODES = """
import json, os, resource, sys, time
from app.errors import UndecodableImageError
from app.images.jobs import Output, RenderJob
from app.images.presets import Format, Preset, Quality
from app.images.rendering import render

content_type, memory = sys.argv[1], int(sys.argv[2])
outputs = (Output(Preset("thumbnail", 320), Format.WEBP), Output(Preset("full", 2048), Format.JPEG))
job = RenderJob(
    content_type=content_type, width=1 << 16, height=1 << 16, size_bytes=1, outputs=outputs,
    quality=Quality(), describes=True,
)
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
while size := sys.stdin.buffer.read(4):
    descriptor = os.memfd_create("original")
    os.write(descriptor, sys.stdin.buffer.read(int.from_bytes(size, "big")))
    started = time.process_time()
    try:
        found = "rendered" if len(render(descriptor, job).images) == 2 else "incomplete"
    except UndecodableImageError:
        found = "refused"
    except MemoryError:
        found = "no memory"
    except BaseException as error:
        found = repr(error)
    seconds = time.process_time() - started
    os.close(descriptor)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) // 1024
    print(json.dumps({"found": found, "seconds": seconds, "grown_mib": grown}), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    name: str
    found: str
    seconds: float
    grown_mib: int


def decoded(files: Sequence[tuple[str, bytes]], content_type: str, memory_bytes: int = MEMORY_BYTES) -> list[Verdict]:
    """Decode files one after the other in one process, and fail with the name of that which ended it."""
    sent = b"".join(len(data).to_bytes(4, "big") + data for _, data in files)
    command = [sys.executable, "-c", DECODES, content_type, str(memory_bytes)]
    answer = subprocess.run(command, input=sent, capture_output=True, check=False, timeout=300)
    lines = answer.stdout.splitlines()
    verdicts = [Verdict(name, **json.loads(line)) for (name, _), line in zip(files, lines, strict=False)]
    if answer.returncode or len(verdicts) < len(files):
        last = files[len(verdicts)][0] if len(verdicts) < len(files) else "none"
        pytest.fail(f"{last} ended the process with {answer.returncode}: {answer.stderr[-2000:].decode()}")
    return verdicts


def damaged(content_type: str) -> list[tuple[str, bytes]]:
    """Return photos with some bytes changed, always the same ones."""
    found = []
    for photo in photos():
        if photo.content_type != content_type:
            continue
        for number in range(DAMAGES):
            chance = random.Random(f"{photo.name}-{number}")
            data = bytearray(photo.data)
            for _ in range(1 + number * 3):
                data[chance.randrange(4, len(data))] = chance.randrange(256)
            found.append((f"{photo.name}-damage-{number}", bytes(data)))
    return found


@pytest.mark.parametrize("content_type", TYPES)
def test_no_file_does_more_than_be_refused(content_type: str) -> None:
    files = [(image.name, image.data) for image in hostile_images()]
    files += [(name, data) for name, data, _ in tolerated_images()]

    verdicts = decoded([*files, *damaged(content_type)], content_type)

    assert not [verdict for verdict in verdicts if verdict.found not in {"refused", "rendered", "no memory"}]
    assert not [verdict for verdict in verdicts if verdict.seconds > SECONDS]
    assert max(verdict.grown_mib for verdict in verdicts) < GROWTH_MIB
    assert sum(verdict.found != "rendered" for verdict in verdicts) > len(verdicts) / 2


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/png", "image/webp", "image/gif", "image/avif"])
def test_what_is_tolerated_by_the_probe_is_rendered(content_type: str) -> None:
    files = [(name, data) for name, data, kind in tolerated_images() if kind == content_type]

    refused = {verdict.name for verdict in decoded(files, content_type) if verdict.found != "rendered"}

    assert refused <= {"jpeg-100-scans"}  # so many equal scans are damage to the decoder, with every setting


def test_an_avif_beyond_the_memory_is_not_taken_for_a_broken_one() -> None:
    deep = pyvips.Image.black(5000, 4000, bands=3).linear(1, [20_000, 30_000, 40_000]).cast("ushort")
    images = [image.copy(interpretation="rgb16") for image in (deep.crop(0, 0, 50, 40), deep)]
    files = [bytes(image.heifsave_buffer(compression="av1", bitdepth=10, effort=0, Q=10)) for image in images]

    small, large = decoded([("small", files[0]), ("large", files[1])], "image/avif", LITTLE_MEMORY_BYTES)

    assert (small.found, large.found) == ("rendered", "no memory")


def test_a_picture_beyond_the_memory_is_refused_and_the_next_one_is_made() -> None:
    good = next(photo.data for photo in photos() if photo.name == "jpeg-progressive")
    at = good.index(b"\xff\xc2") + 5
    too_much = good[:at] + b"\xf0\0\xf0\0" + good[at + 4 :]

    first, second = decoded([("too-much", too_much), ("good", good)], "image/jpeg")

    assert first.found == "no memory"
    assert first.seconds < 1
    assert second.found == "rendered"
