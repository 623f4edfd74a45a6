"""What the master serves: settings all or none, and applications from the settings it has judged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gunicorn.errors import AppImportError

from app.errors import ConfigurationError
from app.ops.state import VARIABLE as STATE_VARIABLE
from app.server.application import Factories, PhotoServer
from app.settings import Settings

PROGRAM = """
import os, pathlib
from app.server.application import Factories, PhotoServer
from app.errors import ConfigurationError
from app.ops.state import VARIABLE as STATE_VARIABLE
server = PhotoServer(Factories())
before = server.settings, server.cfg
os.environ["PHOTO_API_SERVER__THREADS"] = "none"
try:
    server.reload()
except ConfigurationError as error:
    print(len(error.mistakes), (server.settings, server.cfg) == before)
os.environ["PHOTO_API_SERVER__THREADS"] = "7"
server.reload()
print(server.settings.server.threads, server.cfg.threads)
print(server.settings.stability.pipelines_file.parent == pathlib.Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
"""


def threads(settings: Settings) -> int:
    """Return a setting, as an application would be made of it."""
    return settings.server.threads


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PhotoServer:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PhotoServer, "do_load_config", lambda self: setattr(self, "settings", Settings()))
    name = f"{__name__}:threads"
    return PhotoServer(Factories(name, name))


def test_a_reload_takes_over_all_settings_or_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == ["1 True", "7 7", "True"]


def test_applications_are_built_from_the_settings_that_hold(server: PhotoServer) -> None:
    assert server.wsgi() == server.management().wsgi() == 16


def test_a_name_that_is_none_is_told_in_gunicorns_way(server: PhotoServer) -> None:
    server._factories = Factories(f"{__name__}:nobody")

    with pytest.raises(AppImportError, match="nobody"):
        server.wsgi()


def test_wrong_settings_make_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHOTO_API_SERVER__THREADS", "none")
    monkeypatch.delenv(STATE_VARIABLE, raising=False)
    before = os.umask(0o022)

    with pytest.raises(ConfigurationError):
        PhotoServer(Factories())

    os.umask(before)

    assert list(tmp_path.iterdir()) == []
    assert STATE_VARIABLE not in os.environ
