"""The image engine with its real decoders: killed at every stage, orphaned, and fed with what is meant to hurt it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import pyvips

from app.errors import UnavailableError, UndecodableImageError
from app.images import rendering
from app.images.budget import PixelBudget
from app.images.engine import Admission, EngineOptions, ImageEngine
from app.images.engine_process import ProcessOptions
from app.images.jobs import Output, RenderJob
from app.images.originals import original_descriptor
from app.images.presets import Format, Preset, Quality
from tests.fakes.admission import OpenAdmission
from tests.fakes.hostile_images import hostile_images, tolerated_images
from tests.fakes.images import encoded
from tests.fakes.memory_body import MemoryBody
from tests.fakes.photos import photos
from tests.house.source import ROOT
from tests.images.cgroups import memory_cgroup
from tests.images.processes import await_gone, children_of, is_at_work, wait_for
from tests.servers.base import stand_still

MEGABYTES = 1024 * 1024
TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/avif", "image/heic")
TICKS = os.sysconf("SC_CLK_TCK")
ORPHANED = """
import signal, sys, threading
from pathlib import Path
from tests.chaos.test_engine import open_engine
from tests.fakes.memory_body import MemoryBody
from tests.fakes.renderers import MODULE, job

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGIO])
with open_engine(Path(sys.argv[1]), renderer=MODULE, job_seconds=float(sys.argv[3])) as engine:
    engine.render(MemoryBody(b"a photo"), job())
    print("ready", flush=True)
    if sys.argv[2] != "idle":
        engine.render(MemoryBody(sys.argv[2].encode()), job())
    threading.Event().wait()
"""
IN_CGROUP = """
import os, sys
from pathlib import Path

group, folder, way = sys.argv[1:]
Path(group, "cgroup.procs").write_text(str(os.getpid()))

from app.errors import DecoderKilledError
from app.images import rendering
from app.images.originals import original_descriptor
from tests.chaos.test_engine import MEGABYTES, job_for, open_engine, render
from tests.fakes.images import encoded
from tests.fakes.memory_body import MemoryBody

large = MemoryBody(Path(folder, "large.png").read_bytes())
job = job_for("image/png", large.size_bytes)
ballast = bytearray(b"x") * (100 * MEGABYTES)
if way == "in the worker":
    with original_descriptor(large, Path(folder)) as descriptor:
        rendering.render(descriptor, job)
with open_engine(Path(folder), memory_bytes=4096 * MEGABYTES) as engine:
    try:
        engine.render(large, job)
    except DecoderKilledError:
        print("refused")
    render(engine, MemoryBody(encoded("JPEG", 1000, 750)))
    print("the next one works")
"""


@contextmanager
def open_engine(
    folder: Path,
    *,
    renderer: str = "app.images.rendering",
    job_seconds: float = 30,
    memory_bytes: int = 512 * MEGABYTES,
    turns: Admission | None = None,
) -> Iterator[ImageEngine]:
    """Open an engine that by default admits everything."""
    process = ProcessOptions(memory_bytes=memory_bytes, job_seconds=job_seconds, idle_seconds=60, renderer=renderer)
    engine = ImageEngine(
        EngineOptions(process=process, jobs_per_process=1000, scratch_dir=folder),
        turns=turns or OpenAdmission(),
        budget=OpenAdmission(),
        cost=lambda _body, job: job.width,
    )
    with closing(engine):
        yield engine


def job_for(content_type: str, size_bytes: int, *formats: Format) -> RenderJob:
    return RenderJob(
        content_type=content_type,
        width=8000,
        height=8000,
        size_bytes=size_bytes,
        outputs=tuple(Output(Preset("full", 1000), each) for each in formats or (Format.JPEG,)),
        quality=Quality(avif_effort=2),
        describes=True,
    )


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ImageEngine]:
    with open_engine(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def photo() -> MemoryBody:
    """A photo whose AVIF takes about half a second."""
    return MemoryBody(encoded("JPEG", 1000, 750))


def render(engine: ImageEngine, body: MemoryBody) -> int:
    """Have the photo made as AVIF; return which process did it."""
    before = children_of(os.getpid())
    engine.render(body, job_for("image/jpeg", body.size_bytes, Format.AVIF))
    return next(iter(children_of(os.getpid()) - before), 0)


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def has_worked(answer: Future[int], pid: int, seconds: float) -> bool:
    return answer.done() or processor_seconds(pid) >= seconds


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.9])
def test_a_kill_at_any_stage_of_a_real_photo_costs_that_job_alone(
    engine: ImageEngine, photo: MemoryBody, part: float
) -> None:
    for _ in range(10):  # a kill that comes too late on a busy host says nothing
        pid = render(engine, photo)
        start = processor_seconds(pid)
        render(engine, photo)
        whole = processor_seconds(pid) - start

        with ThreadPoolExecutor(1) as threads:
            begun = processor_seconds(pid)
            answer = threads.submit(render, engine, photo)
            wait_for(partial(has_worked, answer, pid, begun + part * whole))
            os.kill(pid, signal.SIGKILL)
            lost = answer.exception(30)
        if lost is not None:
            break

    assert isinstance(lost, UnavailableError)
    assert lost.retry_after_seconds is not None
    assert render(engine, photo) not in {0, pid}


def test_a_kill_in_a_crowd_costs_at_most_one_job_and_the_engine_goes_on(tmp_path: Path, photo: MemoryBody) -> None:
    others = children_of(os.getpid())  # servers of other tests
    with open_engine(tmp_path, turns=PixelBudget(2, 30.0)) as engine, ThreadPoolExecutor(8) as threads:
        wanted = job_for("image/jpeg", photo.size_bytes, Format.WEBP)
        wait(threads.submit(engine.render, photo, wanted) for _ in range(8))

        for place in range(8):
            answers = [threads.submit(engine.render, photo, wanted) for _ in range(8)]
            wait(answers[:place])  # each time somewhere else in the crowd
            with suppress(ProcessLookupError):  # the one before, which has just been cleared away
                os.kill(next(iter(children_of(os.getpid()) - others)), signal.SIGKILL)
            lost = [error for answer in answers if (error := answer.exception(30)) is not None]

            assert len(lost) <= 1
            assert all(isinstance(error, UnavailableError) for error in lost)
            engine.render(photo, wanted)


@pytest.mark.parametrize("word", [signal.SIGTERM, signal.SIGINT])
def test_a_word_to_the_whole_group_does_not_end_a_process_that_its_parent_drains(
    engine: ImageEngine, photo: MemoryBody, word: signal.Signals
) -> None:
    pid = render(engine, photo)

    os.kill(pid, word)

    assert render(engine, photo) == 0
    assert pid in children_of(os.getpid())


@pytest.mark.parametrize("state", ["idle", "spin", "hang"])
def test_a_process_ends_at_once_with_its_parent(tmp_path: Path, state: str) -> None:
    with running_parent(tmp_path, state, job_seconds=60) as (parent, child):
        began = time.monotonic()

        parent.kill()
        parent.wait()
        await_gone(child)

    assert time.monotonic() - began < 20  # by their own limits they would end after a minute


@pytest.mark.parametrize("state", ["spin", "hang"])
def test_a_process_ends_by_its_own_limits_when_its_parent_stands_still(tmp_path: Path, state: str) -> None:
    with running_parent(tmp_path, state, job_seconds=3) as (parent, child):
        stand_still(parent.pid)

        await_gone(child)


@contextmanager
def running_parent(folder: Path, state: str, *, job_seconds: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a program with an engine whose process is idle, spins or hangs; the thread had put off signals."""
    command = [sys.executable, "-c", ORPHANED, str(folder), state, str(job_seconds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "ready\n"
            (child,) = children_of(parent.pid)
            wait_for(lambda: state == "idle" or is_at_work(child))
            yield parent, child
        finally:
            parent.kill()


def test_row_39_the_host_ends_the_process_with_the_photo_before_the_worker(
    engine: ImageEngine, photo: MemoryBody
) -> None:
    ballast = bytearray(200 * MEGABYTES)
    pid = render(engine, photo)

    scores = [int(Path(f"/proc/{each}/oom_score").read_text()) for each in (pid, os.getpid())]

    assert scores[0] > scores[1], f"beside {len(ballast)} bytes"


@pytest.mark.parametrize(("megabytes", "is_made"), [(256, False), (1024, True)])
def test_row_39_a_photo_that_eats_memory_is_undecodable_and_the_next_one_works(
    tmp_path: Path, photo: MemoryBody, megabytes: int, is_made: bool
) -> None:
    # Interlaced: all of its 192 MB have to be there at once.
    large = MemoryBody(bytes(pyvips.Image.black(8000, 8000, bands=3).pngsave_buffer(interlace=True)))

    with open_engine(tmp_path, memory_bytes=megabytes * MEGABYTES) as engine:
        if is_made:
            engine.render(large, job_for("image/png", large.size_bytes))
        else:
            with pytest.raises(UndecodableImageError):
                engine.render(large, job_for("image/png", large.size_bytes))

        render(engine, photo)


@pytest.mark.parametrize(
    ("way", "ended", "said"),
    [
        pytest.param("in the engine", 0, "refused\nthe next one works\n", id="in the engine"),
        pytest.param("in the worker", -signal.SIGKILL, "", id="control: decoded by the worker itself"),
    ],
)
def test_row_39_a_cgroup_without_memory_loses_the_process_with_the_photo_and_no_worker(
    tmp_path: Path, way: str, ended: int, said: str
) -> None:
    large = pyvips.Image.black(8000, 8000, bands=3).pngsave_buffer(interlace=True)
    (tmp_path / "large.png").write_bytes(large)

    with memory_cgroup(300 * MEGABYTES) as group:
        command = [sys.executable, "-c", IN_CGROUP, str(group), str(tmp_path), way]
        worker = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60, check=False)

    assert (worker.returncode, worker.stdout) == (ended, said)


def test_what_is_meant_to_hurt_a_decoder_hurts_at_most_its_process(engine: ImageEngine, photo: MemoryBody) -> None:
    pid = render(engine, photo)
    files = [(image.name, image.data) for image in hostile_images()]
    files += [(name, data) for name, data, _ in tolerated_images()]
    told = []

    for place, (name, data) in enumerate(files):
        # As what it says it is, and as something else.
        own = next((each for each in TYPES if each.removeprefix("image/") in name), TYPES[0])
        for content_type in {own, TYPES[place % len(TYPES)]}:
            try:
                engine.render(MemoryBody(data), job_for(content_type, len(data)))
            except UndecodableImageError as error:
                told.append(error.detail)

    assert len(told) > len(files)
    assert {detail.partition(".")[0] for detail in told} <= {
        "The pixels of this photo cannot be decoded",
        "This photo takes more memory than this server gives to one",
    }
    assert render(engine, photo) in {0, pid}


def test_a_confined_process_makes_what_an_unconfined_one_makes(engine: ImageEngine) -> None:
    for photo in photos():
        body = MemoryBody(photo.data)
        wanted = job_for(photo.content_type, body.size_bytes, *Format)

        with original_descriptor(body, Path()) as descriptor:
            assert engine.render(body, wanted) == rendering.render(descriptor, wanted), photo.name
