"""Gradient2: how many calls at once a dependency bears, found out from how long they take.

As long as calls take no longer than usual, the limit grows; when they take longer, they wait somewhere, and the limit
shrinks by the ratio::

    gradient  = tolerance · usual / now, between 0.5 and 1
    wanted    = limit · gradient + queue_size
    limit     = limit · (1 - smoothing) + wanted · smoothing, between minimum and maximum

"Usual" is a long moving mean, "now" the mean of one window. The algorithm is Gradient2Limit of Netflix's
concurrency-limits (https://github.com/Netflix/concurrency-limits), which counts no failures. Here the share of calls
that failed makes the gradient, and the growth, smaller by as much: half of the calls lost is as bad as all of them
taking twice as long.
"""

from __future__ import annotations

from typing import Final

_LEAST_GRADIENT: Final = 0.5
"""No window shrinks by more than this, before it is smoothed: outliers are not the end."""
_WARM_UP: Final = 10
"""The first so many windows make a plain mean, because a moving one would hang on to the first of them."""
_FAR_ABOVE: Final = 2.0
_DECAY: Final = 0.95
"""What is usual comes down faster while it is more than so many times what is now: after a long overload."""


class Gradient2:
    """The limit and what it hangs on. Not thread-safe: the policy's lock is held around it.

    Args:
        initial: The limit at the start, in calls.
        minimum: It never falls below this.
        maximum: It never grows beyond this.
        smoothing: The share of a new value, in (0, 1].
        queue_size: Calls that may wait inside the dependency: what the limit grows by while nothing takes longer.
        long_window: Windows that make up what is usual.
        tolerance: How many times as long as usual a call may take without any effect, at least 1.

    Attributes:
        limit: Calls at once, not rounded.
        usual_seconds: The long mean; 0 before the first window.
    """

    __slots__ = (
        "_long_window",
        "_maximum",
        "_minimum",
        "_queue_size",
        "_smoothing",
        "_tolerance",
        "_windows",
        "limit",
        "usual_seconds",
    )

    def __init__(
        self,
        *,
        initial: float,
        minimum: float,
        maximum: float,
        smoothing: float,
        queue_size: float,
        long_window: int,
        tolerance: float,
    ) -> None:
        self.limit = float(initial)
        self.usual_seconds = 0.0
        self._minimum = minimum
        self._maximum = maximum
        self._smoothing = smoothing
        self._queue_size = queue_size
        self._long_window = long_window
        self._tolerance = tolerance
        self._windows = 0

    def update(self, mean_seconds: float | None, failed: float, most_in_flight: int) -> None:
        """Take in what one window has shown.

        Args:
            mean_seconds: Mean duration of the calls that succeeded, 0 or more; None when none did.
            failed: Share of the calls that failed, in [0, 1].
            most_in_flight: The most calls at once.
        """
        gradient = 1.0 if mean_seconds is None else self._gradient(mean_seconds)
        kept = 1.0 - failed
        growth = self._queue_size
        if most_in_flight < self.limit / 2:
            # The callers are the limit: that nothing is slow says nothing about more calls, nor that something is.
            gradient, growth = 1.0, 0.0
        wanted = self.limit * max(_LEAST_GRADIENT, gradient * kept) + growth * kept
        limit = self.limit * (1 - self._smoothing) + wanted * self._smoothing
        self.limit = max(self._minimum, min(self._maximum, limit))

    def _gradient(self, mean_seconds: float) -> float:
        self._learn(mean_seconds)
        if mean_seconds <= 0:
            return 1.0
        gradient = self._tolerance * self.usual_seconds / mean_seconds
        if self.usual_seconds > _FAR_ABOVE * mean_seconds:
            self.usual_seconds *= _DECAY
        return max(_LEAST_GRADIENT, min(1.0, gradient))

    def _learn(self, mean_seconds: float) -> None:
        self._windows = min(self._windows + 1, _WARM_UP + 1)
        weight = 1 / self._windows if self._windows <= _WARM_UP else 2 / (self._long_window + 1)
        self.usual_seconds += (mean_seconds - self.usual_seconds) * weight
