"""What happened, told to whoever listens, without ever costing the call that it happened to.

A policy publishes a frozen :class:`Event`; publishing puts it into a bounded queue and returns, so it may be done
under a lock, which is how the events of one breaker keep their order. One daemon thread per bus, started with the
first event, hands them to the listeners. A listener that raises is logged; one that is slow delays the other
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


class EventBus:
    """Carries events from policies to listeners. Thread-safe; a forked child has a thread of its own.

    Args:
        capacity: How many events may wait; what comes while it is full is dropped and counted.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._listeners: tuple[Listener, ...] = ()
        self._queue: SimpleQueue[Event | threading.Event | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._worker_pid = 0
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many events were lost because too many waited."""
        return self._dropped

    def subscribe(self, listener: Listener) -> None:
        """Hand all later events to a listener, in a thread of the bus."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def publish(self, event: Event) -> None:
        """Queue an event; never blocks and never raises. Nothing is done while nobody listens."""
        if not self._listeners:
            return
        if self._queue.qsize() >= self._capacity:
            with self._lock:
                self._dropped += 1
            return
        self._queue.put(event)
        if self._worker_pid != os.getpid():
            self._start()

    def flush(self, timeout_seconds: float = 5.0) -> bool:
        """Wait until every event published before has been handed on; False when that took too long.

        From within a listener it would wait for itself, and returns False at once.
        """
        if self._worker_pid != os.getpid():
            return True
        if threading.current_thread() is self._worker:
            return False
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(timeout_seconds)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Hand on what waits, then end the thread. Later events start another one."""
        with self._lock:
            worker, pid = self._worker, self._worker_pid
            self._worker, self._worker_pid = None, 0
        if worker is not None and pid == os.getpid():
            self._queue.put(None)
            worker.join(timeout_seconds)

    def _start(self) -> None:
        with self._lock:
            if self._worker_pid == os.getpid():
                return
            if self._worker is not None:
                self._queue = SimpleQueue()  # after a fork: what waits is the parent's to tell
            self._worker = threading.Thread(
                target=self._run, args=(self._queue,), name="stability-events", daemon=True
            )
            self._worker_pid = os.getpid()
            self._worker.start()

    def _run(self, queue: SimpleQueue[Event | threading.Event | None]) -> None:
        while (item := queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            for listener in self._listeners:
                try:
                    listener(item)
                except Exception:  # noqa: BLE001  # a listener's mistake is its own
                    _log.exception("a listener raised", extra={"event": type(item).__name__})
