"""What a breaker counts for whoever watches: calls by kind and their durations, in plain lists.

No metrics library is called per call; an exporter reads the lists when it is asked. Not thread-safe by itself: the
breaker's lock is held, but for counting refusals.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from .figures import Distribution, Figure

BOUNDS_SECONDS: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of durations, each included."""

KINDS: Final = ("successful", "failed", "ignored", "late", "not_permitted")
"""What can become of a call."""


class LockFreeCounter:
    """Counts without a lock: ``itertools.count`` gives out each number once, however many threads ask.

    Attributes:
        add: Counts one.
    """

    __slots__ = ("_numbers", "_reads", "add")

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._reads = 0
        self.add = self._numbers.__next__

    def read(self) -> int:
        """Return how often :attr:`add` was called; for one thread at a time."""
        # Looking at the next number takes it, so the looks are taken off again; no interrupt comes between the two.
        self._reads += 1
        return next(self._numbers) - self._reads + 1


class Tally:
    """The counts of one breaker.

    Args:
        name: Of the breaker, its label.

    Attributes:
        successful: Recorded successes by bucket of their duration; one more bucket than there are bounds.
        successful_seconds: The sum of their durations.
        failed: The same of recorded failures.
        failed_seconds: The same of recorded failures.
        ignored: Calls whose outcome says nothing.
        late: Calls whose result came to another state than the one that admitted them.
        not_permitted: Calls that were refused.
    """

    __slots__ = (
        "_name",
        "failed",
        "failed_seconds",
        "ignored",
        "late",
        "not_permitted",
        "successful",
        "successful_seconds",
    )

    def __init__(self, name: str) -> None:
        self._name = name
        self.successful = [0] * (len(BOUNDS_SECONDS) + 1)
        self.successful_seconds = 0.0
        self.failed = [0] * (len(BOUNDS_SECONDS) + 1)
        self.failed_seconds = 0.0
        self.ignored = 0
        self.late = 0
        self.not_permitted = LockFreeCounter()

    def counts(self) -> dict[str, int]:
        """Return how many calls there were of each of ``KINDS``."""
        successful, failed = sum(self.successful), sum(self.failed)
        return dict(zip(KINDS, (successful, failed, self.ignored, self.late, self.not_permitted.read()), strict=True))

    def figures(self) -> Iterator[Figure | Distribution]:
        """Yield ``circuit_breaker_calls`` by kind and ``circuit_breaker_call_duration_seconds``."""
        for kind, count in self.counts().items():
            yield Figure("circuit_breaker_calls", "counter", count, {"name": self._name, "kind": kind})
        yield self._durations("successful", self.successful, self.successful_seconds)
        yield self._durations("failed", self.failed, self.failed_seconds)

    def _durations(self, kind: str, buckets: list[int], seconds: float) -> Distribution:
        labels = {"name": self._name, "kind": kind}
        return Distribution("circuit_breaker_call_duration_seconds", BOUNDS_SECONDS, tuple(buckets), seconds, labels)
