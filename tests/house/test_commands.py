"""Commands and documents agree: what is documented exists, what exists is documented."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from app.cli.main import build_parser
from tests.house.source import ROOT, write_tree
from tests.house.test_docs import code_of, documents

COMMAND = re.compile(r"python -m app((?: +[^\s|;&<>()]+)*)")
NAMED_PATH = re.compile(r"^(?:app|tests|config|docs|deploy|nginx|benchmarks)/[\w./-]*$")

type_of_subparsers = argparse._SubParsersAction  # argparse has no public name for it


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """Yield each command that does something, with its options."""
    branches = [action for action in parser._actions if isinstance(action, type_of_subparsers)]
    if not branches:
        yield " ".join(words), set(parser._option_string_actions)
    for branch in branches:
        for word, child in branch.choices.items():
            yield from commands(child, (*words, word))


def unknown_commands(known: Mapping[str, set[str]], root: Path, names: Iterable[str]) -> list[str]:
    """Return ``python -m app`` commands in documents that would end with wrong usage."""
    return [
        f"{name}: python -m app{arguments}"
        for name in names
        for code in code_of((root / name).read_text(encoding="utf-8"))
        for arguments in COMMAND.findall(code)
        if not _would_run(known, shlex.split(arguments))
    ]


def _would_run(known: Mapping[str, set[str]], words: list[str]) -> bool:
    if not words or words[0] in {"--help", "…", "..."}:
        return True
    for length in (2, 1):
        options = known.get(" ".join(words[:length]))
        if options is not None:
            asked = {word.split("=")[0] for word in words[length:] if word.startswith("-")}
            return asked <= options
    return False


def undocumented_commands(known: Iterable[str], text: str) -> list[str]:
    """Return commands that a document does not show."""
    return [command for command in known if not re.search(rf"`python -m app {re.escape(command)}(?![\w-])", text)]


def missing_paths(root: Path, names: Iterable[str]) -> list[str]:
    """Return files and folders that documents name as code and that do not exist."""
    return [
        f"{name}: {path}"
        for name in names
        for path in code_of((root / name).read_text(encoding="utf-8"))
        if NAMED_PATH.match(path) and not (root / path).exists()
    ]


def test_every_documented_command_exists() -> None:
    assert unknown_commands(dict(commands(build_parser())), ROOT, documents()) == []


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")

    assert undocumented_commands(dict(commands(build_parser())), text) == []


def test_every_make_target_is_documented() -> None:
    targets = re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")

    assert [target for target in targets if f"`make {target}`" not in text] == []


def test_a_difference_between_commands_and_documents_is_seen(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    branches = parser.add_subparsers()
    branches.add_parser("serve").add_argument("--quietly")
    branches.add_parser("user").add_subparsers().add_parser("create").add_argument("--admin")
    known = dict(commands(parser))
    shown = ("serve --quietly", "serve --fast", "user", "--help")
    text = "".join(f"`python -m app {words}`\n" for words in shown)
    write_tree(tmp_path, {"a.md": text + "```\npython -m app user create --admin | cat\npython -m app fly\n```\n"})

    assert set(known) == {"serve", "user create"}
    assert unknown_commands(known, tmp_path, ["a.md"]) == [
        "a.md: python -m app fly",
        "a.md: python -m app serve --fast",
        "a.md: python -m app user",
    ]
    assert undocumented_commands(known, text) == ["user create"]


def test_every_named_file_exists() -> None:
    assert missing_paths(ROOT, documents()) == []


def test_the_architecture_names_every_package() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    packages = sorted(path.parent.name for path in (ROOT / "app").glob("*/__init__.py"))

    assert [name for name in packages if f"app/{name}/" not in text] == []


def test_a_named_file_that_does_not_exist_is_seen(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.md": "`app/x.py` `app/gone.py` `apps/other.py` `app/x.py --flag`\n", "app/x.py": ""})

    assert missing_paths(tmp_path, ["a.md"]) == ["a.md: app/gone.py"]
