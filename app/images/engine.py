"""The image engine: photos are decoded and encoded in processes of its own, never in a web worker.

::

    render ─► a turn ─► room for its pixels ─► a process, idle or new ─► judged answer ─► back to the idle ones
              (queue, by class, or 503)                 ╰── refuses: 422, lives on
                                                        ╰── crashes, is killed, lies: 422, is replaced

Each process has one job at a time and a socket of its own; no lock, queue or memory is shared with it or among
them. So the death of one, at whatever instant, costs its own job and nothing else.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, Protocol, TypeAlias

from app.errors import DecoderKilledError, OverloadedError, UnavailableError, UndecodableImageError
from app.images.engine_frames import RefusalCode, RefusedError
from app.images.engine_process import EngineProcess, Loss, ProcessLostError, ProcessOptions
from app.images.jobs import HeifNotInstalledError, Rendered, RenderingFaultError, RenderJob, TooCostlyError
from app.images.originals import original_descriptor
from app.stability import DeadlineExceededError, remaining_seconds
from app.storage.base import Body

_log = logging.getLogger(__name__)

JobOutcome: TypeAlias = Literal["done", "undecodable", "overloaded", "unavailable", "deadline"]
"""How a job ended."""

_UNDECODABLE: Final = "The pixels of this photo cannot be decoded. Export it again, or try another file."
_TOO_SLOW: Final = "This photo takes longer than this server gives to one. Export it again, smaller."
_TOO_LARGE: Final = "This photo takes more memory than this server gives to one. Export it again, smaller."
_NO_HEIF: Final = "HEIC and HEIF photos are stored here, but cannot be shown: a decoder is missing."
_TRY_AGAIN: Final = "Photos cannot be rendered at this moment. Try again later."
_RETRY_SECONDS: Final = 2.0
_TRIES: Final = 3
_END_SECONDS: Final = 5.0
_PHOTOS_FAULT: Final = frozenset({Loss.TIME, Loss.PROCESSOR, Loss.CRASH, Loss.FORBIDDEN, Loss.LIE})
_ALARMING: Final = frozenset({Loss.FORBIDDEN, Loss.LIE, Loss.START})


class Admission(Protocol):
    """A queue in front of something that is limited."""

    def admit(self, cost: int, /, *, background: bool) -> AbstractContextManager[Any]:
        """Wait for a share of what is limited, and hold it for the block.

        Args:
            cost: How much of it.
            background: Whether everybody else goes first.

        Raises:
            OverloadedError: It was not this one's turn in time.
            DeadlineExceededError: The current deadline has passed.
        """
        ...


class EngineObserver(Protocol):
    """Who hears of the engine's work. Thread-safe, and quick."""

    def engine_job(self, outcome: JobOutcome, seconds: float) -> None:
        """A job has ended, after so many seconds, waiting included."""
        ...

    def decode_killed(self, reason: str) -> None:
        """A process with a job is no more, for a reason of :class:`~app.images.engine_process.Loss`."""
        ...

    def engine_processes(self, alive: int, at_work: int) -> None:
        """So many processes run, and so many of them have a job."""
        ...


class _Silence:
    def engine_job(self, outcome: JobOutcome, seconds: float) -> None: ...

    def decode_killed(self, reason: str) -> None: ...

    def engine_processes(self, alive: int, at_work: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What the engine may take.

    Attributes:
        process: Of each of its processes.
        jobs_per_process: After so many photos a process is replaced by a fresh one.
        scratch_dir: Folder of originals that have no file of their own; it must exist.
    """

    process: ProcessOptions
    jobs_per_process: int
    scratch_dir: Path


class ImageEngine:
    """Renders photos in processes of its own. Thread-safe; the first job starts the first process.

    One per web worker, made after the worker was forked.

    Args:
        options: What it may take.
        turns: Admits as many jobs as there may be processes, each at a cost of 1.
        budget: Admits decoded pixels, in bytes.
        cost: What a job costs of the budget, in bytes, by the original and what is wanted.
        observer: Who hears of its work.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        turns: Admission,
        budget: Admission,
        cost: Callable[[Body, RenderJob], int],
        observer: EngineObserver | None = None,
    ) -> None:
        self._options = options
        self._turns = turns
        self._budget = budget
        self._cost = cost
        self._observer: EngineObserver = observer or _Silence()
        self._changed = threading.Condition()
        self._idle: list[EngineProcess] = []
        self._working: set[EngineProcess] = set()
        self._jobs = 0
        self._closed = False
        self._warned = False

    def render(self, body: Body, job: RenderJob, *, background: bool = False) -> Rendered:
        """Render a photo; blocks until it is done.

        Args:
            body: The original.
            job: What it is, and what is to be made of it.
            background: Whether jobs that somebody waits for go first.

        Raises:
            UndecodableImageError: The decoder refused the photo, crashed, or took too much.
            HeifNotInstalledError: This server has no decoder for it.
            TooCostlyError: It took more time or memory than one photo may.
            RenderingFaultError: Something else failed than the decoder.
            OverloadedError: There was no turn in time.
            DecoderKilledError: It was killed from outside, which says nothing of the photo.
            UnavailableError: No process can be started.
            SpoolFullError: The scratch folder is full.
            DeadlineExceededError: The current deadline has passed.
        """
        with self._observed(), self._counted():
            turn = self._turns.admit(1, background=background)
            with turn, self._budget.admit(self._cost(body, job), background=background):
                remaining_seconds(math.inf)
                with original_descriptor(body, self._options.scratch_dir) as descriptor:
                    return self._render(descriptor, job)

    def prune(self) -> tuple[int, int]:
        """Clear away processes that have ended while they were idle.

        Returns:
            How many run, and how many of them have a job; the observer hears it too.
        """
        with self._changed:
            ended = [process for process in self._idle if not process.is_alive()]
            self._idle = [process for process in self._idle if process not in ended]
        for process in ended:
            process.close()
        return self._tell()

    def close(self, drain_seconds: float = 0.0) -> None:
        """Take no more jobs, wait for those at work, then end all processes. Safe to call twice.

        Args:
            drain_seconds: How long jobs at work may go on; then they end with :class:`UnavailableError`.
        """
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._jobs == 0, drain_seconds)
            idle, self._idle = self._idle, []
            for process in self._working:
                process.kill()
            self._changed.wait_for(lambda: not self._working, _END_SECONDS)
        for process in idle:
            process.close()
        self._tell()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            if self._closed:
                raise UnavailableError(_TRY_AGAIN, retry_after_seconds=_RETRY_SECONDS)
            self._jobs += 1
        try:
            yield
        finally:
            with self._changed:
                self._jobs -= 1
                self._changed.notify_all()

    @contextmanager
    def _observed(self) -> Iterator[None]:
        started = time.monotonic()
        outcome: JobOutcome = "unavailable"
        try:
            yield
            outcome = "done"
        except UndecodableImageError:
            outcome = "undecodable"
            raise
        except OverloadedError:
            outcome = "overloaded"
            raise
        except DeadlineExceededError:
            outcome = "deadline"
            raise
        finally:
            self._observer.engine_job(outcome, time.monotonic() - started)

    def _render(self, descriptor: int, job: RenderJob) -> Rendered:
        for _ in range(_TRIES):
            with self._at_work() as process:
                try:
                    self._await_ready(process)
                    return process.render(descriptor, job, remaining_seconds(math.inf))
                except RefusedError as refused:
                    _raise_refusal(refused)
                except ProcessLostError as lost:
                    if lost.loss is not Loss.GONE:  # it ended without having seen the photo: another one takes it
                        self._raise_loss(lost)
        raise UnavailableError(_TRY_AGAIN, retry_after_seconds=_RETRY_SECONDS)

    def _await_ready(self, process: EngineProcess) -> None:
        try:
            process.await_ready(remaining_seconds(math.inf))
        except DeadlineExceededError:
            raise
        except TimeoutError as error:
            remaining_seconds(math.inf)  # raises: nobody waits any longer; the process is ready for the next one
            raise UnavailableError(_TRY_AGAIN, retry_after_seconds=_RETRY_SECONDS) from error
        if not process.confined and not self._warned:
            self._warned = True
            _log.warning("the kernel refuses a filter of system calls: photos are decoded with limits alone")

    @contextmanager
    def _at_work(self) -> Iterator[EngineProcess]:
        """Take an idle process, the one that worked last, or start one; an old or lost one is not kept."""
        process = self._take()
        try:
            yield process
        finally:
            with self._changed:
                self._working.discard(process)
                keeps = not self._closed and process.jobs < self._options.jobs_per_process and process.is_idle()
                if keeps:
                    self._idle.append(process)
                self._changed.notify_all()
            if not keeps:
                process.close()
            self._tell()

    def _take(self) -> EngineProcess:
        process = self._idle_one() or self._started()
        with self._changed:
            self._working.add(process)
            if self._closed:
                process.kill()
        self._tell()
        return process

    def _idle_one(self) -> EngineProcess | None:
        while True:
            with self._changed:
                if not self._idle:
                    return None
                process = self._idle.pop()
            if process.is_idle():
                return process
            process.close()

    def _started(self) -> EngineProcess:
        try:
            return EngineProcess(self._options.process)
        except OSError as error:
            raise UnavailableError(_TRY_AGAIN, retry_after_seconds=_RETRY_SECONDS) from error

    def _raise_loss(self, lost: ProcessLostError) -> NoReturn:
        self._observer.decode_killed(lost.loss)
        level = logging.ERROR if lost.loss in _ALARMING else logging.WARNING
        _log.log(level, "an engine process is lost (%s): %s", lost.loss, lost.said)
        if lost.loss in _PHOTOS_FAULT:
            if lost.loss in {Loss.TIME, Loss.PROCESSOR}:
                raise TooCostlyError(_TOO_SLOW) from lost
            raise UndecodableImageError(_UNDECODABLE) from lost
        if lost.loss is Loss.DEADLINE:
            remaining_seconds(math.inf)  # raises the deadline's own error
        error = DecoderKilledError if lost.loss is Loss.OUTSIDE else UnavailableError
        raise error(_TRY_AGAIN, retry_after_seconds=_RETRY_SECONDS) from lost

    def _tell(self) -> tuple[int, int]:
        with self._changed:  # told in the order in which it was so: the last word stays
            alive, at_work = len(self._idle) + len(self._working), len(self._working)
            self._observer.engine_processes(alive, at_work)
        return alive, at_work


def _raise_refusal(refused: RefusedError) -> NoReturn:
    if refused.code is RefusalCode.HEIF_NOT_INSTALLED:
        raise HeifNotInstalledError(_NO_HEIF) from refused
    if refused.code is RefusalCode.MEMORY:
        raise TooCostlyError(_TOO_LARGE) from refused
    if refused.code is RefusalCode.FAULT:
        _log.error("rendering failed in a way that no decoder should: %s", refused.said)
        raise RenderingFaultError(_UNDECODABLE) from refused
    raise UndecodableImageError(_UNDECODABLE) from refused
