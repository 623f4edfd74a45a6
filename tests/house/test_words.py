"""The words in the sources: names, docstrings, comments, and what must not be told to the world."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.house.source import ROOT, FunctionNode, SourceModule, SourceTree, write_tree

PACKAGES = ("app", "tests", "benchmarks")
NO_MODULE_NAMES = frozenset(
    {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "stuff", "tools"}
)
NO_VERBS = ("handle", "process", "do")
# Names that a library asks for: SQLAlchemy's TypeDecorator and connection pool.
FOREIGN_NAMES = frozenset({
    "process_bind_param", "process_result_value", "_do_get", "_do_return_conn",  # SQLAlchemy's
    "do_load_config", "handle_exit", "handle_hup", "handle_int", "handle_term",  # gunicorn's
})  # fmt: skip
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|pragma: no " + r"cover")
SILENCER = re.compile(
    r"#\s*(?:noqa(?P<code>:\s*[A-Z]+[0-9]+(?:,\s*[A-Z]+[0-9]+)*)?|type:\s*ignore(?P<kind>\[[^]]+])?)"
)
LEAST_REASON_CHARACTERS = 5
MACHINE_PATH = re.compile(
    r"(?<![\w.*~-])/(?:work|root|Users)/|(?<![\w.*~-])/home/[a-z]|"
    r"(?:pypi|pythonhosted|npmjs|debian)\.(?:org|com)|--(?:extra-)?index" + r"-url|--find" + r"-links"
)


def refused_module_names(tree: SourceTree) -> list[str]:
    """Return modules and packages whose name says nothing."""
    return [tree.where(m) for m in tree.modules.values() if NO_MODULE_NAMES & set(m.name.split("."))]


def refused_verbs(tree: SourceTree) -> list[str]:
    """Return functions named handle, process or do, which say nothing of what they do."""
    return [
        f"{tree.where(module, node.lineno)} {node.name}"
        for module in tree.modules.values()
        for node in module.functions()
        if node.name.lstrip("_").split("_")[0] in NO_VERBS and node.name not in FOREIGN_NAMES
    ]


def undocumented(tree: SourceTree) -> list[str]:
    """Return every module and public class, function and method without a docstring.

    A migration's two functions are Alembic's and the same in every file: its module docstring speaks for them.
    """
    return [
        f"{tree.where(module, line)} {name}"
        for module in tree.modules.values()
        for line, name, node in _public_names(module)
        if not (ast.get_docstring(node) or "").strip()
        and not (".migrations.versions." in module.name and name in {"upgrade", "downgrade"})
    ]


def _public_names(module: SourceModule) -> Iterator[tuple[int, str, ast.Module | ast.ClassDef | FunctionNode]]:
    yield 1, "the module", module.tree
    waiting: list[ast.Module | ast.ClassDef] = [module.tree]
    while waiting:
        for node in waiting.pop().body:
            if not isinstance(node, ast.ClassDef | FunctionNode) or node.name.startswith("_"):
                continue
            if not any(_is_repetition(decorator) for decorator in node.decorator_list):
                yield node.lineno, node.name, node
            if isinstance(node, ast.ClassDef):
                waiting.append(node)


def _is_repetition(decorator: ast.expr) -> bool:
    """Return whether a decorator marks a name described elsewhere: an overload, or a property's setter."""
    name = decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")
    return name in {"overload", "setter", "deleter"}


def silent_silencers(tree: SourceTree) -> list[str]:
    """Return comments that silence a tool without naming the rule and the reason beside it."""
    return [
        f"{tree.where(module, line)} {comment}"
        for module in tree.modules.values()
        for line, comment in _comments(module.text)
        if (found := SILENCER.search(comment))
        and (
            not (found["code"] or found["kind"])
            or len(re.sub(r"[^A-Za-z0-9]", "", SILENCER.sub("", comment))) < LEAST_REASON_CHARACTERS
        )
    ]


def _comments(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def unfinished(tree: SourceTree) -> list[str]:
    """Return lines that put work off or exempt themselves from being measured."""
    return [
        f"{tree.where(module, number)} {line.strip()}"
        for module in tree.modules.values()
        for number, line in enumerate(module.text.splitlines(), 1)
        if UNFINISHED.search(line)
    ]


def told_secrets_of_a_machine(root: Path, files: Iterable[str]) -> list[str]:
    """Return lines that name a folder of one machine, or the host of a package registry."""
    found = []
    for name in files:
        try:
            text = (root / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # a picture, or a file that is tracked but was just removed
        lines = enumerate(text.splitlines(), 1)
        found += [f"{name}:{number} {line.strip()[:120]}" for number, line in lines if MACHINE_PATH.search(line)]
    return found


def tracked_files(root: Path) -> list[str]:
    """Return what git tracks, or every file when the folder came without its repository."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return [name for name in done.stdout.split("\0") if name]
    return [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and ".venv" not in p.as_posix()]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_has_a_name_that_says_nothing(package: str) -> None:
    assert refused_module_names(SourceTree(ROOT, package)) == []


def test_a_module_name_that_says_nothing_is_seen(tmp_path: Path) -> None:
    write_tree(tmp_path, {"app/utils.py": "", "app/helpers/a.py": "", "app/utility_of_light.py": ""})

    assert refused_module_names(SourceTree(tmp_path)) == ["app/helpers/a.py", "app/utils.py"]


def test_no_function_is_named_handle_process_or_do() -> None:
    assert refused_verbs(SourceTree(ROOT)) == []


def test_a_function_that_handles_is_seen(tmp_path: Path) -> None:
    write_tree(tmp_path, {"app/a.py": "def _handle_it(): ...\ndef processes(): ...\ndef process_bind_param(): ...\n"})

    assert refused_verbs(SourceTree(tmp_path)) == ["app/a.py:1 _handle_it"]


def test_every_public_name_has_a_docstring() -> None:
    assert undocumented(SourceTree(ROOT)) == []


def test_every_test_module_says_what_it_holds() -> None:
    missing = [s for package in ("tests", "benchmarks") for s in undocumented(SourceTree(ROOT, package))]

    assert [sentence for sentence in missing if sentence.endswith("the module")] == []


def test_a_missing_docstring_is_seen(tmp_path: Path) -> None:
    source = (
        "class C:\n    '''C.'''\n    def m(self): ...\n    def _p(self): ...\n"
        "    @property\n    def x(self):\n        '''X.'''\n    @x.setter\n    def x(self, v): ...\n"
        "def f():\n    ''' '''\n    def inner(): ...\n"
    )
    write_tree(tmp_path, {"app/a.py": source})

    found = undocumented(SourceTree(tmp_path))

    assert sorted(found) == ["app/a.py:1 the module", "app/a.py:10 f", "app/a.py:3 m"]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_silenced_tool_has_its_reason_beside_it(package: str) -> None:
    assert silent_silencers(SourceTree(ROOT, package)) == []


@pytest.mark.parametrize("comment", ["noqa", "noqa: S101", "type: ignore", "type: ignore[arg-type]", "noqa: S1  # x"])
def test_a_silencer_without_a_reason_is_seen(tmp_path: Path, comment: str) -> None:
    source = f"x = 1  # {comment}\ny = 2  # noqa: S101  # asserts a fact of the protocol\nz = '# {comment}'\n"
    write_tree(tmp_path, {"app/a.py": source})

    assert silent_silencers(SourceTree(tmp_path)) == [f"app/a.py:1 # {comment}"]


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_put_off(package: str) -> None:
    assert unfinished(SourceTree(ROOT, package)) == []


def test_work_put_off_is_seen(tmp_path: Path) -> None:
    write_tree(tmp_path, {"app/a.py": "x = 1  # TO" + "DO\nTODOS = 2\ny = 3  # pragma: no " + "cover\n"})

    assert [sentence.split()[0] for sentence in unfinished(SourceTree(tmp_path))] == ["app/a.py:1", "app/a.py:3"]


def test_no_tracked_file_names_a_machine() -> None:
    assert told_secrets_of_a_machine(ROOT, tracked_files(ROOT)) == []


@pytest.mark.parametrize(
    "line", ["cd /" + "work/main", "/" + "root/.cache", "'/" + "home/me'", "https://pypi" + ".org/simple"]
)
def test_a_machine_in_a_file_is_seen(tmp_path: Path, line: str) -> None:
    good = "docs/notes/plan.md, $HOME/x, /var/lib/photo-api, ~/" + "root/x\n"
    write_tree(tmp_path, {"a.md": f"{good}{line}\n"})
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")

    found = told_secrets_of_a_machine(tmp_path, ["a.md", "photo.jpg", "removed.md"])

    assert len(found) == 1
    assert found[0].startswith("a.md:2 ")
