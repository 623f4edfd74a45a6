"""What the documents say is so: links lead somewhere, commands exist, dependencies have their reasons."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.house.source import ROOT, SourceTree, write_tree
from tests.house.test_words import tracked_files

LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
FENCE = re.compile(r"^(```+|~~~+)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`([^`\n]+)`")
MAKE_TARGET = re.compile(r"^([a-z][a-z-]*):.* ## (.+)$", re.MULTILINE)
MAKE_COMMAND = re.compile(
    r"(?:^|[\s;&|(])make((?:\s+[A-Z_]+=\S*)*)(?:\s+([a-z][a-z-]*))?(?=$|[\s;&|)])", re.MULTILINE
)
CONTRACT_TARGETS = {"run", "test", "check", "bench", "extended"}
ROW = re.compile(r"^\| ([a-z0-9-]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def broken_links(root: Path, documents: Iterable[str]) -> list[str]:
    """Return links of Markdown documents to files or headings that do not exist."""
    return [
        f"{document}: {target}"
        for document in documents
        for target in LINK.findall(FENCE.sub("", (root / document).read_text(encoding="utf-8")))
        if not re.match(r"[a-z+]+:", target) and not _leads_somewhere(root / document, target)
    ]


def _leads_somewhere(document: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    file = (document.parent / name) if name else document
    if not file.exists():
        return False
    return not anchor or file.suffix != ".md" or anchor in set(_anchors(file.read_text(encoding="utf-8")))


def _anchors(text: str) -> Iterator[str]:
    for heading in HEADING.findall(FENCE.sub("", text)):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def code_of(text: str) -> Iterator[str]:
    """Yield what a document shows as code: fenced blocks, then pieces within a line."""
    for _, block in FENCE.findall(text):
        yield block
    yield from INLINE_CODE.findall(FENCE.sub("", text))


def unknown_make_targets(root: Path, documents: Iterable[str]) -> list[str]:
    """Return ``make`` commands in documents whose target the Makefile does not have."""
    known = dict(MAKE_TARGET.findall((root / "Makefile").read_text(encoding="utf-8")))
    return [
        f"{document}: make {target}"
        for document in documents
        for code in code_of((root / document).read_text(encoding="utf-8"))
        for _, target in MAKE_COMMAND.findall(code)
        if target and target not in known
    ]


def dependency_mistakes(root: Path) -> list[str]:
    """Return where requirements.in, that of the extra and docs/dependencies.md differ."""
    files = [root / name for name in ("requirements.in", "requirements-heif.in")]
    asked = _requirement_names("\n".join(file.read_text(encoding="utf-8") for file in files if file.exists()))
    direct, through = _dependency_tables(root)
    mistakes = [f"{name} has no reason in docs/dependencies.md" for name in sorted(asked - set(direct))]
    mistakes += [f"{name} is no line of requirements.in" for name in sorted(set(direct) - asked)]
    mistakes += [f"{name} comes with {parent}?" for name, parent in through.items() if parent not in asked]
    return mistakes


def undeclared_imports(root: Path) -> list[str]:
    """Return third-party imports in app/ that docs/dependencies.md does not place where they happen."""
    direct, through = _dependency_tables(root)
    distributions = packages_distributions()
    tree = SourceTree(root)
    found = {
        (distributions.get(imported.top, [imported.top])[0].lower().replace("_", "-"), tree.where(module))
        for module in tree.modules.values()
        for imported in module.imports()
        if imported.top not in sys.stdlib_module_names and imported.top not in {"app", ""}
    }
    mistakes = [f"{where} imports {name}" for name, where in sorted(found) if name not in {*direct, *through}]
    for name, place in direct.items():
        if place not in {"driver", "library"} and not any(
            name == used and where.startswith(place) for used, where in found
        ):
            mistakes.append(f"{name} is not imported in {place}")
    return mistakes


def _requirement_names(text: str) -> set[str]:
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {re.split(r"[\[<>=~!; ]", line)[0].lower() for line in lines if line and not line.startswith("-")}


def _dependency_tables(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    text = (root / "docs/dependencies.md").read_text(encoding="utf-8")
    direct, _, through = text.partition("## What is used through another")
    return (
        {name: place.strip("` ") for name, place, _ in ROW.findall(direct)},
        {name: parent.strip() for name, parent, _ in ROW.findall(through)},
    )


def pins(text: str) -> dict[str, str]:
    """Return the name and version of each line of a compiled requirements file."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def test_every_link_leads_somewhere() -> None:
    assert broken_links(ROOT, documents()) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    text = "# One thing!\n[a](b.md) [b](b.md#two) [c](#one-thing) [d](gone.md) [e](b.md#three) ![f](gone.svg)\n"
    write_tree(tmp_path, {"a.md": text + "[x](https://example.org/x)\n```\n[y](no.md)\n```\n", "b.md": "## Two\n"})

    assert broken_links(tmp_path, ["a.md"]) == ["a.md: gone.md", "a.md: b.md#three", "a.md: gone.svg"]


def test_every_make_command_in_the_documents_exists() -> None:
    assert unknown_make_targets(ROOT, documents()) == []


def test_a_make_command_that_does_not_exist_is_seen(tmp_path: Path) -> None:
    text = "make sure of it: `make run`, `PORT=1 make run`, `make brew`\n```sh\nmake fly ARGS=1 && make\n```\n"
    write_tree(tmp_path, {"a.md": text, "Makefile": "run: x ## Run\n"})

    assert unknown_make_targets(tmp_path, ["a.md"]) == ["a.md: make fly", "a.md: make brew"]


def test_make_prints_every_target_with_its_sentence() -> None:
    targets = dict(MAKE_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    phony = set(re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    printed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert targets.keys() >= CONTRACT_TARGETS
    assert phony == targets.keys()
    for target, sentence in targets.items():
        assert re.search(rf"make {target} +{re.escape(sentence)}$", printed, re.MULTILINE)


def test_continuous_integration_runs_make_check_and_nothing_else() -> None:
    script = ROOT / ".ci/run"

    commands = [line for line in script.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]

    assert commands == ['cd "$(dirname "$0")/.." && exec make check']
    assert script.stat().st_mode & 0o111


def test_every_dependency_has_its_reason() -> None:
    assert dependency_mistakes(ROOT) == []


def test_every_imported_package_is_declared_where_it_is_used() -> None:
    assert undeclared_imports(ROOT) == []


def test_a_dependency_without_reason_or_use_is_seen(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "requirements.in": "# why\nflask>=3\npsycopg[binary]\norjson\n",
            "docs/dependencies.md": (
                "| Package | Used in | Reason |\n| flask | `app/http/` | web |\n| psycopg | driver | db |\n"
                "| gone | `app/x/` | was |\n## What is used through another\n| werkzeug | django | x |\n"
            ),
            "app/http/a.py": "import flask.views\nimport os\n",
            "app/x/b.py": "import orjson\nfrom werkzeug import x\n",
        },
    )

    assert dependency_mistakes(tmp_path) == [
        "orjson has no reason in docs/dependencies.md",
        "gone is no line of requirements.in",
        "werkzeug comes with django?",
    ]
    assert undeclared_imports(tmp_path) == ["app/x/b.py imports orjson", "gone is not imported in app/x/"]


def test_tests_run_with_the_versions_of_production() -> None:
    production = pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    development = pins((ROOT / "requirements-dev.txt").read_text(encoding="utf-8"))

    assert len(production) > 10
    assert {name: development.get(name) for name in production} == production


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-dev.txt", "requirements-swift.txt", "requirements-keystone.txt"]
)
def test_every_pin_has_a_hash(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")

    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)

    assert [b.splitlines()[0] for b in blocks if re.match(r"[A-Za-z0-9]", b) and "--hash=sha256:" not in b] == []


def documents() -> list[str]:
    """Return every Markdown file that git tracks."""
    return [name for name in tracked_files(ROOT) if name.endswith(".md") and (ROOT / name).exists()]
