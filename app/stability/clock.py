"""The one clock that everything in this library reads, so that tests can hold it still."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; it never goes back."""
        ...


class SystemClock:
    """The clock of the operating system, unmoved by changes of the wall clock. Thread-safe."""

    __slots__ = ()

    def monotonic(self) -> float:
        """Return ``time.monotonic()``."""
        return time.monotonic()
