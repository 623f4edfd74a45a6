"""Reading a tree of Python sources without running it: modules, imports, functions, names.

The rules of this folder are functions from a :class:`SourceTree` (or a folder) to a list of sentences, one
per broken place. Each rule is tried on the product, where it must find nothing, and on a tiny bad tree,
where it must find the mistake: a rule that cannot fail protects nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One import: the dotted name it asks for, the name taken out of it, and where it stands."""

    target: str
    name: str | None
    line: int

    @property
    def top(self) -> str:
        """The distribution's import name, or ``app``."""
        return self.target.split(".", 1)[0]


@dataclass(frozen=True)
class SourceModule:
    """One file of Python."""

    name: str
    path: Path
    is_package: bool

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))

    @property
    def line_count(self) -> int:
        return len(self.text.splitlines())

    def functions(self) -> Iterator[FunctionNode]:
        """Yield every function and method, nested ones too."""
        for node in ast.walk(self.tree):
            if isinstance(node, FunctionNode):
                yield node

    def imports(self) -> Iterator[Import]:
        """Yield every import that can run: at the top, inside functions, by name. Not under TYPE_CHECKING."""
        for node in _walk_running_code(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, None, node.lineno)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                for alias in node.names:
                    yield Import(base, alias.name, node.lineno)
            elif isinstance(node, ast.Call) and _is_import_call(node):
                argument = node.args[0]
                assert isinstance(argument, ast.Constant)
                yield Import(str(argument.value), None, node.lineno)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        parts = self.name.split(".")
        drop = node.level - 1 if self.is_package else node.level
        base = parts[: len(parts) - drop]
        return ".".join([*base, *([node.module] if node.module else [])])


class SourceTree:
    """All modules of one package, or of a folder of test files.

    Args:
        root: The folder that holds the package.
        package: The package's folder in it.
    """

    def __init__(self, root: Path, package: str = "app") -> None:
        self.root = root
        self.package = package
        self.modules: Mapping[str, SourceModule] = {
            module.name: module for module in map(self._module, sorted((root / package).rglob("*.py")))
        }

    def _module(self, path: Path) -> SourceModule:
        parts = list(path.relative_to(self.root).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        return SourceModule(".".join(parts[:-1] if is_package else parts), path, is_package)

    def where(self, module: SourceModule, line: int = 0) -> str:
        """Return ``app/x.py:12``."""
        relative = module.path.relative_to(self.root).as_posix()
        return f"{relative}:{line}" if line else relative

    def own_imports(self, module: SourceModule) -> dict[str, int]:
        """Return which modules of this tree a module imports, each with the line of the first import."""
        found: dict[str, int] = {}
        for imported in module.imports():
            candidates = [f"{imported.target}.{imported.name}", imported.target]
            for candidate in candidates:
                if candidate in self.modules:
                    found.setdefault(candidate, imported.line)
                    break
        return found


def _is_import_call(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in {"import_module", "__import__"} and bool(node.args) and isinstance(node.args[0], ast.Constant)


def _walk_running_code(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    children = (
        node.orelse if isinstance(node, ast.If) and _is_type_checking(node.test) else ast.iter_child_nodes(node)
    )
    for child in children:
        yield from _walk_running_code(child)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    """Write a tiny tree for the self-test of a rule and return its root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
