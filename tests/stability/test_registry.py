"""Which class a policy's name stands for, and that nothing is imported which no document names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.stability import OptionError
from app.stability.registry import BUILT_IN, ENTRY_POINT_GROUP, find_kind, hint, known_names
from tests.fakes.policies import KINDS

GOOD = """
from app.stability import Options
class Good:
    Options = Options
    @classmethod
    def build(cls, options, context): return cls()
    def execute(self, call, proceed): return proceed(call)
"""
BAD = {
    "not_a_class": ("x = 1", "it is no class with build and execute"),
    "no_build": ("class x:\n    def execute(self, call, proceed): ...", "it is no class with build and execute"),
    "no_options": (GOOD.replace("Options = Options", "Options = None") + "x = Good", "its Options is no dataclass"),
    "undeclared": (
        "from dataclasses import dataclass\n"
        + GOOD
        + "@dataclass(frozen=True, kw_only=True)\nclass O(Options):\n    a: int = 1\n    b: int = 2\n"
        + "Good.Options = O\nx = Good",
        "a, b in its Options is not declared with option()",
    ),
    "foreign_options": (
        "from dataclasses import dataclass\n" + GOOD + "@dataclass\nclass O: ...\nGood.Options = O\nx = Good",
        "its Options is no dataclass made from stability.Options",
    ),
    "broken": ("raise RuntimeError('no licence')", "cannot be imported: RuntimeError: no licence"),
    "nameless": ("y = 1", "cannot be imported: AttributeError"),
}


def offer(folder: Path, package: str, name: str, source: str, attribute: str = "x") -> None:
    """Put a package into a folder as an installer would."""
    (folder / f"{package}.py").write_text(source, encoding="utf-8")
    facts = folder / f"{package}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    (facts / "entry_points.txt").write_text(
        f"[{ENTRY_POINT_GROUP}]\n{name} = {package}:{attribute}\n", encoding="utf-8"
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that packages can be installed into, and that is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_each_policy_of_the_library_is_found_by_its_name(name: str) -> None:
    assert find_kind(name).__name__ == BUILT_IN[name][1]


def test_the_callers_own_classes_come_first() -> None:
    assert find_kind("retry", KINDS) is KINDS["retry"]
    assert "unbuildable" in known_names(KINDS)
    assert "unbuildable" not in known_names()


def test_an_installed_package_offers_a_policy_that_is_imported_when_it_is_named(site: Path) -> None:
    offer(site, "offers_good", "good", GOOD, "Good")
    offer(site, "offers_broken", "broken", BAD["broken"][0])

    names = known_names()

    assert {"good", "broken"} <= set(names)
    assert not {"offers_good", "offers_broken"} & set(sys.modules)
    assert find_kind("good").__name__ == "Good"
    assert "offers_broken" not in sys.modules


@pytest.mark.parametrize("name", sorted(BAD))
def test_what_is_no_policy_is_refused_with_the_reason(site: Path, name: str) -> None:
    source, reason = BAD[name]
    offer(site, f"offers_{name}", name, source)

    with pytest.raises(OptionError) as caught:
        find_kind(name)

    assert len(caught.value.mistakes) == 1
    assert repr(name) in caught.value.mistakes[0]
    assert reason in caught.value.mistakes[0]


def test_a_name_that_two_packages_offer_is_refused(site: Path) -> None:
    offer(site, "first", "good", GOOD, "Good")
    offer(site, "second", "good", GOOD, "Good")

    with pytest.raises(OptionError, match="'good' is offered more than once: first:Good, second:Good"):
        find_kind("good")


def test_a_package_cannot_take_the_place_of_a_policy_of_the_library(site: Path) -> None:
    offer(site, "thief", "circuit_breaker", GOOD, "Good")

    assert find_kind("circuit_breaker").__name__ == "CircuitBreaker"


def test_an_unknown_name_is_told_what_it_may_mean() -> None:
    with pytest.raises(OptionError, match=r"there is no policy 'bulkhed'; did you mean 'bulkhead'\?"):
        find_kind("bulkhed")


def test_a_hint_may_be_a_class_that_the_caller_adds() -> None:
    with pytest.raises(OptionError, match=r"; did you mean 'unbuildable'\?"):
        find_kind("unbuildabl", KINDS)


@pytest.mark.parametrize(
    ("text", "candidates", "says"),
    [
        ("Retry", ["timeout", "retry"], "; did you mean 'retry'?"),
        ("zzz", ["timeout", "retry"], "; there are timeout, retry"),
        ("attempts", ["max_attempts", "base_seconds"], "; did you mean 'max_attempts'?"),
        ("max", ["max_attempts", "base_seconds"], "; did you mean 'max_attempts'?"),
        ("rate", ["failure_rate_threshold", "race"], "; did you mean 'failure_rate_threshold'?"),
        ("seconds", ["cap_seconds", "base_seconds"], "; did you mean 'cap_seconds'?"),
        ("seconds", ["base_seconds", "cap_seconds"], "; did you mean 'cap_seconds'?"),
        ("max", ["mix", "retry"], "; there are mix, retry"),
        ("re", ["timeout", "retry"], "; there are timeout, retry"),
        ("zzz", [], ""),
    ],
)
def test_a_hint_names_the_close_one_or_all(text: str, candidates: list[str], says: str) -> None:
    assert hint(text, candidates) == says
