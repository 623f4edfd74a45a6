"""Options judge themselves when they are made, and tell what they are to files and documents."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability.errors import OptionError
from app.stability.options import OptionRule, Options, option, rule_of


def wait_mistake(value: Any) -> str | None:
    return None if callable(value) or value == 1.0 else "must be 1 or a function"


@dataclass(frozen=True, kw_only=True)
class Everything(Options):
    """One option of each kind."""

    calls: int = option(25, "Calls at once", unit="calls", low=1, high=100)
    ratio: float = option(0.5, "A share", above=0, high=1)
    seconds: float = option(1.0, "A time without upper bound", unit="seconds", low=0)
    anything: float = option(0.0, "Any number")
    endless: float = option(math.inf, "May have no end", unit="seconds", above=0, high=math.inf)
    kind: str = option("ring", "A word of two", choices=("ring", "buckets"))
    title: str = option("", "Any text")
    is_on: bool = option(False, "A switch")
    wait: float | Callable[[int], float] = option(  # noqa: RUF009  # option() gives a field
        1.0, "Judged by a rule of its own", judge=wait_mistake
    )
    free: object = option(None, "Whatever it is")


@dataclass(frozen=True, kw_only=True)
class Window(Options):
    """Options that can contradict each other."""

    minimum: int = option(10, "Least number", low=1)
    size: int = option(100, "Most", low=1)
    permits: int = option(5, "Trials", low=1)

    def contradictions(self) -> Iterator[str]:
        if self.minimum > self.size:
            yield f"minimum ({self.minimum}) must not exceed size ({self.size})"
        if self.permits > self.size:
            yield f"permits ({self.permits}) must not exceed size ({self.size})"

    def cautions(self) -> Iterator[str]:
        if self.permits > self.minimum:
            yield "permits beyond the minimum decide nothing"


def mistakes(**given: Any) -> tuple[str, ...]:
    with pytest.raises(OptionError) as caught:
        Everything(**given)
    return caught.value.mistakes


def test_defaults_are_without_mistake() -> None:
    options = Everything()

    assert (options.calls, options.ratio, options.kind, options.is_on) == (25, 0.5, "ring", False)
    assert list(options.cautions()) == []


@pytest.mark.parametrize(
    ("name", "value", "mistake"),
    [
        ("calls", 0, "must be ≥ 1, ≤ 100"),
        ("calls", 101, "must be ≥ 1, ≤ 100"),
        ("calls", 10**400, "must be ≥ 1, ≤ 100"),
        ("calls", 1.0, "must be a whole number"),
        ("calls", True, "must be a whole number"),
        ("calls", "7", "must be a whole number"),
        ("calls", None, "must be a whole number"),
        ("ratio", 0, "must be > 0, ≤ 1"),
        ("ratio", 1.0001, "must be > 0, ≤ 1"),
        ("ratio", math.nan, "must be finite"),
        ("ratio", -math.inf, "must be finite"),
        ("ratio", True, "must be a number"),
        ("ratio", "0.5", "must be a number"),
        ("seconds", -0.1, "must be ≥ 0"),
        ("seconds", math.inf, "must be finite"),
        ("anything", math.nan, "must be finite"),
        ("anything", -math.inf, "must be finite"),
        ("endless", 0, "must be > 0, ≤ inf"),
        ("endless", math.nan, "must be finite"),
        ("endless", -math.inf, "must be finite"),
        ("kind", "rings", "must be one of ring, buckets"),
        ("kind", ["ring"], "must be one of ring, buckets"),
        ("title", 1, "must be a text"),
        ("title", None, "must be a text"),
        ("is_on", 1, "must be true or false"),
        ("is_on", "yes", "must be true or false"),
        ("wait", 2.0, "must be 1 or a function"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, value: Any, mistake: str) -> None:
    assert mistakes(**{name: value}) == (f"{name} {mistake}",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("calls", 1),
        ("calls", 100),
        ("ratio", 1),
        ("ratio", 0.0001),
        ("seconds", 0),
        ("seconds", 10**400),
        ("anything", -1e300),
        ("endless", 1.0),
        ("endless", math.inf),
        ("kind", "buckets"),
        ("title", "any"),
        ("is_on", True),
        ("wait", 1.0),
        ("wait", float),
        ("free", object),
        ("free", [1]),
    ],
)
def test_a_value_within_its_bounds_is_taken_as_it_is(name: str, value: Any) -> None:
    assert getattr(Everything(**{name: value}), name) is value


def test_all_mistakes_come_in_one_error_in_the_order_of_the_fields() -> None:
    found = mistakes(is_on=1, calls=0, ratio=2, kind="x", title=0, wait=0)

    assert [sentence.split()[0] for sentence in found] == ["calls", "ratio", "kind", "title", "is_on", "wait"]


def test_all_contradictions_come_in_one_error() -> None:
    with pytest.raises(OptionError) as caught:
        Window(minimum=3, size=2, permits=4)

    assert caught.value.mistakes == (
        "minimum (3) must not exceed size (2)",
        "permits (4) must not exceed size (2)",
    )


def test_contradictions_are_not_asked_of_values_that_make_no_sense_by_themselves() -> None:
    with pytest.raises(OptionError) as caught:
        Window(minimum=3, size="2")  # type: ignore[arg-type]  # what is tested

    assert caught.value.mistakes == ("size must be a whole number",)


def test_a_caution_refuses_nothing() -> None:
    options = Window(permits=11)

    assert list(options.cautions()) == ["permits beyond the minimum decide nothing"]


def test_options_cannot_be_changed_and_replacing_one_judges_again() -> None:
    options = Window()

    with pytest.raises(dataclasses.FrozenInstanceError):
        options.size = 0  # type: ignore[misc]  # what is tested
    with pytest.raises(OptionError):
        dataclasses.replace(options, size=1)

    assert dataclasses.replace(options, size=50).size == 50


def test_options_go_by_name_and_an_unknown_one_is_refused() -> None:
    with pytest.raises(TypeError):
        Window(10)  # type: ignore[call-arg]  # what is tested
    with pytest.raises(TypeError):
        Window(minimun=10)  # type: ignore[call-arg]  # what is tested


def test_a_field_tells_its_rule() -> None:
    by_name = {declared.name: rule_of(declared) for declared in dataclasses.fields(Everything)}

    assert by_name["calls"] == OptionRule("Calls at once", "calls", low=1, high=100)
    assert by_name["wait"].judge is wait_mistake


def test_a_field_without_a_rule_has_none_to_tell() -> None:
    @dataclass(frozen=True)
    class Plain:
        size: int = 1

    with pytest.raises(KeyError):
        rule_of(dataclasses.fields(Plain)[0])


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        (OptionRule("m", low=1, high=10_000), "≥ 1, ≤ 10000"),
        (OptionRule("m", above=0, high=1), "> 0, ≤ 1"),
        (OptionRule("m", above=0), "> 0"),
        (OptionRule("m", low=0.5), "≥ 0.5"),
        (OptionRule("m", high=86_400.0), "≤ 86400"),
        (OptionRule("m", choices=("ring", "buckets")), "ring or buckets"),
        (OptionRule("m"), ""),
    ],
)
def test_a_rule_says_in_words_what_is_allowed(rule: OptionRule, allowed: str) -> None:
    assert rule.allowed == allowed


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none()))
def test_any_number_is_taken_exactly_when_it_is_within_the_bounds(value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    belongs = is_number and 0 < value <= 1

    try:
        taken = Everything(ratio=value).ratio == value
    except OptionError:
        taken = False

    assert taken == belongs
