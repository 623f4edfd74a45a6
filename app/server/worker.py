"""The worker: a process that serves the public listeners, from its start to its last answer.

It stands on gunicorn's base worker (signals, heartbeat to the master, loading the application) and brings a front of
its own (:mod:`app.server.front`) in place of gunicorn's threaded one, in which requests wait where nothing can refuse
or prefer them. What it relies on in gunicorn is listed by ``tests/server/test_gunicorn.py``.

::

    SIGTERM ─► accept what the kernel has completed, close the listeners
            ─► answer what is in flight; idle connections get a moment for a request that is on its way
            ─► after the graceful time-out: cut what is left, and count it
"""

from __future__ import annotations

import gc
import logging
import math
import os
import resource
import signal
import sys
import time
from typing import Any, Final, Protocol

from gunicorn import SERVER, util
from gunicorn.workers.base import Worker

from app.http.context import choose_request_id
from app.ops.admission import Admission, AdmissionOptions
from app.ops.lifecycle import Lifecycle, State
from app.ops.probes import PROBE_PATHS, ProbeAnswers
from app.server.exchange import Exchange, SettledConfig
from app.server.front import Front, FrontOptions, Observer
from app.server.loop import EventLoop
from app.server.threads import Threads

_log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 4096
"""Connections of one worker at once, where the limit of open files allows it."""

_OTHER_FILES = 256  # what a process has open besides connections: the store's, the database's, spools
_CONNECTIONS_MIN = 64
_SWITCH_SECONDS = 0.001  # how soon the loop gets its turn when all threads compute
_BEAT_SECONDS = 1.0
_IDLE_LINGER_SECONDS = 2.0
_PROBES: Final = {path.encode(): path for path in PROBE_PATHS}
_REASONS: Final = {200: "OK", 503: "Service Unavailable"}


class WorkerObserver(Observer, Protocol):
    """Who hears of admission and of requests that were cut: :class:`app.ops.metrics.Metrics`."""

    def drain_timeout(self, requests: int) -> None:
        """So many requests were cut at the graceful time-out."""
        ...


class AdmissionWorker(Worker):  # type: ignore[misc]  # its base has no types
    """A worker process.

    Its application is a Flask app whose ``extensions["photo_api"]`` has ``lifecycle``, ``probes`` and ``metrics``;
    the settings are those of the master's application (``app.settings``).
    """

    _loop: EventLoop | None = None

    def init_signals(self) -> None:
        """Leave an interrupt from the terminal to the master, which stops its workers one step at a time."""
        super().init_signals()
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def handle_exit(self, _number: int, _frame: Any) -> None:
        """Begin to stop."""
        self.alive = False
        if self._loop is not None:
            self._loop.call_soon(lambda: None)

    def run(self) -> None:
        """Serve until told to stop, then finish."""
        runtime = self.wsgi.extensions["photo_api"]
        lifecycle: Lifecycle = runtime.lifecycle
        observer: WorkerObserver = runtime.metrics
        sys.setswitchinterval(_SWITCH_SECONDS)
        gc.collect()
        gc.freeze()  # what the start has made stays: a full collection need not look at it, which took 70 ms
        self._settled = SettledConfig(self.cfg)
        self._loop = EventLoop()
        self._answers: ProbeAnswers = runtime.probes
        self._lifecycle = lifecycle
        self._admission, front = self._open_front(self._loop, lifecycle, observer)
        front.listen(self.sockets)
        self._serve(front)
        self._finish(front, observer)

    def _open_front(
        self, loop: EventLoop, lifecycle: Lifecycle, observer: WorkerObserver
    ) -> tuple[Admission[Any], Front]:
        server, uploads = self.app.settings.server, self.app.settings.uploads
        threads = min(server.threads, _share(server.max_concurrent, server.workers))
        admission: Admission[Any] = Admission(
            AdmissionOptions(
                max_concurrent=threads,
                max_queue=_share(server.max_queue, server.workers),
                max_wait_seconds=server.request_deadline_seconds,
            )
        )
        options = FrontOptions(
            max_connections=_connection_limit(),
            keep_alive_seconds=float(self.cfg.keepalive),
            silence_seconds=server.client_timeout_seconds,
            spool_folder=uploads.spool_dir,
            max_body_bytes=uploads.max_bytes,
        )
        front = Front(
            loop,
            options,
            admission=admission,
            open_exchange=self._open_exchange,
            submit=Threads(threads, "request").submit,
            answer_probe=self._answer_probe,
            is_last=self._is_last,
            counter=lifecycle,
            observer=observer,
        )
        return admission, front

    def _serve(self, front: Front) -> None:
        beat_at = 0.0
        while self.alive:
            now = time.monotonic()
            if now >= beat_at:
                beat_at = now + _BEAT_SECONDS
                self._beat()
            front.turn(beat_at - now)
            if self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                self.alive = False

    def _beat(self) -> None:
        self.notify()
        self._lifecycle.waiting = self._admission.waiting
        self._lifecycle.beat()

    def _finish(self, front: Front, observer: WorkerObserver) -> None:
        front.stop_accepting()
        self._lifecycle.finish()
        for listener in self.sockets:
            listener.close()
        began = time.monotonic()
        cut_at = began + self.cfg.graceful_timeout
        while front.is_busy or (front.has_idle and time.monotonic() < began + _IDLE_LINGER_SECONDS):
            self._beat()
            if time.monotonic() >= cut_at:
                break
            front.turn(0.1)
        front.close_idle()
        cut = front.cut()
        if cut:
            _log.error("requests were cut at the graceful time-out", extra={"requests": cut})
            observer.drain_timeout(cut)

    # -- what the front asks -----------------------------------------------------------------------------------------

    def _is_last(self) -> bool:
        return not self.alive or self._lifecycle.state >= State.DRAINING

    def _answer_probe(self, asked: bytes, request_id: str, is_last: bool) -> bytes | None:  # noqa: FBT001  # called by position, by the front alone
        path = _PROBES.get(asked)
        if path is None:
            return None
        answer = self._answers.answer(path)
        fields = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
        text = (
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
            f"Server: {SERVER}\r\n"
            f"Date: {util.http_date()}\r\n"
            f"Connection: {'close' if is_last else 'keep-alive'}\r\n"
            f"{fields}"
            f"Content-Length: {len(answer.body)}\r\n"
            f"X-Request-Id: {choose_request_id(request_id)}\r\n"
            "X-Content-Type-Options: nosniff\r\n\r\n"
        )
        return text.encode("latin-1") + answer.body

    def _open_exchange(self, connection: Any, received: bytes, waited_seconds: float) -> Exchange:
        self.nr += 1
        if self.nr == self.max_requests:
            self.log.info("Worker gives its place to a fresh one: %s", self)
            self._lifecycle.retire()
        return Exchange(
            connection.socket,
            connection.peer,
            connection.server,
            received,
            application=self.wsgi,
            cfg=self._settled,
            silence_seconds=self.app.settings.server.client_timeout_seconds,
            waited_seconds=waited_seconds,
            is_last=(lambda: True) if connection.head.is_last else self._is_last,
            refuse=self.handle_error,
            kept=connection.kept,
        )


def _share(limit: int, workers: int) -> int:
    """Return a worker's part of what is said for the whole instance, rounded up."""
    return math.ceil(limit / workers)


def _connection_limit() -> int:
    """Return how many connections the limit of open files allows, after it was raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(_CONNECTIONS_MIN, min(CONNECTIONS_MAX, soft - _OTHER_FILES))
