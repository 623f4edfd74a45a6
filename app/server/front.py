"""The front of a worker: takes connections, reads what comes, and decides what gets a thread, waits, or is refused.

::

    accept ─► head ─► probe? ───────────────► answered here, from memory
                │
                ├──► no room for its class ─► 503 from here, before its body is read
                ▼
              body's beginning ─► admission ─► thread ─► answered ─► next request
                                      │          ▲ │
                                   waiting ──────┘ └─► parked while the client reads slowly

Everything in here runs in the thread of the event loop and never waits. A thread is given to a request when all that
a small request consists of is here, and taken back when its client reads slowly: clients that are slow cost memory
and no threads. Whoever is silent for too long in the middle of something is cut off.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import SHUT_RDWR, SHUT_WR, socket
from typing import Any, Final, Protocol

from app.ops.admission import HALF_WRITTEN_MAX, Admission, Decision, Reason, retry_after_seconds
from app.server import refusals
from app.server.acceptor import Acceptor
from app.server.connections import Connection, Phase
from app.server.exchange import Exchange, Outcome
from app.server.heads import Head, HeadTooLargeError, find_head
from app.server.kept import BodyKeeper
from app.server.loop import LEFT, READABLE, WRITABLE, EventLoop, Timer

_log = logging.getLogger(__name__)

AHEAD_BYTES: Final = 256 * 1024
"""How much of a body is read before its request gets a thread; a smaller body is read whole."""

HELD_BYTES_MAX: Final = 64 * 1024 * 1024
"""How much the requests that come in and wait may hold in memory together; beyond it little is read ahead."""

LITTLE_AHEAD_BYTES: Final = 16 * 1024

_LINGER_SECONDS = 5.0
_LINGER_BYTES_MAX = 64 * 1024 * 1024
_SAID_SECONDS = 1.0
_END = b"\r\n\r\n"
_HOLDING: Final = frozenset({Phase.BODY, Phase.WAITING})
_AT_REST: Final = frozenset({Phase.IDLE, Phase.SKIPPING, Phase.CLOSING})
_now: Final = time.monotonic


class Counter(Protocol):
    """Who counts requests in flight: :class:`app.ops.lifecycle.Lifecycle`."""

    def enter(self) -> None:
        """Count one in."""
        ...

    def leave(self) -> None:
        """Count one out."""
        ...


class Observer(Protocol):
    """Who hears of admission: :class:`app.ops.metrics.Metrics`."""

    def backpressure(self, waiting: int) -> None:
        """So many requests wait now."""
        ...

    def rejected(self, reason: str) -> None:
        """A request was refused."""
        ...


@dataclass(frozen=True, kw_only=True)
class FrontOptions:
    """Limits of one worker.

    Attributes:
        max_connections: Connections at once, at least 1; of more, idle ones are closed and then none accepted.
        keep_alive_seconds: How long a connection may be idle.
        silence_seconds: How long a client may send or take next to nothing in the middle of something.
        spool_folder: Where slow bodies are kept until they are whole, in files without names.
        max_body_bytes: The longest body that is kept there.
        max_parked: Answers at once that wait for slow clients; of more, the one that has waited longest is given up.
    """

    max_connections: int
    keep_alive_seconds: float
    silence_seconds: float
    max_parked: int = HALF_WRITTEN_MAX
    spool_folder: Path
    max_body_bytes: int


class Front:
    """Connections of one worker. Belongs to the thread of its event loop.

    Args:
        loop: The event loop.
        options: Limits.
        admission: Decides what gets a place; of as many places as there are threads.
        open_exchange: Makes the exchange of a request: ``(connection, received bytes, waited seconds)``.
        submit: Runs something in a thread soon; there are as many threads as places.
        answer_probe: Answers a path of a probe with all bytes of the answer, as to a GET; None when it is no probe's.
            Is told the request's id, empty when it brought none, and whether the connection ends with the answer.
        is_last: Whether answers end their connections now.
        counter: Counts requests in flight.
        observer: Hears of admission.
    """

    def __init__(
        self,
        loop: EventLoop,
        options: FrontOptions,
        *,
        admission: Admission[Connection],
        open_exchange: Callable[[Connection, bytes, float], Exchange],
        submit: Callable[[Callable[[], None]], None],
        answer_probe: Callable[[bytes, str, bool], bytes | None],
        is_last: Callable[[], bool],
        counter: Counter,
        observer: Observer,
    ) -> None:
        self._loop = loop
        self._options = options
        self._admission = admission
        self._open_exchange = open_exchange
        self._answer_probe = answer_probe
        self._is_last = is_last
        self._counter = counter
        self._observer = observer
        self._submit = submit
        self._connections: dict[Connection, None] = {}
        self._acceptor = Acceptor(loop, self._take, self._has_room)
        self._held_bytes = 0
        self._parked = 0
        self._keeper = BodyKeeper(options.spool_folder, options.max_body_bytes)
        self._said_waiting = -1
        self._refused: dict[str, int] = {}
        self._said_at = 0.0
        silence, keep_alive = options.silence_seconds, options.keep_alive_seconds
        self._timers: dict[Phase, Timer[Connection]] = {
            Phase.IDLE: Timer(keep_alive),
            Phase.HEAD: Timer(silence),
            Phase.BODY: Timer(silence),
            Phase.PARKED: Timer(silence),
            Phase.SKIPPING: Timer(_LINGER_SECONDS),
            Phase.CLOSING: Timer(_LINGER_SECONDS),
        }
        self._on_event: dict[Phase, Callable[[Connection], None]] = {
            Phase.IDLE: self._read,
            Phase.HEAD: self._read,
            Phase.BODY: self._read,
            Phase.WAITING: self._lose,
            Phase.PARKED: self._resume,
            Phase.SKIPPING: self._skip,
            Phase.CLOSING: self._skip,
        }
        self._on_end: dict[Phase, Callable[[Connection], None]] = {
            Phase.IDLE: self._drop,
            Phase.HEAD: self._refuse_slow,
            Phase.BODY: self._judge_body,
            Phase.PARKED: self._judge_reader,
            Phase.SKIPPING: self._drop,
            Phase.CLOSING: self._drop,
        }

    @property
    def in_flight(self) -> int:
        """Requests that have begun and are not answered to their end."""
        return sum(connection.is_counted for connection in self._connections)

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._connections)

    @property
    def is_busy(self) -> bool:
        """Whether a request is somewhere between its first and its last byte."""
        return any(connection.phase not in _AT_REST for connection in self._connections)

    @property
    def has_idle(self) -> bool:
        """Whether a connection could bring a request."""
        return self._timers[Phase.IDLE].oldest() is not None

    def listen(self, listeners: Iterable[socket]) -> None:
        """Accept connections from now on."""
        self._acceptor.open(listeners)

    def stop_accepting(self) -> None:
        """Accept what the kernel has completed, and nothing after it."""
        self._acceptor.close()

    def close_idle(self) -> None:
        """Close the connections that bring no request now."""
        for connection in [one for one in self._connections if one.phase is Phase.IDLE]:
            self._drop(connection)

    def cut(self) -> int:
        """End every connection, whatever it is at; return how many requests that has cost. Nothing follows it."""
        count = self.in_flight
        for connection in list(self._connections):
            if connection.phase is Phase.WAITING and connection.head is not None:
                self._refuse(connection, connection.head, Reason.STOPPING)
            else:
                with suppress(OSError):
                    connection.socket.shutdown(SHUT_RDWR)
        return count

    def turn(self, timeout_seconds: float) -> None:
        """Wait for something to happen, and do what is to be done.

        Args:
            timeout_seconds: How long to wait at most.
        """
        now = _now()
        ends = [timer.next_end() for timer in self._timers.values()]
        ends.append(self._admission.next_instant())
        until = min((end for end in ends if end is not None), default=now + timeout_seconds)
        self._loop.turn(min(timeout_seconds, max(0.0, until - now)))
        for phase, timer in self._timers.items():
            for connection in timer.take_ended():
                self._guard(connection, self._on_end[phase])
        self._admit_next()
        if not self._has_room() and (oldest := self._timers[Phase.IDLE].oldest()) is not None:
            self._drop(oldest)
        self._acceptor.tend()
        self._say()

    # -- what happens to a connection --------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return len(self._connections) < self._options.max_connections

    def _take(self, client: socket, peer: Any, server: Any) -> None:
        connection = Connection(client, peer, server)
        self._connections[connection] = None
        self._loop.add(connection.descriptor, 0, partial(self._happened, connection))
        self._guard(connection, self._read)

    def _happened(self, connection: Connection, _events: int) -> None:
        react = self._on_event.get(connection.phase)
        if react is not None:  # else a thread has it; an error of the socket meets that thread too
            self._guard(connection, react)

    def _guard(self, connection: Connection, react: Callable[[Connection], None]) -> None:
        """Let a mistake in here cost one connection, and not the worker."""
        try:
            react(connection)
        except Exception:  # noqa: BLE001  # whatever it is costs this connection
            _log.exception("a connection is given up")
            self._drop(connection)

    def _enter(self, connection: Connection, phase: Phase, events: int | None = None) -> None:
        """Let a connection be in a phase, with that phase's time-out and the events that it waits for."""
        former = self._timers.get(connection.phase)
        if former is not None:
            former.stop(connection)
        if connection.phase in _HOLDING:
            self._held_bytes -= len(connection.buffer)
        self._parked += (phase is Phase.PARKED) - (connection.phase is Phase.PARKED)
        connection.phase = phase
        if phase in _HOLDING:
            self._held_bytes += len(connection.buffer)
        timer = self._timers.get(phase)
        if timer is not None:
            timer.start(connection)
        if events is not None:
            self._loop.rearm(connection.descriptor, events)

    def _read(self, connection: Connection) -> None:
        received = connection.receive(connection.missing_bytes if connection.kept is not None else None)
        if received is None:
            if connection.phase is Phase.IDLE:
                self._enter(connection, Phase.IDLE)
            self._loop.rearm(connection.descriptor, READABLE)
        elif not received:
            self._end_input(connection)
        elif connection.kept is not None:
            self._keep(connection, received)
        else:
            if connection.phase is Phase.BODY:
                self._held_bytes += len(received)
            connection.buffer += received
            self._go_on(connection)

    def _keep(self, connection: Connection, received: bytes) -> None:
        try:
            connection.keep(received)
        except OSError as error:
            _log.warning("no room to keep a slow body (%s)", error.strerror)
            if connection.head is not None:
                self._refuse(connection, connection.head, Reason.QUEUE_FULL)
            return
        self._await_body(connection)

    def _end_input(self, connection: Connection) -> None:
        """React to a client that sends no more; it may still read, and be told that its body is incomplete."""
        if connection.phase is Phase.BODY:
            self._offer(connection)
            return
        if connection.phase is Phase.HEAD:
            _log.debug("premature end of a request's head")
        self._drop(connection)

    def _go_on(self, connection: Connection) -> None:
        """Do what can be done with what has come in."""
        if connection.head is None:
            try:
                head = find_head(connection.buffer)
            except HeadTooLargeError:
                self._count_in(connection)
                self._say_and_close(connection, refusals.refusal(431))
                return
            if head is None:
                if connection.phase is not Phase.HEAD:
                    self._count_in(connection)
                    self._enter(connection, Phase.HEAD)
                self._loop.rearm(connection.descriptor, READABLE)
                return
            if not self._meet(connection, head):
                return
        self._await_body(connection)

    def _meet(self, connection: Connection, head: Head) -> bool:
        """Answer a probe, refuse a request, or take it; tell whether it was taken."""
        is_last = head.is_last or self._is_last()
        answer = self._answer_probe(head.path, head.request_id, is_last) if head.is_plain else None
        if answer is None:
            reason = self._admission.refuses(head.request_class, _now())
            if reason is not None:  # over before anybody could see it in flight
                self._refuse(connection, head, reason)
                return False
            self._count_in(connection)
            connection.head = head
            connection.chunks = head.chunk_scan()
            return True
        self._count_out(connection)
        del connection.buffer[: head.length]
        answer = _as_asked(head, answer)
        if is_last:
            self._say_and_close(connection, answer)
            return False
        if not self._send(connection, answer):
            return False
        self._enter(connection, Phase.IDLE)
        if connection.buffer:
            self._loop.call_soon(partial(self._guard, connection, self._look_ahead))
        else:
            self._loop.rearm(connection.descriptor, READABLE)
        return False

    def _look_ahead(self, connection: Connection) -> None:
        """Look at what was sent behind a probe; in another turn, or one turn would answer any number of them."""
        if connection.phase is Phase.IDLE:  # else it was dropped meanwhile
            self._go_on(connection)

    def _await_body(self, connection: Connection) -> None:
        ahead = AHEAD_BYTES if self._held_bytes < HELD_BYTES_MAX else LITTLE_AHEAD_BYTES
        is_too_long = connection.missing_bytes > self._options.max_body_bytes  # refused by its announced length
        if is_too_long or (connection.has_body(ahead) and not self._keeper.keeps(connection)):
            self._offer(connection)
            return
        if connection.phase is not Phase.BODY:
            connection.moved_bytes = connection.arrived_bytes
            connection.offered_at = _now()
            self._enter(connection, Phase.BODY)
        self._loop.rearm(connection.descriptor, READABLE)

    # -- admission ---------------------------------------------------------------------------------------------------

    def _offer(self, connection: Connection) -> None:
        connection.offered_at = now = _now()
        verdict = self._admission.offer(connection, connection.request_class, now)
        if verdict is Decision.ADMITTED:
            self._start(connection)
        elif verdict is Decision.QUEUED:
            self._enter(connection, Phase.WAITING, LEFT)
        elif connection.head is not None:
            self._refuse(connection, connection.head, verdict)

    def _admit_next(self) -> None:
        for connection, reason in self._admission.next(_now()):
            if reason is not None:
                if connection.head is not None:
                    self._refuse(connection, connection.head, reason)
            else:
                self._guard(connection, self._start)

    def _start(self, connection: Connection) -> None:
        """Give a thread to a request that has a place: to begin its answer, or to go on with it."""
        self._enter(connection, Phase.WORKING)
        exchange = connection.exchange
        if exchange is not None:
            self._submit(partial(self._work, connection, exchange.go_on))
            return
        received, waited_seconds = bytes(connection.buffer), _now() - connection.offered_at
        try:
            connection.exchange = exchange = self._open_exchange(connection, received, waited_seconds)
        except Exception:
            self._admission.release(connection.request_class)  # else no thread would give it back
            raise
        connection.buffer.clear()
        self._submit(partial(self._work, connection, exchange.begin))

    def _work(self, connection: Connection, step: Callable[[], Outcome]) -> None:
        """Do a step of a request. In a thread."""
        outcome = Outcome.LOST
        try:
            outcome = step()
        finally:
            self._loop.call_soon(partial(self._guard, connection, partial(self._worked, outcome)))

    def _worked(self, outcome: Outcome, connection: Connection) -> None:
        self._admission.release(connection.request_class)
        if outcome is Outcome.PARKED and connection in self._connections:
            connection.moved_bytes = connection.unsent_bytes()
            self._enter(connection, Phase.PARKED, WRITABLE)
            if self._parked > self._options.max_parked:
                self._drop(self._timers[Phase.PARKED].oldest() or connection)
            return
        self._keeper.forget(connection)
        exchange, connection.exchange, connection.head = connection.exchange, None, None
        self._count_out(connection)
        if outcome is Outcome.KEEP and exchange is not None:
            connection.buffer += exchange.rest
            connection.skip_bytes = exchange.unread_bytes
            self._continue(connection)
        elif outcome is Outcome.CLOSE:
            self._close_gently(connection)
        else:
            self._drop(connection)

    def _continue(self, connection: Connection) -> None:
        """Go on to the next request of a connection."""
        if connection.skip_bytes:
            self._enter(connection, Phase.SKIPPING, READABLE)
            return
        self._enter(connection, Phase.IDLE)
        if connection.buffer:
            self._go_on(connection)
        else:
            self._loop.rearm(connection.descriptor, READABLE)

    def _resume(self, connection: Connection) -> None:
        self._timers[Phase.PARKED].stop(connection)
        if self._admission.resume(connection, connection.request_class, _now()):
            self._start(connection)

    def _refuse(self, connection: Connection, head: Head, reason: Reason) -> None:
        now = _now()
        seconds = retry_after_seconds(self._admission.longest_wait_seconds(now), random.random)
        self._observer.rejected(reason)
        self._refused[reason.value] = self._refused.get(reason.value, 0) + 1
        keeps = self._may_keep(connection, head, reason)
        answer = _as_asked(head, refusals.overload(seconds, head.request_id, is_last=not keeps))
        if not keeps:
            self._say_and_close(connection, answer)
        elif self._send(connection, answer):
            self._count_out(connection)
            connection.head = None
            self._enter(connection, Phase.IDLE, READABLE)
            connection.buffer.clear()

    def _may_keep(self, connection: Connection, head: Head, reason: Reason) -> bool:
        """Tell whether the connection of a refused request may go on: a new one costs more than the refusal.

        Nothing may follow the head: a body would have to be dropped, and of requests that are sent ahead one turn of
        the loop would refuse any number.
        """
        is_last = head.is_last or reason is Reason.STOPPING or self._is_last()
        return head.is_plain and not is_last and len(connection.buffer) == head.length

    # -- clients that are slow or gone -------------------------------------------------------------------------------

    def _lose(self, connection: Connection) -> None:
        """Forget a request whose client went away while it waited."""
        self._admission.withdraw(connection)
        self._observer.rejected(Reason.CLIENT_LEFT)
        self._drop(connection)

    def _refuse_slow(self, connection: Connection) -> None:
        self._say_and_close(connection, refusals.refusal(408))

    def _judge_body(self, connection: Connection) -> None:
        if connection.has_sent_on():
            self._timers[Phase.BODY].start(connection)
        else:
            self._refuse_slow(connection)

    def _judge_reader(self, connection: Connection) -> None:
        if connection.has_read_on():
            self._timers[Phase.PARKED].start(connection)
        else:
            self._drop(connection)

    # -- endings -----------------------------------------------------------------------------------------------------

    def _send(self, connection: Connection, answer: bytes) -> bool:
        """Send a short answer; a client that has no room for it is dropped."""
        try:
            sent = connection.socket.send(answer)
        except OSError:
            sent = 0
        if sent == len(answer):
            return True
        self._drop(connection)
        return False

    def _say_and_close(self, connection: Connection, answer: bytes) -> None:
        if self._send(connection, answer):
            self._count_out(connection)
            self._close_gently(connection)

    def _close_gently(self, connection: Connection) -> None:
        """Close without the reset that would destroy an answer on its way: the client closes first, or has 5 s."""
        connection.skip_bytes = _LINGER_BYTES_MAX
        try:
            connection.socket.shutdown(SHUT_WR)
        except OSError:
            self._drop(connection)
            return
        self._enter(connection, Phase.CLOSING)
        self._keeper.forget(connection)
        connection.buffer.clear()  # only now: what it held was counted by its length
        self._skip(connection)

    def _skip(self, connection: Connection) -> None:
        """Read and forget what has come, up to ``skip_bytes``."""
        received = connection.receive(connection.skip_bytes)
        if received == b"":
            self._drop(connection)
            return
        connection.skip_bytes -= len(received or b"")
        if connection.skip_bytes or connection.phase is Phase.CLOSING:
            self._loop.rearm(connection.descriptor, READABLE)
        else:
            self._continue(connection)

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection, self) is self:
            return
        self._keeper.forget(connection)
        exchange, phase = connection.exchange, connection.phase
        self._enter(connection, Phase.WORKING)  # no time-out any more
        self._count_out(connection)
        self._loop.remove(connection.descriptor)
        if phase is Phase.PARKED and exchange is not None:
            self._admission.withdraw(connection)
            self._submit(partial(self._abandon, connection, exchange))
            return
        connection.socket.close()

    @staticmethod
    def _abandon(connection: Connection, exchange: Exchange) -> None:
        """Close an answer that nobody reads to its end. In a thread."""
        exchange.abandon()
        connection.socket.close()

    # -- counting ----------------------------------------------------------------------------------------------------

    def _count_in(self, connection: Connection) -> None:
        if not connection.is_counted:
            connection.is_counted = True
            self._counter.enter()

    def _count_out(self, connection: Connection) -> None:
        if connection.is_counted:
            connection.is_counted = False
            self._counter.leave()

    def _say(self) -> None:
        """Let the metrics know how many wait, and once a second the log how many were refused."""
        if self._admission.waiting != self._said_waiting:
            self._said_waiting = self._admission.waiting
            self._observer.backpressure(self._said_waiting)
        now = _now()
        if self._refused and now - self._said_at >= _SAID_SECONDS:
            _log.warning(
                "requests were refused", extra={f"refused_{reason}": count for reason, count in self._refused.items()}
            )
            self._said_at, self._refused = now, {}


def _as_asked(head: Head, answer: bytes) -> bytes:
    """Return an answer as its method wants it: HEAD gets no body."""
    return answer[: answer.index(_END) + len(_END)] if head.method == b"HEAD" else answer
