"""What is measured: our policies as they are shipped, and the least that a breaker can be.

Every contender is used as a decorator, which is each library's quickest way in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from app.stability.breaker import CircuitBreaker
from app.stability.breaker_options import CircuitBreakerOptions
from app.stability.bulkhead import Bulkhead
from app.stability.call import Policy
from app.stability.events import Event, EventBus
from app.stability.figures import Measured
from app.stability.pipeline import Pipeline
from app.stability.retry import Retry, RetryOptions
from app.stability.timeout import Timeout
from benchmarks.stability.dependency import Function, Guard

OPEN_SECONDS = 3_600.0
"""Every breaker stays open for the rest of the run."""

_SCRAPE_SECONDS = 1.0


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Attributes:
        name: The library, and how it is set up where that is not its default.
        guard: Puts it around a function; each call makes a fresh one.
    """

    name: str
    guard: Guard


class Watched:
    """Our policies with everything on: a listener hears the events, and the figures are read once a second."""

    def __init__(self) -> None:
        self.bus = EventBus()
        self.heard = 0
        self.bus.subscribe(self._hear)
        self._measured: list[Measured] = []

    def guard(self, *policies: Policy) -> Pipeline:
        """Link policies and read their figures from now on."""
        self._measured += [policy for policy in policies if isinstance(policy, Measured)]
        return Pipeline("bench", policies)

    def breaker(self, function: Function) -> Function:
        """Guard with a breaker as it is by default: the last 100 calls, half of them failed."""
        return self.guard(self._breaker())(function)

    def breaker_with(self, kind: str, size: int) -> Guard:
        """Return a guard by a breaker with a window of another kind and size."""
        options = CircuitBreakerOptions(
            sliding_window_type=kind,
            sliding_window_size=size,
            wait_duration_in_open_state_seconds=OPEN_SECONDS,
        )

        def guard(function: Function) -> Function:
            return self.guard(CircuitBreaker("bench", options, bus=self.bus))(function)

        return guard

    def retry(self, function: Function) -> Function:
        """Guard with retries as they are by default: 3 attempts, a budget."""
        return self.guard(Retry("bench", bus=self.bus))(function)

    def all_four(self, function: Function) -> Function:
        """Guard with retry, breaker, bulkhead and a timeout for all attempts together, each as it is by default."""
        policies = (
            Timeout("bench", bus=self.bus),
            Retry("bench", bus=self.bus),
            self._breaker(),
            Bulkhead("bench", bus=self.bus),
        )
        return self.guard(*policies)(function)

    def patient_retry(self, function: Function) -> Function:
        """Guard with retries that do not wait."""
        return self.guard(self._retry_at_once())(function)

    def patient_retry_and_breaker(self, function: Function) -> Function:
        """Guard with retries that do not wait, around a breaker."""
        return self.guard(self._retry_at_once(), self._breaker())(function)

    def read(self) -> int:
        """Read all figures as an exporter does and return how many there are."""
        return sum(1 for policy in self._measured for _ in policy.figures())

    @contextmanager
    def scraped(self) -> Iterator[None]:
        """Read the figures once a second, in a thread, until the block ends."""
        over = threading.Event()

        def scrape() -> None:
            while not over.wait(_SCRAPE_SECONDS):
                self.read()

        thread = threading.Thread(target=scrape, name="scrape", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _breaker(self) -> CircuitBreaker:
        options = CircuitBreakerOptions(wait_duration_in_open_state_seconds=OPEN_SECONDS)
        return CircuitBreaker("bench", options, bus=self.bus)

    def _retry_at_once(self) -> Retry:
        return Retry("bench", RetryOptions(max_attempts=3), clock=_ImpatientClock(), bus=self.bus)

    def _hear(self, _event: Event) -> None:
        self.heard += 1


class _ImpatientClock:
    """A clock whose sleep does not wait, so that a thousand failing requests take no hours."""

    def monotonic(self) -> float:
        return monotonic()

    def sleep(self, seconds: float) -> None:
        pass


class CircuitOpenError(Exception):
    """What the bare breaker refuses with."""


def bare_closure(function: Function) -> Function:
    """Guard with the least that is a breaker at all, written out in one closure.

    It reads the clock before and after the call, takes a lock, writes failure and slowness into a ring of the last
    100 calls, keeps both totals, and opens for an hour at half. There are no events, no metrics, no options, no
    half-open state, no calls in flight; an interrupt counts as a success.
    """
    size, limit, slow_seconds = 100, 50, 60.0
    ring = bytearray(size)
    lock = threading.Lock()
    index = results = failures = slow_calls = 0
    open_until = 0.0

    def guarded() -> object:
        nonlocal index, results, failures, slow_calls, open_until
        began = monotonic()
        if began < open_until:
            raise CircuitOpenError
        failed = slow = 0
        try:
            return function()
        except Exception:
            failed = 1
            raise
        finally:
            now = monotonic()
            if now - began > slow_seconds:
                slow = 2
            with lock:
                oldest = ring[index]
                ring[index] = failed | slow
                failures += failed - (oldest & 1)
                slow_calls += (slow - (oldest & 2)) >> 1
                index = (index + 1) % size
                if results < size:
                    results += 1
                if results == size and (failures >= limit or slow_calls >= size):
                    open_until = now + OPEN_SECONDS

    return guarded
