"""The options of a circuit breaker: the field's names and defaults, and what is refused."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from app.stability.breaker_options import CircuitBreakerOptions
from app.stability.errors import OptionError

SECONDS = (
    "slow_call_duration_threshold_seconds",
    "wait_duration_in_open_state_seconds",
    "max_wait_duration_in_half_open_state_seconds",
    "max_ordered_open_seconds",
)
NUMBERS = ("minimum_number_of_calls", "sliding_window_size", "permitted_calls_in_half_open_state")


def test_defaults_are_those_of_resilience4j_as_ratios_and_seconds() -> None:
    options = CircuitBreakerOptions()

    assert {declared.name: getattr(options, declared.name) for declared in fields(options)} == {
        "failure_rate_threshold": 0.5,
        "slow_call_rate_threshold": 1.0,
        "slow_call_duration_threshold_seconds": 60.0,
        "minimum_number_of_calls": 100,
        "sliding_window_type": "count_based",
        "sliding_window_size": 100,
        "wait_duration_in_open_state_seconds": 60.0,
        "permitted_calls_in_half_open_state": 10,
        "max_wait_duration_in_half_open_state_seconds": None,
        "automatic_transition_from_open_to_half_open": False,
        "count_calls_in_flight_as_slow": True,
        "open_on_retry_after": False,
        "max_ordered_open_seconds": 300.0,
    }


@pytest.mark.parametrize("name", ["failure_rate_threshold", "slow_call_rate_threshold"])
@pytest.mark.parametrize("value", [0, -0.1, 1.01, 50, math.nan, math.inf, "0.5", True, None])
def test_a_threshold_is_a_ratio_above_0(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"^{name} must be"):
        CircuitBreakerOptions(**{name: value})


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize(
    "value", [0, -1, 86_401, math.nan, math.inf, pytest.param(10**400, id="10**400"), "60", True]
)
def test_a_time_is_more_than_0_and_at_most_a_day(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"^{name} must be"):
        CircuitBreakerOptions(**{name: value})


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0.001, 1, 86_400])
def test_a_time_may_be_a_whole_number_or_not(name: str, value: Any) -> None:
    assert getattr(CircuitBreakerOptions(**{name: value}), name) == value


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1, 1.5, 1_000_001, True, None])
def test_a_number_of_calls_is_whole_and_at_least_1(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"^{name} must be"):
        CircuitBreakerOptions(**{name: value})


def test_the_window_counts_calls_or_seconds() -> None:
    with pytest.raises(OptionError, match=r"^sliding_window_type must be one of count_based, time_based$"):
        CircuitBreakerOptions(sliding_window_type="COUNT_BASED")


def test_the_open_wait_may_be_a_function_of_the_attempt() -> None:
    def wait(attempt: int) -> float:
        return 2.0**attempt

    assert CircuitBreakerOptions(wait_duration_in_open_state_seconds=wait).wait_duration_in_open_state_seconds is wait


def test_a_minimum_above_the_count_window_is_a_contradiction() -> None:
    with pytest.raises(OptionError, match=r"minimum_number_of_calls \(100\) must not exceed .*_size \(9\)"):
        CircuitBreakerOptions(sliding_window_size=9)


def test_a_minimum_above_the_length_of_a_time_window_is_none() -> None:
    options = CircuitBreakerOptions(sliding_window_type="time_based", sliding_window_size=9)

    assert options.minimum_number_of_calls > options.sliding_window_size


def test_all_mistakes_come_in_one_message() -> None:
    with pytest.raises(OptionError) as raised:
        CircuitBreakerOptions(failure_rate_threshold=50, sliding_window_size=0, open_on_retry_after=1)  # type: ignore[arg-type]  # wrong types are tested

    assert [mistake.split()[0] for mistake in raised.value.mistakes] == [
        "failure_rate_threshold",
        "sliding_window_size",
        "open_on_retry_after",
    ]


def test_more_trial_calls_than_the_minimum_are_a_caution() -> None:
    (caution,) = CircuitBreakerOptions(minimum_number_of_calls=5).cautions()

    assert "the first 5 trial calls decide" in caution


def test_as_many_trial_calls_as_the_minimum_are_none() -> None:
    assert list(CircuitBreakerOptions(minimum_number_of_calls=10).cautions()) == []
