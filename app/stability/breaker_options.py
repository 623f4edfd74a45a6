"""The options of a circuit breaker, by the names that resilience4j gave them; ratios instead of percent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .options import Options, option

_SECONDS_MAX = 86_400.0
_MANY = 1_000_000


def _wait_mistake(value: Any) -> str | None:
    if callable(value):
        return None
    return _seconds_mistake(value)


def _limit_mistake(value: Any) -> str | None:
    return None if value is None else _seconds_mistake(value)


def _seconds_mistake(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number and 0 < value <= _SECONDS_MAX else f"must be > 0, ≤ {_SECONDS_MAX:g}"


@dataclass(frozen=True, kw_only=True)
class CircuitBreakerOptions(Options):
    """When a breaker opens, for how long, and how it finds out that all is well again."""

    failure_rate_threshold: float = option(
        0.5, "Share of failed calls at which it opens, this share included", above=0, high=1
    )
    slow_call_rate_threshold: float = option(
        1.0, "Share of slow calls at which it opens, this share included", above=0, high=1
    )
    slow_call_duration_threshold_seconds: float = option(
        60.0, "A call that takes longer than this is slow", unit="seconds", above=0, high=_SECONDS_MAX
    )
    minimum_number_of_calls: int = option(
        100, "Rates are not judged on fewer results", unit="calls", low=1, high=_MANY
    )
    sliding_window_type: str = option(
        "count_based",
        "Whether the window holds the last calls or the last seconds",
        choices=("count_based", "time_based"),
    )
    sliding_window_size: int = option(100, "Calls or seconds in the window", unit="calls or s", low=1, high=_MANY)
    wait_duration_in_open_state_seconds: float | Callable[[int], float] = option(  # noqa: RUF009  # option() gives a field
        60.0,
        "How long it stays open; in code also a function of how often it has opened since it was last closed",
        unit="seconds",
        above=0,
        high=_SECONDS_MAX,
        judge=_wait_mistake,
    )
    permitted_calls_in_half_open_state: int = option(
        10, "Trial calls per visit to half-open", unit="calls", low=1, high=_MANY
    )
    max_wait_duration_in_half_open_state_seconds: float | None = option(
        None,
        "How long half-open may last without a verdict before it opens again; none means as long as it was open",
        unit="seconds",
        above=0,
        high=_SECONDS_MAX,
        judge=_limit_mistake,
    )
    automatic_transition_from_open_to_half_open: bool = option(
        False, "Whether looking at it is enough to end the wait, or only a call does"
    )
    count_calls_in_flight_as_slow: bool = option(
        True, "Whether calls count as slow while they still run, so that a hang opens it before any timeout fires"
    )
    open_on_retry_after: bool = option(
        False, "Whether a failure that says when to come back opens it at once, for that long"
    )
    max_ordered_open_seconds: float = option(
        300.0, "The longest that such a failure can order", unit="seconds", above=0, high=_SECONDS_MAX
    )

    def contradictions(self) -> Iterator[str]:
        """Yield what cannot be together."""
        if self.sliding_window_type == "count_based" and self.minimum_number_of_calls > self.sliding_window_size:
            yield (
                f"minimum_number_of_calls ({self.minimum_number_of_calls}) must not exceed sliding_window_size "
                f"({self.sliding_window_size}), or no rate would ever be judged as asked"
            )

    def cautions(self) -> Iterator[str]:
        """Yield what works and is probably not meant."""
        if self.permitted_calls_in_half_open_state > self.minimum_number_of_calls:
            yield (
                f"permitted_calls_in_half_open_state ({self.permitted_calls_in_half_open_state}) exceeds "
                f"minimum_number_of_calls ({self.minimum_number_of_calls}): the first "
                f"{self.minimum_number_of_calls} trial calls decide"
            )
