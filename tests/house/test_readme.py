"""The walks of the README and of /docs, run as they are printed, against a server that really listens."""

from __future__ import annotations

import contextlib
import html
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.house.source import ROOT
from tests.servers.base import find_free_port

WALK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
START_SECONDS = 60
STOP_SECONDS = 30
WIDTH_CHARACTERS = 90  # what the page shows of a line at 1200 pixels without scrolling


def environment(folder: Path, port: int) -> dict[str, str]:
    """Return an environment without settings of whoever runs the tests, for a server in a folder of its own."""
    told = ("PHOTO_API_", "MAKE", "MFLAGS", "PYTEST_", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    return kept | {
        "HOME": str(folder),
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "PHOTO_API_SERVER__BIND": f"127.0.0.1:{port}",
        "PHOTO_API_SERVER__MANAGEMENT_BIND": f"127.0.0.1:{find_free_port()}",
    }


def wait_until_ready(port: int, server: subprocess.Popen[bytes], seconds: float) -> None:
    """Return as soon as the server is ready to serve."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError):  # not listening yet, or not ready yet
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/readiness", timeout=5).close()
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(0.1)
            break
    pytest.fail(f"the server is not ready; it ended with {server.poll()}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a process group that this test started, and wait for it."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A real JPEG, large enough to take several chunks on its way."""
    path = tmp_path / "photo.jpg"
    Image.effect_noise((1600, 1200), 60).convert("RGB").save(path, quality=95)
    return path


@pytest.fixture
def server_port(tmp_path: Path) -> Iterator[int]:
    """The embedded default, migrated and serving from a folder of its own."""
    port = find_free_port()
    environ = environment(tmp_path, port)
    subprocess.run([sys.executable, "-m", "app", "migrate"], cwd=tmp_path, env=environ, check=True)
    command = [sys.executable, "-m", "app", "serve"]
    server = subprocess.Popen(command, cwd=tmp_path, env=environ, start_new_session=True)
    try:
        wait_until_ready(port, server, START_SECONDS)
        yield port
    finally:
        stop(server)


def readme_walk() -> str:
    """Return the README's walk as it is printed."""
    (script,) = WALK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    return str(script)


def docs_walk(port: int) -> str:
    """Return the walk at the beginning of a running server's /docs, as a reader sees it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/docs", timeout=20) as answer:
        page = answer.read().decode()
    return html.unescape(page.partition("<pre><code>")[2].partition("</code></pre>")[0])


def walk(folder: Path, port: int, script: str) -> subprocess.CompletedProcess[str]:
    """Run a walk."""
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(
        command, cwd=folder, env=environment(folder, port), capture_output=True, text=True, check=False
    )


def test_the_walk_of_the_readme_brings_the_photo_back(tmp_path: Path, photo: Path, server_port: int) -> None:
    done = walk(tmp_path, server_port, readme_walk())

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the same bytes\n")
    assert (tmp_path / "copy.jpg").read_bytes() == photo.read_bytes()
    assert "First light" in done.stdout
    assert [line[:1] + line[-1:] for line in done.stdout.splitlines()[:-1]] == ["{}"] * 4  # one line an answer


def test_the_walk_of_the_docs_page_brings_the_photo_back(tmp_path: Path, photo: Path, server_port: int) -> None:
    script = docs_walk(server_port)

    done = walk(tmp_path, server_port, script.replace("127.0.0.1:8000", f"127.0.0.1:{server_port}"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the same bytes\n")
    assert (tmp_path / "copy.jpg").read_bytes() == photo.read_bytes()
    account = re.search(r"^account=.*$", readme_walk(), re.MULTILINE)
    assert account is not None
    assert account[0] in script
    assert max(map(len, script.splitlines())) <= WIDTH_CHARACTERS


@pytest.mark.extended
def test_a_fresh_clone_serves_after_make_run(tmp_path: Path, photo: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    port = find_free_port()
    environ = environment(tmp_path, port)
    del environ["PYTHONPATH"], environ["PHOTO_API_SERVER__BIND"]

    server = subprocess.Popen(["make", "run"], cwd=clone, env=environ, start_new_session=True)
    try:
        wait_until_ready(port, server, 10 * START_SECONDS)
        done = walk(tmp_path, port, readme_walk())
    finally:
        stop(server)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "copy.jpg").read_bytes() == photo.read_bytes()
    assert not list((clone / ".venv").glob("bin/pytest"))
    assert shutil.which("ruff", path=str(clone / ".venv/bin")) is None
