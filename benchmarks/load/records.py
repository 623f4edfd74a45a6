"""What came of a run's requests, request by request, and the figures of any part of it."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final

MOST_LOSSES: Final = 200
"""So many are kept of each class of a run."""


class Outcome(IntEnum):
    """How a request ended."""

    GOOD = 0
    """2xx or 3xx within the time-out."""
    REFUSED = 1
    """503 with ``Retry-After`` within the time-out: try again later."""
    OTHER = 2
    """Any other answer within the time-out."""
    TIMED_OUT = 3
    """The client gave up."""
    LOST = 4
    """The connection was refused, reset, or closed before the answer's end."""


@dataclass(frozen=True)
class Loss:
    """A request that got no good answer, for whoever asks why.

    Attributes:
        due: Seconds from the start of the run.
        seconds: From then to the end.
        reason: ``ECONNRESET``, ``closed``, ``timed out`` …
        stage: How far it had come: ``connecting``, ``sending``, ``waiting``, ``reading after N bytes``.
        is_fresh: Whether it was the first on its connection.
        port: The client's port, to find it in a packet trace.
    """

    due: float
    seconds: float
    reason: str
    stage: str
    is_fresh: bool
    port: int

    def __str__(self) -> str:
        kind = "a fresh" if self.is_fresh else "a kept"
        return f"at {self.due:.3f} s, after {self.seconds:.3f} s, {self.stage} on {kind} connection: {self.reason}"


@dataclass
class Record:
    """One class of traffic in one run; the arrays are parallel, an entry for each request that ended.

    Attributes:
        name: The class.
        began: The start of the run, on the machine's monotonic clock.
        due: Seconds from the start.
        seconds: From the due instant to the end of the answer.
        outcomes: Values of :class:`Outcome`.
        statuses: Of HTTP; 0 without an answer.
        late: By how many seconds after the due instant each request was sent: the generator's own weakness.
        losses: The first of those without a good answer.
    """

    name: str
    began: float = 0.0
    due: array[float] = field(default_factory=lambda: array("d"))
    seconds: array[float] = field(default_factory=lambda: array("d"))
    outcomes: array[int] = field(default_factory=lambda: array("b"))
    statuses: array[int] = field(default_factory=lambda: array("H"))
    late: array[float] = field(default_factory=lambda: array("d"))
    losses: list[Loss] = field(default_factory=list)

    def add(self, *, due: float, seconds: float, outcome: Outcome, status: int) -> None:
        """Add a request that ended."""
        self.due.append(due)
        self.seconds.append(seconds)
        self.outcomes.append(outcome)
        self.statuses.append(status)

    def tally(self, start: float = 0.0, end: float = math.inf) -> Tally:
        """Return the figures of the requests that were due in this part of the run: seconds from its start."""
        chosen = [number for number, due in enumerate(self.due) if start <= due < end]
        outcomes = Counter(self.outcomes[number] for number in chosen)
        return Tally(
            name=self.name,
            offered=len(chosen),
            good=outcomes[Outcome.GOOD],
            refused=outcomes[Outcome.REFUSED],
            other=outcomes[Outcome.OTHER],
            timed_out=outcomes[Outcome.TIMED_OUT],
            lost=outcomes[Outcome.LOST],
            good_ms=self._spread(chosen, Outcome.GOOD),
            refused_ms=self._spread(chosen, Outcome.REFUSED),
            statuses=dict(sorted(Counter(self.statuses[number] for number in chosen).items())),
        )

    def late_p99_ms(self) -> float:
        """Return how late 99 of 100 requests at most were sent."""
        return percentile(sorted(self.late), 0.99) * 1000

    def rows(self, start: float = 0.0) -> Iterator[tuple[float, float, Outcome]]:
        """Yield due instant, seconds and outcome of every request due since then."""
        for due, seconds, outcome in zip(self.due, self.seconds, self.outcomes, strict=True):
            if due >= start:
                yield due, seconds, Outcome(outcome)

    def _spread(self, chosen: Sequence[int], outcome: Outcome) -> Spread:
        return Spread.of([self.seconds[number] for number in chosen if self.outcomes[number] == outcome])


@dataclass(frozen=True)
class Spread:
    """Milliseconds that half and 99 of 100 did not exceed, and the longest; NaN of nothing."""

    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Return the spread of some seconds."""
        ordered = sorted(seconds)
        return cls(*(1000 * percentile(ordered, share) for share in (0.5, 0.99, 1.0)))


@dataclass(frozen=True)
class Tally:
    """How many of what, and how fast."""

    name: str
    offered: int
    good: int
    refused: int
    other: int
    timed_out: int
    lost: int
    good_ms: Spread
    refused_ms: Spread
    statuses: dict[int, int]

    @property
    def answered(self) -> int:
        """Those that got an answer within the time-out, whatever it said."""
        return self.good + self.refused + self.other


def joined(name: str, records: Sequence[Record], *, origin: float | None = None) -> Record:
    """Return several records as one.

    Args:
        name: Of the whole.
        records: At least one.
        origin: The instant on the monotonic clock that due instants shall count from; None takes the first's start.
    """
    whole = Record(name, began=records[0].began if origin is None else origin)
    for record in records:
        shift = record.began - whole.began
        whole.due.extend(due + shift for due in record.due)
        whole.seconds.extend(record.seconds)
        whole.outcomes.extend(record.outcomes)
        whole.statuses.extend(record.statuses)
        whole.late.extend(record.late)
        whole.losses.extend(replace(loss, due=loss.due + shift) for loss in record.losses)
    return whole


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of an ascending sequence; NaN of an empty one."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
