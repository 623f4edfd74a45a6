"""The pages of the retry and the timeout name what they tell and count, and their examples run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

import app.stability
from app.stability import deadline, retry, timeout
from app.stability.events import Event
from tests.fakes.clocks import HandClock
from tests.house.source import ROOT

MODULES = {"retry": retry, "timeout": timeout}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (ROOT / "docs/stability" / f"{name}.md").read_text(encoding="utf-8")


def events_of(module: ModuleType) -> list[str]:
    """Return the names of the events that a module defines."""
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return [name for name, value in classes.items() if issubclass(value, Event) and value is not Event]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library by the name that its wheel has, with a clock whose waits take no time."""
    monkeypatch.setitem(sys.modules, "stability", app.stability)
    monkeypatch.setitem(sys.modules, "stability.deadline", deadline)
    monkeypatch.setattr(app.stability.SystemClock, "sleep", staticmethod(HandClock().sleep))
    yield
    assert app.stability.current_deadline() is None, "an example left a deadline behind"


@pytest.mark.parametrize("name", MODULES)
def test_the_page_names_every_outcome_and_every_event(name: str) -> None:
    text, events = page(name), events_of(MODULES[name])
    outcomes: tuple[str, ...] = MODULES[name].OUTCOMES

    missing = [word for word in (*outcomes, *events) if f"`{word}`" not in text]

    assert events
    assert missing == []


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_the_page_run(name: str, library: None) -> None:
    blocks = BLOCK.findall(page(name))

    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, f"{name}.md", "exec"), {"__name__": "example"})  # noqa: S102  # it is our own page
