"""Each policy of the library has a page, and the page's table of options is the code's."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from app.stability import Options, option
from app.stability.description import written
from app.stability.options import rule_of
from app.stability.registry import BUILT_IN, find_kind
from tests.house.source import ROOT, write_tree

FOLDER = ROOT / "docs/stability"
OPTIONS_SECTION = re.compile(r"^## Options\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\|\s*`?(\w+)`?\s*\|([^|\n]*)\|([^|\n]*)\|([^|\n]*)\|([^|\n]*)\|\s*$", re.MULTILINE)
NO_UNIT = frozenset({"", "—", "-", "\N{EN DASH}"})


def documented_options(text: str) -> dict[str, tuple[str, str]]:
    """Return default and unit of each option in the tables of a page's section "Options"."""
    return {
        name: (default.strip().strip("`"), unit.strip())
        for section in OPTIONS_SECTION.findall(text)
        for name, default, unit, _, _ in ROW.findall(section)
        if name.lower() not in {"option", "option_name"}
    }


def differences(options: type[Options], text: str) -> list[str]:
    """Return where the options of a class and the tables of a page differ."""
    rows = documented_options(text)
    declared = {one.name: one for one in fields(options)}
    found = [f"{name} has no row" for name in declared if name not in rows]
    found += [f"{name} is no option" for name in rows if name not in declared]
    for name in declared.keys() & rows.keys():
        default, unit = rows[name]
        if not _says(default, declared[name].default):
            found.append(f"{name} has the default {written(declared[name].default)}, not {default}")
        expected = rule_of(declared[name]).unit
        if unit != expected and not (expected == "" and unit in NO_UNIT):
            found.append(f"{name} has the unit {expected or 'none'}, not {unit or 'none'}")
    return sorted(found)


def _says(text: str, default: Any) -> bool:
    """Return whether a cell says a default: a number in any spelling, anything else as a document writes it."""
    if isinstance(default, int | float) and not isinstance(default, bool):
        try:
            return float(text.replace("_", "").replace(",", "")) == default
        except ValueError:
            return False
    return text.strip('"').lower() in {written(default).lower(), str(default).lower()}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_page_of_a_policy_has_a_row_per_option_and_the_codes_defaults(name: str) -> None:
    page = FOLDER / f"{name}.md"

    assert page.exists(), f"docs/stability/{name}.md is missing"
    assert differences(find_kind(name).Options, page.read_text(encoding="utf-8")) == []


def test_every_policy_is_named_on_the_page_about_configuration() -> None:
    text = (FOLDER / "configuration.md").read_text(encoding="utf-8")

    assert [name for name in BUILT_IN if f"[`{name}`]({name}.md)" not in text] == []


@dataclass(frozen=True, kw_only=True)
class _Options(Options):
    rate: float = option(0.5, "A ratio", above=0, high=1)
    size: int = option(1000, "A size", unit="calls", low=1)
    is_on: bool = option(True, "Whether")
    end: float | None = option(None, "An end", unit="seconds", judge=lambda _: None)


GOOD_TABLE = """
## Options

| Option | Default | Unit | Allowed | Meaning |
|---|---|---|---|---|
| `rate` | `0.50` | — | > 0 | A ratio |
| size | 1,000 | calls | ≥ 1 | A size |
| `is_on` | true | | | Whether |
| `end` | none | seconds | > 0 | An end |

## Telemetry

| `other` | 1 | 2 | 3 | 4 |
"""


def test_a_table_that_says_what_the_code_says_is_right() -> None:
    assert differences(_Options, GOOD_TABLE) == []


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("`0.50`", "0.6", "rate has the default 0.5, not 0.6"),
        ("`0.50`", "half", "rate has the default 0.5, not half"),
        ("| true |", "| false |", "is_on has the default true, not false"),
        ("| none |", "| 5 |", "end has the default none, not 5"),
        ("| calls |", "| seconds |", "size has the unit calls, not seconds"),
        ("| — |", "| calls |", "rate has the unit none, not calls"),
        ("| size | 1,000 | calls | ≥ 1 | A size |\n", "", "size has no row"),
        ("| size |", "| sizes |", "size has no row, sizes is no option"),
    ],
)
def test_a_table_that_differs_from_the_code_is_seen(tmp_path: Path, right: str, wrong: str, says: str) -> None:
    root = write_tree(tmp_path, {"odd.md": GOOD_TABLE.replace(right, wrong)})

    found = differences(_Options, (root / "odd.md").read_text(encoding="utf-8"))

    assert ", ".join(found) == says
