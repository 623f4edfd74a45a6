"""``migrate`` and ``reconcile``: what they change, print and answer to a script."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from app.cli.main import main
from app.db import migrate
from app.storage.local import LocalObjectStore
from app.storage.probe import BytesBody
from tests.accounts.world import open_database
from tests.fakes.clocks import HandClock
from tests.photos.world import World, image, write_rendition

ROOT = Path(__file__).resolve().parents[2]
HEAD = migrate.head_revision()

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command in a folder of the test's own; its exit code and all that it printed."""
    for name in list(os.environ):
        if name.startswith("PHOTO_API"):
            monkeypatch.delenv(name)
    # A server that is slow to take a connection, or to answer, is waited for.
    monkeypatch.setenv("PHOTO_API_DATABASE__POOL_TIMEOUT_SECONDS", "30")
    monkeypatch.setenv("PHOTO_API_DATABASE__STATEMENT_TIMEOUT_SECONDS", "60")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> str:
    url = f"sqlite:///{tmp_path}/var/photo-api.db"
    if request.param == "postgresql":
        url = str(request.getfixturevalue("postgres_url"))
    monkeypatch.setenv("PHOTO_API_DATABASE__URL", url)
    return url


def test_a_check_changes_nothing_and_says_what_is_needed(run: Run, url: str, tmp_path: Path) -> None:
    first, second = run("migrate", "--check"), run("migrate", "--check", "--json")

    assert first[0] == 1
    assert "revision none" in first[1]
    assert HEAD in first[1]
    assert (second[0], json.loads(second[1])) == (1, {"before": None, "needed": HEAD, "changed": False})
    assert not (tmp_path / "var").exists()


def test_migrating_brings_the_database_up_to_date_once(run: Run, url: str) -> None:
    first, second, third = run("migrate", "--json"), run("migrate"), run("migrate", "--check")

    assert (first[0], json.loads(first[1])) == (0, {"before": None, "needed": HEAD, "changed": True})
    assert (second[0], third[0]) == (0, 0)
    assert "up to date" in second[1]
    assert second[1] == third[1]


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_a_database_is_brought_up_from_where_it_is(run: Run, url: str, revision: str) -> None:
    database = open_database(url)
    migrate.downgrade(database, revision)
    database.close()

    code, printed = run("migrate")

    assert code == 0
    assert (f"from revision {revision} to {HEAD}" if revision != HEAD else "up to date") in printed


def test_a_database_that_does_not_answer_is_a_failure_without_a_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOTO_API_DATABASE__URL", "postgresql+psycopg://photo:hunter2@127.0.0.1:1/photos")

    code, printed = run("migrate")

    assert code == 1
    assert "hunter2" not in printed
    assert "Traceback" not in printed


def test_processes_that_migrate_at_once_are_all_content(url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "migrate"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]

    printed = [process.communicate(timeout=240) for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], printed
    database = open_database(url)
    assert migrate.current_revision(database) == HEAD
    database.close()


@pytest.mark.parametrize(("looks", "code"), [(3, 0), (99, 1)], ids=["it ends", "it hangs"])
def test_a_migration_that_takes_longer_than_a_request_would_wait_is_waited_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int, code: int
) -> None:
    class Clock(HandClock):
        """A look takes ten seconds; in the last one the other migration ends."""

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            self.advance(10)
            if len(self.slept) == looks:
                other.execute("ROLLBACK")

    clock = Clock()
    monkeypatch.setattr("app.db.engine._SQLITE_BUSY_SECONDS", 0.05)
    monkeypatch.setattr(migrate, "time", clock)
    (tmp_path / "var").mkdir()
    with closing(sqlite3.connect(tmp_path / "var" / "photo-api.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN IMMEDIATE")

        done = run("migrate", "--json")

    assert done[0] == code, done[1]
    assert len(clock.slept) == min(looks, 6)


@pytest.fixture
def orphans(tmp_path: Path, run: Run) -> LocalObjectStore:
    """A migrated deployment whose store holds two objects that no photo names."""
    run("migrate")
    store = LocalObjectStore(tmp_path / "var" / "objects")
    for name in ("a", "b"):
        store.put(f"originals/{name}", BytesBody(b"x"), content_type="image/png")
    return store


def test_reconcile_reports_and_removes_only_when_asked(run: Run, orphans: LocalObjectStore) -> None:
    young = run("reconcile", "--json")
    report = run("reconcile", "--grace-seconds", "0")
    assert len(list(orphans.list())) == 2
    removal = run("reconcile", "--grace-seconds", "0", "--delete", "--json")
    clean = run("reconcile", "--grace-seconds", "0")

    assert (young[0], json.loads(young[1])["orphans"]) == (0, [])
    assert report[0] == 1
    assert "object without a photo: originals/a" in report[1]
    assert (removal[0], json.loads(removal[1])["removed"]) == (0, 2)
    assert list(orphans.list()) == []
    assert clean[0] == 0


def test_reconcile_has_lost_renditions_made_anew_only_when_asked(
    run: Run, orphans: LocalObjectStore, tmp_path: Path
) -> None:
    database = open_database(f"sqlite:///{tmp_path}/var/photo-api.db")
    world = World(database)
    photo_id = world.upload(world.new_user(), image()).document["id"]
    orphans.put(world.rows()[0].object_key, BytesBody(image()), content_type="image/png")
    lost = write_rendition(world, photo_id, "full")
    world.keeper.close()

    report = run("reconcile", "--grace-seconds", "0")
    removal = run("reconcile", "--grace-seconds", "0", "--delete", "--json")
    clean = run("reconcile", "--grace-seconds", "0", "--json")

    database.close()
    assert report[0] == 1
    assert f"rendition without its object: {lost}" in report[1]
    assert "1 photos, 1 renditions" in report[1]
    assert removal[0] == 0
    assert json.loads(removal[1]) == {
        "objects": 3,
        "photos": 1,
        "renditions": 1,
        "orphans": ["originals/a", "originals/b"],
        "removed": 2,
        "missing": [],
        "lost_renditions": [lost],
        "forgotten_renditions": 1,
    }
    assert (clean[0], json.loads(clean[1])["renditions"]) == (0, 0)


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "x"])
def test_a_grace_time_that_is_none_is_wrong_usage(run: Run, seconds: str) -> None:
    with pytest.raises(SystemExit) as raised:
        run("reconcile", "--grace-seconds", seconds)

    assert raised.value.code == 2


def test_reconcile_asks_for_a_migrated_database(run: Run) -> None:
    code, printed = run("reconcile")

    assert code == 1
    assert "python -m app migrate" in printed
