"""The library and a third party's policy as wheels, in an environment that has nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs/policies/slow_call_log"
BYTECODE = shutil.ignore_patterns("__pycache__")
NOT_THERE = ("flask", "sqlalchemy", "prometheus_client", "app")

USES_THE_LIBRARY = f"""
import importlib.util, json, sys
before = set(sys.modules)
import stability
from stability.timeout import Timeout, TimeoutOptions

pipeline = stability.Pipeline("numbers", [Timeout("numbers", TimeoutOptions(timeout_seconds=5))])
result = pipeline.call(lambda text: (int(text), stability.current_deadline() is not None), "42")
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps({{
    "result": result,
    "strangers": sorted(loaded - set(sys.stdlib_module_names) - {{"stability"}}),
    "found": [name for name in {NOT_THERE!r} if importlib.util.find_spec(name)],
    "place": stability.__file__,
}}))
"""
USES_THE_EXAMPLE = """
import json, sys, tomllib
from stability import EventBus, PolicyContext
from stability.configuration import build_pipelines

DOCUMENT = '''
[pipelines.photos]
policies = ["slow_call_log"]
[pipelines.photos.slow_call_log]
threshold_seconds = 2
'''

class Clock:
    now = 0.0
    def monotonic(self):
        return self.now
    def sleep(self, seconds):
        self.now += seconds

clock, bus, heard = Clock(), EventBus(), []
bus.subscribe(heard.append)
loaded_before = "slow_call_log" in sys.modules
pipelines = build_pipelines(tomllib.loads(DOCUMENT), context=PolicyContext("", clock=clock, bus=bus))
for seconds in (1, 3, 3, 8, 3):
    pipelines["photos"].call(clock.sleep, seconds)
assert bus.flush()
print(json.dumps({
    "loaded_before": loaded_before,
    "events": [[type(event).__name__, event.name, event.seconds, event.untold] for event in heard],
    "figures": [[figure.metric, figure.value, dict(figure.labels)] for figure in pipelines.figures()],
    "options": [[o.name, o.value, o.origin] for o in pipelines.described[0].policies[0].options],
}))
"""


@dataclass(frozen=True)
class Installed:
    """Two wheels, and an environment that holds them and no other package."""

    library: Path
    example: Path
    python: Path

    def run(self, program: str) -> Any:
        """Return what a program prints as JSON; warnings end it."""
        command = [str(self.python), "-I", "-W", "error", "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheels")
    # Copies, because a build leaves folders beside its source.
    shutil.copytree(ROOT / "app/stability", folder / "library/app/stability", ignore=BYTECODE)
    shutil.copy(ROOT / "pyproject.toml", folder / "library")
    shutil.copytree(EXAMPLE, folder / "example", ignore=BYTECODE)
    library, example = _build(folder / "library"), _build(folder / "example")
    python = folder / "environment/bin/python"
    venv.create(folder / "environment", with_pip=False)
    _pip("--python", python, "install", "--no-index", "--no-deps", "--no-compile", library, example)
    return Installed(library, example, python)


def _build(folder: Path) -> Path:
    """Build the wheel of a folder with the build tool that is installed here, offline."""
    _pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_every_file_of_the_library_and_no_other(installed: Installed) -> None:
    folder = ROOT / "app/stability"
    files = {path.relative_to(folder.parent).as_posix() for path in folder.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}

    held = set(zipfile.ZipFile(installed.library).namelist())

    assert installed.library.name.startswith("photo_api_stability-")
    assert {name for name in held if ".dist-info/" not in name} == files
    assert "stability/py.typed" in held


def test_the_library_works_alone_and_loads_no_third_party(installed: Installed) -> None:
    found = installed.run(USES_THE_LIBRARY)

    assert found["result"] == [42, True]
    assert found["strangers"] == []
    assert found["found"] == []
    assert str(installed.python.parent.parent) in found["place"]


def test_a_third_partys_policy_is_used_when_a_document_names_it(installed: Installed) -> None:
    found = installed.run(USES_THE_EXAMPLE)

    assert found["loaded_before"] is False
    assert found["events"] == [["SlowCallSeen", "photos", 3.0, 0], ["SlowCallSeen", "photos", 8.0, 1]]
    assert found["figures"] == [["slow_calls", 4, {"name": "photos"}]]
    assert found["options"] == [
        ["threshold_seconds", "2", "pipelines.photos.slow_call_log"],
        ["pause_seconds", "10", "default"],
    ]


def test_the_page_quotes_the_package_as_it_is() -> None:
    page = (EXAMPLE.parent / "README.md").read_text(encoding="utf-8")
    source = (EXAMPLE / "slow_call_log.py").read_text(encoding="utf-8").splitlines()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)

    quoted = {line.strip() for block in blocks for line in block.splitlines()} - {"", "..."}

    assert len(quoted) > 10
    assert quoted <= {line.strip() for line in source}


def test_a_mistake_in_a_third_partys_options_is_told_like_any_other(installed: Installed) -> None:
    program = (
        "import json\nfrom stability.configuration import build_pipelines\nfrom stability import OptionError\n"
        "table = {'policies': ['slow_call_log'], 'slow_call_log': {'threshold_seconds': 0, 'pause': 1}}\n"
        "try:\n    build_pipelines({'pipelines': {'photos': table}})\n"
        "except OptionError as error:\n    print(json.dumps(error.mistakes))\n"
    )

    assert installed.run(program) == [
        "pipelines.photos.slow_call_log.pause is no option of slow_call_log; did you mean 'pause_seconds'?",
        "pipelines.photos.slow_call_log.threshold_seconds must be > 0, ≤ 3600",
    ]
