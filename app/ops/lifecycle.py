"""Where this process is in its life, and how many requests it is working on.

::

    STARTING ──► READY ──► DRAINING ──► STOPPED
        └──────────┴──── (only forward, steps may be left out) ────►

One process only: what all workers are together is what the metrics say. Who moves the state is the factory
(ready, stopped) and whoever starts a drain; who reads it is readiness.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class State(enum.IntEnum):
    """The states in their order."""

    STARTING = 0
    READY = 1
    DRAINING = 2
    STOPPED = 3


class _Gauge(Protocol):
    def set(self, value: float) -> None: ...


class Lifecycle:
    """State and in-flight counter of one process. Thread-safe.

    Args:
        in_flight: The gauge that follows the counter.
    """

    def __init__(self, in_flight: _Gauge | None = None) -> None:
        self._gauge = in_flight
        self._changed = threading.Condition()
        self._state = State.STARTING
        self._in_flight = 0
        self._listeners: list[Callable[[State], None]] = []

    @property
    def state(self) -> State:
        """Where the process is."""
        return self._state

    @property
    def in_flight(self) -> int:
        """Requests whose response is not closed yet."""
        return self._in_flight

    def subscribe(self, listener: Callable[[State], None]) -> None:
        """Call a function after each change, in the thread that made it; it must not raise."""
        self._listeners.append(listener)

    def advance(self, state: State) -> bool:
        """Move forward to a state.

        Returns:
            False when the process is there already, or beyond it; nothing changes then.
        """
        with self._changed:
            if state <= self._state:
                return False
            self._state = state
        for listener in self._listeners:
            listener(state)
        return True

    def enter(self) -> None:
        """Count a request in; each call needs one :meth:`leave`."""
        self._count(1)

    def leave(self) -> None:
        """Count a request out, when its response body is closed."""
        self._count(-1)

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
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, seconds)

    def _count(self, step: int) -> None:
        with self._changed:
            self._in_flight += step
            if self._gauge is not None:
                self._gauge.set(self._in_flight)
            if self._in_flight == 0:
                self._changed.notify_all()
