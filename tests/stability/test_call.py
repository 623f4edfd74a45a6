"""A call carries its function, its arguments and what policies need to know of it."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest

from app.stability.call import Call
from app.stability.deadline import Deadline, deadline_scope
from app.stability.pipeline import Pipeline
from tests.fakes.clocks import HandClock


def join(*words: str, end: str = "") -> str:
    return " ".join(words) + end


def test_a_call_runs_its_function_with_its_arguments_each_time_it_is_called() -> None:
    call = Call(join, "a", "b", end=".")

    assert (call(), call()) == ("a b.", "a b.")
    assert (call.func, call.args, call.keywords) == (join, ("a", "b"), {"end": "."})


def test_a_call_is_a_first_attempt_that_may_be_repeated_until_it_says_otherwise() -> None:
    call = Call(join)

    facts = (call.operation, call.attempt, call.idempotent, call.idempotency_key, call.replayable)

    assert facts == ("", 1, True, None, True)
    assert (call.partition, call.key) == ("", "")
    assert call.repeatable


@pytest.mark.parametrize(
    ("facts", "repeatable"),
    [
        ({}, True),
        ({"idempotent": False}, False),
        ({"idempotent": False, "idempotency_key": "k-1"}, True),
        ({"idempotency_key": "k-1"}, True),
        ({"replayable": False}, False),
        ({"replayable": False, "idempotent": False, "idempotency_key": "k-1"}, False),
    ],
)
def test_a_call_is_repeatable_when_doing_it_twice_does_no_harm_and_sends_the_same(
    facts: dict[str, Any],
    repeatable: bool,
) -> None:
    assert Call(join).describe(**facts).repeatable is repeatable


def test_a_description_belongs_to_one_call() -> None:
    described = Call(join, "a")

    same = described.describe(operation="put", partition="upload", key="k", attempt=3)

    assert same is described
    assert (same.operation, same.partition, same.key, same.attempt) == ("put", "upload", "k", 3)
    assert Call(join).operation == ""


def test_a_fact_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(TypeError) as caught:
        Call(join).describe(idempotant=False)

    assert str(caught.value) == (
        "a call has no 'idempotant'; "
        "it has attempt, idempotency_key, idempotent, key, operation, partition, replayable"
    )


def test_the_deadline_of_a_call_is_that_of_its_context() -> None:
    deadline = Deadline(1.0, HandClock())
    call = Call(join)

    with deadline_scope(deadline):
        inside = call.deadline

    assert inside is deadline
    assert call.deadline is None


@pytest.mark.parametrize("inner", [partial(join, "a"), Call(join, "a")])
def test_arguments_add_up_when_a_call_is_made_of_a_partial(inner: Any) -> None:
    call: Call[str] = Call(inner, "b", end="!")

    assert call() == "a b!"
    assert (call.func, call.args) == (join, ("a", "b"))


def test_a_call_made_of_a_described_one_has_facts_of_its_own() -> None:
    inner = Call(join, "a").describe(operation="put", attempt=2, partition="upload")

    outer = Call(inner, "b")

    assert outer() == "a b"
    assert (outer.operation, outer.attempt, outer.partition) == ("", 1, "")
    assert inner.operation == "put"


@pytest.mark.parametrize("fact", [{"idempotent": False}, {"replayable": False}])
def test_what_must_not_be_repeated_stays_so_inside_another_call(fact: dict[str, bool]) -> None:
    inner = Call(join, "a").describe(**fact)
    seen: list[bool] = []

    class Looking:
        def execute(self, call: Call[Any], proceed: Any) -> Any:
            seen.append(call.repeatable)
            return proceed(call)

    result = Pipeline("p", [Looking()]).call(inner, "b")

    assert result == "a b"
    assert seen == [False]
    assert Call(Call(inner, "b")).repeatable is False
    assert Call(Call(join).describe(operation="get")).repeatable is True


def test_a_copied_call_keeps_its_facts() -> None:
    call = Call(join, "a").describe(operation="put", attempt=2)

    copied = copy.copy(call)

    assert (copied(), copied.operation, copied.attempt) == ("a", "put", 2)
    assert type(copied) is Call


def test_a_call_shown_in_a_log_names_its_function_and_no_argument() -> None:
    class Fetching:
        def __call__(self, secret: str) -> None: ...

    assert repr(Call(join, "secret", end="secret")) == "Call(join, attempt=1)"
    assert repr(Call(Fetching(), "secret").describe(attempt=2)) == "Call(Fetching, attempt=2)"
