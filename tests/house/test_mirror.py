"""Every module of the product has a test that imports it, in a folder that mirrors the product's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.house.source import ROOT, SourceModule, SourceTree, write_tree

# Folders of tests that mirror no folder of app/: see docs/architecture.md.
FOLDERS_OF_THEIR_OWN = frozenset(
    {
        "benchmarks",
        "chaos",
        "contract",
        "drills",
        "edge",
        "fakes",
        "faults",
        "house",
        "http_contract",
        "integration",
        "servers",
    }
)


def untested(root: Path) -> list[str]:
    """Return modules with code in them that no test reaches.

    A test reaches a module by importing it, by naming it in a string where another process loads it
    (``python -m app``, ``wsgi:app``, a migration's file), or through its own package: an
    image format is tested through the probe that chooses it.
    """
    app, tests = SourceTree(root), _tests(root)
    imported = {name for module in tests for name in _imported_names(module)}
    strings = "\n".join(text for module in tests for text in _strings(module))
    waiting = [m for m in app.modules.values() if m.name in imported or _is_named(app.where(m), m.name, strings)]
    reached = {module.name for module in waiting}
    while waiting:
        module = waiting.pop()
        for name in app.own_imports(module):
            package = module.name if module.is_package else module.name.rpartition(".")[0]
            if name not in reached and name.rpartition(".")[0] == package:
                reached.add(name)
                waiting.append(app.modules[name])
    return [app.where(m) for m in app.modules.values() if _has_code(m) and m.name not in reached]


def _tests(root: Path) -> list[SourceModule]:
    """Return the test modules, but for the rules of this folder: what they name, they do not test."""
    return [m for m in SourceTree(root, "tests").modules.values() if not m.name.startswith("tests.house.")]


def _imported_names(module: SourceModule) -> set[str]:
    names = set()
    for imported in module.imports():
        names |= {imported.target, f"{imported.target}.{imported.name}"}
    return names


def _strings(module: SourceModule) -> list[str]:
    constants = [node for node in ast.walk(module.tree) if isinstance(node, ast.Constant)]
    return [node.value for node in constants if isinstance(node.value, str)]


def _is_named(path: str, name: str, strings: str) -> bool:
    """Return whether the strings of tests, a line each, name a module where another process loads it."""
    if name == "app.__main__":
        return "-m\napp\n" in strings
    if name.endswith(".migrations.env"):  # Alembic runs it for every migration
        return bool(re.search(r"\b0001\b", strings))
    file = path.rsplit("/", 1)[-1]
    names = [name, path, *([file[:4]] if file[:4].isdigit() else [])]
    return any(name in strings and re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", strings) for name in names)


def _has_code(module: SourceModule) -> bool:
    """Return whether a module does more than describe itself and hand names on."""
    quiet = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign)
    if module.is_package:
        return not all(isinstance(node, quiet) for node in module.tree.body)
    return any(not isinstance(node, ast.Expr) for node in module.tree.body)


def folders_without_original(root: Path) -> list[str]:
    """Return folders of tests that mirror nothing and are not one of the known folders of their own."""
    originals = {path.stem for path in (root / "app").iterdir()}
    folders = {path.parent.relative_to(root / "tests").parts[:1] for path in (root / "tests").rglob("*.py")}
    names = {folder[0] for folder in folders if folder}
    return sorted(names - originals - FOLDERS_OF_THEIR_OWN)


def test_every_module_is_reached_by_a_test() -> None:
    assert untested(ROOT) == []


def test_tests_mirror_the_product() -> None:
    assert folders_without_original(ROOT) == []


def test_a_module_without_a_test_is_seen(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "app/__init__.py": '"""Empty."""\n',
            "app/rooms/__init__.py": "from app.rooms.a import f\n__all__ = ['f']\n",
            "app/rooms/a.py": "from app.rooms import sibling\nimport app.other.far\n",
            "app/rooms/b.py": "X = 1\n",
            "app/rooms/c.py": "def g(): ...\n",
            "app/rooms/sibling.py": "def s(): ...\n",
            "app/rooms/lost.py": "import app.other.far\n",
            "app/other/far.py": "import app.rooms.a\n",
            "tests/rooms/test_a.py": "from app.rooms.a import f\nimport app.rooms.b\nX = '-m app.rooms.c'\n",
        },
    )

    assert untested(tmp_path) == ["app/other/far.py", "app/rooms/lost.py"]


def test_a_folder_of_tests_without_original_is_seen(tmp_path: Path) -> None:
    write_tree(
        tmp_path, {"app/rooms/a.py": "", "tests/rooms/t.py": "", "tests/house/t.py": "", "tests/zoo/x/t.py": ""}
    )

    assert folders_without_original(tmp_path) == ["zoo"]
