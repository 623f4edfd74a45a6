"""How many retries a dependency may get, all calls together: what keeps retries from making an outage worse.

Every call pays a share of a retry in, every retry takes a whole one out, and no more than ``floor`` retries are
ever saved up::

                  take 1, if there is one
                             ▲
       ┌─────────┐      ┌────┴─────┐
       │  calls  │ ───▶ │  0‥floor  │     full while all is well: then paying in is one comparison
       └─────────┘ +    └──────────┘     empty in an outage: then one retry for every 1 / ratio calls
                 ratio

So in any stretch of time, whatever came before it, N calls make at most N + ratio · N + floor attempts. That is also
how it ages: an hour of good weather saves up ``floor`` retries and not one more, so that no storm is paid from it,
and no clock is needed.
"""

from __future__ import annotations

from .errors import OptionError
from .locks import make_lock

_RETRY = 1_000_000
"""One retry in the units that are counted: whole numbers, because sums of fractions drift."""


class RetryBudget:
    """The retries that are left for one dependency, in this process. Thread-safe.

    Several retry policies of one dependency can share one.

    Args:
        ratio: Retries per call, in (0, 1]; counted to a millionth, rounded down.
        floor: Retries that are there at the start, and the most that are saved up; at least 1.

    Raises:
        OptionError: A number is outside its range.
    """

    __slots__ = ("_full", "_level", "_lock", "_share")

    def __init__(self, ratio: float = 0.2, floor: int = 3) -> None:
        if type(ratio) is bool or not 0 < ratio <= 1:
            raise OptionError(["ratio must be > 0, ≤ 1"])
        if type(floor) is not int or floor < 1:
            raise OptionError(["floor must be a whole number ≥ 1"])
        self._share = int(ratio * _RETRY)
        self._full = floor * _RETRY
        self._level = self._full
        self._lock = make_lock()

    @property
    def remaining(self) -> float:
        """How many retries are left, in [0, floor]."""
        return self._level / _RETRY

    @property
    def has_one(self) -> bool:
        """Whether there is a whole retry, now; another thread may take it."""
        return self._level >= _RETRY

    def deposit(self) -> None:
        """Pay in for one call; its retries do not pay. Takes no lock while the budget is full."""
        if self._level < self._full:
            with self._lock:
                # Nothing is called in these lines: what a signal's function takes meanwhile stays taken.
                level = self._level + self._share
                self._level = self._full if level > self._full else level  # noqa: FURB136  # min() is a call

    def take(self) -> bool:
        """Take a retry out; False, and nothing taken, when there is no whole one."""
        with self._lock:
            if self._level < _RETRY:
                return False
            self._level -= _RETRY
            return True
