"""One object for each stay of a breaker in a state: its *era*.

A permit remembers the visit that admitted it. A result that comes back to another visit is late and changes
nothing, which is why no state ever has to be compared with a number. Every visit answers the same four questions:

- :meth:`Visit.admit`: may this call in?
- :meth:`Visit.record`: a result has come; does the state end?
- :meth:`Visit.give_back`: a call came to no result; what becomes of its place?
- :meth:`Visit.tick`: time has passed; does the state end by itself?

Not thread-safe: the breaker's lock is held around all of them. Only :attr:`Visit.due` is read without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import ClassVar

from .breaker_options import CircuitBreakerOptions
from .breaker_states import State
from .probes import ProbeLedger
from .windows import CountWindow, TimeWindow, Window

UNKNOWN_RATE = -1.0
"""What a rate is while there are too few results."""


@dataclass(frozen=True, slots=True)
class Move:
    """A state that ends, and why.

    Attributes:
        target: What follows.
        cause: One of a fixed set of words, for events.
        rate: The rate that decided, where one did.
    """

    target: State
    cause: str
    rate: float | None = None


class Visit:
    """Base of all stays.

    Attributes:
        state: The state.
        window: The results of this stay, or those that led to it; None where nothing is recorded.
        running: The calls that are under way, by permit, with the instant they began. Whoever takes a permit out
            settles it, and nobody else does.
        due: Until this instant calls may come and go without asking; ``-inf`` where each one has to ask.
        refuses_until: Before this instant calls are refused without asking; ``-inf`` where each one has to ask.
        ends_at: When it ends by itself, ``inf`` when it does not.
        word: The state's value.
    """

    __slots__ = ("due", "ends_at", "refuses_until", "running", "window", "word")

    state: ClassVar[State]
    admits_all: ClassVar[bool] = False

    def __init__(self, window: Window | None) -> None:
        self.window = window
        self.running: dict[object, float] = {}
        self.due = -inf
        self.refuses_until = -inf
        self.ends_at = inf
        self.word = self.state.value

    @property
    def retry_at(self) -> float:
        """When a refused call may be let in, ``inf`` when that is not a matter of time."""
        return inf

    def admit(self, _now: float) -> bool:
        """Let one call in, or not."""
        return self.admits_all

    def record(self, _now: float, _failed: bool, _slow: bool) -> Move | None:  # noqa: FBT001  # slow by keyword
        """Take in the result of an admitted call; return where that leads."""
        return None

    def give_back(self) -> None:
        """Take note that an admitted call came to no result."""

    def tick(self, _now: float) -> Move | None:
        """Return where the passing of time leads; called before anything else is asked.

        It sets ``due`` and ``refuses_until`` anew, which a look at the board may have shortened.
        """
        return None

    def more(self) -> Move | None:
        """Return what else there is to tell, where a move is only told."""
        return None

    def begin_in_child(self) -> None:
        """Forget the calls that were under way when this process was forked: they are the parent's to end."""
        self.running.clear()
        self.due = self.refuses_until = -inf

    @property
    def in_flight_slow(self) -> int:
        """How many calls in flight were slow when they were last counted."""
        return 0

    def rates(self) -> tuple[float, float]:
        """Return failure rate and slow-call rate, each ``UNKNOWN_RATE`` while it cannot be judged."""
        return UNKNOWN_RATE, UNKNOWN_RATE

    def overdue(self, now: float, seconds: float) -> tuple[int, float]:
        """Return how many calls have been running for longer than ``seconds``, and when the next one will be."""
        late, due = 0, now + seconds
        for began in list(self.running.values()):
            if now - began > seconds:
                late += 1
            else:
                due = min(due, began + seconds)
        return late, due


class _Judging(Visit):
    """A stay that keeps a window and judges it after each result."""

    __slots__ = ("_in_flight_slow", "_minimum", "_options")

    def __init__(self, options: CircuitBreakerOptions, window: Window, minimum: int) -> None:
        super().__init__(window)
        self.window: Window = window
        self._options = options
        self._minimum = minimum
        self._in_flight_slow = 0

    def count_overdue(self, now: float) -> float:
        """Count the calls in flight that have become slow; return the instant at which to count again."""
        if not self._options.count_calls_in_flight_as_slow:
            return inf
        self._in_flight_slow, due = self.overdue(now, self._options.slow_call_duration_threshold_seconds)
        return due

    @property
    def in_flight_slow(self) -> int:
        """How many calls in flight were slow when they were last counted."""
        return self._in_flight_slow

    def rates(self) -> tuple[float, float]:
        """Return the rates; they are unknown below the minimum.

        Calls in flight that are slow already count as slow results; how they will end is not known, so they are
        no part of the failure rate.
        """
        window, waiting = self.window, self._in_flight_slow
        results = window.results
        failure = window.failures / results if results >= self._minimum else UNKNOWN_RATE
        results += waiting
        slow = (window.slow + waiting) / results if results >= self._minimum else UNKNOWN_RATE
        return failure, slow

    def crossed(self, *, by_result: bool) -> Iterator[tuple[str, float]]:
        """Yield each threshold that is reached, with its rate; by time alone only that of slow calls can be."""
        failure, slow = self.rates()
        if by_result and failure >= self._options.failure_rate_threshold:
            yield "failure_rate", failure
        if slow >= self._options.slow_call_rate_threshold:
            yield "slow_call_rate", slow


class Closed(_Judging):
    """All calls pass until a threshold is reached."""

    __slots__ = ()

    state = State.CLOSED
    admits_all = True

    def __init__(self, options: CircuitBreakerOptions, now: float) -> None:
        window: Window
        if options.sliding_window_type == "count_based":
            window = CountWindow(options.sliding_window_size)
        else:
            window = TimeWindow(options.sliding_window_size)
        super().__init__(options, window, options.minimum_number_of_calls)
        self.due = self.count_overdue(now)

    def record(self, now: float, failed: bool, slow: bool) -> Move | None:  # noqa: FBT001  # slow by keyword
        """Take in a result; the thresholds are judged on the window that includes it."""
        window = self.window
        if window.calm and not failed and not slow:
            return None
        window.record(now, failed, slow)
        if slow:
            self.due = self.count_overdue(now)  # it may have counted as one in flight until now
        if not (window.failures or window.slow or self._in_flight_slow):
            return None
        return self._next_move()

    def tick(self, now: float) -> Move | None:
        """Judge the calls in flight."""
        self.window.advance(now)
        self.due = self.count_overdue(now)
        return self._next_move(by_result=False) if self._in_flight_slow else None

    def count_overdue(self, now: float) -> float:
        """See above; while calls hang, their share grows as old results leave a time window: each call asks."""
        due = super().count_overdue(now)
        return -inf if self._in_flight_slow and self._options.sliding_window_type == "time_based" else due

    def _next_move(self, *, by_result: bool = True) -> Move | None:
        return next((Move(State.OPEN, cause, rate) for cause, rate in self.crossed(by_result=by_result)), None)


class MetricsOnly(Closed):
    """All calls pass; what would have opened the breaker is told once for each threshold."""

    __slots__ = ("_told",)

    state = State.METRICS_ONLY

    def __init__(self, options: CircuitBreakerOptions, now: float) -> None:
        super().__init__(options, now)
        self._told: set[str] = set()

    def _next_move(self, *, by_result: bool = True) -> Move | None:
        for cause, rate in self.crossed(by_result=by_result):
            if cause not in self._told:
                self._told.add(cause)
                return Move(State.METRICS_ONLY, cause, rate)
        return None

    def more(self) -> Move | None:
        """Tell of the other threshold, when one result has reached both."""
        return self._next_move()


class _Refusing(Visit):
    """A stay that lets nobody in and keeps the figures of the one before, to be looked at."""

    __slots__ = ("_rates",)

    def __init__(self, before: Visit) -> None:
        super().__init__(before.window)
        self._rates = before.rates()

    def rates(self) -> tuple[float, float]:
        """Return the rates that led here."""
        return self._rates


class Open(_Refusing):
    """No call passes until the wait is over.

    Args:
        before: The visit whose figures tripped it.
        until: When the wait is over.
        automatic: Whether the passing of time is enough.
    """

    __slots__ = ("_automatic",)

    state = State.OPEN

    def __init__(self, before: Visit, until: float, *, automatic: bool) -> None:
        super().__init__(before)
        self.ends_at = self.refuses_until = until
        self._automatic = automatic

    @property
    def retry_at(self) -> float:
        """When the wait is over."""
        return self.ends_at

    def wait_is_over(self, now: float) -> bool:
        """Tell whether a call may be tried; at the very instant it may."""
        return now >= self.ends_at

    def tick(self, now: float) -> Move | None:
        """End the wait, where looking is enough for that."""
        self.refuses_until = self.ends_at
        return Move(State.HALF_OPEN, "wait_over") if self._automatic and self.wait_is_over(now) else None


class HalfOpen(_Judging):
    """A fixed number of trial calls; they decide, or the time limit does."""

    __slots__ = ("_ledger", "_permits")

    state = State.HALF_OPEN

    def __init__(self, options: CircuitBreakerOptions, ends_at: float, ledger: ProbeLedger) -> None:
        permits = options.permitted_calls_in_half_open_state
        needed = min(options.minimum_number_of_calls, permits)
        super().__init__(options, CountWindow(permits), needed)
        self._permits = permits
        self._ledger = ledger
        self.ends_at = ends_at

    def admit(self, _now: float) -> bool:
        """Give out one of the permits of this visit."""
        return self._ledger.take(self._permits, len(self.running))

    def give_back(self) -> None:
        """Take a permit back from a call that came to no result."""
        self._ledger.give_back()

    def record(self, now: float, failed: bool, slow: bool) -> Move | None:  # noqa: FBT001  # slow by keyword
        """Take in a trial call's result; decide as soon as the others cannot change the verdict."""
        self.window.record(now, failed, slow)
        self._ledger.record(failed=failed, slow=slow)
        self.count_overdue(now)
        return self._verdict()

    def tick(self, now: float) -> Move | None:
        """End it when its time is up, or when trial calls have become slow while they run."""
        self.count_overdue(now)  # first: it is part of the figures that are kept
        if now >= self.ends_at:
            return Move(State.OPEN, "time_limit")
        return self._verdict() if self._in_flight_slow else None

    def _verdict(self) -> Move | None:
        counts, options = self._ledger.counts, self._options
        needed = self._minimum
        slow = counts.slow + self._in_flight_slow
        if counts.failures / needed >= options.failure_rate_threshold:
            return Move(State.OPEN, "failure_rate", min(1.0, counts.failures / needed))
        if slow / needed >= options.slow_call_rate_threshold:
            return Move(State.OPEN, "slow_call_rate", min(1.0, slow / needed))
        missing = max(0, needed - counts.results)
        worst_failure, worst_slow = (counts.failures + missing) / needed, (counts.slow + missing) / needed
        if worst_failure < options.failure_rate_threshold and worst_slow < options.slow_call_rate_threshold:
            return Move(State.CLOSED, "verdict", counts.failures / needed)
        return None


class Disabled(Visit):
    """All calls pass, and nothing is recorded: neither that they run nor how they end."""

    __slots__ = ()

    state = State.DISABLED
    admits_all = True

    def __init__(self) -> None:
        super().__init__(None)
        self.running = _Unrecorded()
        self.due = inf

    def tick(self, now: float) -> Move | None:
        """Stay."""
        self.due = inf
        return super().tick(now)


class _Unrecorded(dict[object, float]):
    """Forgets at once, so that every permit looks settled and the way of a call needs no question for this state."""

    def __setitem__(self, permit: object, began: float) -> None:
        pass


class ForcedOpen(_Refusing):
    """No call passes until an operator says otherwise."""

    __slots__ = ()

    state = State.FORCED_OPEN

    def __init__(self, before: Visit) -> None:
        super().__init__(before)
        self.refuses_until = inf

    def tick(self, now: float) -> Move | None:
        """Stay."""
        self.refuses_until = inf
        return super().tick(now)


class ForcedHalfOpen(_Judging):
    """A fixed number of calls at a time; the last results are shown and decide nothing."""

    __slots__ = ("_permits",)

    state = State.FORCED_HALF_OPEN

    def __init__(self, options: CircuitBreakerOptions) -> None:
        self._permits = options.permitted_calls_in_half_open_state
        needed = min(options.minimum_number_of_calls, self._permits)
        super().__init__(options, CountWindow(self._permits), needed)

    def admit(self, _now: float) -> bool:
        """Let one in while fewer than all are in flight."""
        return len(self.running) < self._permits

    def record(self, now: float, failed: bool, slow: bool) -> Move | None:  # noqa: FBT001  # slow by keyword
        """Take in a result."""
        self.window.record(now, failed, slow)
        self.count_overdue(now)
        return None

    def tick(self, now: float) -> Move | None:
        """Count the calls in flight that are slow, to be looked at."""
        self.count_overdue(now)
        return None
