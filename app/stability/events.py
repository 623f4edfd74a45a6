"""What happened, told to whoever listens, without ever costing the call that it happened to.

A policy publishes a frozen :class:`Event`; publishing puts it into a bounded queue and returns, so it may be done
under a lock, which is how the events of one breaker keep their order. One daemon thread per bus and process, started
with the first event, hands them to the listeners. A listener that raises is logged; one that is slow delays the other
events and no call; when the queue is full, events are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import ClassVar, TypeAlias

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        name: Of the policy that it happened to.
        level: How much an operator wants to know it: a level of :mod:`logging`.
    """

    level: ClassVar[int] = logging.INFO

    name: str


Listener: TypeAlias = Callable[[Event], None]
_Queue: TypeAlias = SimpleQueue[Event | threading.Event | None]


class EventBus:
    """Carries events from policies to listeners. Thread-safe; a forked child has a queue and a thread of its own.

    What waits in the moment of a fork is the parent's to tell.

    Args:
        capacity: How many events may wait; what comes while it is full is dropped and counted.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._listeners: tuple[Listener, ...] = ()
        self._lines: dict[int, _Line] = {}

    @property
    def dropped(self) -> int:
        """How many events this process has lost because too many waited."""
        return self._line().dropped

    def subscribe(self, listener: Listener) -> None:
        """Hand all later events to a listener, in a thread of the bus."""
        with self._line().lock:
            self._listeners = (*self._listeners, listener)

    def publish(self, event: Event) -> None:
        """Queue an event; never waits for a listener and never raises. Nothing is done while nobody listens."""
        if not self._listeners:
            return
        line = self._line()
        with line.lock:
            if line.queue.qsize() >= self._capacity:
                line.dropped += 1
                return
            line.queue.put(event)
            line.start()

    def flush(self, timeout_seconds: float = 5.0) -> bool:
        """Wait until every event published before has been handed on; False when that took too long.

        From within a listener it would wait for itself, and returns False at once.
        """
        line = self._line()
        if line.is_inside():
            return False
        reached = threading.Event()
        with line.lock:
            if line.is_idle():
                return True
            line.queue.put(reached)
            line.start()
        return reached.wait(timeout_seconds)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Hand on what waits, then end the thread. Later events start another one, which waits for this one's end.

        From within a listener it returns at once, and the thread ends when it has handed on the rest.
        """
        line = self._line()
        with line.lock:
            ending = line.end()
        if ending is not None and not line.is_inside():
            ending.join(timeout_seconds)

    def _line(self) -> _Line:
        """Return this process's line, which nothing that the parent's threads held at a fork can block."""
        pid = os.getpid()
        line = self._lines.get(pid)
        if line is None:
            line = self._lines.setdefault(pid, _Line(self._hand_on))  # atomic: one of two threads wins
            for other in self._lines.keys() - {pid}:
                self._lines.pop(other, None)
        return line

    def _hand_on(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except BaseException:  # noqa: BLE001  # a listener's mistake is its own, sys.exit() too
                _log.exception("a listener raised", extra={"event": type(event).__name__})


class _Line:
    """The queue of one process and the thread that empties it. :attr:`lock` is held around all but `is_inside`.

    The lock is reentrant, because a signal's function may publish while its thread is publishing.
    """

    def __init__(self, hand_on: Listener) -> None:
        self.lock = threading.RLock()
        self.queue: _Queue = SimpleQueue()
        self.dropped = 0
        self._hand_on = hand_on
        self._worker: threading.Thread | None = None
        self._former: threading.Thread | None = None
        self._inside = threading.local()

    def is_inside(self) -> bool:
        """Tell whether a listener asks."""
        return getattr(self._inside, "here", False)

    def is_idle(self) -> bool:
        """Tell whether no event waits and none is being handed on."""
        ending = self._former is not None and self._former.is_alive()
        return self._worker is None and not ending and self.queue.empty()

    def start(self) -> None:
        """Start the thread if none runs. Where none can be had, events wait for the next attempt."""
        if self._worker is not None:
            return
        worker = threading.Thread(
            target=self._run, args=(self.queue, self._former), name="stability-events", daemon=True
        )
        self._worker = worker  # first, for whoever publishes in a signal meanwhile
        try:
            worker.start()
        except RuntimeError:  # no more threads, or the interpreter is going down
            self._worker = None

    def end(self) -> threading.Thread | None:
        """Let the thread end after what waits now, and return it; None when there never was one."""
        if not self.queue.empty():
            self.start()
        if self._worker is not None:
            self.queue.put(None)
            self._former, self._worker, self.queue = self._worker, None, SimpleQueue()
        return self._former

    def _run(self, queue: _Queue, former: threading.Thread | None) -> None:
        if former is not None:
            former.join()  # the order of events is kept over an end
        self._inside.here = True
        while (item := queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
            else:
                self._hand_on(item)
