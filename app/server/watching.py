"""What the management process knows of its server: what the master and the workers say on the page of the host.

It never speaks for itself: it lives as long as its master does, and says nothing about whether anybody answers
clients. A server is alive when the loop of at least one of its workers has said so lately.

In an upgrade two servers share the listeners, the management listener too, so that the management process of either
may be asked. Each answers for both: requests are served while one of them is READY and a worker of either serves.
What a page said that was lost since holds for a moment, until masters and workers have said it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from app.ops.lifecycle import HostLife, HostReport, Phase, ServerWord, State, WorkerWord
from app.ops.owners import Owner, find_parent
from app.ops.sampling import CheckResult, Status

FRESH_SECONDS: Final = 5.0
"""How old the last word of a worker's loop may be; it speaks every second."""

KEPT_SECONDS: Final = 3.0
"""How long a word holds that is no longer on the page; who lives says it again every second."""

UNKNOWN: Final = "nothing is known of this server: the page of this host cannot be written or read"
"""What is said when the master's own word is missing, which it writes before it starts any process."""

_SERVING: Final = frozenset({Phase.READY, Phase.RETIRING})


@dataclass(frozen=True, slots=True)
class _Kept:
    """A word that was on the page, and when it was last seen there."""

    word: ServerWord | WorkerWord
    seen_at: float

    def holds(self, now: float) -> bool:
        """Whether it may have been lost, and was neither taken back nor left by a process that is gone."""
        has_ended = isinstance(self.word, WorkerWord) and self.word.phase is Phase.STOPPING
        owner = self.word.owner
        return now - self.seen_at <= KEPT_SECONDS and not has_ended and owner is not None and owner.lives()


class WatchedServer:
    """The server of one master, and the one that takes over or is taken over from, as their workers show them.

    Thread-safe; a look at the page for each question.

    Args:
        host: The page.
        master_pid: Whose server.
        now: The monotonic clock.
        find_parent: Returns who has started a process; 0 when that is not known.
    """

    def __init__(
        self,
        host: HostLife,
        master_pid: int,
        now: Callable[[], float] = time.monotonic,
        find_parent: Callable[[int], int] = find_parent,
    ) -> None:
        self._host = host
        self._master_pid = master_pid
        self._now = now
        self._find_parent = find_parent
        self._kept: Mapping[tuple[type, int], _Kept] = {}
        self._partners: frozenset[Owner] = frozenset()

    @property
    def state(self) -> State:
        """READY when this server is or another one on its listeners; else what the master says.

        STARTING when nothing is known.
        """
        servers = self._look().servers
        if any(server.state is State.READY for server in servers):
            return State.READY
        return next((server.state for server in servers if server.pid == self._master_pid), State.STARTING)

    @property
    def in_flight(self) -> int:
        """Requests of all workers on its listeners whose response is not closed yet; 0 when nothing is known."""
        return self._look().in_flight

    def subscribe(self, listener: Callable[[State], None]) -> None:
        """Take a listener and never call it: who asks is told, and nobody else."""

    def trouble(self) -> str:
        """Return why nothing is known of this server; empty when something is."""
        return "" if any(server.pid == self._master_pid for server in self._look().servers) else UNKNOWN

    def is_alive(self) -> bool:
        """Tell whether the loop of any worker on its listeners runs; one that starts counts for a moment, too."""
        now = self._now()
        return any(worker.age(now) <= FRESH_SECONDS for worker in self._look().workers)

    def check_workers(self) -> CheckResult:
        """Judge the workers: without one that serves, nobody answers here."""
        report = self._look()
        if not report.servers and not report.workers:
            return CheckResult(Status.FAIL, UNKNOWN)
        now = self._now()
        silent = [worker.pid for worker in report.workers if worker.age(now) > FRESH_SECONDS]
        serving = sum(worker.phase in _SERVING and worker.pid not in silent for worker in report.workers)
        observed = {
            "serving": float(serving),
            "silent": float(len(silent)),
            "in_flight": float(report.in_flight),
            "waiting": float(report.waiting),
        }
        if not serving:
            return CheckResult(Status.FAIL, "no worker serves", observed)
        if silent:
            return CheckResult(Status.WARN, f"no sign of life from workers {', '.join(map(str, silent))}", observed)
        return CheckResult(Status.PASS, "", observed)

    def _look(self) -> HostReport:
        """Return the servers on these listeners and their workers, by the page or what it said a moment ago."""
        now, said = self._now(), self._host.look() or HostReport((), ())
        kept = {key: word for key, word in self._kept.items() if word.holds(now)}
        seen: tuple[ServerWord | WorkerWord, ...] = (*said.servers, *said.workers)
        kept |= {(type(word), word.pid): _Kept(word, now) for word in seen}
        self._kept = kept
        words = [each.word for each in kept.values()]
        servers = tuple(word for word in words if isinstance(word, ServerWord) and self._is_ours(word))
        pids = {self._master_pid, *(server.pid for server in servers)}
        workers = (word for word in words if isinstance(word, WorkerWord) and word.master_pid in pids)
        return HostReport(servers, tuple(workers))

    def _is_ours(self, server: ServerWord) -> bool:
        """Tell whether a server has these listeners: it is the one, or one of the two has started the other.

        Others in the same working folder share the page and listen elsewhere.
        """
        if server.pid == self._master_pid:
            return True
        if server.owner is None or server.owner in self._partners:
            return server.owner is not None
        if self._find_parent(server.pid) != self._master_pid and self._find_parent(self._master_pid) != server.pid:
            return False
        self._partners |= {server.owner}  # the parent of who takes over is another one when the old master is gone
        return True
