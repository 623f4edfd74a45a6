"""The page of the circuit breaker names what it tells and counts, and its examples run."""

from __future__ import annotations

import re
import sys

import pytest

import app.stability
from app.stability import breaker_events
from app.stability.breaker_states import MANUAL_TRANSITIONS, State
from app.stability.breaker_tally import KINDS
from app.stability.events import Event
from tests.fakes.breakers import Rig
from tests.house.source import ROOT

TEXT = (ROOT / "docs/stability/circuit_breaker.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """Return the cells of all table rows of a section."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_runs(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stability", app.stability)

    exec(compile(example, "circuit_breaker.md", "exec"), {"__name__": "example"})  # noqa: S102  # it is our page


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


def test_every_event_is_named() -> None:
    events = {
        name for name, value in vars(breaker_events).items() if isinstance(value, type) and issubclass(value, Event)
    } - {"Event"}

    assert events <= {row[0].strip("`") for row in rows("Telemetry")}


def test_every_metric_and_kind_is_named_with_its_labels() -> None:
    rig = Rig()
    rig.trip()
    named = {row[0].strip("`").removesuffix("_total"): row[2] for row in rows("Telemetry") if len(row) > 2}

    for figure in rig.breaker.figures():
        assert [label for label in figure.labels if f"`{label}`" not in named[figure.metric]] == []
    text = " ".join(row[0] for row in rows("Telemetry"))
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


def test_every_state_has_a_row() -> None:
    assert {state.name for state in State} <= {row[0].strip("`") for row in rows("About")}


def test_the_three_refused_transitions_are_named() -> None:
    refused = {(source, target) for source in State for target in State} - {
        (source, target) for source, targets in MANUAL_TRANSITIONS.items() for target in targets
    }

    assert refused - {(state, state) for state in State} == {
        (State.CLOSED, State.HALF_OPEN),
        (State.METRICS_ONLY, State.OPEN),
        (State.METRICS_ONLY, State.HALF_OPEN),
    }
    assert "not from `CLOSED` to `HALF_OPEN`, and not from\n`METRICS_ONLY` to `OPEN` or `HALF_OPEN`" in TEXT
