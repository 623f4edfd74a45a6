"""What the master says of its server: on the page of the host, for the workers, and to systemd, for its operator.

It also hears there what the workers say. Without a page, or when it is lost, nobody hears the master's word but
systemd, and a worker that wants to be replaced is not heard; what the master itself does stays the same.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from app.ops.lifecycle import HostLife, MasterLife, Phase, State
from app.ops.state import find_page
from app.server.notifications import ServiceNotifier


@dataclass(frozen=True, slots=True)
class WorkerTold:
    """What a worker has told its master.

    Attributes:
        is_retiring: It gives up its place, and serves until another one does.
        is_finishing: It accepts nothing more.
        in_flight: Requests whose response is not closed yet.
    """

    is_retiring: bool
    is_finishing: bool
    in_flight: int


class Announcements:
    """The word of one server. One thread at a time; never raises.

    Args:
        environ: The environment of the master, in which the page and systemd's socket are named.

    Attributes:
        beat_seconds: How often :meth:`beat` is to be called; None when once a second is enough.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        page = find_page(environ)
        self._systemd = ServiceNotifier(environ)
        self._life = MasterLife(page)
        self._host = HostLife(page)
        self.beat_seconds = self._systemd.beat_seconds

    @property
    def is_ready(self) -> bool:
        """Whether the server answers and does not stop yet."""
        return self._life.word.state is State.READY

    @property
    def is_draining(self) -> bool:
        """Whether it is in its lame duck, or after it."""
        return self._life.word.state is State.DRAINING

    def starting(self) -> None:
        """Say that workers are being started."""
        self._systemd.status("starting workers")

    def ready(self, status: str) -> None:
        """Say that requests are answered, after a start or a reload."""
        if self._life.advance(State.READY):  # else it stops already
            self._systemd.ready(status)

    def reloading(self) -> None:
        """Say that a reload has begun; :meth:`ready` ends it."""
        self._systemd.reloading("reloading")

    def status(self, status: str) -> None:
        """Say something in words."""
        self._systemd.status(status)

    def draining(self, by: str, seconds: float, ends: float) -> None:
        """Say that the server stops: requests are still answered, and no balancer is to send any more.

        Args:
            by: Who wants it.
            seconds: How long the lame duck is.
            ends: When it ends, an instant of the monotonic clock.
        """
        self._life.advance(State.DRAINING, by=by, lame_duck_ends=ends)
        self._systemd.stopping(f"draining: requests are served for another {seconds:g} s")

    def lame_duck_ends(self, ends: float) -> None:
        """Say that the lame duck ends earlier, at an instant of the monotonic clock."""
        self._life.advance(State.DRAINING, lame_duck_ends=ends)

    def succeeded_by(self, pid: int) -> None:
        """Say that another server, on the same listeners, is the one from now on."""
        self._systemd.succeeded_by(pid)

    def finishing(self) -> None:
        """Say that no connection is accepted any more."""
        self._systemd.stopping("finishing what is in flight")

    def stopped(self) -> None:
        """Say that the server has ended; the last thing it says."""
        self._life.advance(State.STOPPED)
        self._life.close()

    def beat(self, *, is_alive: bool) -> None:
        """Say the same again, and to systemd that the server lives.

        Args:
            is_alive: Whether any worker lives.
        """
        self._life.beat()
        if is_alive:
            self._systemd.beat()

    def workers(self) -> Mapping[int, WorkerTold]:
        """Return what this server's workers say of themselves, by process id; nothing when the page is lost."""
        report = self._host.look()
        words = () if report is None else report.of_master(os.getpid()).workers
        return {
            word.pid: WorkerTold(word.phase is Phase.RETIRING, word.phase is Phase.STOPPING, word.in_flight)
            for word in words
        }

    def find_ready(self, pids: Collection[int]) -> int | None:
        """Return which of these masters, if any, says that it is ready.

        Args:
            pids: Process ids; 0 is nobody.
        """
        for pid in pids:
            word = self._host.server(pid) if pid else None
            if word is not None and word.state is State.READY:
                return pid
        return None
