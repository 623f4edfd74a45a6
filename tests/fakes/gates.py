"""Places where a thread stands until a test lets it go on, for races that a test decides."""

from __future__ import annotations

import threading
from typing import Any

from app.stability.cache_tiers import Entry, MemoryTier
from app.stability.single_flight import Flight, SingleFlight
from tests.fakes.clocks import HandClock

PATIENCE = 30.0
"""So long a test waits for what comes at once, in seconds."""


class Flights(SingleFlight):
    """Tells when somebody has boarded."""

    def __init__(self, max_wait_seconds: float = PATIENCE) -> None:
        super().__init__(max_wait_seconds)
        self._boarded = threading.Semaphore(0)

    def board(self, key: str) -> tuple[Flight, bool]:
        found = super().board(key)
        self._boarded.release()
        return found

    def wait_for_boardings(self, number: int) -> None:
        for _ in range(number):
            assert self._boarded.acquire(timeout=PATIENCE)


class Gate:
    """A place where a thread stands until the test lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def stand(self) -> None:
        self._reached.set()
        assert self._opened.wait(PATIENCE)

    def wait_for_arrival(self) -> None:
        assert self._reached.wait(PATIENCE)

    def open(self) -> None:
        self._opened.set()


class GatedSource:
    """Stands at its gate, then returns or raises."""

    def __init__(self, result: Any = "value") -> None:
        self.gate = Gate()
        self.calls = 0
        self.result = result

    def __call__(self) -> Any:
        self.calls += 1
        self.gate.stand()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class GatedTier(MemoryTier):
    """A lower tier with gates on the ways in and out, open unless a test closes one."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(name="remote", clock=clock)
        self.before_put: Gate | None = None
        self.after_put: Gate | None = None
        self.after_get: Gate | None = None

    def get(self, key: str) -> Entry | None:
        found = super().get(key)
        _pass(self.after_get)
        return found

    def put(self, key: str, entry: Entry, keep_seconds: float) -> None:
        _pass(self.before_put)
        super().put(key, entry, keep_seconds)
        _pass(self.after_put)


def _pass(gate: Gate | None) -> None:
    if gate is not None:
        gate.stand()
