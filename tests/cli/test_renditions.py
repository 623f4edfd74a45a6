"""``renditions rebuild``: what it queues, prints and answers to a script."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.cli.main import main
from app.db.base import new_id
from app.db.outbox import PHOTO_RENDER
from tests.accounts.world import open_database
from tests.photos.world import World, image, write_rendition

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs the command in a folder of the test's own: its exit code and what it printed."""
    for name in list(os.environ):
        if name.startswith("PHOTO_API"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHOTO_API_DATABASE__URL", f"sqlite:///{tmp_path}/photo-api.db")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["renditions", "rebuild", *arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = open_database(f"sqlite:///{tmp_path}/photo-api.db")
    world = World(database)
    yield world
    world.keeper.close()
    database.close()


def test_photos_are_queued_and_old_renditions_removed(world: World, run: Run) -> None:
    photo_id = world.upload(world.new_user(), image()).document["id"]
    write_rendition(world, photo_id, "preview", version="0123456789")

    counted, done = run("--dry-run"), run()

    assert (counted[0], done[0]) == (0, 0)
    assert counted[1].startswith("1 photos would be queued, 1 old renditions removed.")
    assert done[1] == "1 photos queued, 1 old renditions removed.\n"
    assert len(world.outbox(PHOTO_RENDER)) == 2


def test_scripts_get_json(world: World, run: Run) -> None:
    world.upload(world.new_user(), image())

    code, out, _ = run("--json", "--failed", "--dry-run")

    assert (code, json.loads(out)) == (0, {"photos": 0, "removed": 0, "dry_run": True})


def test_a_photo_that_is_not_there_is_a_failure(world: World, run: Run) -> None:
    del world

    code, out, err = run("--photo", str(new_id()))

    assert (code, out, err) == (1, "", "There is no such photo.\n")


def test_an_id_that_is_none_is_wrong_usage(run: Run) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--photo", "seven")

    assert ended.value.code == 2


def test_a_database_that_is_not_migrated_is_a_failure(run: Run) -> None:
    code, _, err = run()

    assert code == 1
    assert "python -m app migrate" in err
