"""The bulkhead: so many calls at once, so many that wait, and no longer than it makes sense.

::

    execute ─▶ a place is free and nobody waits ───────────────────────────────▶ function ─▶ place given back
                  └ no ─▶ queue ─▶ handed a place, first come first served ──▲                     │
                            │                         ▲                                            │
                            │                         └────────────────────────────────────────────┘
                            └─▶ BulkheadFullError: queue_full · deadline · wait_timeout · codel

Places are tokens in a list. Taking and returning one is a single step of the interpreter each, so the way of a call
that finds a place has no lock and no point at which an interrupt could lose one. A lock is taken only by calls that
wait, and by those that hand a place to one that does.

A place that comes free goes to the call that has waited longest: each waits on a lock of its own, so nobody is woken
for nothing, and a call that arrives while others wait stands behind them.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf, nan
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from .clock import SYSTEM_CLOCK
from .codel import CoDel
from .deadline import current_deadline
from .errors import BulkheadFullError
from .figures import Figure
from .locks import after_fork, make_lock
from .options import Options, option
from .shedding import Shedding

if TYPE_CHECKING:
    from .call import Call, Proceed
    from .clock import Clock
    from .context import PolicyContext
    from .events import EventBus

_log = logging.getLogger(__name__)

QUEUE_FULL: Final = "queue_full"
"""As many calls wait as may."""
DEADLINE: Final = "deadline"
"""The call's deadline has passed, came while it waited, or would come before its turn."""
WAIT_TIMEOUT: Final = "wait_timeout"
"""The call has waited for as long as it may."""
CODEL: Final = "codel"
"""The queue stands, and calls are dropped until it does not."""

REASONS: Final = (QUEUE_FULL, DEADLINE, WAIT_TIMEOUT, CODEL)
"""Why calls are refused."""

_SMOOTHING: Final = 8
"""The share of a new interval in the mean is one in so many, as for TCP's round-trip time (RFC 6298)."""


@dataclass(frozen=True, kw_only=True)
class BulkheadOptions(Options):
    """How many calls, and how long they may wait."""

    max_concurrent_calls: int = option(25, "Calls at work at once", unit="calls", low=1, high=100_000)
    max_queue_length: int = option(
        25, "Calls that may wait for a place; 0 refuses at once", unit="calls", low=0, high=100_000
    )
    max_wait_duration_seconds: float = option(
        1.0, "The longest wait for a place; a sooner deadline holds", unit="seconds", low=0, high=3600
    )
    queue_discipline: str = option(
        "codel", "Who is refused while the queue stands: codel drops calls, fifo none", choices=("codel", "fifo")
    )
    codel_target_seconds: float = option(
        0.005, "A wait above this may not last for an interval", unit="seconds", above=0, high=60
    )
    codel_interval_seconds: float = option(
        0.1, "How long waits are above the target before calls are dropped", unit="seconds", above=0, high=3600
    )

    def contradictions(self) -> Iterator[str]:
        """Yield what cannot be together."""
        if self.codel_target_seconds >= self.codel_interval_seconds:
            yield (
                f"codel_target_seconds ({self.codel_target_seconds:g}) must be less than codel_interval_seconds "
                f"({self.codel_interval_seconds:g}), which is the time that it is watched for"
            )

    def cautions(self) -> Iterator[str]:
        """Yield what works and is probably not meant."""
        if self.max_queue_length and not self.max_wait_duration_seconds:
            yield "max_wait_duration_seconds is 0: no call waits, whatever max_queue_length is"
        elif (
            self.max_queue_length
            and self.queue_discipline == "codel"
            and self.max_wait_duration_seconds <= self.codel_interval_seconds
        ):
            yield (
                f"max_wait_duration_seconds ({self.max_wait_duration_seconds:g}) is not above codel_interval_seconds "
                f"({self.codel_interval_seconds:g}): calls give up before the queue is known to stand"
            )


class _Waiter:
    """A call that waits.

    Attributes:
        wake: Locked until there is something to know.
        since: When it began to wait.
        places: Where its place is from and goes back to; None while it has none.
        reason: Why it is refused; empty while it is not.
    """

    __slots__ = ("places", "reason", "since", "wake")

    def __init__(self) -> None:
        self.wake = threading.Lock()
        self.wake.acquire()
        self.since = nan
        self.places: list[None] | None = None
        self.reason = ""


class _Pace:
    """How fast a queue moves, from the times at which its calls got their places.

    It is forgotten when the queue is empty. A memory of bad times would refuse every call whose deadline is near,
    and then no call would ever wait and show that times are better.
    """

    __slots__ = ("_last", "_mean")

    def __init__(self) -> None:
        self.begin(nan)

    def begin(self, now: float) -> None:
        """Take note that a queue begins."""
        self._last = now
        self._mean = nan

    def served(self, now: float) -> None:
        """Take note that a call left the queue with a place."""
        interval = now - self._last
        self._last = now
        if interval >= 0:
            mean = self._mean
            self._mean = mean + (interval - mean) / _SMOOTHING if mean >= 0 else interval

    def seconds_for(self, calls: int) -> float | None:
        """Return how long so many calls take to leave the queue; None while that is not known."""
        seconds = self._mean * calls
        return seconds if 0 <= seconds < inf else None


class Bulkhead:
    """A policy that bounds how many calls run at once. Thread-safe.

    In a forked child all places are free and nobody waits: those who have and do are threads of the parent. What goes
    on there of a call that the thread was in when it forked does not count, nor does what :meth:`try_acquire` took.

    Args:
        name: For errors, events and metrics.
        options: How many.
        clock: What the waits are measured with; a thread that waits does so in real time. With a clock that raises
            or gives no number nothing is dropped, and the bounds hold.
        bus: Who hears of refused calls.
    """

    Options: ClassVar[type[BulkheadOptions]] = BulkheadOptions

    def __init__(
        self,
        name: str,
        options: BulkheadOptions | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        bus: EventBus | None = None,
    ) -> None:
        self.name = name
        self.options = BulkheadOptions() if options is None else options
        self._monotonic = clock.monotonic
        self._places: list[None] = [None] * self.options.max_concurrent_calls
        self._waiting: deque[_Waiter] = deque()
        self._lock = make_lock()
        self._pace = _Pace()
        self._codel: CoDel | None = None
        if self.options.queue_discipline == "codel":
            self._codel = CoDel(self.options.codel_target_seconds, self.options.codel_interval_seconds)
        self._shedding = Shedding(name, REASONS, bus)
        after_fork(self._begin_anew)

    @classmethod
    def build(cls, options: BulkheadOptions, context: PolicyContext) -> Self:
        """Return a bulkhead for a pipeline; see :class:`.context.PolicyKind`."""
        return cls(context.name, options, clock=context.clock, bus=context.bus)

    @property
    def in_use(self) -> int:
        """How many places are taken, in [0, max_concurrent_calls]."""
        return self.options.max_concurrent_calls - len(self._places)

    @property
    def queue_size(self) -> int:
        """How many calls wait, in [0, max_queue_length]."""
        return len(self._waiting)

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        """Run a call in a place of its own.

        Raises:
            BulkheadFullError: There was none; the function was not called.
        """
        return self.link(proceed)(call)

    def link(self, proceed: Proceed) -> Proceed:
        """Return :meth:`execute` with its second argument given; see :class:`.call.Linkable`."""
        serve, wait, leave = self._serve, self._wait, self._leave

        def guarded(call: Call[Any]) -> Any:
            has_place = False
            waiter = None
            places = self._places  # a forked child has others; this call's place is none of those
            try:
                if not self._waiting:
                    try:
                        # Nothing is called between these two lines, so no signal is looked at in between.
                        del places[-1]
                        has_place = True
                    except IndexError:
                        has_place = False  # all are taken
                if not has_place:
                    waiter = _Waiter()
                    wait(waiter)
                return proceed(call)
            finally:
                if has_place:
                    places.append(None)
                    if self._waiting:
                        serve()
                elif waiter is not None:
                    leave(waiter)

        return guarded

    def try_acquire(self) -> bool:
        """Take a place for work that is done elsewhere; never waits, raises or overtakes a call that does.

        Returns:
            Whether there was one. Then :meth:`release` has to be called once, whatever becomes of the work.
        """
        if self._waiting:
            return False
        try:
            del self._places[-1]
        except IndexError:
            return False
        return True

    def release(self) -> None:
        """Give back a place that :meth:`try_acquire` took.

        Raises:
            ValueError: All places are there already; nothing was changed.
        """
        now = self._now()
        with self._lock:
            if not self.in_use:
                message = f"the bulkhead {self.name!r} has all its places already"
                raise ValueError(message)
            self._places.append(None)
            self._hand_on(now)

    def figures(self) -> Iterator[Figure]:
        """Yield how many calls run and wait now, and how many were refused."""
        yield Figure("bulkhead_in_use", "gauge", self.in_use, {"name": self.name})
        yield Figure("bulkhead_queue_size", "gauge", self.queue_size, {"name": self.name})
        yield from self._shedding.figures()

    def _wait(self, waiter: _Waiter) -> None:
        """Return when the waiter has a place.

        Raises:
            BulkheadFullError: It got none.
        """
        seconds, cause = self._longest_wait()
        now = self._now()
        with self._lock:
            if not self._waiting and self._grant(waiter):
                return  # one came free since it was looked for
            waiter.reason = self._reason_not_to_wait(seconds, cause)
            if not waiter.reason:
                self._join(waiter, now)
        if not waiter.reason and not waiter.wake.acquire(timeout=seconds):
            self._give_up(waiter, cause)
        if waiter.places is not None:
            return
        self._shedding.add(waiter.reason, self._now())
        retry_after = self._pace.seconds_for(len(self._waiting) + 1)
        raise BulkheadFullError(self.name, waiter.reason, retry_after)

    def _longest_wait(self) -> tuple[float, str]:
        """Return how many seconds a call may wait, and for which reason it then ends."""
        seconds, cause = self.options.max_wait_duration_seconds, WAIT_TIMEOUT
        deadline = current_deadline()
        if deadline is not None:
            try:
                left = deadline.remaining_seconds()
            except Exception:  # noqa: BLE001  # a broken clock must not lose the call
                with suppress(Exception):  # what a log handler raises
                    _log.exception("a clock raised; the call waits without its deadline", extra={"policy": self.name})
            else:
                if left < seconds or left <= 0:
                    seconds, cause = left, DEADLINE
        return seconds, cause

    def _reason_not_to_wait(self, seconds: float, cause: str) -> str:
        if len(self._waiting) >= self.options.max_queue_length:
            return QUEUE_FULL
        if cause == DEADLINE:
            expected = self._pace.seconds_for(len(self._waiting) + 1) or 0.0
            if seconds <= 0 or (self._waiting and expected > seconds):
                return DEADLINE
        return ""

    def _join(self, waiter: _Waiter, now: float) -> None:
        if not self._waiting:
            self._pace.begin(now)
            if self._codel is not None:
                self._codel.empty()
        waiter.since = now
        self._waiting.append(waiter)
        # Whoever gives a place back looks for waiters afterwards; who begins to wait looks for a place afterwards.
        self._hand_on(now)

    def _give_up(self, waiter: _Waiter, cause: str) -> None:
        """End a wait that was too long, unless a place is handed over at this very moment."""
        now = self._now()
        with self._lock:
            self._hand_on(now)
            if waiter.places is None and not waiter.reason:
                waiter.reason = cause
                self._remove(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        """Give back what a waiter has when its call is over."""
        if waiter.places is None and not waiter.reason:  # interrupted while it waited
            with self._lock:
                self._remove(waiter)
        if waiter.places is not None:
            waiter.places.append(None)
            if self._waiting:
                self._serve()

    def _remove(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def _begin_anew(self) -> None:
        """Let all places be free and nobody wait: in a forked child, whose parent's threads had and did."""
        self._places = [None] * self.options.max_concurrent_calls
        self._waiting = deque()
        self._pace = _Pace()
        if self._codel is not None:
            self._codel.empty()

    def _serve(self) -> None:
        now = self._now()
        with self._lock:
            self._hand_on(now)

    def _hand_on(self, now: float) -> None:
        """Hand all free places to those who have waited longest; the lock is held."""
        waiting, codel = self._waiting, self._codel
        while True:
            # Nothing is called in these lines: a signal's function may hand on the same places.
            if not waiting or not self._places:
                return
            waiter = waiting[0]
            if codel is not None and codel.drops(now, now - waiter.since, is_last=len(waiting) == 1):
                if waiting and waiting[0] is waiter:
                    waiter.reason = CODEL
                    del waiting[0]
                    waiter.wake.release()
            elif self._grant(waiter):
                self._pace.served(now)

    def _grant(self, waiter: _Waiter) -> bool:
        """Give a waiter a place; False when another thread was faster, or it needs none any more."""
        waiting, places = self._waiting, self._places
        if waiter.places is not None or waiter.reason:
            return False
        try:
            # Nothing is called in these lines: no signal is looked at in between.
            del places[-1]
            waiter.places = places
        except IndexError:
            return False
        if waiting and waiting[0] is waiter:
            del waiting[0]
        waiter.wake.release()
        return True

    def _now(self) -> float:
        try:
            return float(self._monotonic())
        except Exception:  # noqa: BLE001  # a broken clock must lose neither a place nor a result
            with suppress(Exception):  # what a log handler raises
                _log.exception("a clock raised; nothing is dropped for its wait", extra={"policy": self.name})
            return nan
