"""The adaptive limit: a bound of calls at once that nobody has to know, with guaranteed shares.

::

    execute ─▶ a place for its partition? ─ no ─▶ LimitExceededError: limit_reached · partition_reached
                  │ yes
                  ▼
               function ─▶ place given back, with how long it took and what came of it
                                      │
                                      ▼  once a second, all together
                               limit: :class:`.gradient.Gradient2`, shares: :class:`.partitions.Partitions`

What a finished call leaves behind goes to a list, in a single step of the interpreter; the next call that comes in
reads the list, under the only lock there is. So no interrupt loses a place, and no call waits for another one to
count itself.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf, nan
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeAlias

from .clock import SYSTEM_CLOCK
from .errors import LimitExceededError
from .figures import Figure
from .gradient import Gradient2
from .options import Options, option
from .outcome import EVERY_ERROR_FAILS, Classification, Outcome
from .partitions import LIMIT_REACHED, OTHERS, PARTITION_REACHED, Partition, Partitions
from .shedding import Shedding

if TYPE_CHECKING:
    from .call import Call, Proceed
    from .clock import Clock
    from .context import PolicyContext
    from .events import EventBus

_log = logging.getLogger(__name__)

REASONS: Final = (LIMIT_REACHED, PARTITION_REACHED)
"""Why calls are refused."""

_LEAST_CALLS: Final = 10
"""A window with fewer results goes on."""
_CALLS_MAX: Final = 100_000
_SLACK: Final = 1e-9

_Finished: TypeAlias = tuple[Partition, Outcome, float, float]


def _shares_mistake(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        return "must be a table of shares by the names of partitions"
    if OTHERS in value:
        return f"must be a table without {OTHERS}, which is what the calls of no partition are called"
    for name, share in value.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            return f"must be a table of ratios from 0 to 1, and {name} is {share!r}"
    total = sum(value.values())
    return None if total <= 1 + _SLACK else f"must be a table of ratios that come to at most 1, not {total:g}"


@dataclass(frozen=True, kw_only=True)
class AdaptiveLimitOptions(Options):
    """Between which bounds the limit moves, how fast, and whose it is."""

    initial_limit: int = option(20, "Calls at once, at the start", unit="calls", low=1, high=_CALLS_MAX)
    min_limit: int = option(5, "The limit never falls below this", unit="calls", low=1, high=_CALLS_MAX)
    max_limit: int = option(200, "The limit never grows beyond this", unit="calls", low=1, high=_CALLS_MAX)
    smoothing: float = option(0.2, "The share of a new limit in the next one; less moves slower", above=0, high=1)
    queue_size: int = option(
        4,
        "Calls that may wait inside the dependency: what the limit strives beyond it",
        unit="calls",
        low=0,
        high=1000,
    )
    long_window: int = option(
        600, "Windows that make up how long calls usually take", unit="windows", low=10, high=100_000
    )
    rtt_tolerance: float = option(
        1.5, "How many times as long as usual calls may take without any effect", low=1, high=10
    )
    window_seconds: float = option(
        1.0, "How long results are collected before the limit moves", unit="seconds", above=0, high=60
    )
    partitions: Mapping[str, float] | None = option(
        None,
        "Guaranteed shares of the limit by partition, each from 0 to 1, together at most 1",
        judge=_shares_mistake,
    )

    def contradictions(self) -> Iterator[str]:
        """Yield what cannot be together."""
        if not self.min_limit <= self.initial_limit <= self.max_limit:
            yield (
                f"initial_limit ({self.initial_limit}) must be from min_limit ({self.min_limit}) to "
                f"max_limit ({self.max_limit})"
            )
        guaranteed = sum(share > 0 for share in (self.partitions or {}).values())
        if guaranteed > self.min_limit:
            yield (
                f"min_limit ({self.min_limit}) must be at least the number of partitions with a share "
                f"({guaranteed}), so that there is a place for each"
            )

    def cautions(self) -> Iterator[str]:
        """Yield what works and is probably not meant."""
        if self.min_limit == self.max_limit:
            yield f"min_limit and max_limit are both {self.min_limit}: the limit never moves"


class AdaptiveLimit:
    """A policy that finds out how many calls at once a dependency bears. Thread-safe.

    Args:
        name: For errors, events and metrics.
        options: Bounds and shares.
        classification: What is a failure; ignored outcomes say nothing about the limit.
        clock: What durations are measured with. With one that raises or gives no number the limit stays as it is.
        bus: Who hears of refused calls.
    """

    Options: ClassVar[type[AdaptiveLimitOptions]] = AdaptiveLimitOptions

    def __init__(
        self,
        name: str,
        options: AdaptiveLimitOptions | None = None,
        *,
        classification: Classification = EVERY_ERROR_FAILS,
        clock: Clock = SYSTEM_CLOCK,
        bus: EventBus | None = None,
    ) -> None:
        self.name = name
        self.options = given = AdaptiveLimitOptions() if options is None else options
        self._classification = classification
        self._monotonic = clock.monotonic
        self._finished: deque[_Finished] = deque()
        self._gradient = Gradient2(
            initial=given.initial_limit,
            minimum=given.min_limit,
            maximum=given.max_limit,
            smoothing=given.smoothing,
            queue_size=given.queue_size,
            long_window=given.long_window,
            tolerance=given.rtt_tolerance,
        )
        self._partitions = Partitions(given.partitions or {}, given.initial_limit)
        self._lock = self._partitions.lock
        self._shedding = Shedding(name, REASONS, bus)
        self._window_ends = self._first_end(clock)
        self._successes = 0
        self._failures = 0
        self._seconds = 0.0
        self._most_in_flight = 0

    @classmethod
    def build(cls, options: AdaptiveLimitOptions, context: PolicyContext) -> Self:
        """Return a limit for a pipeline; see :class:`.context.PolicyKind`."""
        return cls(context.name, options, classification=context.classification, clock=context.clock, bus=context.bus)

    @property
    def limit(self) -> int:
        """Calls at once, now, in [min_limit, max_limit]."""
        with self._lock:
            self._settle()
            return self._partitions.limit

    @property
    def in_use(self) -> int:
        """Places that are taken; more than the limit after it was lowered, until calls end."""
        with self._lock:
            self._settle()
            return self._partitions.in_use

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        """Run a call in a place of its partition.

        Raises:
            LimitExceededError: There was none; the function was not called.
        """
        return self.link(proceed)(call)

    def link(self, proceed: Proceed) -> Proceed:
        """Return :meth:`execute` with its second argument given; see :class:`.call.Linkable`."""
        admit, monotonic, finished = self._admit, self._monotonic, self._finished.append
        of_error, success, ignored = self._classification.of_error, Outcome.SUCCESS, Outcome.IGNORED
        judge = self._classification.of_result if self._classification.judges_results else None

        def guarded(call: Call[Any]) -> Any:
            try:
                began = monotonic() + 0.0  # what is no number raises here
            except Exception:  # noqa: BLE001  # a broken clock must not lose the call
                began = nan
            place = admit(call.partition, began)
            outcome = ignored
            try:
                result = proceed(call)
                outcome = success if judge is None else judge(result)
            except Exception as error:
                outcome = of_error(error)
                raise
            finally:
                ended = nan
                try:
                    ended = monotonic() + 0.0
                except Exception:  # noqa: BLE001  # a broken clock must lose neither the place nor the result
                    ended = nan
                finally:
                    finished((place, outcome, began, ended))
            return result

        return guarded

    def figures(self) -> Iterator[Figure]:
        """Yield the limit, who uses it, and how many calls were refused."""
        with self._lock:
            self._settle()
            limit = self._partitions.limit
            in_use = {p.name: p.in_use for p in (*self._partitions.named.values(), self._partitions.others)}
        yield Figure("adaptive_limit", "gauge", limit, {"name": self.name})
        for partition, calls in in_use.items():
            yield Figure("adaptive_limit_in_use", "gauge", calls, {"name": self.name, "partition": partition})
        yield from self._shedding.figures()

    def _admit(self, name: str, now: float) -> Partition:
        """Take a place.

        Raises:
            LimitExceededError: There was none.
        """
        partitions = self._partitions
        partition = partitions.find(name)
        reason = LIMIT_REACHED
        try:
            with self._lock:
                if self._finished:
                    self._settle()
                if not now < self._window_ends:
                    self._close_window(now)
                reason = partitions.take(partition, now)
                if partitions.in_use > self._most_in_flight:  # noqa: PLR1730  # max() costs more, and every call pays
                    self._most_in_flight = partitions.in_use
        except BaseException:
            if not reason:  # interrupted after it was taken
                self._finished.append((partition, Outcome.IGNORED, nan, nan))
            raise
        if reason:
            self._shedding.add(reason, now)
            raise LimitExceededError(self.name, reason)
        return partition

    def _settle(self) -> None:
        """Take in what finished calls left behind; the lock is held."""
        finished, give_back = self._finished, self._partitions.give_back
        while finished:
            try:
                _, outcome, began, ended = give_back(finished)
            except IndexError:
                return  # a signal's function took in the rest
            if outcome is Outcome.SUCCESS:
                seconds = ended - began
                if 0 <= seconds < inf:
                    self._successes += 1
                    self._seconds += seconds
            elif outcome is Outcome.FAILURE:
                self._failures += 1

    def _close_window(self, now: float) -> None:
        """Move the limit, if there are results enough; the lock is held."""
        successes, failures = self._successes, self._failures
        if successes + failures < _LEAST_CALLS or not now < inf:
            return
        self._gradient.update(
            self._seconds / successes if successes else None, failures / (successes + failures), self._most_in_flight
        )
        self._partitions.resize(int(self._gradient.limit))
        self._window_ends = now + self.options.window_seconds
        self._successes = self._failures = 0
        self._seconds = 0.0
        self._most_in_flight = 0

    def _first_end(self, clock: Clock) -> float:
        try:
            return float(clock.monotonic()) + self.options.window_seconds
        except Exception:  # noqa: BLE001  # the window ends when the clock goes again
            with suppress(Exception):  # what a log handler raises
                _log.exception("a clock raised; the limit stays as it is", extra={"policy": self.name})
            return nan
