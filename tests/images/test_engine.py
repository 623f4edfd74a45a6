"""The image engine: no photo hurts anything but the process that decodes it."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import DecoderKilledError, OverloadedError, SpoolFullError, UnavailableError, UndecodableImageError
from app.images.engine import EngineOptions, ImageEngine, JobOutcome
from app.images.engine_frames import has_news, receive_ready
from app.images.engine_process import EngineProcess, ProcessOptions
from app.images.jobs import HeifNotInstalledError, Rendered, RenderingFaultError
from app.images.presets import Format
from app.stability import Deadline, DeadlineExceededError, deadline_scope
from tests.fakes.admission import ClosedAdmission, OpenAdmission
from tests.fakes.clocks import WaitingClock
from tests.fakes.memory_body import MemoryBody
from tests.fakes.renderers import LIES, MODULE, job, pid_of
from tests.house.source import ROOT
from tests.images.processes import PATIENCE, children_of, has_a_job, is_at_work, wait_for
from tests.servers.base import stand_still

HONEST = MemoryBody(b"a photo")
EngineMaker = Callable[..., ImageEngine]


class Listener:
    """Remembers what the engine told."""

    def __init__(self) -> None:
        self.outcomes: list[JobOutcome] = []
        self.killed: list[str] = []
        self.processes = (0, 0)

    def engine_job(self, outcome: JobOutcome, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.outcomes.append(outcome)

    def decode_killed(self, reason: str) -> None:
        self.killed.append(str(reason))

    def engine_processes(self, alive: int, at_work: int) -> None:
        self.processes = (alive, at_work)


@pytest.fixture
def heard() -> Listener:
    return Listener()


@pytest.fixture
def new_engine(tmp_path: Path, heard: Listener) -> Iterator[EngineMaker]:
    with ExitStack() as closing:

        def make(
            *,
            job_seconds: float = 30,
            idle_seconds: float = 60,
            jobs_per_process: int = 100,
            renderer: str = MODULE,
            turns: OpenAdmission | ClosedAdmission | None = None,
            budget: OpenAdmission | ClosedAdmission | None = None,
        ) -> ImageEngine:
            process = ProcessOptions(
                memory_bytes=1 << 30, job_seconds=job_seconds, idle_seconds=idle_seconds, renderer=renderer
            )
            engine = ImageEngine(
                EngineOptions(process=process, jobs_per_process=jobs_per_process, scratch_dir=tmp_path),
                turns=turns or OpenAdmission(),
                budget=budget or OpenAdmission(),
                cost=lambda _body, job: job.width * job.height,
                observer=heard,
            )
            closing.callback(engine.close)
            return engine

        yield make


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the engine has logged; other threads of this process may log, too."""
    return [record for record in caplog.records if record.name == ImageEngine.__module__]


def hasten(engine: ImageEngine, job_seconds: float) -> None:
    """Let the one idle process have less time for its next job; another one has as much as the engine gives."""
    (process,) = engine._idle
    process._options = replace(process._options, job_seconds=job_seconds)


@pytest.fixture
def in_thread() -> Iterator[Callable[[ImageEngine, bytes], Future[Rendered]]]:
    with ThreadPoolExecutor() as threads:
        yield lambda engine, content: threads.submit(engine.render, MemoryBody(content), job())


def test_a_process_is_started_by_the_first_job_and_used_again(new_engine: EngineMaker, heard: Listener) -> None:
    before = children_of(os.getpid())
    engine = new_engine()
    unstarted = children_of(os.getpid())

    first, second = (pid_of(engine.render(HONEST, job())) for _ in range(2))

    assert unstarted == before
    assert first == second
    assert first in children_of(os.getpid())
    assert heard.outcomes == ["done", "done"]
    assert heard.processes == (1, 0)


def test_all_that_a_job_wants_comes_in_its_order(new_engine: EngineMaker) -> None:
    wanted = job(Format.AVIF, Format.JPEG, Format.WEBP, describes=True)

    rendered = new_engine().render(HONEST, wanted)

    assert [image.output for image in rendered.images] == list(wanted.outputs)
    assert rendered.thumbhash == "1QcSHQRnh493V4dIh4eXh1h4kJUI"
    assert rendered.dominant_color == "#a0b1c2"


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        ("null", "crash"),
        ("abort", "crash"),
        ("exit", "crash"),
        ("leave", "crash"),
        ("close-and-stay", "lie"),
        ("alarm", "time"),
        ("processor", "processor"),
        ("network", "forbidden"),
        ("fork", "forbidden"),
        ("program", "forbidden"),
        *((lie, "lie") for lie in LIES),
    ],
)
def test_a_photo_that_ruins_its_process_is_undecodable_and_the_next_one_works(
    new_engine: EngineMaker, heard: Listener, trick: str, reason: str
) -> None:
    engine = new_engine()
    ruined = pid_of(engine.render(HONEST, job()))

    with pytest.raises(UndecodableImageError):
        engine.render(MemoryBody(trick.encode()), job())
    after = pid_of(engine.render(HONEST, job()))

    assert after != ruined
    assert not Path(f"/proc/{ruined}").exists()
    assert heard.killed == [reason]
    assert heard.outcomes == ["done", "undecodable", "done"]


@pytest.mark.parametrize("trick", ["refuse", "raise", "memory"])
def test_a_photo_that_is_refused_leaves_its_process_alive(
    new_engine: EngineMaker, heard: Listener, trick: str
) -> None:
    engine = new_engine()

    with pytest.raises(UndecodableImageError) as caught:
        engine.render(MemoryBody(trick.encode()), job())
    engine.render(HONEST, job())

    assert "Export it again" in caught.value.detail
    assert heard.killed == []
    assert heard.processes == (1, 0)


def test_an_error_that_no_decoder_should_raise_is_logged(
    new_engine: EngineMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RenderingFaultError):
        new_engine().render(MemoryBody(b"raise"), job())

    (line,) = said(caplog)
    assert "ValueError: a decoder's own error" in line.message
    assert line.levelno == logging.ERROR


def test_what_crashed_is_logged_and_told_to_nobody_else(
    new_engine: EngineMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UndecodableImageError) as caught:
        new_engine().render(MemoryBody(b"null"), job())

    assert "Segmentation fault" in said(caplog)[-1].message
    assert "Segmentation" not in caught.value.detail


def test_a_missing_decoder_is_told_apart(new_engine: EngineMaker) -> None:
    with pytest.raises(HeifNotInstalledError, match="decoder is missing"):
        new_engine().render(MemoryBody(b"lack-heif"), job())


@pytest.mark.parametrize("trick", ["spin", "hang", "drip"])
def test_a_photo_that_takes_too_long_loses_its_process(new_engine: EngineMaker, heard: Listener, trick: str) -> None:
    engine = new_engine(job_seconds=10)
    engine.render(HONEST, job())
    hasten(engine, 0.3)

    with pytest.raises(UndecodableImageError):
        engine.render(MemoryBody(trick.encode()), job())
    engine.render(HONEST, job())

    assert heard.killed == ["time"]
    assert len(heard.outcomes) == 3


def test_the_callers_deadline_says_nothing_of_the_photo(new_engine: EngineMaker, heard: Listener) -> None:
    engine = new_engine()
    hung = pid_of(engine.render(HONEST, job()))
    clock = WaitingClock(lambda: bool(heard.killed))

    with pytest.raises(DeadlineExceededError), deadline_scope(Deadline(0.2, clock)):
        engine.render(MemoryBody(b"hang"), job())

    assert not Path(f"/proc/{hung}").exists()
    assert heard.killed == ["deadline"]
    assert heard.outcomes[-1] == "deadline"


def test_a_process_that_was_too_slow_to_start_serves_the_next_job(new_engine: EngineMaker, heard: Listener) -> None:
    engine = new_engine()
    clock = WaitingClock(lambda: heard.processes == (1, 1))

    with pytest.raises(DeadlineExceededError), deadline_scope(Deadline(0.02, clock)):
        engine.render(HONEST, job())
    started = children_of(os.getpid())

    assert pid_of(engine.render(HONEST, job())) in started
    assert heard.killed == []


def test_a_process_killed_while_idle_is_not_noticed(new_engine: EngineMaker, heard: Listener) -> None:
    engine = new_engine()
    idle = pid_of(engine.render(HONEST, job()))
    os.kill(idle, signal.SIGKILL)

    after = pid_of(engine.render(HONEST, job()))

    assert after != idle
    assert heard.outcomes == ["done", "done"]


def test_a_process_killed_before_it_takes_its_job_is_not_noticed(
    new_engine: EngineMaker, heard: Listener, in_thread: Callable[[ImageEngine, bytes], Future[Rendered]]
) -> None:
    engine = new_engine()
    stopped = pid_of(engine.render(HONEST, job()))
    stand_still(stopped)
    answer = in_thread(engine, b"a photo")
    wait_for(lambda: heard.processes == (1, 1))
    os.kill(stopped, signal.SIGKILL)

    rendered = answer.result(PATIENCE)

    assert pid_of(rendered) != stopped
    assert heard.killed == []


def test_a_process_that_stands_still_before_it_takes_a_photo_is_replaced(
    new_engine: EngineMaker, heard: Listener
) -> None:
    engine = new_engine()
    stopped = pid_of(engine.render(HONEST, job()))
    hasten(engine, 0.3)
    stand_still(stopped)

    rendered = engine.render(HONEST, job())

    assert pid_of(rendered) != stopped
    assert heard.killed == []
    assert heard.outcomes == ["done", "done"]


@pytest.mark.parametrize("seconds", [PATIENCE, math.inf], ids=["deadline", "none"])
def test_a_process_that_was_ready_in_time_is_used_however_late_it_is_asked(seconds: float) -> None:
    options = ProcessOptions(memory_bytes=1 << 30, job_seconds=30, idle_seconds=60, start_seconds=0, renderer=MODULE)
    with closing(EngineProcess(options)) as process:
        wait_for(lambda: has_news(process._channel.connection, 0))

        process.await_ready(seconds)

        assert process.is_idle()


def test_a_process_killed_at_work_costs_that_job_alone(
    new_engine: EngineMaker, heard: Listener, in_thread: Callable[[ImageEngine, bytes], Future[Rendered]]
) -> None:
    engine = new_engine()
    spinning = pid_of(engine.render(HONEST, job()))
    answer = in_thread(engine, b"spin")
    wait_for(lambda: is_at_work(spinning))
    os.kill(spinning, signal.SIGKILL)

    with pytest.raises(UnavailableError):
        answer.result(PATIENCE)

    assert heard.killed == ["outside"]
    engine.render(HONEST, job())


@pytest.mark.parametrize("trick", ["killed", "die-answering"])
def test_a_process_killed_from_outside_says_nothing_of_the_photo(
    new_engine: EngineMaker, heard: Listener, trick: str
) -> None:
    engine = new_engine()

    with pytest.raises(DecoderKilledError) as caught:
        engine.render(MemoryBody(trick.encode()), job())
    engine.render(HONEST, job())

    assert caught.value.retry_after_seconds == 2
    assert heard.killed == ["outside"]


def test_a_caller_that_is_torn_away_leaves_no_process_behind_that_still_works(
    new_engine: EngineMaker, heard: Listener
) -> None:
    class TornAwayError(Exception):
        pass

    def tear_away(_number: int, _frame: object) -> None:
        raise TornAwayError

    def interrupt() -> None:
        wait_for(lambda: is_at_work(hung))
        os.kill(os.getpid(), signal.SIGUSR1)

    engine = new_engine()
    hung = pid_of(engine.render(HONEST, job()))
    before = signal.signal(signal.SIGUSR1, tear_away)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(interrupt)

        with pytest.raises(TornAwayError):
            engine.render(MemoryBody(b"hang"), job())

    signal.signal(signal.SIGUSR1, before)
    assert not Path(f"/proc/{hung}").exists()
    assert heard.processes == (0, 0)


def test_one_photo_hangs_while_others_are_rendered(
    new_engine: EngineMaker, heard: Listener, in_thread: Callable[[ImageEngine, bytes], Future[Rendered]]
) -> None:
    engine = new_engine()
    hanging = in_thread(engine, b"hang")
    wait_for(lambda: heard.processes == (1, 1))

    engine.render(HONEST, job())

    assert not hanging.done()
    engine.close()
    with pytest.raises(UnavailableError):
        hanging.result(PATIENCE)


def test_an_idle_process_ends_by_itself(new_engine: EngineMaker, heard: Listener) -> None:
    engine = new_engine(idle_seconds=0.1)
    idle = pid_of(engine.render(HONEST, job()))

    wait_for(lambda: engine.prune() == (0, 0))

    assert heard.processes == (0, 0)
    assert not Path(f"/proc/{idle}").exists()
    assert pid_of(engine.render(HONEST, job())) != idle


def test_a_process_is_replaced_after_its_share_of_jobs(new_engine: EngineMaker) -> None:
    engine = new_engine(jobs_per_process=2)

    first, second, third = (pid_of(engine.render(HONEST, job())) for _ in range(3))

    assert first == second != third
    assert not Path(f"/proc/{first}").exists()


def test_a_closed_engine_takes_no_job_and_leaves_no_process(new_engine: EngineMaker, heard: Listener) -> None:
    engine = new_engine()
    idle = pid_of(engine.render(HONEST, job()))

    engine.close()
    engine.close()

    assert not Path(f"/proc/{idle}").exists()
    assert heard.processes == (0, 0)
    with pytest.raises(UnavailableError):
        engine.render(HONEST, job())


def test_a_job_at_work_is_waited_for_while_the_engine_closes(
    new_engine: EngineMaker, heard: Listener, in_thread: Callable[[ImageEngine, bytes], Future[Rendered]]
) -> None:
    engine = new_engine()
    working = pid_of(engine.render(HONEST, job()))
    stand_still(working)
    answer = in_thread(engine, b"a photo")
    wait_for(lambda: heard.processes == (1, 1))
    closing = threading.Thread(target=engine.close, args=(PATIENCE,))
    closing.start()
    os.kill(working, signal.SIGCONT)

    rendered = answer.result(PATIENCE)

    closing.join(PATIENCE)
    assert pid_of(rendered) == working
    assert not Path(f"/proc/{working}").exists()


def test_a_job_that_does_not_end_is_ended_with_the_engine(
    new_engine: EngineMaker, heard: Listener, in_thread: Callable[[ImageEngine, bytes], Future[Rendered]]
) -> None:
    engine = new_engine()
    answer = in_thread(engine, b"hang")
    wait_for(lambda: heard.processes == (1, 1))

    engine.close(drain_seconds=0.1)

    with pytest.raises(UnavailableError):
        answer.result(PATIENCE)
    assert heard.processes == (0, 0)
    assert heard.killed == ["closed"]


def test_the_last_word_on_processes_is_how_they_stand_whoever_is_slow_to_tell(
    new_engine: EngineMaker,
    heard: Listener,
    in_thread: Callable[[ImageEngine, bytes], Future[Rendered]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    telling, overtaken, tell = threading.Event(), threading.Event(), heard.engine_processes

    def tell_slowly(alive: int, at_work: int) -> None:
        if (alive, at_work) == (1, 0):
            telling.set()
            overtaken.wait(0.5)
        tell(alive, at_work)
        if not alive:
            overtaken.set()

    monkeypatch.setattr(heard, "engine_processes", tell_slowly)
    engine = new_engine()
    answer = in_thread(engine, b"a photo")
    assert telling.wait(PATIENCE)

    engine.close()
    answer.result(PATIENCE)

    assert heard.processes == (0, 0)


def test_a_job_asks_for_a_turn_and_for_its_pixels_in_its_class(new_engine: EngineMaker) -> None:
    turns, budget = OpenAdmission(), OpenAdmission()
    engine = new_engine(turns=turns, budget=budget)

    engine.render(HONEST, job())
    engine.render(HONEST, job(), background=True)

    assert turns.asked == [(1, False), (1, True)]
    assert budget.asked == [(1_000_000, False), (1_000_000, True)]
    assert (turns.inside, budget.inside) == (0, 0)


@pytest.mark.parametrize("closed", ["turns", "budget"])
def test_a_job_without_a_turn_starts_no_process(new_engine: EngineMaker, heard: Listener, closed: str) -> None:
    engine = new_engine(**{closed: ClosedAdmission()})

    with pytest.raises(OverloadedError) as caught:
        engine.render(HONEST, job())

    assert caught.value.retry_after_seconds == 3
    assert heard.outcomes == ["overloaded"]
    assert heard.processes == (0, 0)


def test_an_engine_that_cannot_start_says_so_and_logs_why(
    new_engine: EngineMaker, heard: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    engine = new_engine(renderer="tests.fakes.no_such_renderer")

    with pytest.raises(UnavailableError) as caught:
        engine.render(HONEST, job())

    assert "no_such_renderer" not in caught.value.detail
    assert "ModuleNotFoundError" in said(caplog)[-1].message
    assert heard.killed == ["start"]


def test_a_full_scratch_folder_is_told_and_starts_nothing(
    new_engine: EngineMaker, heard: Listener, tmp_path: Path
) -> None:
    engine = new_engine()
    tmp_path.rmdir()

    with pytest.raises(SpoolFullError):
        engine.render(MemoryBody(bytes(2 * 1024 * 1024)), job())

    assert heard.processes == (0, 0)
    tmp_path.mkdir()


def test_an_original_that_fills_the_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from app.errors import SpoolFullError\n"
        "from tests.chaos.test_engine import open_engine\n"
        "from tests.fakes.memory_body import MemoryBody\n"
        "from tests.fakes.renderers import MODULE, job\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))\n"
        "with open_engine(Path(sys.argv[1]), renderer=MODULE) as engine:\n"
        "    try:\n"
        "        engine.render(MemoryBody(bytes(2_000_000)), job())\n"
        "    except SpoolFullError as error:\n"
        "        print(error.retry_after_seconds, error.__cause__.errno == 27, list(Path(sys.argv[1]).iterdir()))\n"
        "    engine.render(MemoryBody(b'a photo'), job())\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "5 True []\n"


def test_a_process_is_told_no_secret(new_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTO_API_DATABASE__URL", "postgresql://somebody:secret@db")
    pid = pid_of(new_engine().render(HONEST, job()))

    environment = Path(f"/proc/{pid}/environ").read_bytes()
    names = {line.partition(b"=")[0].decode() for line in environment.split(b"\0") if line}

    assert b"secret" not in environment + Path(f"/proc/{pid}/cmdline").read_bytes()
    assert names - {"LANG", "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONFAULTHANDLER"} == {
        "MALLOC_ARENA_MAX",
        "VIPS_BLOCK_UNTRUSTED",
        "VIPS_CONCURRENCY",
        "VIPS_DISC_THRESHOLD",
    }


def test_a_process_inherits_no_descriptor_but_its_own(new_engine: EngineMaker) -> None:
    with socket.socket() as listener:
        listener.set_inheritable(True)

        pid = pid_of(new_engine().render(HONEST, job()))

        wait_for(lambda: not has_a_job(pid))  # nothing but its input, output, errors and its socket
        assert Path(f"/proc/self/fd/{listener.fileno()}").readlink() not in {
            each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir()
        }


def test_a_kernel_that_refuses_the_filter_is_told_once_and_work_goes_on(
    new_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.images.engine_process.receive_ready", lambda channel: not receive_ready(channel))
    engine = new_engine(jobs_per_process=1)

    for _ in range(2):
        engine.render(HONEST, job())

    (line,) = said(caplog)
    assert "refuses a filter" in line.message


def test_killed_processes_leave_no_descriptor_behind(new_engine: EngineMaker) -> None:
    engine = new_engine()
    engine.render(HONEST, job())
    before = len(
        list(Path("/proc/self/fd").iterdir())
    )  # others of this process may close some, and open for a moment

    for _ in range(10):
        with pytest.raises(UndecodableImageError):
            engine.render(MemoryBody(b"abort"), job())
    engine.render(HONEST, job())

    wait_for(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)
