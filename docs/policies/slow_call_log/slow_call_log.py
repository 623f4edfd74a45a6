"""A policy that tells of calls that take long, and changes nothing: to find a threshold before a breaker has it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from stability import Call, Clock, Event, EventBus, Figure, Options, PolicyContext, Proceed, option


@dataclass(frozen=True, kw_only=True)
class SlowCallLogOptions(Options):
    """What is slow, and how often it is told."""

    threshold_seconds: float = option(1.0, "A call that takes longer is slow", unit="seconds", above=0, high=3600)
    pause_seconds: float = option(10.0, "After an event, none for this long", unit="seconds", low=0, high=3600)

    def cautions(self) -> Iterator[str]:
        """Yield what works and is probably not meant."""
        if self.pause_seconds == 0:
            yield "pause_seconds is 0: a slow dependency makes an event of every call"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowCallSeen(Event):
    """A call took long.

    Attributes:
        operation: As the call says.
        seconds: How long it took.
        untold: How many slow calls there were since the last event, without one of their own.
    """

    level: ClassVar[int] = logging.WARNING

    operation: str
    seconds: float
    untold: int


class SlowCallLog:
    """Counts slow calls, failed ones too, and publishes an event of some. Thread-safe.

    Args:
        name: For events and metrics.
        options: What is slow.
        clock: Where "now" comes from.
        bus: Who hears of it.
    """

    Options: ClassVar[type[SlowCallLogOptions]] = SlowCallLogOptions

    def __init__(self, name: str, options: SlowCallLogOptions, *, clock: Clock, bus: EventBus) -> None:
        self._name = name
        self._options = options
        self._monotonic = clock.monotonic
        self._bus = bus
        self._lock = threading.Lock()
        self._quiet_until = float("-inf")
        self._slow = 0
        self._untold = 0

    @classmethod
    def build(cls, options: SlowCallLogOptions, context: PolicyContext) -> Self:
        """Return one for a pipeline."""
        return cls(context.name, options, clock=context.clock, bus=context.bus)

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        """Run a call and look at the clock afterwards."""
        started = self._monotonic()
        try:
            return proceed(call)
        finally:
            now = self._monotonic()
            if now - started > self._options.threshold_seconds:
                self._count(call.operation, now - started, now)

    def figures(self) -> Iterator[Figure]:
        """Yield the number of slow calls."""
        yield Figure("slow_calls", "counter", self._slow, {"name": self._name})

    def _count(self, operation: str, seconds: float, now: float) -> None:
        with self._lock:
            self._slow += 1
            if now < self._quiet_until:
                self._untold += 1
                return
            untold, self._untold = self._untold, 0
            self._quiet_until = now + self._options.pause_seconds
        self._bus.publish(SlowCallSeen(name=self._name, operation=operation, seconds=seconds, untold=untold))
