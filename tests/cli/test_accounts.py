"""``user create`` and ``keys``, as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.accounts.keyring import RINGS
from app.accounts.passwords import Argon2id
from app.accounts.ring_file import create_ring_file, read_ring_file
from app.db.engine import Database
from tests.accounts.world import open_database

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a lighthouse in the rain"


def run(folder: Path, *arguments: str, given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PHOTO_API")}
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def migrated(tmp_path: Path) -> Database:
    (tmp_path / "var").mkdir()
    database = open_database(f"sqlite:///{tmp_path}/var/photo-api.db")
    database.close()
    return database


def test_the_first_administrator_is_made_with_a_password_from_standard_input(
    tmp_path: Path, migrated: Database
) -> None:
    done = run(
        tmp_path, "user", "create", "Ada@Example.org", "--admin", "--password-stdin", "--json", given=PASSWORD + "\n"
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["email"] == "ada@example.org"
    with migrated.read() as connection:
        row = connection.exec_driver_sql("SELECT is_admin, password_hash FROM users").one()
    migrated.close()
    assert row.is_admin
    assert Argon2id().verify(row.password_hash, PASSWORD)
    assert PASSWORD not in done.stdout + done.stderr


def test_a_user_that_cannot_be_made_is_exit_1_with_the_reason(tmp_path: Path, migrated: Database) -> None:
    arguments = ("user", "create", "ada@example.org", "--password-stdin")
    first = run(tmp_path, *arguments, given=PASSWORD)

    taken = run(tmp_path, *arguments, given=PASSWORD)
    weak = run(tmp_path, "user", "create", "bob@example.org", "--password-stdin", given="password1\n")
    empty = run(tmp_path, "user", "create", "bob@example.org", "--password-stdin")
    misspelt = run(tmp_path, "user", "create", "bob", "--password-stdin", given=PASSWORD)

    assert [first.returncode, taken.returncode, weak.returncode, empty.returncode] == [0, 1, 1, 1]
    assert first.stdout.startswith("Made the user ada@example.org")
    assert "has an account" in taken.stderr
    assert "most common" in weak.stderr
    assert "8 to 128" in empty.stderr
    assert (misspelt.returncode, misspelt.stderr) == (2, "EMAIL is not an e-mail address\n")


def test_without_tables_the_command_says_to_migrate(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()

    done = run(tmp_path, "user", "create", "ada@example.org", "--password-stdin", given=PASSWORD)

    assert done.returncode == 1
    assert "migrate" in done.stderr


@pytest.mark.parametrize("command", ["list", "rotate"])
def test_keys_before_the_first_start_say_where_they_belong_and_who_makes_them(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, "keys", command)

    assert (done.returncode, done.stdout) == (78, "")
    assert f"{tmp_path}/var/keys/ring.json" in done.stderr
    assert "make run" in done.stderr


def test_keys_are_listed_without_their_secrets(tmp_path: Path) -> None:
    path = tmp_path / "var" / "keys" / "ring.json"
    create_ring_file(path)
    secrets = [entry["key"] for ring in json.loads(path.read_text()).values() for entry in ring]

    table = run(tmp_path, "keys", "list")
    rows = run(tmp_path, "keys", "list", "--json")

    assert (table.returncode, rows.returncode) == (0, 0)
    assert [(row["ring"], row["state"]) for row in json.loads(rows.stdout)] == [(ring, "active") for ring in RINGS]
    assert len(table.stdout.splitlines()) == 1 + len(RINGS)
    assert not any(secret in table.stdout + rows.stdout for secret in secrets)


def test_a_rotation_gives_each_ring_a_key_that_waits_while_the_old_ones_go_on(tmp_path: Path) -> None:
    path = tmp_path / "var" / "keys" / "ring.json"
    create_ring_file(path)
    old = read_ring_file(path)

    done = run(tmp_path, "keys", "rotate")
    one = run(tmp_path, "keys", "rotate", "--ring", "cursor", "--at-once")

    new = read_ring_file(path)
    assert (done.returncode, one.returncode) == (0, 0), done.stderr + one.stderr
    assert [len(new[ring]) for ring in RINGS] == [2, 3, 2, 2]
    for ring, seconds in (("jwt", 660), ("refresh", 660), ("link", 3660)):
        assert new[ring][1].kid == old[ring][0].kid
        overlap = new[ring][1].retire_at
        assert overlap is not None
        assert (overlap - new[ring][0].not_before).total_seconds() == seconds


def test_a_single_secret_cannot_be_rotated(tmp_path: Path) -> None:
    secret = "Xq7ZpL2vN8sKd4RtWm9bYc1HfGj6UeTa3oQi5nBx0Vk"

    done = run(tmp_path, "keys", "rotate", PHOTO_API_AUTH__JWT_SECRET=secret)

    assert done.returncode == 78
    assert "KEY_RING_FILE" in done.stderr
    assert secret not in done.stderr


def test_a_missing_ring_file_is_a_configuration_error(tmp_path: Path) -> None:
    done = run(tmp_path, "keys", "list")

    assert done.returncode == 78
    assert "PHOTO_API_AUTH__KEY_RING_FILE" in done.stderr
