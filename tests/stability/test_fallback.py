"""The fallback: alternatives in order, each counted, and the first failure when there is nothing better."""

from __future__ import annotations

import logging
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import app.stability
from app.stability import fallback as module
from app.stability.call import Call
from app.stability.configuration import build_pipelines
from app.stability.context import PolicyContext
from app.stability.deadline import DeadlineExceededError
from app.stability.errors import CallNotPermittedError, OptionError
from app.stability.events import Event, EventBus
from app.stability.fallback import (
    Alternative,
    FailingResultError,
    Fallback,
    FallbackFailed,
    FallbackOptions,
    FallbackUsed,
    has_failed,
)
from app.stability.figures import Figure
from app.stability.outcome import Classification
from app.stability.pipeline import Pipeline
from tests.house.source import ROOT

ON_RESULTS = FallbackOptions(on_failing_results=True)
NEGATIVE_FAILS = Classification(failing_result=lambda value: value < 0)
ONLY_CONNECTIONS = Classification(failures=(ConnectionError,), ignored=(LookupError,))


@pytest.fixture
def bus() -> Iterator[EventBus]:
    bus = EventBus()
    yield bus
    bus.close()


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


def giving(name: str, value: Any, **more: Any) -> Alternative:
    return Alternative(name, lambda _call, _error: value, **more)


def failing(name: str, error: BaseException) -> Alternative:
    return Alternative(name, raising(error))


def run(policy: Fallback, function: Callable[[], Any]) -> Any:
    return Pipeline("photos", [policy]).call(function)


def counts(policy: Fallback) -> dict[tuple[str, str], float]:
    return {(f.labels["from"], f.labels["to"]): f.value for f in policy.figures() if f.value}


def test_a_call_that_succeeds_takes_no_alternative() -> None:
    policy = Fallback("cdn", [giving("origin", 2)])

    result = run(policy, lambda: 1)

    assert result == 1
    assert counts(policy) == {}


def test_the_first_alternative_answers_for_a_failed_call() -> None:
    policy = Fallback("cdn", [giving("origin", 2), giving("placeholder", 3)])

    results = [run(policy, raising(ConnectionError())) for _ in range(2)]

    assert results == [2, 2]
    assert counts(policy) == {("primary", "origin"): 2}


def test_an_alternative_is_given_the_call_and_the_first_failure() -> None:
    first = ConnectionError("first")
    seen: list[tuple[Call[Any], Exception]] = []
    tell = Alternative("telling", lambda call, error: seen.append((call, error)))
    policy = Fallback("cdn", [failing("origin", OSError()), tell])
    call = Call(raising(first)).describe(operation="read")

    Pipeline("photos", [policy]).run(call)

    assert seen == [(call, first)]


def test_the_next_alternative_is_tried_when_one_fails_too() -> None:
    policy = Fallback("cdn", [failing("origin", OSError()), giving("placeholder", 3)])

    result = run(policy, raising(ConnectionError()))

    assert result == 3
    assert counts(policy) == {("primary", "origin"): 1, ("origin", "placeholder"): 1}


def test_the_first_error_is_raised_with_a_note_per_alternative_when_all_fail() -> None:
    first = ConnectionError("first")
    policy = Fallback("cdn", [failing("origin", OSError("no origin")), failing("placeholder", ValueError("none"))])

    with pytest.raises(ConnectionError) as raised:
        run(policy, raising(first))

    assert raised.value is first
    assert first.__notes__ == [
        "fallback 'origin' failed too: OSError: no origin",
        "fallback 'placeholder' failed too: ValueError: none",
    ]
    assert counts(policy)["placeholder", "none"] == 1


def test_one_error_raised_again_and_again_does_not_collect_notes_without_end() -> None:
    first = ConnectionError("one object for all")
    errors = iter(OSError(number // 2) for number in range(100))
    policy = Fallback("cdn", [Alternative("origin", lambda _call, _error: raising(next(errors))())])

    for _ in range(100):
        with pytest.raises(ConnectionError):
            run(policy, raising(first))

    assert len(first.__notes__) == len(set(first.__notes__)) == 16


def test_an_error_that_takes_no_notes_is_raised_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class StubbornError(Exception):
        def add_note(self, note: str) -> None:
            raise TypeError(note)

    caplog.set_level(logging.DEBUG, logger="app.stability.fallback")
    policy = Fallback("cdn", [failing("origin", OSError())])

    with pytest.raises(StubbornError):
        run(policy, raising(StubbornError()))

    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [TypeError]


@pytest.mark.parametrize(
    ("when", "error", "applies"),
    [
        (ConnectionError, ConnectionError(), True),
        (ConnectionError, ValueError(), False),
        ((OSError, ValueError), ValueError(), True),
        (lambda error: "busy" in str(error), OSError("busy"), True),
        (lambda error: "busy" in str(error), OSError("gone"), False),
    ],
)
def test_an_alternative_is_for_the_failures_of_its_condition(when: Any, error: Exception, applies: bool) -> None:
    policy = Fallback("cdn", [giving("particular", 2, when=when), giving("last", 3)])

    result = run(policy, raising(error))

    assert result == (2 if applies else 3)
    assert counts(policy) == {("primary", "particular" if applies else "last"): 1}


def test_a_condition_that_raises_does_not_apply_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    policy = Fallback("cdn", [giving("odd", 2, when=raising(ZeroDivisionError())), giving("last", 3)])

    result = run(policy, raising(OSError()))

    assert result == 3
    assert "the condition of a fallback raised" in caplog.text
    assert [(r.__dict__["policy"], r.__dict__["alternative"]) for r in caplog.records] == [("cdn", "odd")]


def test_no_alternative_that_applies_leaves_the_error_as_it_is(bus: EventBus) -> None:
    told: list[Event] = []
    bus.subscribe(told.append)
    policy = Fallback("cdn", [giving("origin", 2, when=OSError)], bus=bus)

    with pytest.raises(ValueError, match="as it is") as raised:
        run(policy, raising(ValueError("as it is")))

    assert not hasattr(raised.value, "__notes__")
    assert counts(policy) == {("primary", "none"): 1}
    assert bus.flush()
    assert told == [FallbackFailed(name="cdn", operation="", tried=(), error="ValueError")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_what_ends_the_process_passes(error: BaseException) -> None:
    from_call = Fallback("cdn", [giving("origin", 2)])
    from_alternative = Fallback("cdn", [failing("origin", error), giving("placeholder", 3)])

    with pytest.raises(type(error)) as first:
        run(from_call, raising(error))
    with pytest.raises(type(error)) as second:
        run(from_alternative, raising(OSError()))

    assert first.value is second.value is error
    assert counts(from_call) == {}


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (ConnectionError(), True),
        (LookupError(), False),
        (ValueError(), False),
        (CallNotPermittedError("cdn", "open", 1.0), True),
        (DeadlineExceededError(), True),
    ],
)
def test_refusals_deadlines_and_failures_have_failed_and_other_errors_are_answers(
    error: Exception,
    failed: bool,
) -> None:
    assert has_failed(ONLY_CONNECTIONS, error) is failed


def test_an_error_that_is_an_answer_takes_no_alternative() -> None:
    policy = Fallback("cdn", [giving("origin", 2)], classification=ONLY_CONNECTIONS)

    with pytest.raises(LookupError):
        run(policy, raising(LookupError()))

    assert counts(policy) == {}


def test_the_answer_of_an_alternative_may_be_an_error() -> None:
    missing = LookupError("there is no such photo")
    alternatives = [failing("origin", missing), giving("placeholder", 3)]
    policy = Fallback("cdn", alternatives, classification=ONLY_CONNECTIONS)

    with pytest.raises(LookupError) as raised:
        run(policy, raising(ConnectionError()))

    assert raised.value is missing
    assert counts(policy) == {("primary", "origin"): 1}


def test_a_returned_value_is_a_failure_only_where_that_is_asked_for() -> None:
    asked = Fallback("cdn", [giving("origin", 2)], ON_RESULTS, classification=NEGATIVE_FAILS)
    not_asked = Fallback("cdn", [giving("origin", 2)], classification=NEGATIVE_FAILS)

    results = [run(policy, partial(int, value)) for policy in (asked, not_asked) for value in (-1, 1)]

    assert results == [2, 1, -1, 1]


def test_a_failing_result_comes_back_when_the_alternatives_give_failures_too() -> None:
    policy = Fallback(
        "cdn", [giving("origin", -2), failing("placeholder", OSError())], ON_RESULTS, classification=NEGATIVE_FAILS
    )

    result = run(policy, lambda: -1)

    assert result == -1
    assert counts(policy) == {("primary", "origin"): 1, ("origin", "placeholder"): 1, ("placeholder", "none"): 1}


def test_an_alternative_that_gives_a_failure_is_told_and_noted_as_one_that_raises(bus: EventBus) -> None:
    told: list[Event] = []
    bus.subscribe(told.append)
    alternatives = [giving("origin", -2), giving("placeholder", -3)]
    policy = Fallback("cdn", alternatives, ON_RESULTS, classification=NEGATIVE_FAILS, bus=bus)

    with pytest.raises(ConnectionError) as raised:
        run(policy, raising(ConnectionError()))

    assert bus.flush()
    assert [event.error for event in told if isinstance(event, FallbackUsed)] == [
        "ConnectionError",
        "FailingResultError",
    ]
    assert raised.value.__notes__ == [
        f"fallback {name!r} failed too: FailingResultError: {FailingResultError(-2)}"
        for name in ("origin", "placeholder")
    ]


def test_an_alternative_for_failing_results_sees_the_value() -> None:
    alternative = Alternative("repaired", lambda _call, error: error.args[0] * -10, when=FailingResultError)
    policy = Fallback("cdn", [alternative], ON_RESULTS, classification=NEGATIVE_FAILS)

    result = run(policy, lambda: -1)

    assert result == 10


def test_a_failing_result_is_told_without_the_value_and_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(FailingResultError("secret")))  # noqa: S301  # our own bytes

    assert error.value == "secret"
    assert str(error) == "the call returned a str that is a failure"


def test_each_use_and_the_end_are_told(bus: EventBus) -> None:
    told: list[Event] = []
    bus.subscribe(told.append)
    alternatives = [failing("origin", OSError()), failing("placeholder", ValueError())]
    policy = Fallback("photos", alternatives, FallbackOptions(primary="cdn"), bus=bus)

    with pytest.raises(ConnectionError):
        Pipeline("photos", [policy]).run(Call(raising(ConnectionError())).describe(operation="read"))

    assert bus.flush()
    assert told == [
        FallbackUsed(name="photos", operation="read", source="cdn", target="origin", error="ConnectionError"),
        FallbackUsed(name="photos", operation="read", source="origin", target="placeholder", error="OSError"),
        FallbackFailed(name="photos", operation="read", tried=("origin", "placeholder"), error="ConnectionError"),
    ]
    assert [event.level for event in told] == [logging.WARNING, logging.WARNING, logging.ERROR]


def test_every_way_it_can_go_is_counted_from_zero() -> None:
    policy = Fallback("cdn", [giving("origin", 2), giving("placeholder", 3)])

    figures = list(policy.figures())

    assert figures == [
        Figure("fallback", "counter", 0, {"name": "cdn", "from": source, "to": target})
        for source, target in [
            ("primary", "origin"),
            ("primary", "placeholder"),
            ("primary", "none"),
            ("origin", "placeholder"),
            ("origin", "none"),
            ("placeholder", "none"),
        ]
    ]


def test_options_choose_among_the_alternatives_and_order_them() -> None:
    offered = [giving("a", 1), giving("b", 2), giving("c", 3)]

    policy = Fallback("cdn", offered, FallbackOptions(alternatives=("c", "a")))

    assert [alternative.name for alternative in policy.alternatives] == ["c", "a"]


@pytest.mark.parametrize(
    ("alternatives", "options", "says"),
    [
        ([], {}, "alternatives are code"),
        ([giving("a", 1), giving("a", 2)], {}, "the same name"),
        ([giving("none", 1)], {}, "cannot be called 'none'"),
        ([giving("", 1)], {}, "cannot be called ''"),
        ([giving("cdn", 1)], {"primary": "cdn"}, "cannot be called 'cdn'"),
        ([giving("a", 1), giving("c", 2)], {"alternatives": ("b",)}, "names 'b'; there are a, c"),
    ],
)
def test_alternatives_that_cannot_be_told_apart_or_found_are_refused(
    alternatives: list[Alternative], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        Fallback("cdn", alternatives, FallbackOptions(**options))


@pytest.mark.parametrize("names", ["origin", ("a", 1), ("",), ("a", "a"), None])
def test_names_that_are_none_are_refused(names: Any) -> None:
    with pytest.raises(OptionError, match="alternatives must"):
        FallbackOptions(alternatives=names)


DOCUMENT = {
    "pipelines": {"photos": {"policies": ["fallback"], "fallback": {"alternatives": ["placeholder"]}}},
}


def test_a_document_chooses_among_what_the_program_offers() -> None:
    kinds = {"fallback": Fallback.given(giving("origin", 2), giving("placeholder", 3))}

    pipelines = build_pipelines(DOCUMENT, kinds=kinds)

    assert pipelines["photos"].call(raising(OSError())) == 3


def test_a_document_is_refused_where_the_program_offers_nothing() -> None:
    with pytest.raises(OptionError, match=re.escape("give kinds={'fallback': Fallback.given(…)}")):
        build_pipelines(DOCUMENT)


def test_one_that_is_built_has_name_rules_and_bus_of_its_pipeline(bus: EventBus) -> None:
    told: list[Event] = []
    bus.subscribe(told.append)
    kind = Fallback.given(giving("origin", 2))

    policy = kind.build(FallbackOptions(), PolicyContext("photos", ONLY_CONNECTIONS, bus=bus))

    assert run(policy, raising(ConnectionError())) == 2
    with pytest.raises(LookupError):
        run(policy, raising(LookupError()))
    assert bus.flush()
    assert [(event.name, event.error) for event in told if isinstance(event, FallbackUsed)] == [
        ("photos", "ConnectionError")
    ]
    assert (kind.__name__, kind.__doc__) == (Fallback.__name__, Fallback.__doc__)


# --- The page -------------------------------------------------------------------------------------------------------


def test_the_page_names_events_and_metrics_and_its_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/stability/fallback.md").read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "stability", app.stability)
    monkeypatch.setitem(sys.modules, "stability.fallback", module)
    monkeypatch.setitem(sys.modules, "stability.configuration", sys.modules["app.stability.configuration"])

    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    assert [w for w in ("FallbackUsed", "FallbackFailed", "fallback_total") if f"`{w}`" not in text] == []
    assert examples
    for example in examples:
        exec(compile(example, "fallback.md", "exec"), {"__name__": "example"})  # noqa: S102  # it is our own page
