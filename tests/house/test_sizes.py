"""How long a module and a function may be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.house.source import ROOT, FunctionNode, SourceModule, SourceTree, write_tree

MOST_MODULE_LINES = 600
MOST_FUNCTION_LINES = 60
MOST_FUNCTION_LINES_OF_NINE_IN_TEN = 25


def function_lines(node: FunctionNode) -> int:
    """Return a function's lines from ``def`` to its end, docstring included, decorators not."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def long_modules(tree: SourceTree) -> list[str]:
    """Return modules of more than 600 lines."""
    return [
        f"{tree.where(module)} has {module.line_count} lines"
        for module in tree.modules.values()
        if module.line_count > MOST_MODULE_LINES
    ]


def long_functions(tree: SourceTree) -> list[str]:
    """Return functions of more than 60 lines."""
    return [
        f"{tree.where(module, node.lineno)} {node.name} has {function_lines(node)} lines"
        for module, node in _functions(tree)
        if function_lines(node) > MOST_FUNCTION_LINES
    ]


def long_tenth(tree: SourceTree) -> list[str]:
    """Return the 90th percentile of the functions' lines, and the longest, when it is over 25."""
    sizes = sorted(
        (function_lines(node), f"{tree.where(module, node.lineno)} {node.name}") for module, node in _functions(tree)
    )
    if not sizes:
        return []
    percentile = sizes[-(-len(sizes) * 9 // 10) - 1][0]
    if percentile <= MOST_FUNCTION_LINES_OF_NINE_IN_TEN:
        return []
    longest = [f"{name} has {lines}" for lines, name in sizes[-10:]]
    return [f"nine in ten functions have up to {percentile} lines", *longest]


def _functions(tree: SourceTree) -> Iterator[tuple[SourceModule, FunctionNode]]:
    for module in tree.modules.values():
        for node in module.functions():
            yield module, node


def test_a_module_has_at_most_600_lines() -> None:
    found = [sentence for package in ("app", "tests", "benchmarks") for sentence in long_modules(_tree(package))]

    assert found == []


def test_a_function_has_at_most_60_lines() -> None:
    found = [sentence for package in ("app", "tests", "benchmarks") for sentence in long_functions(_tree(package))]

    assert found == []


def test_nine_in_ten_functions_have_at_most_25_lines() -> None:
    assert long_tenth(_tree("app")) == []


def test_a_long_module_is_seen(tmp_path: Path) -> None:
    write_tree(tmp_path, {"app/long.py": "\n" * 601, "app/short.py": "\n" * 600})

    assert long_modules(SourceTree(tmp_path)) == ["app/long.py has 601 lines"]


def test_a_long_function_is_seen_wherever_it_stands(tmp_path: Path) -> None:
    nested = "class C:\n    def f(self):\n        async def g():\n" + "            x = 1\n" * 60
    write_tree(tmp_path, {"app/nested.py": nested, "app/short.py": "def f():\n" + "    x = 1\n" * 59})

    found = long_functions(SourceTree(tmp_path))

    assert found == ["app/nested.py:2 f has 62 lines", "app/nested.py:3 g has 61 lines"]


def test_a_long_tenth_is_seen(tmp_path: Path) -> None:
    short = "def f():\n    x = 1\n"
    long = "def g():\n" + "    x = 1\n" * 25
    write_tree(tmp_path / "good", {"app/a.py": short * 9 + long})
    write_tree(tmp_path / "bad", {"app/a.py": short * 8 + long * 2})

    assert long_tenth(SourceTree(tmp_path / "good")) == []
    assert long_tenth(SourceTree(tmp_path / "bad"))[0] == "nine in ten functions have up to 26 lines"


def _tree(package: str) -> SourceTree:
    return SourceTree(ROOT, package)
