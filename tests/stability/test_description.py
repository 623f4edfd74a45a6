"""Pipelines as text: order, values, units, origins."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from app.stability import Options, option
from app.stability.description import PipelineDescription, describe_policy, format_pipelines, written


@dataclass(frozen=True, kw_only=True)
class _Odd(Options):
    rate: float = option(0.5, "A ratio", above=0, high=1)
    size: int = option(3, "A size", unit="calls", low=1)


@dataclass(frozen=True, kw_only=True)
class _Bare(Options):
    rate: float = option(0.5, "A ratio", above=0, high=1)


def named(seconds: float) -> float:
    return seconds


def test_the_text_says_order_value_unit_and_origin() -> None:
    inner = describe_policy("second", "odd", _Odd(size=10), {"size": "pipelines.read.second"}, is_shared=True)
    outer = describe_policy("odd", "odd", _Odd(), {})

    text = format_pipelines([PipelineDescription("read", (outer, inner)), PipelineDescription("write", ())])

    assert text.splitlines() == [
        "read: odd > second",
        "  odd",
        "    rate  0.5       default",
        "    size  3 calls   default",
        "  second (odd, shared)",
        "    rate  0.5       default",
        "    size  10 calls  pipelines.read.second",
        "",
        "write: no policies",
    ]


def test_columns_are_as_wide_as_what_stands_in_them() -> None:
    policy = describe_policy("bare", "bare", _Bare(), {})

    assert format_pipelines([PipelineDescription("read", (policy,))]).splitlines()[-1] == "    rate  0.5  default"


@pytest.mark.parametrize(("size", "text"), [(1, "1 call"), (2, "2 calls")])
def test_one_of_a_unit_is_singular(size: int, text: str) -> None:
    policy = describe_policy("odd", "odd", _Odd(size=size), {})

    assert f"  {text}  " in format_pipelines([PipelineDescription("read", (policy,))])


def test_nothing_is_a_text_of_no_lines() -> None:
    assert format_pipelines([]) == ""


def test_a_script_gets_the_same_with_range_and_meaning() -> None:
    described = PipelineDescription("read", (describe_policy("odd", "odd", _Odd(), {}),)).to_json()

    assert json.loads(json.dumps(described))["policies"][0]["options"][0] == {
        "name": "rate",
        "value": "0.5",
        "unit": "",
        "origin": "default",
        "allowed": "> 0, ≤ 1",
        "meaning": "A ratio",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "true"),
        (3, "3"),
        (2.50, "2.5"),
        ("count_based", "count_based"),
        ((500, 503.0), "[500, 503]"),
        ([503, 500], "[503, 500]"),
        (frozenset({3, 1}), "[1, 3]"),
        (frozenset({8, 1}), "[1, 8]"),
        ({"read": 0.5, "health": 0.1}, "{read = 0.5, health = 0.1}"),
        (named, "named"),
        (ValueError, "ValueError"),
    ],
)
def test_a_value_is_written_as_in_a_document(value: Any | Callable[[float], float], text: str) -> None:
    assert written(value) == text
