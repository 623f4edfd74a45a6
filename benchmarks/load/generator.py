"""Sends traffic from one thread and one epoll and never waits for the server: an open loop.

A request is sent when it is due, however many are unanswered, and its time counts from the due instant: no delay of
the server keeps the next request from being seen (coordinated omission). Who gets no answer within the time-out
closes the connection, as real clients do. One core offers 8,000 requests a second and more.

A *closed* loop, for the capacity, is the same with the next request due when one has been answered.
"""

from __future__ import annotations

import errno
import gc
import math
import resource
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from heapq import heappop, heappush
from typing import Final

from benchmarks.load.answers import AnswerReader, BrokenAnswerError
from benchmarks.load.records import MOST_LOSSES, Loss, Outcome, Record
from benchmarks.load.traffic import MOST_SECONDS, Target, Traffic, mark

_RECEIVE_BYTES: Final = 262_144
_MOST_EVENTS: Final = 512
_UNAVAILABLE: Final = 503
_GOOD: Final = range(200, 400)
_LEAST_POLL_SECONDS: Final = 0.001  # what epoll can wait for
_LONGEST_POLL_SECONDS: Final = 0.1
_TURNED_AWAY_SECONDS: Final = 0.05
_PACE_SECONDS: Final = 0.01  # how often a slow client sends or reads
_SLOW_BUFFER_BYTES: Final = 65_536  # what the kernel takes beyond what a slow client has read
_FILES: Final = 65_536
_FIRST_SOURCE: Final = 0x7F010001  # 127.1.0.1
_IP_BIND_ADDRESS_NO_PORT: Final = 24


class _Exchange:
    """One request on its way."""

    __slots__ = ("class_number", "connection", "due", "is_over")

    def __init__(self, class_number: int, due: float) -> None:
        self.class_number = class_number
        self.due = due
        self.is_over = False
        self.connection: _Connection | None = None


class _Connection:
    __slots__ = (
        "bytes_at_a_time",
        "events",
        "exchange",
        "is_fresh",
        "is_idle",
        "is_spent",
        "reader",
        "socket",
        "unsent",
    )

    def __init__(self, connected: socket.socket, traffic: Traffic) -> None:
        self.socket = connected
        slow = traffic.bytes_per_second
        self.bytes_at_a_time = None if slow is None else max(1, round(slow * _PACE_SECONDS))
        self.events = select.EPOLLIN if slow is None else 0
        self.is_fresh = True
        self.is_idle = False
        self.is_spent = False
        self.exchange: _Exchange | None = None
        self.reader = AnswerReader()
        self.unsent = b""


class Generator:
    """Sends classes of traffic to one target, once.

    Args:
        target: Where.
        traffics: What and when.
        sources: From how many addresses of 127.1.0.0/16, in turn, so that limits by client address see many clients.
        closed_seconds: None for an open loop. Else each class keeps as many requests under way as it has due
            instants, for so long.
    """

    def __init__(
        self, target: Target, traffics: Sequence[Traffic], *, sources: int = 1, closed_seconds: float | None = None
    ) -> None:
        assert closed_seconds is None or closed_seconds <= MOST_SECONDS
        self._address = (target.host, target.port)
        self._traffics = traffics
        self._messages = [traffic.message() for traffic in traffics]
        self._sources = sources
        self._closed_seconds = closed_seconds
        self._run = time.time_ns()
        self._epoll = select.epoll()
        self._idle: list[list[_Connection]] = [[] for _ in traffics]
        self._by_descriptor: dict[int, _Connection] = {}
        self._waiting: list[deque[_Exchange]] = [deque() for _ in traffics]
        self._coming = sorted((due, number) for number, traffic in enumerate(traffics) for due in traffic.due)
        self._slow: list[tuple[float, int, _Exchange]] = []
        self._stopping = threading.Event()
        self._sent = 0
        self._under_way = 0
        self._began = 0.0
        self.records = [Record(traffic.name) for traffic in traffics]

    def stop(self) -> None:
        """Send no more; requests under way go on. From any thread."""
        self._stopping.set()

    def run(self) -> list[Record]:
        """Send everything, wait for the last answer or time-out, and return one record for each class."""
        _allow_files()
        with _without_pauses():
            self._began = time.monotonic()
            for record in self.records:
                record.began = self._began
            try:
                while self._coming or self._under_way:
                    self._turn()
            finally:
                for connection in list(self._by_descriptor.values()):
                    connection.socket.close()
                self._epoll.close()
        return self.records

    def _turn(self) -> None:
        now = time.monotonic() - self._began
        coming = self._coming
        if self._stopping.is_set():
            coming.clear()
        while coming and coming[0][0] <= now:
            due, number = heappop(coming)
            self._send(_Exchange(number, due))
        now = time.monotonic() - self._began
        pause = min(
            self._expire(now), self._pace(now), coming[0][0] - now if coming else math.inf, _LONGEST_POLL_SECONDS
        )
        for descriptor, event in self._epoll.poll(max(pause, _LEAST_POLL_SECONDS), _MOST_EVENTS):
            connection = self._by_descriptor.get(descriptor)
            if connection is None:
                continue
            if event & select.EPOLLOUT and connection.unsent:
                self._write(connection)
            if event & ~select.EPOLLOUT:
                self._read(connection)

    def _pace(self, now: float) -> float:
        """Send and read for the slow clients whose moment has come; return the seconds until the next one's."""
        while self._slow and self._slow[0][0] <= now:
            at, number, exchange = heappop(self._slow)
            connection = exchange.connection
            if connection is None:
                continue
            heappush(self._slow, (at + _PACE_SECONDS, number, exchange))
            if connection.unsent:
                self._write(connection)
            if not exchange.is_over:
                self._read(connection)
        return self._slow[0][0] - now if self._slow else math.inf

    def _expire(self, now: float) -> float:
        """Give up what is over its time; return the seconds until the next one is."""
        left = math.inf
        for number, waiting in enumerate(self._waiting):
            limit = now - self._traffics[number].timeout_seconds
            while waiting and (waiting[0].is_over or waiting[0].due <= limit):
                exchange = waiting.popleft()
                if not exchange.is_over:
                    self._fail(exchange, Outcome.TIMED_OUT, "timed out")
            if waiting:
                left = min(left, waiting[0].due - limit)
        return left

    def _send(self, exchange: _Exchange) -> None:
        number = exchange.class_number
        self._under_way += 1
        self._sent += 1
        self._waiting[number].append(exchange)
        message = self._messages[number]
        if self._traffics[number].is_unique:
            message += mark(self._run, self._sent)
        try:
            connection = self._idle[number].pop() if self._idle[number] else self._connect(self._traffics[number])
        except OSError as error:
            self._fail(exchange, Outcome.LOST, _name(error))
            return
        connection.is_idle = False
        connection.exchange = exchange
        connection.reader = AnswerReader()
        connection.unsent = message
        exchange.connection = connection
        self.records[number].late.append(time.monotonic() - self._began - exchange.due)
        if connection.bytes_at_a_time is None:
            self._write(connection)
        else:
            heappush(self._slow, (exchange.due, self._sent, exchange))

    def _connect(self, traffic: Traffic) -> _Connection:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._sources > 1:
                made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                source = _FIRST_SOURCE + self._sent % self._sources
                made.bind((socket.inet_ntoa(source.to_bytes(4, "big")), 0))
            if traffic.bytes_per_second is not None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER_BYTES)
            with suppress(BlockingIOError):  # it will be connected when it can be written to
                made.connect(self._address)
            connection = _Connection(made, traffic)
            self._epoll.register(made.fileno(), connection.events)
        except OSError:
            made.close()
            raise
        self._by_descriptor[made.fileno()] = connection
        return connection

    def _write(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent[: connection.bytes_at_a_time])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if error.errno != errno.EPIPE:
                self._break(connection, _name(error))
                return
            # An answer may have come before the server closed: a refusal does not wait for the body.
            sent = len(connection.unsent)
            connection.is_spent = True
        connection.unsent = connection.unsent[sent:]
        wanted = select.EPOLLIN | select.EPOLLOUT if connection.unsent else select.EPOLLIN
        if wanted != connection.events and connection.bytes_at_a_time is None:
            connection.events = wanted
            self._epoll.modify(connection.socket.fileno(), wanted)

    def _read(self, connection: _Connection) -> None:
        try:
            received = connection.socket.recv(connection.bytes_at_a_time or _RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(connection, _name(error))
            return
        exchange = connection.exchange
        if exchange is None:
            self._close(connection)  # an idle connection that the server has closed
            return
        try:
            is_whole = connection.reader.feed(received) if received else connection.reader.ends_whole()
        except (BrokenAnswerError, ValueError) as error:
            self._break(connection, str(error))
            return
        if is_whole:
            self._finish(connection, exchange, is_closed=not received)
        elif not received:
            self._break(connection, "closed")

    def _finish(self, connection: _Connection, exchange: _Exchange, *, is_closed: bool) -> None:
        reader, number = connection.reader, exchange.class_number
        traffic = self._traffics[number]
        if reader.status in _GOOD:
            outcome = Outcome.GOOD
        else:
            is_refusal = reader.status == _UNAVAILABLE and reader.has_retry_after
            outcome = Outcome.REFUSED if is_refusal else Outcome.OTHER
            self._note_loss(exchange, f"answered {reader.status}")
        self._end(exchange, outcome, reader.status)
        connection.exchange = None
        is_over = is_closed or reader.closes or connection.is_spent or connection.unsent or connection.bytes_at_a_time
        if is_over or not traffic.keeps_connections:
            self._close(connection)
        else:
            connection.is_fresh = False
            connection.is_idle = True
            self._idle[number].append(connection)

    def _break(self, connection: _Connection, reason: str) -> None:
        if connection.exchange is None:
            self._close(connection)
        else:
            self._fail(connection.exchange, Outcome.LOST, reason)

    def _fail(self, exchange: _Exchange, outcome: Outcome, reason: str) -> None:
        connection = exchange.connection
        self._note_loss(exchange, reason)
        self._end(exchange, outcome, 0)
        if connection is not None:
            connection.exchange = None
            self._close(connection)

    def _note_loss(self, exchange: _Exchange, reason: str) -> None:
        connection, record = exchange.connection, self.records[exchange.class_number]
        if len(record.losses) >= MOST_LOSSES:
            return
        record.losses.append(
            Loss(
                due=exchange.due,
                seconds=time.monotonic() - self._began - exchange.due,
                reason=reason,
                stage=_stage(connection),
                is_fresh=connection is None or connection.is_fresh,
                port=_port(connection),
            )
        )

    def _end(self, exchange: _Exchange, outcome: Outcome, status: int) -> None:
        now = time.monotonic() - self._began
        exchange.is_over = True
        exchange.connection = None
        self._under_way -= 1
        self.records[exchange.class_number].add(
            due=exchange.due, seconds=now - exchange.due, outcome=outcome, status=status
        )
        if self._closed_seconds is not None and now < self._closed_seconds:
            # Who is turned away would come again and again, and keep the server busy with refusals.
            due = now if outcome == Outcome.GOOD else now + _TURNED_AWAY_SECONDS
            heappush(self._coming, (due, exchange.class_number))

    def _close(self, connection: _Connection) -> None:
        self._by_descriptor.pop(connection.socket.fileno(), None)
        connection.socket.close()
        if connection.is_idle:
            for idle in self._idle:
                if connection in idle:
                    idle.remove(connection)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))


def _stage(connection: _Connection | None) -> str:
    if connection is None:
        return "connecting"
    if connection.unsent:
        return "sending"
    reader = connection.reader
    return f"reading after {reader.body_bytes} bytes of {reader.status}" if reader.status else "waiting"


def _port(connection: _Connection | None) -> int:
    try:
        return 0 if connection is None else int(connection.socket.getsockname()[1])
    except OSError:
        return 0


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _FILES)), hard))


@contextmanager
def _without_pauses() -> Iterator[None]:
    """Keep the garbage collector, which would stop the clock of many requests, out of a run."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
