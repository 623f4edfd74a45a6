"""The cache's options, how a document and a program make one together, and its page."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

import app.stability
from app.stability import cache as module
from app.stability.cache import Cache, CacheOptions
from app.stability.cache_tiers import MemoryTier
from app.stability.call import Call
from app.stability.configuration import build_pipelines
from app.stability.context import PolicyContext
from app.stability.errors import OptionError
from app.stability.outcome import Classification
from app.stability.pipeline import Pipeline
from tests.fakes.clocks import HandClock
from tests.house.source import ROOT


class MissingError(LookupError):
    """There is no such thing."""


def test_negative_answers_that_outlive_values_are_probably_not_meant() -> None:
    options = CacheOptions(ttl_seconds=1.0, negative_ttl_seconds=2.0)

    assert [text.split(":")[0] for text in options.cautions()] == ["negative_ttl_seconds (2) exceeds ttl_seconds (1)"]
    assert list(CacheOptions(negative_ttl_seconds=60.0).cautions()) == []


@pytest.mark.parametrize(
    "options",
    [{"ttl_seconds": 0}, {"stale_if_error_seconds": -1}, {"max_flight_wait_seconds": 0}, {"max_entries": 0}],
)
def test_times_and_numbers_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        CacheOptions(**options)


def test_the_memory_of_a_configuration_has_its_bounds() -> None:
    document = {"pipelines": {"photos": {"policies": ["cache"], "cache": {"max_entries": 1, "max_entry_bytes": 100}}}}
    pipeline = build_pipelines(document)["photos"]

    def read(key: str, value: Any) -> Any:
        return pipeline.run(Call(lambda: value).describe(key=key))

    answers = [read("a", 1), read("a", 2), read("b", 3), read("a", 4), read("a", b"5" * 101), read("c", b"6" * 101)]
    answers.append(read("c", 7))

    assert answers == [1, 1, 3, 4, 4, b"6" * 101, 7]


def test_a_program_gives_a_document_what_only_code_can_say() -> None:
    clock, calls = HandClock(), list[str]()
    seen: list[tuple[float, str]] = []

    def open_tiers(options: CacheOptions, context: PolicyContext) -> list[MemoryTier]:
        seen.append((options.ttl_seconds, context.name))
        return [MemoryTier(name="first", clock=clock), MemoryTier(name="second", clock=clock)]

    kind = Cache.given(
        tiers=open_tiers,
        negative=(MissingError,),
        negative_result=lambda value: value is None,
        accepts=lambda _key, _value: True,
    )
    settings = {"ttl_seconds": 20.0, "negative_ttl_seconds": 5.0}
    document = {"pipelines": {"photos": {"policies": ["cache"], "cache": settings}}}

    pipelines = build_pipelines(document, kinds={"cache": kind})
    pipeline = pipelines["photos"]

    def look() -> None:
        calls.append("a")
        raise MissingError

    for _ in range(2):
        with pytest.raises(MissingError):
            pipeline.run(Call(look).describe(key="a"))

    assert calls == ["a"]
    assert seen == [(20.0, "photos")]
    assert {figure.labels["tier"] for figure in pipelines.figures() if figure.metric == "cache_entries"} == {
        "first",
        "second",
    }
    assert (kind.__name__, kind.__doc__) == (Cache.__name__, Cache.__doc__)


def test_one_that_is_built_has_name_rules_and_clock_of_its_pipeline() -> None:
    clock, values = HandClock(), iter([-1, 1, 2])
    rules = Classification(failing_result=lambda value: value < 0)

    cache = Cache.build(CacheOptions(ttl_seconds=10.0), PolicyContext("photos", rules, clock))
    pipeline = Pipeline("guarded", [cache])
    answers = []
    for seconds in (0.0, 0.0, 9.0, 1.0):
        clock.advance(seconds)
        answers.append(pipeline.run(Call(lambda: next(values)).describe(key="a")))

    assert answers == [-1, 1, 1, 2]
    assert {figure.labels["name"] for figure in cache.figures()} == {"photos"}


def test_two_tiers_of_one_name_are_refused() -> None:
    with pytest.raises(OptionError, match="names of their own"):
        Cache("photos", tiers=[MemoryTier(), MemoryTier()])


# --- The page -------------------------------------------------------------------------------------------------------


def test_the_page_names_metrics_and_its_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/stability/cache.md").read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "stability", app.stability)
    monkeypatch.setitem(sys.modules, "stability.cache", module)
    for name in ("cache_tiers", "configuration", "single_flight"):
        monkeypatch.setitem(sys.modules, f"stability.{name}", sys.modules[f"app.stability.{name}"])

    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    words = ("cache_requests_total", "cache_entries", "hit", "miss", "stale", "error", "negative", "flight", "source")

    assert [word for word in words if f"`{word}`" not in text] == []
    assert examples
    for example in examples:
        exec(compile(example, "cache.md", "exec"), {"__name__": "example"})  # noqa: S102  # it is our own page
