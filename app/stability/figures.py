"""What a policy has counted, for whoever shows it: read at scrape time, never pushed per call.

A policy that counts has a method ``figures()`` (see :class:`Measured`). Names are without the product's prefix and
without ``_total``; :mod:`.integrations.prometheus` adds both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from .locks import make_lock


@dataclass(frozen=True, slots=True)
class Figure:
    """One number.

    Attributes:
        metric: For example ``circuit_breaker_calls``.
        kind: ``counter`` only grows; ``gauge`` is a state.
        value: The number now.
        labels: Names and values, of fixed sets.
    """

    metric: str
    kind: Literal["counter", "gauge"]
    value: float
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Distribution:
    """Durations by bucket.

    Attributes:
        metric: For example ``circuit_breaker_call_duration_seconds``.
        bounds: Upper bounds in seconds, ascending, each included in its bucket; one more bucket has no bound.
        counts: How many durations fell into each bucket, ``len(bounds) + 1`` numbers, not cumulated.
        sum_seconds: The sum of all durations.
        labels: Names and values, of fixed sets.
    """

    metric: str
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum_seconds: float
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class Counts:
    """How often each word of a fixed set came up. Thread-safe.

    Args:
        metric: The name of the figures.
        name: Of the policy, their label ``name``.
        label: Which label holds the word.
        words: All of them.
    """

    def __init__(self, metric: str, name: str, label: str, words: Iterable[str]) -> None:
        self._metric = metric
        self._name = name
        self._label = label
        self._lock = make_lock()
        self._counts = dict.fromkeys(words, 0)

    def add(self, word: str) -> None:
        """Count one."""
        with self._lock:
            self._counts[word] += 1

    def figures(self) -> Iterator[Figure]:
        """Yield a counter for each word."""
        for word, count in self._counts.items():
            yield Figure(self._metric, "counter", count, {"name": self._name, self._label: word})


@runtime_checkable
class Measured(Protocol):
    """A policy that counts. Thread-safe."""

    def figures(self) -> Iterable[Figure | Distribution]:
        """Return everything counted so far; cheap, and without waiting for calls."""
        ...
