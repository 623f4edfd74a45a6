"""Clocks that stand still: until a test moves them, or until something has happened."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable


class HandClock:
    """Both clocks in one; call it for the wall time."""

    def __init__(self) -> None:
        self._wall = dt.datetime(2026, 5, 4, 12, 0, 0, tzinfo=dt.UTC)
        self._monotonic = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> dt.datetime:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock alone, forward or back, as an operator or a time server does."""
        self._wall += dt.timedelta(seconds=seconds)

    def advance(self, seconds: float) -> None:
        self._wall += dt.timedelta(seconds=seconds)
        self._monotonic += seconds


class WaitingClock:
    """Stands still until something has happened, and then runs."""

    def __init__(self, has_happened: Callable[[], bool]) -> None:
        self._has_happened = has_happened
        self._since = time.monotonic()

    def monotonic(self) -> float:
        now = time.monotonic()
        if not self._has_happened():
            self._since = now
        return now - self._since

    def sleep(self, seconds: float, /) -> None:
        raise NotImplementedError  # who waits on this clock waits for an event, never for the clock
