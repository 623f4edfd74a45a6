"""The one clock that everything in this library reads, so that tests can hold it still."""

from __future__ import annotations

import time
from typing import Final, Protocol


class Clock(Protocol):
    """A monotonic clock that can also wait."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; it never goes back."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Return after so many seconds, 0 or more."""
        ...


class SystemClock:
    """The clock of the operating system, unmoved by changes of the wall clock. Thread-safe.

    On one host all processes read the same clock, so their instants can be compared.
    """

    __slots__ = ()

    # The functions themselves, not methods around them: every guarded call reads the clock twice.
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


SYSTEM_CLOCK: Final = SystemClock()
"""The clock that is used where none is given."""
