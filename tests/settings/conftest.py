"""A configuration of its own for each test: no environment, no ``.env`` and no profile but what the test says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.settings import PROFILES, LoadedSettings, load_with_origins

# Without a lame duck no production server starts: the balancer would not notice that it stops.
TIMES_OF_PRODUCTION = "[server]\ndrain_lame_duck_seconds = 20\n"


@dataclass(frozen=True)
class Sandbox:
    """A working folder and a config folder."""

    working_folder: Path
    config_folder: Path

    def write_env_file(self, text: str) -> None:
        (self.working_folder / ".env").write_text(text, encoding="utf-8")

    def write_profile(self, profile: str, text: str) -> None:
        (self.config_folder / f"{profile}.toml").write_text(text, encoding="utf-8")

    def load(self, environ: Mapping[str, str] | None = None) -> LoadedSettings:
        return load_with_origins(environ or {}, working_folder=self.working_folder, config_folder=self.config_folder)

    def mistakes(self, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
        try:
            self.load(environ)
        except ConfigurationError as error:
            return error.mistakes
        return ()


def make_sandbox(folder: Path) -> Sandbox:
    sandbox = Sandbox(folder / "work", folder / "config")
    sandbox.working_folder.mkdir(parents=True, exist_ok=True)
    sandbox.config_folder.mkdir(exist_ok=True)
    for profile in PROFILES:
        sandbox.write_profile(profile, TIMES_OF_PRODUCTION if profile == "production" else "")
    return sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return make_sandbox(tmp_path)


@pytest.fixture(scope="module")
def module_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """One for all examples of a property."""
    return make_sandbox(tmp_path_factory.mktemp("settings"))
