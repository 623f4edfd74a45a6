"""Short ways to the numbers of a metric, for what moves with every request.

Finding a labelled child of ``prometheus_client`` costs more than moving it: it makes a tuple of texts, takes a lock
and looks it up, and a histogram then compares with bound after bound. What is found here is found once, and moves
what the child's own methods move.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram


class ShortCounter:
    """One child of a counter. Thread-safe.

    Args:
        child: The child, or a counter without labels.
    """

    __slots__ = ("_inc",)

    def __init__(self, child: Counter) -> None:
        self._inc = _number(child, "_value").inc

    def inc(self) -> None:
        """Add one."""
        self._inc(1.0)


class ShortGauge:
    """One gauge, not of the ``mostrecent`` kinds. Thread-safe.

    Args:
        gauge: A gauge without labels.

    Attributes:
        set: Sets it.
    """

    __slots__ = ("set",)

    def __init__(self, gauge: Gauge) -> None:
        self.set: Callable[[float], None] = _number(gauge, "_value").set


class ShortHistogram:
    """One child of a histogram. Thread-safe.

    Args:
        child: The child, or a histogram without labels.
    """

    __slots__ = ("_add", "_bounds", "_incs")

    def __init__(self, child: Histogram) -> None:
        self._add = _number(child, "_sum").inc
        self._incs = [bucket.inc for bucket in _number(child, "_buckets")]
        self._bounds: list[float] = _number(child, "_upper_bounds")

    def observe(self, value: float) -> None:
        """Count a value: in the first bucket whose bound is not below it."""
        self._add(value)
        self._incs[bisect_left(self._bounds, value)](1.0)


def _number(child: Counter | Gauge | Histogram, name: str) -> Any:
    # The client has no public way to them; a test compares with what its own methods do.
    return getattr(child, name)
