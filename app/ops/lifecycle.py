"""Where a server is in its life, what its workers do, and how many requests each is working on.

::

    STARTING ──► READY ──► DRAINING ──► STOPPED
        └──────────┴──── (only forward, steps may be left out) ────►

One word for the whole server: its master writes it on the host's page (:class:`MasterLife`), and every worker reads
it there at every look (:class:`Lifecycle`). Each worker writes what it does beside it; :class:`HostLife` reads all of
that, and passes over what processes have left that are gone.

Without a page, or when it is lost, each process goes by what it knows itself.
"""

from __future__ import annotations

import enum
import math
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from app.ops.owners import Owner, find_owner
from app.ops.state import OwnEntry, StatePage
from app.ops.state_layout import Entry
from app.stability.clock import SYSTEM_CLOCK, Clock

SERVER_PREFIX: Final = "server/"
"""How the name of a master's entry begins; its process id follows."""

WORKER_PREFIX: Final = "worker/"
"""How the name of a worker's entry begins; its process id follows."""

_SERVER: Final = struct.Struct("<BddB")
_WORKER: Final = struct.Struct("<IBBqqdd")
_BY_BYTES_MAX = 64


class State(enum.IntEnum):
    """The states in their order."""

    STARTING = 0
    READY = 1
    DRAINING = 2
    STOPPED = 3


class Phase(enum.IntEnum):
    """What a worker is at, in the order in which it comes."""

    BOOTING = 0
    READY = 1
    RETIRING = 2
    """It serves until another serves in its place, then finishes and ends, while the server serves on."""

    STOPPING = 3


_STATES: Final = frozenset(State)
_PHASES: Final = frozenset(Phase)


@dataclass(frozen=True, slots=True)
class ServerWord:
    """What a master says of its server.

    Attributes:
        pid: The master's process id.
        state: Where the server is.
        since: From when on, an instant of the monotonic clock.
        by: Who or what has moved it there, up to 64 bytes; may be empty.
        lame_duck_ends: When a draining server stops to accept, an instant of the monotonic clock; None when it does
            not, or no longer.
        owner: The master, told apart from whoever has its process id later; None where it was not asked for.
    """

    pid: int
    state: State
    since: float
    by: str = ""
    lame_duck_ends: float | None = None
    owner: Owner | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class WorkerWord:
    """What a worker that lives says of itself.

    Attributes:
        pid: Its process id.
        master_pid: Whose worker it is.
        state: Where its own process is.
        phase: What it is at.
        in_flight: Requests whose response is not closed yet, at this moment.
        waiting: Requests among them that wait for a thread; may be up to a heartbeat old.
        since: When it began, an instant of the monotonic clock.
        beat_at: When its loop last said that it runs, an instant of the monotonic clock.
        owner: The worker, told apart from whoever has its process id later; None where it was not asked for.
    """

    pid: int
    master_pid: int
    state: State
    phase: Phase
    in_flight: int
    waiting: int
    since: float
    beat_at: float
    owner: Owner | None = field(default=None, compare=False)

    def age(self, now: float) -> float:
        """Return how many seconds ago its loop last said that it runs; ``now`` is of the monotonic clock."""
        return max(0.0, now - self.beat_at)


@dataclass(frozen=True, slots=True)
class HostReport:
    """All servers and workers of a page that live.

    Attributes:
        servers: Usually one; two while one replaces the other.
        workers: Those of all servers.
    """

    servers: tuple[ServerWord, ...]
    workers: tuple[WorkerWord, ...]

    @property
    def in_flight(self) -> int:
        """Requests of all workers whose response is not closed yet."""
        return sum(worker.in_flight for worker in self.workers)

    @property
    def waiting(self) -> int:
        """Requests of all workers that wait for a thread."""
        return sum(worker.waiting for worker in self.workers)

    def of_master(self, pid: int) -> HostReport:
        """Return the part of one server."""
        return HostReport(
            tuple(server for server in self.servers if server.pid == pid),
            tuple(worker for worker in self.workers if worker.master_pid == pid),
        )


class _Gauge(Protocol):
    def set(self, value: float) -> None: ...


class HostLife:
    """Reads what all masters and workers of a page say. Thread-safe.

    Args:
        page: Of this host; None where there is no server.
    """

    def __init__(self, page: StatePage | None) -> None:
        self._page = page

    def look(self) -> HostReport | None:
        """Return what holds now; None when there is no page, or it is lost. About 100 µs."""
        entries = None if self._page is None else self._page.owned()
        if entries is None:
            return None
        servers, workers = [], []
        for entry in entries:
            if entry.name.startswith(SERVER_PREFIX):
                word = _read_server(entry.owner.pid, entry.payload)
                servers.append(None if word is None else replace(word, owner=entry.owner))
            elif entry.name.startswith(WORKER_PREFIX):
                worker = _read_worker(entry.owner.pid, entry.payload)
                workers.append(None if worker is None else replace(worker, owner=entry.owner))
        return HostReport(
            tuple(server for server in servers if server is not None),
            tuple(worker for worker in workers if worker is not None),
        )

    def server(self, pid: int) -> ServerWord | None:
        """Return what one master says, who may have gone since; None when there is none, or the page is lost."""
        entry = None if self._page is None else self._page.read_owned(f"{SERVER_PREFIX}{pid}")
        return None if entry is None else _read_server(pid, entry.payload)


class MasterLife:
    """The word of one server, written by its master. One thread at a time; never raises.

    Args:
        page: Of this host; None where there is none: then the word is this process's alone.
        clock: Where "now" comes from.
        owner: The master; this process by default.
    """

    def __init__(self, page: StatePage | None, *, clock: Clock = SYSTEM_CLOCK, owner: Owner | None = None) -> None:
        owner = owner or _this_process()
        self._clock = clock
        self._entry = None if page is None else page.own(f"{SERVER_PREFIX}{owner.pid}", owner)
        self._word = ServerWord(owner.pid, State.STARTING, clock.monotonic())
        self.beat()

    @property
    def word(self) -> ServerWord:
        """What it says."""
        return self._word

    def advance(self, state: State, *, by: str = "", lame_duck_ends: float | None = None) -> bool:
        """Move forward to a state, in all workers with their next look.

        Args:
            state: Where to. To the state it is in already only its ``lame_duck_ends`` changes: it can be ended early.
            by: Who or what moves it, for operators.
            lame_duck_ends: With DRAINING, when it stops to accept, an instant of the monotonic clock.

        Returns:
            False when it is beyond that state; nothing changes then.
        """
        word = self._word
        if state < word.state:
            return False
        if state > word.state:
            self._word = ServerWord(word.pid, state, self._clock.monotonic(), by, lame_duck_ends)
        else:
            self._word = ServerWord(word.pid, state, word.since, word.by, lame_duck_ends)
        self.beat()
        return True

    def beat(self) -> None:
        """Say the same again: call it about once a second, so that a page that was lost has the word again."""
        if self._entry is not None:
            self._entry.write(_pack_server(self._word))

    def close(self) -> None:
        """Say nothing more: the server is no longer there."""
        if self._entry is not None:
            self._entry.remove()
            self._entry = None


class Lifecycle:
    """Where a worker is, and how many requests it is working on. Thread-safe; never raises; made after the fork.

    A request counts from its first byte until its response body is closed. The count on the page is exact as soon as
    no thread is inside of :meth:`enter` or :meth:`leave`, and none of them waits for another: who finds the page
    being written leaves that to the thread that writes it.

    Args:
        in_flight: The gauge that follows the count.
        page: Of this host; None where there is no server.
        master_pid: Whose word holds for this worker; None where there is no master.
        clock: Where "now" comes from.
        owner: The worker; this process by default.
    """

    def __init__(
        self,
        in_flight: _Gauge | None = None,
        *,
        page: StatePage | None = None,
        master_pid: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
        owner: Owner | None = None,
    ) -> None:
        self._gauge = in_flight
        self._clock = clock
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._writing = threading.Lock()
        self._version, self._written = 1, 0
        self._state = self._announced = State.STARTING
        self._phase = Phase.BOOTING
        self._in_flight = self._waiting = 0
        self._since = self._beat_at = clock.monotonic()
        self._listeners: list[Callable[[State], None]] = []
        self._page = page
        self._master = None if page is None or master_pid is None else find_owner(master_pid)
        self._master_pid = master_pid or 0
        self._master_name = f"{SERVER_PREFIX}{master_pid}"
        self._master_said: tuple[Entry | None, ServerWord | None] = (None, None)
        owner = owner or _this_process()
        self._entry: OwnEntry | None = None if page is None else page.own(f"{WORKER_PREFIX}{owner.pid}", owner)
        self._note()

    @property
    def state(self) -> State:
        """Where the process is, or its server when that is draining or stopped. A look at the page, about 2 µs."""
        state = self._state
        server = self.server
        if server is not None and server.state >= State.DRAINING:
            state = max(state, server.state)
        if state > self._announced:
            self._announce(state)
        return state

    @property
    def server(self) -> ServerWord | None:
        """What the master says; None without one, or when the page is lost."""
        if self._page is None or self._master is None:
            return None
        entry = self._page.read_owned(self._master_name)
        said = self._master_said  # entry and word change together: two threads may look at once
        if entry is not said[0]:
            is_masters = entry is not None and entry.owner == self._master
            said = (entry, _read_server(self._master.pid, entry.payload) if entry and is_masters else None)
            self._master_said = said
        return said[1]

    @property
    def phase(self) -> Phase:
        """What the worker is at."""
        return self._phase

    @property
    def in_flight(self) -> int:
        """Requests of this process whose response is not closed yet."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Requests of this process that wait for a thread, as it was last set."""
        return self._waiting

    @waiting.setter
    def waiting(self, waiting: int) -> None:
        self._waiting = waiting  # the others see it with the next request that comes or goes, or heartbeat

    def subscribe(self, listener: Callable[[State], None]) -> None:
        """Call a function after each change, in the thread that made or noticed it; it must not raise."""
        self._listeners.append(listener)

    def advance(self, state: State) -> bool:
        """Move this process forward to a state.

        Returns:
            False when the process is there already, or beyond it; nothing changes then.
        """
        with self._lock:
            if state <= self._state:
                return False
            self._state = state
            self._phase = max(self._phase, Phase.READY if state is State.READY else Phase.STOPPING)
            self._version += 1
        self._note()
        self._announce(state)
        return True

    def retire(self) -> bool:
        """Say that this worker ends when it has finished, and that another is to take its place.

        Returns:
            False when it said so already, or is stopping; nothing changes then.
        """
        return self._go_on_to(Phase.RETIRING)

    def finish(self) -> bool:
        """Say that this worker accepts nothing more. Its state stays: the server may serve on with others.

        Returns:
            False when it said so already; nothing changes then.
        """
        return self._go_on_to(Phase.STOPPING)

    def beat(self) -> None:
        """Say that the worker's loop runs: call it from there, once a second. Notices what the master says."""
        self._beat_at = self._clock.monotonic()
        with self._lock:
            self._version += 1
        self._note()
        _ = self.state

    def enter(self) -> None:
        """Count a request in; each call needs one :meth:`leave`."""
        with self._lock:
            self._in_flight += 1
            self._version += 1
        self._note()

    def leave(self) -> None:
        """Count a request out, when its response body is closed."""
        with self._lock:
            self._in_flight -= 1
            self._version += 1
            if self._in_flight == 0:
                self._idle.notify_all()
        self._note()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request for the time of a block."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def wait_idle(self, seconds: float) -> bool:
        """Wait until no request is in flight; False when the time ran out first."""
        with self._idle:
            return self._idle.wait_for(lambda: self._in_flight == 0, seconds)

    def close(self) -> None:
        """Say nothing more on the page: this worker ends."""
        with self._writing:
            entry, self._entry = self._entry, None
            if entry is not None:
                entry.remove()

    def _go_on_to(self, phase: Phase) -> bool:
        with self._lock:
            if self._phase >= phase:
                return False
            self._phase = phase
            self._version += 1
        self._note()
        return True

    def _announce(self, state: State) -> None:
        with self._lock:
            if state <= self._announced:
                return
            self._announced = state
        for listener in self._listeners:
            listener(state)

    def _note(self) -> None:
        # Whoever comes while another thread writes has counted before it looked, so that the other one, which looks
        # once more after it has let go, writes that too.
        while self._written != self._version and self._writing.acquire(blocking=False):
            try:
                version = self._version
                in_flight = self._in_flight
                if self._gauge is not None:
                    self._gauge.set(in_flight)
                if self._entry is not None:
                    self._entry.write(self._packed(in_flight))
                self._written = version
            finally:
                self._writing.release()

    def _packed(self, in_flight: int) -> bytes:
        return _WORKER.pack(
            self._master_pid,
            self._state,
            self._phase,
            in_flight,
            self._waiting,
            self._since,
            self._beat_at,
        )


def _this_process() -> Owner:
    return find_owner(os.getpid())


def _pack_server(word: ServerWord) -> bytes:
    by = word.by.encode("utf-8", "replace")[:_BY_BYTES_MAX].decode("utf-8", "ignore").encode()
    ends = math.inf if word.lame_duck_ends is None else word.lame_duck_ends
    return _SERVER.pack(word.state, word.since, ends, len(by)) + by


def _read_server(pid: int, raw: bytes) -> ServerWord | None:
    if len(raw) < _SERVER.size:
        return None
    state, since, ends, length = _SERVER.unpack_from(raw)
    if state not in _STATES or len(raw) != _SERVER.size + length:
        return None
    by = raw[_SERVER.size :].decode("utf-8", "replace")
    return ServerWord(pid, State(state), since, by, ends if math.isfinite(ends) else None)


def _read_worker(pid: int, raw: bytes) -> WorkerWord | None:
    if len(raw) != _WORKER.size:
        return None
    master_pid, state, phase, in_flight, waiting, since, beat_at = _WORKER.unpack(raw)
    if state not in _STATES or phase not in _PHASES:
        return None
    # Who waits is in flight: the older of the two counts gives way.
    return WorkerWord(pid, master_pid, State(state), Phase(phase), in_flight, min(waiting, in_flight), since, beat_at)
