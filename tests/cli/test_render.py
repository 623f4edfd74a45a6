"""``python -m app render``, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.accounts.keyring import LINK
from app.accounts.ring_file import create_ring_file, read_ring_file
from app.photos.signed_links import secret_of

ROOT = Path(__file__).resolve().parents[2]


def render(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run it in a folder."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith("PHOTO_API_")}
    return subprocess.run(
        [sys.executable, "-m", "app", "render", *arguments],
        cwd=folder,
        env={**ours, "PYTHONPATH": str(ROOT), **{f"PHOTO_API_{name}": text for name, text in settings.items()}},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_folder_the_file_is_printed(tmp_path: Path) -> None:
    done = render(tmp_path, "nginx")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# Made by `python -m app render nginx`")
    assert list(tmp_path.iterdir()) == []


def test_into_a_folder_it_is_written_once_and_readable_for_nginx(tmp_path: Path) -> None:
    first = render(tmp_path, "nginx", "--output", str(tmp_path))
    again = render(tmp_path, "nginx", "--output", str(tmp_path))

    file = tmp_path / "nginx.conf"
    assert (first.stdout, again.stdout) == (f"{file}: written\n", f"{file}: unchanged\n")
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["nginx.conf"]


def test_keys_of_links_are_written_for_their_owner_alone_and_never_printed(tmp_path: Path) -> None:
    ring = tmp_path / "keys.json"
    create_ring_file(ring)
    (key,) = read_ring_file(ring)[LINK]
    settings = {"AUTH__KEY_RING_FILE": str(ring), "STORAGE__LOCAL_GROUP_READABLE": "true"}

    printed = render(tmp_path, "nginx", **settings)
    written = render(tmp_path, "nginx", "--output", str(tmp_path), **settings)

    keys, main = tmp_path / "photo-api-keys.conf", tmp_path / "nginx.conf"
    assert written.stdout == f"{keys}: written\n{main}: written\n"
    assert [path.stat().st_mode & 0o777 for path in (keys, main)] == [0o600, 0o644]
    assert f"'~^{key.kid}$' '{secret_of(key)}';" in keys.read_text(encoding="utf-8")
    assert secret_of(key) not in main.read_text(encoding="utf-8") + printed.stdout + printed.stderr + written.stderr
    assert "include photo-api-keys.conf;" in printed.stdout
    assert "--output writes it" in printed.stderr


def test_before_there_are_keys_the_file_says_nothing_of_links_and_the_command_says_why(tmp_path: Path) -> None:
    done = render(tmp_path, "nginx", STORAGE__LOCAL_GROUP_READABLE="true")

    assert done.returncode == 0
    assert "secure_link" not in done.stdout
    assert "X-Accel-Redirect" in done.stdout
    assert done.stderr.startswith("There are no keys yet")


def test_a_key_ring_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    ring = tmp_path / "keys.json"
    create_ring_file(ring)
    ring.chmod(0o644)

    done = render(tmp_path, "nginx", "--output", str(tmp_path), AUTH__KEY_RING_FILE=str(ring))

    assert done.returncode == 78
    assert "PHOTO_API_AUTH__KEY_RING_FILE" in done.stderr
    assert not (tmp_path / "nginx.conf").exists()


def test_a_profile_on_the_command_line_wins_over_the_settings(tmp_path: Path) -> None:
    strict = render(tmp_path, "nginx", EDGE__PROFILE="strict")
    gallery = render(tmp_path, "nginx", "--profile", "gallery", EDGE__PROFILE="strict")

    assert "zone=photo_api_api:10m rate=60r/m;" in strict.stdout
    assert "zone=photo_api_api:10m rate=20r/s;" in gallery.stdout


def test_wrong_settings_write_nothing(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text("what was there", encoding="utf-8")

    done = render(tmp_path, "nginx", "--output", str(tmp_path), EDGE__BIND="127.0.0.1:8000")

    assert done.returncode == 78
    assert "PHOTO_API_EDGE__BIND and PHOTO_API_SERVER__BIND: must be two different addresses" in done.stderr
    assert (tmp_path / "nginx.conf").read_text(encoding="utf-8") == "what was there"


@pytest.mark.parametrize("folder", ["missing", "file/below"])
def test_a_folder_that_cannot_be_written_is_one_line_on_standard_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()

    done = render(tmp_path, "nginx", "--output", folder)

    assert done.returncode == 1
    assert done.stderr.startswith(f"Cannot write {folder}/nginx.conf (")
    assert done.stderr.count("\n") == 1


def test_units_are_written_with_the_folder_of_their_drop_ins(tmp_path: Path) -> None:
    done = render(tmp_path, "systemd", "--output", str(tmp_path), "--user", "photos")

    assert done.returncode == 0, done.stderr
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert written == ["nginx.service.d/photo-api.conf", "photo-api-drain.service", "photo-api.service"]
    service = (tmp_path / "photo-api.service").read_text(encoding="utf-8")
    assert f"ExecStart={sys.executable} -m app serve\n" in service
    assert "User=photos\n" in service


def test_several_files_are_printed_under_their_names(tmp_path: Path) -> None:
    done = render(tmp_path, "systemd")

    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("# ---")] == [
        "# --- photo-api.service",
        "# --- photo-api-drain.service",
        "# --- nginx.service.d/photo-api.conf",
    ]
