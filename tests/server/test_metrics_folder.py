"""Each server has a folder of its own for its workers' metrics, as long as one of its processes lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.server.metrics_folder import VARIABLE, open_metrics_folder


def test_each_server_gets_a_folder_of_its_own_and_names_it(tmp_path: Path) -> None:
    first: dict[str, str] = {}
    second: dict[str, str] = {}

    folders = {open_metrics_folder(tmp_path, first), open_metrics_folder(tmp_path, second)}

    assert folders == {Path(first[VARIABLE]), Path(second[VARIABLE])}
    assert all(folder.is_dir() and folder.parent == tmp_path for folder in folders)


def test_a_folder_in_use_survives_the_next_start_and_an_abandoned_one_does_not(tmp_path: Path) -> None:
    abandoned = tmp_path / "server-abandoned"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    (abandoned / "counter_1.db").touch()
    used = open_metrics_folder(tmp_path, {})

    open_metrics_folder(tmp_path, {})

    assert used.is_dir()
    assert not abandoned.exists()


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "server-being-made").mkdir()
    (tmp_path / "notes").mkdir()

    open_metrics_folder(tmp_path, {})

    assert {path.name for path in tmp_path.iterdir()} > {"server-being-made", "notes"}


def test_a_reload_keeps_the_folder_and_what_is_in_it(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    folder = open_metrics_folder(tmp_path, environ)
    (folder / "counter_1.db").touch()

    assert open_metrics_folder(tmp_path, environ) == folder
    assert (folder / "counter_1.db").exists()


def test_a_folder_that_cannot_be_made_is_a_mistake_that_says_which(tmp_path: Path) -> None:
    (tmp_path / "var").touch()
    environ: dict[str, str] = {}

    with pytest.raises(ConfigurationError) as raised:
        open_metrics_folder(tmp_path / "var" / "metrics", environ)

    (said,) = raised.value.mistakes
    assert said.startswith(f"{tmp_path / 'var' / 'metrics'}: the folder cannot be written (Not a directory). ")
    assert environ == {}


def test_a_reload_whose_folder_is_gone_for_good_goes_on(tmp_path: Path) -> None:
    (tmp_path / "var").touch()
    gone = tmp_path / "var" / "server-1"

    assert open_metrics_folder(tmp_path, {VARIABLE: str(gone)}) == gone
