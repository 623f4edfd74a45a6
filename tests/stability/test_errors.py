"""What the library raises: one tree, messages for people, and numbers for programs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from app.stability.errors import (
    BulkheadFullError,
    CallNotPermittedError,
    CallRefusedError,
    IllegalTransitionError,
    InjectedFaultError,
    LimitExceededError,
    OptionError,
    RateLimitExceededError,
    StabilityError,
)

ERRORS: tuple[StabilityError, ...] = (
    CallRefusedError("storage", "closed"),
    CallNotPermittedError("storage", "open", 12.34),
    CallNotPermittedError("storage", "forced_open"),
    BulkheadFullError("storage", "queue_full", 0.25),
    LimitExceededError("storage", "limit"),
    RateLimitExceededError("storage", "rate", 3),
    IllegalTransitionError("storage", "closed", "half_open"),
    OptionError(["a must be ≥ 1", "b must be true or false"]),
    InjectedFaultError("chaos"),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_everything_of_this_library_can_be_caught_at_once(error: StabilityError) -> None:
    with pytest.raises(StabilityError) as caught:
        raise error

    assert caught.value is error


@pytest.mark.parametrize(
    "kind", [CallNotPermittedError, BulkheadFullError, LimitExceededError, RateLimitExceededError]
)
def test_every_refusal_says_who_why_and_until_when(kind: type[CallRefusedError]) -> None:
    error = kind("storage", "full", 2.0)

    assert isinstance(error, CallRefusedError)
    assert (error.name, error.reason, error.retry_after_seconds) == ("storage", "full", 2.0)
    assert str(error) == "storage refused the call: full; try again in 2.0 s"


def test_a_refusal_without_an_end_promises_none() -> None:
    error = CallNotPermittedError("storage", "forced_open")

    assert (error.state, error.reason, error.retry_after_seconds) == ("forced_open", "forced_open", None)
    assert str(error) == "storage refused the call: forced_open"


def test_a_call_may_be_let_through_at_once_and_says_so() -> None:
    assert str(CallRefusedError("storage", "full", 0)) == "storage refused the call: full; try again in 0.0 s"


def test_a_transition_that_is_refused_is_named() -> None:
    error = IllegalTransitionError("storage", "closed", "half_open")

    assert (error.name, error.source, error.target) == ("storage", "closed", "half_open")
    assert str(error) == "storage cannot be moved from closed to half_open"


def test_all_mistakes_stand_in_one_error_that_is_a_wrong_value_too() -> None:
    error = OptionError(["a must be ≥ 1", "b must be true or false"])

    assert isinstance(error, ValueError)
    assert error.mistakes == ("a must be ≥ 1", "b must be true or false")
    assert str(error) == "a must be ≥ 1; b must be true or false"


def through_a_pipe(error: StabilityError) -> StabilityError:
    arrived: StabilityError = pickle.loads(pickle.dumps(error))  # noqa: S301  # what was dumped here
    return arrived


@pytest.mark.parametrize("again", [through_a_pipe, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_on_the_other_side_of_a_pipe(
    error: StabilityError, again: Callable[[StabilityError], StabilityError]
) -> None:
    arrived = again(error)

    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)
    assert arrived.args == error.args
