"""The master of the server: it starts workers, replaces them, reloads, drains and stops.

::

                  first worker is ready          SIGTERM, SIGINT            the lame duck is over
     STARTING ──────────────────────────▶ READY ─────────────────▶ DRAINING ─────────────────────▶ listeners closed,
                                                                     │  a second signal ends it       workers finish,
                                                                     ▼                                management last
                                                       workers serve on, readiness is 503             STOPPED

It is gunicorn's arbiter; what gunicorn's does otherwise, and why that loses requests, is in
``docs/adr/0017-own-arbiter-and-management-process.md``. ``docs/operations/lifecycle.md`` has all signals.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gunicorn import __version__ as gunicorn_version
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from app.server.announcements import Announcements, WorkerTold
from app.server.application import PhotoServer
from app.server.cut_requests import CutRequests
from app.server.forking import MASTER_NAME, WORKER_NAME, fork, fork_worker, name_process
from app.server.judge import ReloadJudge
from app.server.listeners import Listeners, close_listeners, handed_on, open_listeners
from app.server.management_process import START_SECONDS_MAX, ManagementProcess, has_begun, lives
from app.server.succession import Seat, StartDelay, plan

_FLUSH_SECONDS: Final = 3.0  # beyond the graceful time, for a worker that cuts by itself, counts it and closes
_QUICK_SECONDS: Final = 2.0
_MANAGEMENT_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 1.0
_CLOSE_LOOK_SECONDS: Final = 0.05  # while somebody waits for a process to become ready
_STOP_LOOK_SECONDS: Final = 0.1
_FRESH_SECONDS: Final = 5.0  # how old a worker's heartbeat may be for systemd to be told that the server lives


class PhotoArbiter(Arbiter):  # type: ignore[misc]  # its base has no types
    """The master. :meth:`run` ends the process.

    Args:
        app: What is served.
    """

    app: PhotoServer
    reexec_pid: int

    def __init__(self, app: PhotoServer) -> None:
        super().__init__(app)
        self.START_CTX = {"args": sys.orig_argv, "cwd": str(Path.cwd()), 0: sys.executable}
        self.WORKERS: dict[int, Any] = {}
        self._listeners = Listeners((), (), is_activated=False)
        self._word = Announcements(os.environ)
        self._management = ManagementProcess(self._make_management, self.log)
        self._cut_requests = CutRequests(os.environ)
        self._judge = ReloadJudge(self._judge_settings)
        self._start_delay = StartDelay()
        self._leaving: dict[int, float] = {}
        self._began: dict[int, float] = {}
        self._newer_than = 0
        self._was_ready = False
        self._is_reloading = False
        self._reloads_again = False
        self._lame_duck_ends: float | None = None
        self._has_stopped = False

    # ── start ────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Judge the world, listen, and be about to start workers.

        Raises:
            ConfigurationError: The settings cannot work here.
        """
        self.log.info("Starting gunicorn %s", gunicorn_version)
        name_process(MASTER_NAME)
        self._stats["start_time"] = time.time()
        self.pid = os.getpid()
        replaced = os.environ.get("GUNICORN_PID", "")
        if replaced:
            self.master_pid = int(replaced)
            self.proc_name += ".2"
            self.master_name = "Master.2"
        self.cfg.on_starting(self)
        self.init_signals()
        server = self.app.settings.server
        self._listeners = open_listeners(
            server.bind, server.management_bind, self.log, os.environ, replaces=bool(replaced)
        )
        self.systemd = self._listeners.is_activated
        self.LISTENERS = list(self._listeners.all)
        self.log.info("Listening at: %s (%s)", ",".join(map(str, self.LISTENERS)), self.pid)
        self.log.info("Using worker: %s", self.cfg.worker_class_str)
        self._word.starting()
        if hasattr(self.worker_class, "check_config"):
            self.worker_class.check_config(self.cfg, self.log)
        self.cfg.when_ready(self)

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────

    def wait_for_signals(self, timeout: float = _LOOK_SECONDS) -> list[int]:
        """Wait for signals, no longer than until the next thing to do."""
        now, beat_seconds = time.monotonic(), self._word.beat_seconds
        if beat_seconds is not None:
            timeout = min(timeout, beat_seconds)
        if self._lame_duck_ends is not None:
            timeout = min(timeout, max(0.001, self._lame_duck_ends - now))
        if not all(has_begun(worker, now) for worker in self.WORKERS.values()):
            timeout = min(timeout, _CLOSE_LOOK_SECONDS)
        signals: list[int] = super().wait_for_signals(timeout=timeout)
        return signals

    def manage_workers(self) -> None:
        """Do what is to be done now; called at least once a second.

        Raises:
            StopIteration: The lame duck is over.
        """
        now = time.monotonic()
        words = self._word.workers()
        for pid in self.WORKERS.keys() & words.keys():
            if words[pid].is_finishing:  # somebody else has asked it to go
                self._leaving.setdefault(pid, now + self.cfg.graceful_timeout + _FLUSH_SECONDS)
        if self._lame_duck_ends is not None and (now >= self._lame_duck_ends or self._has_successor()):
            raise StopIteration
        if self._judge.is_overdue():
            os.kill(self._judge.pid, signal.SIGKILL)
        self._cut_overdue(now)
        planned = plan(self._seats(words), wanted=self.num_workers, newer_than=self._newer_than)
        try:
            for _ in range(planned.start):
                if self._start_delay.allows(now):
                    self.spawn_worker()
            self._management.tend(timeout=self.timeout, unneeded=self._not_for_management, leave=self._leave)
        except OSError as error:
            wait = self._start_delay.failed(now)
            self.log.error("No process can be started (%s); tried again in %s s", error.strerror, wait)  # noqa: TRY400  # the system is full
        for pid in planned.dismiss:
            self._dismiss(pid)
        self._management.dismiss_earlier()
        self._tell(is_settled=planned.is_settled)

    def spawn_worker(self) -> int:
        """Start a worker; return its process id.

        Raises:
            OSError: The system has no room for it.
        """
        self.worker_age += 1
        worker = self.worker_class(
            self.worker_age, self.pid, list(self._listeners.public), self.app, self.timeout / 2.0, self.cfg, self.log
        )
        unneeded = (*self._listeners.management, *self._heartbeats())
        try:
            pid = fork_worker(worker, WORKER_NAME, unneeded=unneeded, leave=self._leave)
        except OSError:
            worker.tmp.close()
            raise
        self.WORKERS[pid] = worker
        self._began[pid] = time.monotonic()
        self._stats["workers_spawned"] += 1
        return pid

    def murder_workers(self) -> None:
        """Kill workers that give no sign of life, or have been starting for too long."""
        super().murder_workers()
        now = time.monotonic()
        for pid, worker in list(self.WORKERS.items()):
            if not has_begun(worker, now) and now - self._began.get(pid, now) > START_SECONDS_MAX:
                self.log.critical("WORKER TIMEOUT at its start (pid:%s)", pid)
                self.kill_worker(pid, signal.SIGKILL)

    def reap_workers(self) -> None:
        """Take leave of every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._bury(pid, os.waitstatus_to_exitcode(status))

    def _seats(self, words: Mapping[int, WorkerTold]) -> list[Seat]:
        now = time.monotonic()
        return [
            Seat(
                pid,
                worker.age,
                is_ready=has_begun(worker, now),
                is_retiring=pid in words and words[pid].is_retiring,
                is_leaving=pid in self._leaving,
            )
            for pid, worker in self.WORKERS.items()
        ]

    def _heartbeats(self) -> list[Any]:
        return [worker.tmp for worker in (*self.WORKERS.values(), *self._management.workers)]

    def _dismiss(self, pid: int) -> None:
        self._leaving.setdefault(pid, time.monotonic() + self.cfg.graceful_timeout + _FLUSH_SECONDS)
        self.kill_worker(pid, signal.SIGTERM)

    def _cut_overdue(self, now: float) -> None:
        self._cut([pid for pid, ends in self._leaving.items() if now >= ends])

    def _cut(self, pids: Sequence[int]) -> None:
        """Kill workers that do not end; what they were at is lost, and said."""
        words = self._word.workers() if pids else {}
        for pid in pids:
            requests = words[pid].in_flight if pid in words else 0
            self.log.error("Worker (pid:%s) does not end; it is killed, with %s requests in flight", pid, requests)
            self.kill_worker(pid, signal.SIGKILL)
            self._cut_requests.add(requests)

    # ── ends of processes ────────────────────────────────────────────────────────────────────────────────────────

    def _bury(self, pid: int, exit_code: int) -> None:
        if pid == self.reexec_pid:
            self.reexec_pid = 0
            self.log.error("The server that was to take over (pid:%s) ended with %s", pid, exit_code)
        elif pid == self._judge.pid:
            self._judged(are_right=self._judge.ended(exit_code))
        elif (management := self._management.buried(pid, exit_code)) is not None:
            management.tmp.close()
        elif pid in self.WORKERS:
            self._bury_worker(pid, exit_code)
        else:  # an orphan that the kernel gave to the first process of its container
            self.log.debug("Reaped unknown child process (pid:%s)", pid)

    def _bury_worker(self, pid: int, exit_code: int) -> None:
        worker = self.WORKERS.pop(pid)
        was_dismissed = self._leaving.pop(pid, None) is not None
        self._began.pop(pid, None)
        had_begun = has_begun(worker, time.monotonic())
        if exit_code < 0:
            say = self.log.info if was_dismissed or self._has_stopped else self.log.error
            say("Worker (pid:%s) was sent %s!", pid, signal.Signals(-exit_code).name)
        elif exit_code > 0:
            self.log.error("Worker (pid:%s) exited with code %s.", pid, exit_code)
        worker.tmp.close()
        if had_begun or was_dismissed:
            return
        if not self._was_ready and exit_code in {self.WORKER_BOOT_ERROR, self.APP_LOAD_ERROR}:
            raise HaltServer("Worker failed to boot.", exit_code)
        wait = self._start_delay.failed(time.monotonic())
        self.log.error("Worker (pid:%s) ended at its start; the next one is started in %s s", pid, wait)

    # ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, *, is_settled: bool) -> None:
        now = time.monotonic()
        ready = sum(has_begun(worker, now) for pid, worker in self.WORKERS.items() if pid not in self._leaving)
        is_first = bool(ready) and not self._was_ready
        if is_settled:
            self._start_delay.succeeded()
        if is_first or (is_settled and self._is_reloading and not self._judge.pid):
            self._was_ready, self._is_reloading = True, False
            done = "Ready" if is_first else "Reloaded"
            self.log.info("%s: %s of %s workers serve", done, ready, self.num_workers)
            self._word.ready(self._status(ready))
        elif self._word.is_ready and not self._is_reloading:
            self._word.status(self._status(ready))
        self._beat()

    def _status(self, ready: int) -> str:
        return f"ready: {ready} of {self.num_workers} workers serve"

    def _beat(self) -> None:
        now = time.monotonic()
        is_alive = any(
            has_begun(worker, now) and lives(worker, now, _FRESH_SECONDS) for worker in self.WORKERS.values()
        )
        self._word.beat(is_alive=is_alive)

    # ── reload ───────────────────────────────────────────────────────────────────────────────────────────────────

    def handle_hup(self) -> None:
        """Judge the settings anew and, when they are right, replace every worker."""
        if self._lame_duck_ends is not None:
            self.log.warning("SIGHUP ignored: the server stops.")
        elif self._judge.pid:
            self._reloads_again = True
        else:
            self.log.info("Hang up: %s", self.master_name)
            self._is_reloading = True
            self._word.reloading()
            try:
                self._judge.start()
            except OSError as error:
                self.log.error("No reload: no process can be started (%s)", error.strerror)  # noqa: TRY400  # the system is full
                self._refuse_reload()

    def reload(self) -> None:
        """Take over the settings that were judged, and start workers beside those there are."""
        before = self.app.settings.server
        try:
            self.app.reload()
        except Exception:
            self.log.exception("The settings have changed since they were judged; what held still holds")
            self._refuse_reload()
            return
        self.setup(self.app)
        after = self.app.settings.server
        if (before.bind, before.management_bind) != (after.bind, after.management_bind):
            self.log.warning("Other addresses need a restart: the server goes on listening where it does")
        self._stats["reloads"] += 1
        self._newer_than = self.worker_age
        self._start_delay.succeeded()
        self._management.replace()
        self.cfg.on_reload(self)

    def _judge_settings(self) -> None:
        """Read the settings and ask the world, in the judge's process."""
        self.app.reload()
        self.app.cfg.on_starting(self)

    def _judged(self, *, are_right: bool) -> None:
        if self._has_stopped:
            return
        if self._reloads_again:
            self._reloads_again = False
            self.handle_hup()
        elif self._lame_duck_ends is not None:
            self.log.warning("No reload: the server stops.")
        elif are_right:
            self.reload()
        else:
            self.log.error("No reload: the server goes on with the settings it has")
            self._refuse_reload()

    def _refuse_reload(self) -> None:
        self._is_reloading = False
        self._word.ready("ready, with the settings from before: a reload was refused, see the log")

    # ── upgrade ──────────────────────────────────────────────────────────────────────────────────────────────────

    def reexec(self) -> None:
        """Start the server anew beside this one, on the same listeners."""
        if self.reexec_pid or self.master_pid:
            self.log.warning("SIGUSR2 ignored: another server is there already.")
            return
        if self._lame_duck_ends is not None:
            self.log.warning("SIGUSR2 ignored: the server stops.")
            return
        try:
            self.reexec_pid = fork(self._become_next)
        except OSError as error:
            self.log.error("No upgrade: no process can be started (%s)", error.strerror)  # noqa: TRY400  # the system is full

    def _become_next(self) -> None:
        environ = {**os.environ, **handed_on(self._listeners), "GUNICORN_PID": str(self.pid)}
        if "WATCHDOG_PID" in environ:
            environ["WATCHDOG_PID"] = str(os.getpid())
        os.chdir(str(self.START_CTX["cwd"]))
        os.execve(sys.executable, list(self.START_CTX["args"]), environ)  # noqa: S606  # no shell is the point

    # ── stop ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def handle_term(self) -> None:
        """Begin the drain; a second time: end its lame duck."""
        self._drain("SIGTERM")

    def handle_int(self) -> None:
        """Begin the drain; a second time: end its lame duck."""
        self._drain("SIGINT")

    def _drain(self, by: str) -> None:
        now = time.monotonic()
        if self._lame_duck_ends is not None:
            self.log.info("%s again: the lame duck ends", by)
            self._lame_duck_ends = now
            self._word.lame_duck_ends(now)
            return
        if self._has_successor():
            self._lame_duck_ends = now
            return
        # Before anybody has served, no balancer has anything to notice.
        serves = self._was_ready or any(has_begun(worker, now) for worker in self.WORKERS.values())
        seconds = self.app.settings.server.drain_lame_duck_seconds if serves else 0.0
        self._lame_duck_ends = now + seconds
        self.log.info("%s: draining, requests are served for another %g s", by, seconds)
        self._word.draining(by, seconds, self._lame_duck_ends)

    def _has_successor(self) -> bool:
        """Tell whether another server answers on the same listeners: then nobody need notice that this one stops."""
        successor = self._word.find_ready((self.reexec_pid, self.master_pid))
        if successor is None:
            return False
        self.log.info("Server %s has taken over", successor)
        self._word.succeeded_by(successor)
        return True

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002  # gunicorn's signature
        """Close the listeners, let the workers finish, and the management process last.

        Args:
            graceful: Whether what is in flight is finished, within the graceful time.
        """
        if self._has_stopped:
            return
        self._has_stopped = True
        if self._word.is_draining:
            self._word.finishing()
        unlink = self.reexec_pid == self.master_pid == 0 and not self.systemd
        close_listeners(self._listeners.public, unlink=unlink)
        if self._judge.pid:
            os.kill(self._judge.pid, signal.SIGKILL)
        self._stop_workers(graceful=graceful)
        self._stop_management()
        close_listeners(self._listeners.management, unlink=unlink)
        self.LISTENERS = []
        self._word.stopped()

    def _stop_workers(self, *, graceful: bool) -> None:
        now = time.monotonic()
        for pid, worker in list(self.WORKERS.items()):  # one that still starts has nothing to finish
            self.kill_worker(pid, signal.SIGTERM if graceful and has_begun(worker, now) else signal.SIGQUIT)
        seconds = self.cfg.graceful_timeout + _FLUSH_SECONDS if graceful else _QUICK_SECONDS
        ends = now + seconds
        while self.WORKERS and time.monotonic() < ends:
            signals = super().wait_for_signals(timeout=_STOP_LOOK_SECONDS)
            if graceful and not {signal.SIGINT, signal.SIGQUIT}.isdisjoint(signals):
                self.log.warning("Quick shutdown requested")
                graceful = False
                self.kill_workers(signal.SIGQUIT)
                ends = time.monotonic() + _QUICK_SECONDS
            self._reap_stopped()
            self._beat()
        self._cut(list(self.WORKERS))
        ends = time.monotonic() + _QUICK_SECONDS
        while self.WORKERS and time.monotonic() < ends:
            super().wait_for_signals(timeout=_STOP_LOOK_SECONDS)
            self._reap_stopped()

    def _stop_management(self) -> None:
        self._management.dismiss()
        ends = time.monotonic() + _MANAGEMENT_SECONDS
        while self._management.workers and time.monotonic() < ends:
            super().wait_for_signals(timeout=_STOP_LOOK_SECONDS)
            self._reap_stopped()
        self._management.send(signal.SIGKILL)

    def _reap_stopped(self) -> None:
        with suppress(HaltServer):
            self.reap_workers()

    # ── the management process ───────────────────────────────────────────────────────────────────────────────────

    def _make_management(self) -> Any:
        served = self.app.management()
        return served.cfg.worker_class(
            0, self.pid, list(self._listeners.management), served, self.timeout / 2.0, served.cfg, self.log
        )

    def _not_for_management(self) -> list[Any]:
        return [*self._listeners.public, *self._heartbeats()]

    def _leave(self, worker: Any) -> None:
        """Close what a worker's application opened (in the worker)."""
        self.cfg.worker_exit(self, worker)
