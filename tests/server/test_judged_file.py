"""Workers read the pipelines' file as it was judged, whatever has become of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.pipelines import load_pipelines, pipelines_path
from app.server.judged_file import with_judged_pipelines
from app.settings import CONFIG_FOLDER, Settings, StabilitySettings


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "stability.toml"
    path.write_bytes((CONFIG_FOLDER / "stability.toml").read_bytes())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "server"
    folder.mkdir()
    return folder


def settings_of(path: Path) -> Settings:
    return Settings(stability=StabilitySettings(pipelines_file=path))


def test_what_is_edited_later_changes_nothing_for_who_starts_later(original: Path, folder: Path) -> None:
    judged = with_judged_pipelines(settings_of(original), folder)
    original.write_text("no toml", encoding="utf-8")

    assert "storage_read" in load_pipelines(judged)


def test_the_same_content_is_one_copy_and_another_one_leaves_it_alone(original: Path, folder: Path) -> None:
    first = with_judged_pipelines(settings_of(original), folder)
    again = with_judged_pipelines(settings_of(original), folder)
    original.write_bytes(original.read_bytes() + b"# more\n")
    other = with_judged_pipelines(settings_of(original), folder)

    assert pipelines_path(first) == pipelines_path(again) != pipelines_path(other)
    assert {pipelines_path(first), pipelines_path(other)} == set(folder.iterdir())


def test_a_file_that_is_wrong_by_now_is_a_mistake(original: Path, folder: Path) -> None:
    original.write_text("pipelines = 1", encoding="utf-8")

    with pytest.raises(ConfigurationError):
        with_judged_pipelines(settings_of(original), folder)


def test_without_room_for_a_copy_the_file_itself_is_used(original: Path, tmp_path: Path) -> None:
    settings = settings_of(original)

    assert with_judged_pipelines(settings, tmp_path / "missing") is settings


def test_without_a_setting_it_is_the_file_of_the_product(folder: Path) -> None:
    judged = with_judged_pipelines(Settings(), folder)

    assert pipelines_path(judged).read_bytes() == (CONFIG_FOLDER / "stability.toml").read_bytes()
