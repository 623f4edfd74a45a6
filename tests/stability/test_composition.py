"""Rules between the policies of one pipeline."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from app.stability.composition import Member, find_cautions, find_contradictions
from tests.fakes.policies import KINDS

ADVISED = ("fallback", "cache", "timeout", "retry", "rate_limit", "circuit_breaker", "bulkhead", "timeout", "chaos")


def member(kind: str, name: str | None = None, **options: Any) -> Member:
    declared = KINDS[kind].Options if kind in KINDS else None
    return Member(name or kind, kind, None if declared is None else declared(**options))


def timeout(seconds: float, name: str = "timeout") -> Member:
    return member("timeout", name, timeout_seconds=seconds)


@pytest.mark.parametrize(
    ("members", "deadline", "says"),
    [
        (
            [member("bulkhead"), timeout(28.5)],
            28,
            ["timeout (28.5 s) must not exceed the deadline (28 s), which ends the call before"],
        ),
        (
            [timeout(9), member("retry", minimum_attempt_seconds=2), timeout(1, "attempt_timeout")],
            None,
            ["retry begins no attempt with less than 2 s left, but an attempt has 1 s"],
        ),
        (
            [timeout(1), member("retry", minimum_attempt_seconds=2, base_seconds=0.1)],
            None,
            ["retry begins no attempt with less than 2 s left, but an attempt has 1 s"],
        ),
        (
            [member("retry", max_attempts=2, minimum_attempt_seconds=2), timeout(1)],
            28,
            ["retry begins no attempt with less than 2 s left, but an attempt has 1 s"],
        ),
        (
            [timeout(5), timeout(8, "attempt_timeout")],
            None,
            ["attempt_timeout (8 s) must not exceed timeout (5 s), which ends the call before"],
        ),
        (
            [timeout(20), member("retry", max_attempts=3, base_seconds=1), timeout(8, "attempt_timeout")],
            28,
            ["retry may take 3 attempts of 8 s and 3 s of waiting between attempts, more than timeout (20 s)"],
        ),
        (
            [member("retry", max_attempts=5, base_seconds=4), timeout(1)],
            28,
            ["retry may take 5 attempts of 1 s and 32 s of waiting between attempts, more than the deadline (28 s)"],
        ),
        (
            [timeout(2), member("retry", base_seconds=1)],
            None,
            ["retry may take 3 s of waiting between attempts, more than timeout (2 s)"],
        ),
    ],
)
def test_times_that_cannot_be_are_contradictions(
    members: list[Member], deadline: float | None, says: list[str]
) -> None:
    assert list(find_contradictions(members, deadline)) == says


@pytest.mark.parametrize(
    ("members", "deadline"),
    [
        ([timeout(28)], 28),
        ([timeout(60), member("retry", max_attempts=3, base_seconds=1)], 28),
        ([timeout(1), member("retry", max_attempts=1, minimum_attempt_seconds=2)], None),
        ([timeout(27), member("retry", max_attempts=3, base_seconds=1), timeout(8)], 28),
        ([member("retry", max_attempts=10), timeout(3600)], None),
        ([timeout(5), Member("retry", "retry", None)], 28),
        ([Member("timeout", "timeout", None), timeout(5)], None),
        ([timeout(5), member("bulkhead"), timeout(5, "attempt_timeout")], 5),
        ([member("retry", minimum_attempt_seconds=1), timeout(1)], 28),
        ([timeout(5), Member("pool", "pool", timeout(8).options)], None),
    ],
)
def test_times_that_fit_are_none(members: list[Member], deadline: float | None) -> None:
    assert list(find_contradictions(members, deadline)) == []


def test_the_advised_order_and_no_other_of_the_same_policies_is_without_caution() -> None:
    core = ("retry", "circuit_breaker", "bulkhead", "chaos")

    silent = [order for order in permutations(core) if not list(find_cautions([member(kind) for kind in order]))]

    assert silent == [core]
    assert list(find_cautions([member(kind) for kind in ADVISED])) == []


@pytest.mark.parametrize(
    ("outer", "inner", "says"),
    [
        ("circuit_breaker", "retry", "counts as one result"),
        ("bulkhead", "retry", "a place is held while the retry waits"),
        ("adaptive_limit", "retry", "taken for slowness"),
        ("retry", "fallback", "no error reaches the retry"),
        ("retry", "cache", "asked once per attempt"),
        ("circuit_breaker", "fallback", "no error reaches the breaker"),
        ("circuit_breaker", "cache", "hits count as results"),
        ("bulkhead", "cache", "hits wait for a place"),
        ("adaptive_limit", "cache", "hits are taken for fast answers"),
        ("bulkhead", "circuit_breaker", "that an open breaker refuses anyway"),
        ("chaos", "timeout", "timeout is not put to the test; put chaos innermost"),
        ("retry", "retry", "attempts multiply"),
        ("bulkhead", "bulkhead", "one of a kind is enough"),
    ],
)
def test_a_foolish_order_is_told_even_with_others_between(outer: str, inner: str, says: str) -> None:
    between = [member(outer), member("rate_limit"), member(inner)]

    cautions = [text for text in find_cautions(between) if text.startswith(f"{outer} stands outside {inner}: ")]

    assert len(cautions) == 1
    assert says in cautions[0]
    assert not [text for text in find_cautions([member(inner), member(outer)]) if says in text and outer != inner]


def test_two_timeouts_are_no_caution() -> None:
    assert list(find_cautions([timeout(5), timeout(2)])) == []


@pytest.mark.parametrize(("slow", "cut", "is_told"), [(8, 8, True), (9, 8, True), (5, 8, False), (60, 8, False)])
def test_a_breaker_whose_calls_cannot_be_slow_is_told(slow: float, cut: float, is_told: bool) -> None:
    breaker = member("circuit_breaker", slow_call_duration_threshold_seconds=slow)

    found = list(find_cautions([timeout(1), breaker, timeout(20), timeout(cut, "attempt_timeout")]))

    says = (
        f"calls a call slow after {slow:g} s, but attempt_timeout ends it after {cut:g} s: only failures are counted"
    )
    assert found == ([f"circuit_breaker {says}"] if is_told else [])


def test_a_timeout_that_stands_directly_inside_a_breaker_cuts_its_calls_off() -> None:
    breaker = member("circuit_breaker", slow_call_duration_threshold_seconds=9)

    assert len(list(find_cautions([breaker, timeout(8)]))) == 1


def test_only_a_breaker_is_told_that_its_calls_cannot_be_slow() -> None:
    watch = Member("watch", "watch", member("circuit_breaker", slow_call_duration_threshold_seconds=9).options)

    assert list(find_cautions([watch, timeout(8)])) == []


def test_a_breaker_without_a_timeout_inside_may_call_anything_slow() -> None:
    breaker = member("circuit_breaker", slow_call_duration_threshold_seconds=5)

    assert list(find_cautions([timeout(1), breaker])) == []
