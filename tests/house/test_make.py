"""What `make` installs, and what it says on a machine where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.house.source import ROOT, write_tree


def make(folder: Path, *arguments: str, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    """Run make on a copy of the Makefile, without what this process was told by its own make."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PHOTO_API_"))
    }
    return subprocess.run(
        ["make", *arguments], cwd=folder, env={**environ, "PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the Makefile and requirements, and no environment."""
    for name in (
        "Makefile",
        "requirements.txt",
        "requirements-dev.txt",
        "requirements-swift.txt",
        "requirements-keystone.txt",
    ):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def interpreter(folder: Path, name: str, script: str) -> str:
    """Write a stand-in for an interpreter and return its path."""
    write_tree(folder, {name: f"#!/bin/sh\n{script}\n"})
    (folder / name).chmod(0o755)
    return str(folder / name)


def test_running_installs_what_production_needs_and_no_more(clone: Path) -> None:
    commands = make(clone, "--dry-run", "run").stdout

    assert "--require-hashes -r requirements.txt" in commands
    assert "requirements-dev.txt" not in commands
    assert "requirements-swift.txt" not in commands


def test_running_migrates_before_it_serves(clone: Path) -> None:
    commands = make(clone, "--dry-run", "run").stdout

    assert 0 < commands.index("-m app migrate") < commands.index("-m app serve")


def test_the_port_can_be_chosen(clone: Path) -> None:
    assert "PHOTO_API_SERVER__BIND=127.0.0.1:8099" in make(clone, "--dry-run", "run", "PORT=8099").stdout
    assert "PHOTO_API_SERVER__BIND" not in make(clone, "--dry-run", "run").stdout


def test_a_second_run_installs_nothing(clone: Path) -> None:
    shutil.copy(shutil.which("true") or "/bin/true", interpreter(clone, ".venv/bin/python", ""))
    write_tree(clone, {".venv/.installed-run": ""})

    commands = make(clone, "--dry-run", "run").stdout

    assert "pip install" not in commands
    assert "-m app serve" in commands


def test_an_environment_whose_interpreter_went_away_is_made_anew(clone: Path) -> None:
    interpreter(clone, ".venv/bin/python", "exit 127")
    write_tree(clone, {".venv/.installed-run": ""})

    commands = make(clone, "--dry-run", "run").stdout

    assert "pip install" in commands
    assert not (clone / ".venv").exists()


def test_an_old_python_is_named_with_what_to_do(clone: Path) -> None:
    old = interpreter(clone, "python-old", "exit 1")

    done = make(clone, "run", f"PYTHON={old}")

    assert done.returncode != 0
    assert f"Photo API needs Python 3.11 or newer; none of these is: {old}" in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_shim_that_leads_to_an_old_python_is_passed_over(clone: Path) -> None:
    old = interpreter(clone, "bin/python3", "echo 'shim: version not installed' >&2; exit 127")
    new = interpreter(clone, "bin/python3.12", 'case "$*" in *ensurepip*) exit 1;; esac')

    done = make(clone, "run", f"PYTHON={old} {new}")

    assert f"{new} has no venv module" in done.stderr


def test_a_missing_venv_module_is_named_with_what_to_do(clone: Path) -> None:
    bare = interpreter(clone, "python-bare", 'case "$*" in *ensurepip*) exit 1;; esac')

    done = make(clone, "run", f"PYTHON={bare}")

    assert done.returncode != 0
    assert "has no venv module. On Debian and Ubuntu: apt-get install python3-venv" in done.stderr


def test_a_failed_installation_leaves_no_stamp(clone: Path) -> None:
    broken = interpreter(clone, "python-broken", f'[ "$2" != venv ] || {{ mkdir -p {clone}/.venv/bin; exit 3; }}')

    done = make(clone, "run", f"PYTHON={broken}")

    assert done.returncode != 0
    assert not (clone / ".venv/.installed-run").exists()


def test_a_check_judges_everything_and_runs_the_whole_suite_last(clone: Path) -> None:
    commands = make(clone, "--dry-run", "check").stdout.splitlines()

    judges = ("ruff check", "ruff format --check", "bin/mypy", "bin/basedpyright", "lint-imports", "coverage report")
    places = [next(place for place, line in enumerate(commands) if judge in line) for judge in judges]
    assert places == sorted(places)
    assert "-m pytest -n " in commands[-1]


@pytest.mark.parametrize(("ci", "returncode"), [("", 0), ("true", 1)])
def test_a_version_of_python_that_is_not_here_is_a_loud_note(ci: str, returncode: int) -> None:
    done = subprocess.run(
        [ROOT / "tests/stability/run-on-other-pythons", "3.98", "3.99"],
        env={"PATH": "/usr/bin:/bin", "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == returncode
    assert done.stderr == "NOTE: not tried, because there is no such interpreter here: Python 3.98 3.99\n"


def test_missing_servers_are_a_loud_note_without_root(tmp_path: Path) -> None:
    script = ROOT / "tests/servers/install-debian-packages"
    interpreter(tmp_path, "bin/sudo", "exit 1")
    interpreter(tmp_path, "bin/id", "echo 1000")
    interpreter(tmp_path, "bin/apt-get", "exit 1")

    done = subprocess.run(
        [script, "no-such-server"],
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0
    assert "NOTE: not installed: no-such-server" in done.stderr
    assert "CI=true" in done.stderr
