"""The rate limit: so many calls in so much time, for each key, to the call exactly.

The algorithm is GCRA, the Generic Cell Rate Algorithm of ITU-T I.371, in its form as virtual scheduling. Each key
has one number: the instant at which it is *even*. A call moves that on by one interval, ``period / limit``; time
catches up with it. A call is let in as long as it then lies at most ``burst`` intervals ahead::

    limit 2 in 1 s, burst 3           interval 0.5 s

    calls       │││x    │x  │
                ┴┴┴┴────┴┴──┴────▶    x: refused, even would lie more than 3 intervals ahead
    even ahead  3       3   3         and sinks in between, as far as 0

It is the same as a bucket of ``burst`` tokens that ``limit`` tokens flow into per period, without anybody who
fills it.

Everything is counted in whole numbers, so nothing drifts: a reading of the clock is rounded to a nanosecond, and an
interval that is no whole number of them is exact all the same.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self

from .clock import SYSTEM_CLOCK
from .errors import RateLimitExceededError
from .events import Event, EventBus
from .figures import Figure
from .locks import make_lock
from .options import Options, option
from .shedding import Shedding

if TYPE_CHECKING:
    from .call import Call, Proceed
    from .clock import Clock
    from .context import PolicyContext

_log = logging.getLogger(__name__)

RATE_EXCEEDED: Final = "rate_exceeded"
"""Too many calls of this key in too short a time."""

REASONS: Final = (RATE_EXCEEDED,)
"""Why calls are refused."""

_NANOSECONDS: Final = 1_000_000_000
_PER_SECOND: Final = 1e9
"""The same as a float: a text or a list that a clock gives would be made as many times as long by a whole number."""
_FORGOTTEN_AT_ONCE: Final = 2
"""So many keys that are even are forgotten for each new one: the table shrinks, and no call pays for all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateStoreFailed(Event):
    """The store of a rate limit does not answer, and calls are let through; told once until it answers again.

    Attributes:
        error: Class of the error.
    """

    level: ClassVar[int] = logging.ERROR

    error: str


@dataclass(frozen=True, slots=True)
class Rate:
    """How many calls a key may make. All numbers are whole, so that every store counts the same.

    Attributes:
        limit: Calls per period, at least 1.
        period_nanoseconds: The period, at least 1.
        burst: Calls that may come at once after a rest, at least 1.
    """

    limit: int
    period_nanoseconds: int
    burst: int


class RateStore(Protocol):
    """Where keys have their numbers: in this process, or in a server that several share. Thread-safe.

    A store serves one policy. One that several policies share has to put something of its own before each key.
    """

    def take(self, key: str, rate: Rate, /) -> float:
        """Let a call in, if the rate allows it; looking and taking are one step.

        Args:
            key: Whose call, ``""`` for all that have no key.
            rate: The policy's, always the same.

        Returns:
            0 when it is let in; else after how many seconds the next one would be, greater than 0, and nothing is
            taken.

        Raises:
            Exception: The store does not work. The call is then let through, without having been counted.
        """
        ...


class MemoryRateStore:
    """A :class:`RateStore` of this process. Thread-safe; one short lock.

    It has room for so many keys. What nobody has asked for longest is forgotten first. A key that has rested for
    ``burst`` intervals is even, and nothing is lost with it: a key that is not known may do the same. With more keys
    than that in use at once, one that is not even may be forgotten; it gets its burst anew, and that is counted.

    Args:
        max_keys: Room, at least 1.
        clock: Where "now" comes from.

    Attributes:
        forgotten_early: Keys that were forgotten before they were even.
    """

    def __init__(self, max_keys: int = 10_000, clock: Clock = SYSTEM_CLOCK) -> None:
        self._max_keys = max_keys
        self._monotonic = clock.monotonic
        self._lock = make_lock()
        self._even: OrderedDict[str, int] = OrderedDict()  # in nanoseconds · limit; who was asked for last is last
        self.forgotten_early = 0

    def __len__(self) -> int:
        """Return how many keys are known."""
        return len(self._even)

    def take(self, key: str, rate: Rate, /) -> float:
        """Let a call in, if the rate allows it; see :class:`RateStore`.

        Raises:
            Exception: The clock raised, or gave no number.
        """
        limit, interval = rate.limit, rate.period_nanoseconds
        even_at = self._even
        with self._lock:
            now = round(self._monotonic() * _PER_SECOND) * limit  # here, so that it does not go back between threads
            known = even_at.get(key)
            even = (now if known is None or known < now else known) + interval
            excess = even - now - rate.burst * interval
            if excess <= 0:
                even_at[key] = even
            if known is None:
                self._make_room(now)
            elif key in even_at:  # a signal's function may have made room meanwhile
                even_at.move_to_end(key)  # refused or not: who keeps asking is not forgotten for it
        return 0.0 if excess <= 0 else -(-excess // limit) / _NANOSECONDS

    def _make_room(self, now: int) -> None:
        even_at = self._even
        try:
            for _ in range(_FORGOTTEN_AT_ONCE):
                if even_at[next(iter(even_at))] > now:
                    break
                even_at.popitem(last=False)
        except (KeyError, RuntimeError, StopIteration):
            return  # a signal's function has made room meanwhile
        if len(even_at) > self._max_keys:
            even_at.popitem(last=False)
            self.forgotten_early += 1


@dataclass(frozen=True, kw_only=True)
class RateLimitOptions(Options):
    """How many calls in how much time."""

    limit: int = option(50, "Calls per period, of each key", unit="calls", low=1, high=1_000_000)
    period_seconds: float = option(1.0, "The period", unit="seconds", low=0.001, high=86_400)
    burst: int = option(10, "Calls that may come at once after a rest", unit="calls", low=1, high=1_000_000)
    max_keys: int = option(
        10_000, "Keys that are remembered in this process; who asked longest ago is forgotten first", unit="keys",
        low=1, high=10_000_000,
    )  # fmt: skip

    def cautions(self) -> Iterator[str]:
        """Yield what works and is probably not meant."""
        if self.burst > self.limit:
            yield (
                f"burst ({self.burst}) is more than limit ({self.limit}): after a rest, more calls than that pass "
                "within one period"
            )

    @property
    def rate(self) -> Rate:
        """The same for a store."""
        return Rate(self.limit, round(self.period_seconds * _NANOSECONDS), self.burst)


class RateLimit:
    """A policy that bounds how often a function is called, for each :attr:`.call.Call.key`. Thread-safe.

    Args:
        name: For errors, events and metrics.
        options: How often.
        clock: Where "now" comes from.
        bus: Who hears of refused calls, and of a store that fails.
        store: Where keys have their numbers; None for a :class:`MemoryRateStore` of its own. While it raises, calls
            are let through: a limit that is not counted is better than a service that is down.
    """

    Options: ClassVar[type[RateLimitOptions]] = RateLimitOptions

    def __init__(
        self,
        name: str,
        options: RateLimitOptions | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        bus: EventBus | None = None,
        store: RateStore | None = None,
    ) -> None:
        self.name = name
        self.options = RateLimitOptions() if options is None else options
        self._monotonic = clock.monotonic
        self._bus = bus or EventBus()
        self._store = MemoryRateStore(self.options.max_keys, clock) if store is None else store
        self._shedding = Shedding(name, REASONS, self._bus)
        self._lock = make_lock()
        self._store_failures = 0
        self._is_failing = False

    @classmethod
    def build(cls, options: RateLimitOptions, context: PolicyContext) -> Self:
        """Return a rate limit for a pipeline; see :class:`.context.PolicyKind`."""
        return cls(context.name, options, clock=context.clock, bus=context.bus)

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        """Run a call, if its key may make one now.

        Raises:
            RateLimitExceededError: It may not; ``retry_after_seconds`` is exact, and the function was not called.
        """
        return self.link(proceed)(call)

    def link(self, proceed: Proceed) -> Proceed:
        """Return :meth:`execute` with its second argument given; see :class:`.call.Linkable`."""
        take, rate = self._store.take, self.options.rate

        def guarded(call: Call[Any]) -> Any:
            seconds = 0.0
            try:
                seconds = take(call.key, rate)
                is_refused = seconds > 0
                if self._is_failing:
                    self._is_failing = False
            except Exception as error:  # noqa: BLE001  # whatever a store raises, it decides nothing
                self._store_failed(error)
                is_refused = False
            if is_refused:
                self._shedding.add(RATE_EXCEEDED, self._now())
                raise RateLimitExceededError(self.name, RATE_EXCEEDED, seconds)
            return proceed(call)

        return guarded

    def figures(self) -> Iterator[Figure]:
        """Yield how many calls were refused, how often the store failed, and how full one of this process is."""
        labels = {"name": self.name}
        yield from self._shedding.figures()
        yield Figure("rate_limit_store_failures", "counter", self._store_failures, labels)
        if isinstance(self._store, MemoryRateStore):
            yield Figure("rate_limit_keys", "gauge", len(self._store), labels)
            yield Figure("rate_limit_keys_forgotten_early", "counter", self._store.forgotten_early, labels)

    def _store_failed(self, error: Exception) -> None:
        with self._lock:
            self._store_failures += 1
            is_new, self._is_failing = not self._is_failing, True
        if is_new:
            with suppress(Exception):  # what a log handler raises
                _log.error(
                    "the store of a rate limit failed; calls pass", exc_info=error, extra={"policy": self.name}
                )
            self._bus.publish(RateStoreFailed(name=self.name, error=type(error).__name__))

    def _now(self) -> float:
        try:
            return float(self._monotonic())
        except Exception:  # noqa: BLE001  # a broken clock must not change how a call is refused
            return nan
