"""Hostile files all at once, and a batch with photos beyond the budget: the engine with its decoders, as configured.

Each file goes the way of an upload that is decoded first: the probe, then the engine. A second time all of them go
past the probe, for the day on which it misses something.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import pyvips

from app.errors import OverloadedError, RequestError
from app.images.budget import PixelBudget
from app.images.build import build_engine
from app.images.cost import cost_of
from app.images.engine import EngineOptions, ImageEngine
from app.images.engine_process import ProcessOptions
from app.images.jobs import Output, Rendered, RenderJob
from app.images.presets import Format, Preset, Quality
from app.images.probe import probe
from app.settings_renditions import RenditionSettings
from tests.fakes.hostile_images import hostile_images, tolerated_images
from tests.fakes.images import encoded
from tests.fakes.memory_body import MemoryBody

MIB = 1024 * 1024
THREADS = 8
SECONDS = 1.0
MEASURES = 3
GROWTH_BYTES = 64 * MIB
TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/avif", "image/heic")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one file.

    Attributes:
        name: Its name.
        found: ``rendered``, or the error's name.
        seconds: How long it took.
        processor_seconds: How long this process worked for it.
    """

    name: str
    found: str
    seconds: float
    processor_seconds: float


def job_for(content_type: str, size_bytes: int, width: int = 1000, height: int = 1000) -> RenderJob:
    return RenderJob(
        content_type=content_type,
        width=width,
        height=height,
        size_bytes=size_bytes,
        outputs=(Output(Preset("thumbnail", 320), Format.WEBP),),
        quality=Quality(),
        describes=True,
    )


@cache
def good() -> MemoryBody:
    return MemoryBody(encoded("JPEG", 640, 480))


def render_good(engine: ImageEngine) -> Rendered:
    return engine.render(good(), job_for("image/jpeg", good().size_bytes, 640, 480))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ImageEngine]:
    settings = RenditionSettings(scratch_dir=tmp_path, queue_seconds=60, job_seconds=5, processes=2)
    with closing(build_engine(settings)) as opened:
        render_good(opened)
        yield opened


def resident(field: str) -> int:
    """Return a figure of this process's memory, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def grown_by(work: Callable[[], object]) -> int:
    """Return by how many bytes this process grows at its peak while something is done."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def sent(name: str, work: Callable[[], object]) -> Answer:
    """Return what became of a file."""
    started, worked = time.monotonic(), time.thread_time()
    try:
        work()
    except (RequestError, OverloadedError) as error:
        found = type(error).__name__
    else:
        found = "rendered"
    return Answer(name, found, time.monotonic() - started, time.thread_time() - worked)


def upload(engine: ImageEngine, data: bytes) -> None:
    """Send a file the way of an upload that is decoded first."""
    body = MemoryBody(data)
    facts = probe(body)
    engine.render(body, job_for(facts.content_type, body.size_bytes, facts.width, facts.height))


def costly(
    answers: list[Answer], again: Callable[[str], Answer], is_costly: Callable[[Answer], bool]
) -> list[Answer]:
    """Return the answers that are too costly each time: a file's fault comes again, a busy machine's does not."""
    found = [answer for answer in answers if is_costly(answer)]
    for _ in range(MEASURES - 1):
        found = [answer for answer in (again(answer.name) for answer in found) if is_costly(answer)]
    return found


def test_the_measure_of_growth_sees_what_was_given_back_again() -> None:
    assert grown_by(lambda: bytearray(b"x") * (2 * GROWTH_BYTES)) > GROWTH_BYTES


def test_every_hostile_file_alone_is_refused_within_a_second(engine: ImageEngine) -> None:
    files = {image.name: image.data for image in hostile_images()}

    def send(name: str) -> Answer:
        return sent(name, lambda: upload(engine, files[name]))

    answers = [send(name) for name in files]

    assert [answer for answer in answers if answer.found == "rendered"] == []
    assert costly(answers, send, lambda answer: answer.seconds > SECONDS) == []


def test_all_hostile_files_at_once_cost_little_time_and_memory_and_the_next_photo_works(engine: ImageEngine) -> None:
    files = {image.name: image.data for image in hostile_images()}
    files |= {f"{name}, tolerated": data for name, data, _ in tolerated_images()}
    answers: list[Answer] = []

    def send(name: str) -> Answer:
        return sent(name, lambda: upload(engine, files[name]))

    def storm() -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            answers.extend(threads.map(send, files))

    grown = grown_by(storm)

    refused = {answer.name for answer in answers if answer.found != "rendered"}
    assert refused >= {image.name for image in hostile_images()}
    assert [answer for answer in answers if answer.found == "OverloadedError"] == []
    # All of them are at work in one process, so that each has its part of the second.
    assert costly(answers, send, lambda answer: answer.processor_seconds > SECONDS / THREADS) == []
    assert grown < GROWTH_BYTES
    assert render_good(engine).thumbhash


def test_hostile_files_past_the_probe_hurt_engine_processes_at_most(engine: ImageEngine) -> None:
    files = {image.name: (image.data, TYPES[place % len(TYPES)]) for place, image in enumerate(hostile_images())}
    answers: list[Answer] = []

    def give(name: str) -> Answer:
        data, content_type = files[name]
        return sent(name, lambda: engine.render(MemoryBody(data), job_for(content_type, len(data))))

    def storm() -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            answers.extend(threads.map(give, files))

    grown = grown_by(storm)

    assert {answer.found for answer in answers} <= {"UndecodableImageError", "TooCostlyError", "rendered"}
    # All of them are at work in one process, so that each has its part of the second.
    assert costly(answers, give, lambda answer: answer.processor_seconds > SECONDS / THREADS) == []
    assert grown < GROWTH_BYTES
    assert render_good(engine).thumbhash


class WatchedBudget(PixelBudget):
    """A budget that remembers how much was taken, and who was alone."""

    def __init__(self, total: int) -> None:
        super().__init__(total, 600)
        self.taken: list[int] = []

    @contextmanager
    def admit(self, cost: int, /, *, background: bool) -> Iterator[None]:
        with super().admit(cost, background=background):
            self.taken.append(self.in_use)
            yield


@pytest.mark.parametrize("background", [False, True], ids=["on demand", "background"])
def test_a_batch_in_which_2_of_10_photos_exceed_the_budget_completes_10_of_10(
    tmp_path: Path, background: bool
) -> None:
    large = bytes(pyvips.Image.black(4000, 4000, bands=3).pngsave_buffer(interlace=True))
    jobs = [(good(), job_for("image/jpeg", good().size_bytes, 640, 480)) for _ in range(8)]
    jobs += [(MemoryBody(large), job_for("image/png", len(large), 4000, 4000)) for _ in range(2)]
    costs = [cost_of(body, job) for body, job in jobs]
    budget = WatchedBudget(3 * costs[0])
    process = ProcessOptions(memory_bytes=1 << 30, job_seconds=60, idle_seconds=60)
    engine = ImageEngine(
        EngineOptions(process=process, jobs_per_process=100, scratch_dir=tmp_path),
        turns=PixelBudget(4, 600),
        budget=budget,
        cost=cost_of,
    )

    with closing(engine), ThreadPoolExecutor(10) as threads:
        # The large ones stand in the middle.
        order = [*jobs[:4], *jobs[8:], *jobs[4:8]]
        made = list(threads.map(lambda each: engine.render(*each, background=background), order))

    assert [cost > budget.total for cost in costs] == [False] * 8 + [True] * 2
    assert [len(rendered.images) for rendered in made] == [1] * 10
    assert max(budget.taken) == budget.total
    assert (budget.in_use, budget.waiting) == (0, 0)
