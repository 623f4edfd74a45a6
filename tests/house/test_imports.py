"""Who may import whom: contracts, cycles, and the libraries that each floor does not know."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source import ROOT, SourceModule, SourceTree, write_tree

FRAMEWORKS = ("flask", "sqlalchemy", "boto3", "requests", "prometheus_client", "werkzeug", "pydantic")
MOST_MODULES_USED = 8
NOT_FOR_SERVICES = frozenset({
    "flask", "werkzeug", "gunicorn", "boto3", "botocore", "requests", "redis", "urllib3",
    "app.storage.local", "app.storage.s3", "app.storage.swift", "app.storage.swift_links", "app.storage.guarded",
})  # fmt: skip


SMALLEST_HOUSE = {
    f"app/{name}.py": ""
    for name in (
        "__init__", "errors", "stability/__init__", "stability/clock", "images/__init__", "storage/__init__",
        "storage/base", "storage/local", "storage/s3", "storage/swift", "cache/__init__", "cdn/__init__",
        "upstream/__init__",
        "db/__init__", "db/base", "ops/__init__", "http/__init__",
        "accounts/__init__", "accounts/service", "photos/__init__", "photos/service", "server/__init__",
        "cli/__init__",
    )
} | {"app/db/lease.py": "import app.ops\n"}  # fmt: skip


def loaded_frameworks(root: Path) -> list[str]:
    """Return which frameworks ``import app.stability`` loads in a fresh interpreter."""
    program = f"import app.stability, sys; print(*[n for n in {FRAMEWORKS!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.split()


def third_parties_of_stability(tree: SourceTree) -> list[str]:
    """Return imports in app.stability that are neither its own nor the standard library's."""
    return [
        f"{tree.where(module, imported.line)} imports {imported.target}"
        for module in tree.modules.values()
        if module.name.startswith("app.stability") and not module.name.startswith("app.stability.integrations")
        for imported in module.imports()
        if not imported.target.startswith("app.stability") and imported.top not in sys.stdlib_module_names
    ]


def cycles(tree: SourceTree) -> list[str]:
    """Return every ring of modules that import each other, imports inside functions included."""
    graph = {name: sorted(tree.own_imports(module)) for name, module in tree.modules.items()}
    rings = {_ring_through(graph, start) for start in graph}
    return sorted(" -> ".join(ring) for ring in rings if ring)


def _ring_through(graph: dict[str, list[str]], start: str) -> tuple[str, ...]:
    """Return a shortest ring through a module, turned so that its smallest name comes first."""
    came_from: dict[str, str] = {}
    queue = [start]
    for module in queue:
        for target in graph[module]:
            if target == start:
                ring = [module]
                while ring[-1] != start:
                    ring.append(came_from[ring[-1]])
                ring.reverse()
                first = ring.index(min(ring))
                return (*ring[first:], *ring[:first])
            if target not in came_from:
                came_from[target] = module
                queue.append(target)
    return ()


def users_of_too_many(tree: SourceTree) -> list[str]:
    """Return modules, other than the factory, the commands and facades, that use more than eight of ours."""
    return [
        f"{tree.where(module)} uses {len(used)} modules of ours: {', '.join(sorted(used))}"
        for module in tree.modules.values()
        if module.name != "app.factory" and not module.name.startswith("app.cli") and not _is_facade(module)
        if len(used := set(tree.own_imports(module)) - {module.name}) > MOST_MODULES_USED
    ]


def _is_facade(module: SourceModule) -> bool:
    """Return whether a package's ``__init__`` does nothing but hand on names of its own modules."""
    return module.is_package and all(_hands_on(statement) for statement in module.tree.body)


def _hands_on(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.ImportFrom):
        return statement.level == 1
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)] == ["__all__"]
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def services_that_know_vendors(tree: SourceTree) -> list[str]:
    """Return imports of frameworks, vendors and engines in a room, its ``…routes.py`` excepted."""
    return [
        f"{tree.where(module, imported.line)} imports {imported.target}.{imported.name}"
        for module in tree.modules.values()
        if _is_behind_the_routes(tree, module)
        for imported in module.imports()
        if imported.top in NOT_FOR_SERVICES
        or imported.target in NOT_FOR_SERVICES
        or f"{imported.target}.{imported.name}" in NOT_FOR_SERVICES
        or (imported.top == "sqlalchemy" and imported.name == "create_engine")
    ]


def _is_behind_the_routes(tree: SourceTree, module: SourceModule) -> bool:
    room = ".".join(module.name.split(".")[:2])
    is_routes = module.name.rpartition(".")[2].split("_")[-1] == "routes"
    return f"{room}.service" in tree.modules and not is_routes and module.name.startswith(f"{room}.")


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the copy of the product in a folder."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=root, capture_output=True, text=True, check=False
    )


def test_import_contracts_are_kept() -> None:
    done = lint_imports(ROOT)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("app/errors.py", "import app.photos", "Floors"),
        ("app/accounts/service.py", "import app.photos", "Floors"),
        ("app/storage/base.py", "import app.http", "Floors"),
        ("app/newroom/__init__.py", '"""A package without a floor."""', "Floors"),
        ("app/ops/__init__.py", "import app.db.base", "in circles"),
        ("app/stability/clock.py", "import app.errors", "stands alone"),
        ("app/stability/clock.py", "import pydantic", "stands alone"),
        ("app/storage/base.py", "import flask", "no web framework"),
        ("app/images/__init__.py", "import sqlalchemy", "no database"),
        ("app/photos/service.py", "import app.storage.s3", "Services"),
    ],
)
def test_each_contract_breaks_when_a_line_breaks_it(tmp_path: Path, file: str, line: str, contract: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    write_tree(tmp_path, SMALLEST_HOUSE)
    whole = lint_imports(tmp_path)
    write_tree(tmp_path, {file: line + "\n"})

    broken = lint_imports(tmp_path)

    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert broken.returncode != 0
    assert contract in broken.stdout.split("Broken contracts")[-1], broken.stdout


def test_importing_stability_loads_no_framework() -> None:
    assert loaded_frameworks(ROOT) == []


def test_a_framework_loaded_by_stability_is_seen(tmp_path: Path) -> None:
    write_tree(tmp_path, {"app/__init__.py": "", "app/stability/__init__.py": "import werkzeug\n"})

    assert loaded_frameworks(tmp_path) == ["werkzeug"]


def test_stability_uses_the_standard_library_only() -> None:
    assert third_parties_of_stability(SourceTree(ROOT)) == []


def test_a_third_party_in_stability_is_seen(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "app/stability/retry.py": "def late():\n    import tenacity\n",
            "app/stability/integrations/metrics.py": "import prometheus_client\n",
            "app/stability/clock.py": "import time\nfrom . import retry\n",
        },
    )

    assert third_parties_of_stability(SourceTree(tmp_path)) == ["app/stability/retry.py:2 imports tenacity"]


def test_no_modules_import_each_other() -> None:
    assert cycles(SourceTree(ROOT)) == []


@pytest.mark.parametrize(
    "back", ["import app.a", "def late():\n    from app import a", "from . import a", "import_module('app.a')"]
)
def test_a_cycle_is_seen_however_it_is_written(tmp_path: Path, back: str) -> None:
    write_tree(tmp_path, {"app/a.py": "from app.b import x\n", "app/b.py": "import app.c\n", "app/c.py": back + "\n"})

    assert cycles(SourceTree(tmp_path)) == ["app.a -> app.b -> app.c"]


def test_a_type_checking_import_is_no_cycle(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "app/a.py": "from app.b import x\n",
            "app/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from app.a import y\n",
        },
    )

    assert cycles(SourceTree(tmp_path)) == []


def test_a_module_uses_at_most_eight_of_ours() -> None:
    assert users_of_too_many(SourceTree(ROOT)) == []


def test_a_module_that_uses_nine_is_seen(tmp_path: Path) -> None:
    used = {f"app/m{n}.py": "" for n in range(9)}
    imports = "".join(f"import app.m{n}\n" for n in range(9))
    write_tree(tmp_path, {**used, "app/wide.py": imports, "app/factory.py": imports, "app/cli/all.py": imports})

    found = users_of_too_many(SourceTree(tmp_path))

    assert [sentence.split(":")[0] for sentence in found] == ["app/wide.py uses 9 modules of ours"]


@pytest.mark.parametrize(
    ("statement", "is_facade"),
    [
        ("", True),
        ("from app.other import y", False),
        ("from ..other import y", False),
        ("import app.other", False),
        ("X = 1", False),
        ("def f(): ...", False),
        ("print('loaded')", False),
        ("if True:\n    from .m1 import x", False),
    ],
)
def test_a_facade_may_hand_on_names_of_its_own_and_do_nothing_else(
    tmp_path: Path, statement: str, *, is_facade: bool
) -> None:
    used = {f"app/wide/m{n}.py": "x = 1\n" for n in range(9)}
    handed_on = "".join(f"from .m{n} import x as x{n}\n" for n in range(9)) + "__all__ = ['x1']\n"
    facade = f'"""A facade."""\n{handed_on}{statement}\n'
    write_tree(tmp_path, {**used, "app/wide/__init__.py": facade, "app/wide/near.py": facade, "app/other.py": ""})

    found = [sentence.split()[0] for sentence in users_of_too_many(SourceTree(tmp_path))]

    assert found == ["app/wide/near.py"] if is_facade else ["app/wide/__init__.py", "app/wide/near.py"]


def test_services_know_no_vendor() -> None:
    assert services_that_know_vendors(SourceTree(ROOT)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import flask",
        "from werkzeug.exceptions import NotFound",
        "import boto3",
        "from requests import Session",
        "from app.storage.s3 import S3ObjectStore",
        "from app.storage.swift import SwiftObjectStore",
        "from app.storage import local",
        "from sqlalchemy import create_engine",
    ],
)
def test_a_service_that_knows_a_vendor_is_seen(tmp_path: Path, line: str) -> None:
    write_tree(
        tmp_path,
        {
            "app/photos/routes.py": "import flask\n",
            "app/photos/upload_routes.py": "from flask import request\n",
            "app/photos/service.py": "import app.photos.queries\n",
            "app/ops/routes.py": "import flask\n",
            "app/photos/queries.py": "from sqlalchemy import select\nfrom app.storage.base import Body\n",
            "app/photos/commit.py": f"def f():\n    {line}\n",
        },
    )

    found = services_that_know_vendors(SourceTree(tmp_path))

    assert len(found) == 1
    assert found[0].startswith("app/photos/commit.py:2 imports")
