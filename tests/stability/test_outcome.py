"""What a finished call says: success, failure or nothing; and how long the other side wants to be left alone."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability.outcome import EVERY_ERROR_FAILS, Classification, Outcome, retry_after_of, status_of


class NotFoundError(Exception):
    """Says nothing about the dependency."""


class StatusError(Exception):
    """Carries a response, as HTTP clients' errors do."""

    def __init__(self, status: Any) -> None:
        self.response = SimpleNamespace(status_code=status)


def broken(_value: Any) -> Any:
    message = "a rule with a mistake"
    raise RuntimeError(message)


def test_unless_told_otherwise_every_error_is_a_failure_and_every_value_a_success() -> None:
    assert EVERY_ERROR_FAILS.of_error(ValueError()) is Outcome.FAILURE
    assert EVERY_ERROR_FAILS.of_result(None) is Outcome.SUCCESS
    assert EVERY_ERROR_FAILS.of_result(SimpleNamespace(status_code=500)) is Outcome.SUCCESS
    assert not EVERY_ERROR_FAILS.judges_results


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), BaseExceptionGroup("", [SystemExit()])]
)
def test_an_interruption_is_no_outcome_whatever_the_rules_say(error: BaseException) -> None:
    strict = Classification(failures=(Exception,), failure_when=lambda _error: True)

    assert strict.of_error(error) is Outcome.IGNORED


def test_a_group_of_errors_is_an_error() -> None:
    assert EVERY_ERROR_FAILS.of_error(ExceptionGroup("", [ValueError()])) is Outcome.FAILURE


@pytest.mark.parametrize(
    "rules",
    [
        {"ignored": (NotFoundError,)},
        {"ignored": (LookupError, NotFoundError)},
        {"ignored_when": lambda error: isinstance(error, NotFoundError)},
        {"ignored": (NotFoundError,), "failures": (NotFoundError,), "failure_when": lambda _error: True},
    ],
)
def test_ignored_is_asked_before_failure(rules: dict[str, Any]) -> None:
    rule = Classification(**rules)

    assert rule.of_error(NotFoundError()) is Outcome.IGNORED
    assert rule.of_error(ValueError()) is Outcome.FAILURE


def test_an_error_that_no_rule_names_is_a_success() -> None:
    rule = Classification(failures=(OSError,), failure_when=lambda error: "down" in str(error))

    assert rule.of_error(TimeoutError()) is Outcome.FAILURE
    assert rule.of_error(ValueError("down")) is Outcome.FAILURE
    assert rule.of_error(ValueError("no such colour")) is Outcome.SUCCESS


def test_no_class_of_failures_leaves_the_judgement_to_the_others() -> None:
    rule = Classification(failures=(), failing_statuses=frozenset({503}))

    assert rule.of_error(StatusError(503)) is Outcome.FAILURE
    assert rule.of_error(StatusError(404)) is Outcome.SUCCESS
    assert rule.of_error(ValueError()) is Outcome.SUCCESS


def test_a_status_turns_a_value_into_a_failure_and_404_is_none_by_itself() -> None:
    rule = Classification(failing_statuses=frozenset({429, *range(500, 600)}))

    outcomes = [rule.of_result(SimpleNamespace(status_code=status)) for status in (200, 404, 429, 503)]

    assert rule.judges_results
    assert outcomes == [Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILURE, Outcome.FAILURE]
    assert rule.of_result("no response at all") is Outcome.SUCCESS


def test_a_predicate_turns_a_value_into_a_failure() -> None:
    rule = Classification(failing_result=lambda value: value is None)

    assert rule.judges_results
    assert rule.of_result(None) is Outcome.FAILURE
    assert rule.of_result(0) is Outcome.SUCCESS


def test_a_predicate_and_statuses_are_both_asked() -> None:
    rule = Classification(failing_result=lambda value: value is None, failing_statuses=frozenset({503}))

    assert rule.of_result(None) is Outcome.FAILURE
    assert rule.of_result(SimpleNamespace(status=503)) is Outcome.FAILURE
    assert rule.of_result(SimpleNamespace(status=200)) is Outcome.SUCCESS


def test_the_status_can_be_found_in_another_place() -> None:
    rule = Classification(
        failures=(), failing_statuses=frozenset({503}), status_of=lambda value: getattr(value, "code", None)
    )

    assert rule.of_result(SimpleNamespace(code=503)) is Outcome.FAILURE
    assert rule.of_result(SimpleNamespace(status_code=503)) is Outcome.SUCCESS


@pytest.mark.parametrize(
    "rules",
    [
        {"ignored_when": broken},
        {"failures": (), "failure_when": broken},
        {"failures": (), "failing_statuses": frozenset({1}), "status_of": broken},
        {"failures": (), "failing_statuses": frozenset({1}), "status_of": lambda _value: []},
        {"ignored": "no tuple of classes"},
    ],
)
def test_a_rule_that_raises_makes_an_error_ignored_and_is_logged(
    rules: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        outcome = Classification(**rules).of_error(ValueError())

    assert outcome is Outcome.IGNORED
    assert [record.getMessage() for record in caplog.records] == [
        "a classification raised; the call counts as ignored"
    ]
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize(
    "rules", [{"failing_result": broken}, {"failing_statuses": frozenset({1}), "status_of": broken}]
)
def test_a_rule_that_raises_makes_a_value_ignored_and_is_logged(
    rules: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        outcome = Classification(**rules).of_result("value")

    assert outcome is Outcome.IGNORED
    assert [record.getMessage() for record in caplog.records] == [
        "a classification raised; the call counts as ignored"
    ]


def test_an_interruption_inside_a_rule_is_not_held_back() -> None:
    def interrupted(_value: Any) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Classification(failing_result=interrupted).of_result(1)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (SimpleNamespace(status_code=503), 503),
        (SimpleNamespace(status=503), 503),
        (SimpleNamespace(status_code=200, status=503), 200),
        (SimpleNamespace(status="503 Service Unavailable", status_code="503"), None),
        (SimpleNamespace(status=HTTPStatus.NOT_FOUND), 404),
        (StatusError(502), 502),
        (SimpleNamespace(response=None), None),
        (None, None),
        ("text", None),
    ],
)
def test_a_status_is_looked_for_on_the_value_and_on_its_response(value: Any, status: int | None) -> None:
    assert status_of(value) == status


@pytest.mark.parametrize(
    ("seconds", "found"),
    [(3, 3.0), (0.5, 0.5), (True, None), ("3", None), (None, None)],
)
def test_a_retry_after_is_a_number_of_seconds(seconds: Any, found: float | None) -> None:
    assert retry_after_of(SimpleNamespace(retry_after_seconds=seconds)) == found
    assert retry_after_of(object()) is None


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, -math.inf])
def test_a_retry_after_that_is_no_wait_is_none(seconds: float) -> None:
    assert EVERY_ERROR_FAILS.retry_after(SimpleNamespace(retry_after_seconds=seconds)) is None


def test_the_wait_that_was_asked_for_is_found_in_values_and_errors_alike() -> None:
    error = ValueError()
    error.retry_after_seconds = 2.5  # type: ignore[attr-defined]  # as clients add it

    assert EVERY_ERROR_FAILS.retry_after(error) == 2.5
    assert EVERY_ERROR_FAILS.retry_after(SimpleNamespace(retry_after_seconds=0.001)) == 0.001
    assert EVERY_ERROR_FAILS.retry_after(SimpleNamespace(retry_after_seconds=7)) == 7.0
    assert EVERY_ERROR_FAILS.retry_after("nothing") is None
    assert Classification(retry_after_of=lambda _value: 9.0).retry_after("anything") == 9.0


@pytest.mark.parametrize("search", [broken, lambda _value: "soon", lambda _value: float(10**400)])
def test_a_search_for_retry_after_that_fails_is_logged_and_finds_nothing(
    search: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        found = Classification(retry_after_of=search).retry_after("value")

    assert found is None
    assert [record.getMessage() for record in caplog.records] == ["a classification raised; no Retry-After is taken"]


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()))
def test_whatever_stands_there_a_wait_is_a_finite_number_above_zero_or_none(seconds: Any) -> None:
    found = EVERY_ERROR_FAILS.retry_after(SimpleNamespace(retry_after_seconds=seconds))

    assert found is None or 0 < found < math.inf


@given(
    is_ignored=st.booleans(),
    is_ignored_by_rule=st.booleans(),
    is_failure=st.booleans(),
    is_failure_by_rule=st.booleans(),
    has_failing_status=st.booleans(),
)
def test_ignored_wins_then_failure_and_what_is_left_is_success(
    *,
    is_ignored: bool,
    is_ignored_by_rule: bool,
    is_failure: bool,
    is_failure_by_rule: bool,
    has_failing_status: bool,
) -> None:
    rule = Classification(
        ignored=(StatusError,) if is_ignored else (),
        ignored_when=lambda _error: is_ignored_by_rule,
        failures=(StatusError,) if is_failure else (),
        failure_when=lambda _error: is_failure_by_rule,
        failing_statuses=frozenset({503}),
    )

    outcome = rule.of_error(StatusError(503 if has_failing_status else 200))

    if is_ignored or is_ignored_by_rule:
        assert outcome is Outcome.IGNORED
    elif is_failure or is_failure_by_rule or has_failing_status:
        assert outcome is Outcome.FAILURE
    else:
        assert outcome is Outcome.SUCCESS
