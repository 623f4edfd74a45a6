"""One process of the image engine, seen from the web worker: started, given jobs, and ended.

It is started as a fresh program, never forked off: a fork of a worker with threads would inherit locks that
nobody releases. It inherits one end of a socket, a small file for what it says at its end, and no environment but
what is named here. What it does to itself before its first job stands in :mod:`app.images.engine_child`.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import app
from app.images.engine_frames import (
    Channel,
    Kind,
    LiedError,
    PeerLostError,
    RefusedError,
    encode_job,
    has_news,
    receive_ready,
    receive_rendered,
    receive_taken,
)
from app.images.jobs import Rendered, RenderJob

_ROOT: Final = Path(app.__file__).resolve().parents[1]
_ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",  # each arena takes 64 MiB of the address space that is limited
    "VIPS_CONCURRENCY": "1",
    "VIPS_BLOCK_UNTRUSTED": "1",
    "VIPS_DISC_THRESHOLD": str(2**40),  # no picture is ever laid out on a disk
    "PYTHONFAULTHANDLER": "1",  # where a crash happened is said at the end
}
_INHERITED: Final = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")  # where programs and libraries are
_SAID_BYTES: Final = 2048
_END_SECONDS: Final = 2.0
_CRASHES: Final = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
)


class Loss(StrEnum):
    """Why a process is no more."""

    TIME = "time"
    PROCESSOR = "processor"
    CRASH = "crash"
    FORBIDDEN = "forbidden"
    LIE = "lie"
    DEADLINE = "deadline"
    OUTSIDE = "outside"
    START = "start"
    CLOSED = "closed"
    GONE = "gone"


class ProcessLostError(Exception):
    """The process is no more, and with it the job.

    Args:
        loss: Why.
        said: What it said at its end, for the log.
    """

    def __init__(self, loss: Loss, said: str) -> None:
        super().__init__(f"{loss}: {said}")
        self.loss = loss
        self.said = said


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """What a process may take.

    Attributes:
        memory_bytes: Address space and data, libraries included.
        job_seconds: Wall time of one job.
        idle_seconds: So long it waits for a job, then it ends.
        start_seconds: So long it may take until it reports for work.
        renderer: The module whose ``render`` does the work; another one only in tests.
    """

    memory_bytes: int
    job_seconds: float
    idle_seconds: float
    start_seconds: float = 30.0
    renderer: str = "app.images.rendering"


class EngineProcess:
    """A child process that renders one photo at a time. Not thread-safe, but for :meth:`kill` and :meth:`is_alive`.

    Args:
        options: What it may take.

    Attributes:
        jobs: How many it has begun.
        confined: Whether its system calls are filtered; False until it has reported for work.

    Raises:
        OSError: It cannot be started: no process, memory or descriptor is left.
    """

    def __init__(self, options: ProcessOptions) -> None:
        self.jobs = 0
        self.confined = False
        self._options = options
        self._ready = False
        self._at_work = False
        self._killed_for: Loss | None = None
        self._start_by = time.monotonic() + options.start_seconds
        self._said = os.fdopen(os.memfd_create("engine-said", os.MFD_CLOEXEC), "rb", buffering=0)
        with ExitStack() as closing:
            closing.callback(self._said.close)
            ours, theirs = socket.socketpair()
            self._channel = Channel(ours)
            closing.callback(self._channel.close)
            with theirs:
                self._child = self._start(theirs.fileno())
            closing.pop_all()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def is_alive(self) -> bool:
        """Return whether it runs; a process that has ended is cleared away by the question."""
        return self._child.poll() is None

    def is_idle(self) -> bool:
        """Return whether it can be given a job: nothing but its report may be waiting in its socket."""
        return (
            not self._at_work and self.is_alive() and (not self._ready or not has_news(self._channel.connection, 0))
        )

    def await_ready(self, seconds: float) -> None:
        """Wait until it has reported for work; at once when it has.

        Args:
            seconds: At most so long; it can be waited for again.

        Raises:
            TimeoutError: It has not yet; it goes on starting.
            ProcessLostError: It cannot work.
        """
        if self._ready:
            return
        # A report that is there counts, however late somebody asks for it.
        left = math.inf if has_news(self._channel.connection, 0) else self._start_by - time.monotonic()
        self._channel.allow(max(0.0, min(seconds, left)))
        try:
            self.confined = receive_ready(self._channel)
        except TimeoutError:
            if seconds < left:
                raise
            raise self._lost(Loss.START) from None
        except LiedError as error:
            raise self._lost(Loss.START) from error
        except PeerLostError as error:
            raise self._lost(None) from error
        self._ready = True

    def render(self, descriptor: int, job: RenderJob, seconds: float) -> Rendered:
        """Have a job done. After any error but :class:`RefusedError` the process is gone.

        Args:
            descriptor: Of the original; the caller closes it.
            job: What is to be done.
            seconds: What is left until the caller's deadline.

        Raises:
            RefusedError: It made nothing of the photo.
            ProcessLostError: It ended, was killed for taking too much, or was caught lying.
        """
        self.jobs += 1
        self._at_work = True
        taken = False
        in_time = self._options.job_seconds <= seconds
        self._channel.allow(min(self._options.job_seconds, seconds))
        try:
            self._channel.send(Kind.JOB, encode_job(job), descriptor)
            receive_taken(self._channel)
            taken = True
            rendered = receive_rendered(self._channel, job)
        except RefusedError:
            self._at_work = False
            raise
        except TimeoutError:
            fault = Loss.TIME if taken else Loss.GONE  # what it did before says nothing of this photo
            raise self._lost(fault if in_time else Loss.DEADLINE) from None
        except LiedError as error:
            raise self._lost(Loss.LIE if taken else Loss.GONE) from error
        except PeerLostError as error:
            raise self._lost(None if taken else Loss.GONE) from error
        self._at_work = False
        return rendered

    def kill(self, loss: Loss = Loss.CLOSED) -> None:
        """End it at once; whoever waits for it learns why. Safe to call twice."""
        if self._killed_for is None:
            self._killed_for = loss
        self._child.kill()

    def close(self) -> None:
        """End it: an idle one by itself, any other by a kill. Blocks shortly; safe to call twice."""
        self._channel.close()
        try:
            self._child.wait(_END_SECONDS if self._ready and not self._at_work else 0)
        except subprocess.TimeoutExpired:
            self._child.kill()
            with suppress(subprocess.TimeoutExpired):  # in a read that never ends; it goes when that does
                self._child.wait(_END_SECONDS)
        self._said.close()

    def _start(self, connection: int) -> subprocess.Popen[bytes]:
        options = self._options
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        command = [
            *(sys.executable, "-s", "-m", "app.images.engine_child"),
            *("--socket", str(connection), "--memory-bytes", str(options.memory_bytes)),
            *("--idle-seconds", str(options.idle_seconds), "--job-seconds", str(options.job_seconds)),
            *("--renderer", options.renderer),
        ]
        return subprocess.Popen(  # noqa: S603  our own program; no word of the command comes from outside
            command,
            cwd=_ROOT,
            env=environment | _ENVIRONMENT,
            pass_fds=[connection],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said.fileno(),
        )

    def _lost(self, loss: Loss | None) -> ProcessLostError:
        """Clear away what is left of it, and return the error; without a given loss its end says why."""
        if loss is not None:
            self.kill(loss)
        try:
            code = self._child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its socket and stayed: no honest child does
            self.kill(Loss.LIE)
            code = -signal.SIGKILL
        descriptor = self._said.fileno()
        said = os.pread(descriptor, _SAID_BYTES, max(0, os.fstat(descriptor).st_size - _SAID_BYTES))
        reason = self._killed_for or _loss_of(code, started=self._ready)
        self.close()
        words = [f"exit code {code}", said.decode(errors="replace").strip()]
        return ProcessLostError(reason, "; ".join(filter(None, words)))


def _loss_of(code: int, *, started: bool) -> Loss:
    """Return why a process ended that was not killed from here."""
    if not started:
        return Loss.START
    by_signal = {signal.SIGALRM: Loss.TIME, signal.SIGXCPU: Loss.PROCESSOR, signal.SIGSYS: Loss.FORBIDDEN}
    if -code in by_signal:
        return by_signal[signal.Signals(-code)]
    return Loss.CRASH if code >= 0 or -code in _CRASHES else Loss.OUTSIDE
