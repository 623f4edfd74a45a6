"""``serve`` ends with 78 before it listens when the settings are wrong, and becomes gunicorn when they are right."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from tests.server.running import environment, migrate
from tests.servers.base import find_free_port


def serve(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``serve`` where it cannot start."""
    return subprocess.run(
        [sys.executable, "-m", "app", "serve"],
        cwd=folder,
        env=environment(PHOTO_API_SERVER__BIND=f"127.0.0.1:{find_free_port()}"),
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )


@pytest.mark.parametrize(
    "command",
    [["-m", "app", "serve"], ["-m", "app.server"]],
    ids=["serve", "direct"],
)
def test_wrong_settings_end_it_with_78_and_every_mistake_before_it_listens(
    command: list[str], tmp_path: Path
) -> None:
    wrong = environment(
        PHOTO_API_SERVER__WORKERS="none", PHOTO_API_SERVER__THREADS="0", PHOTO_API_AUTH__JWT_SECRET="short"
    )

    ran = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=wrong, capture_output=True, timeout=60, check=False, text=True
    )

    assert ran.returncode == 78
    for name in ("PHOTO_API_SERVER__WORKERS", "PHOTO_API_SERVER__THREADS", "PHOTO_API_AUTH__JWT_SECRET"):
        assert name in ran.stderr
    assert "short" not in ran.stderr.replace("too short", "")
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


def test_a_var_that_cannot_be_written_ends_it_with_78_and_says_what_to_mend(tmp_path: Path) -> None:
    (tmp_path / "var").touch()

    ran = serve(tmp_path)

    assert ran.returncode == 78
    assert ran.stderr.startswith("The configuration is wrong:\n  var/run/metrics: the folder cannot be written (")
    assert "Traceback" not in ran.stderr


def test_a_start_before_the_migration_leaves_private_folders_and_no_database(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ran = serve(tmp_path)
    finally:
        os.umask(before)

    assert ran.returncode == 78
    assert "python -m app migrate" in ran.stderr
    assert not (tmp_path / "var" / "photo-api.db").exists()
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "var").rglob("*")} == {0}
    assert (tmp_path / "var").stat().st_mode & 0o777 == 0o700


def test_serve_becomes_gunicorn_on_the_settings_address_and_stops_with_0(tmp_path: Path) -> None:
    migrate(tmp_path)
    port, management = find_free_port(), find_free_port()
    addresses = environment(
        PHOTO_API_SERVER__BIND=f"127.0.0.1:{port}",
        PHOTO_API_SERVER__MANAGEMENT_BIND=f"127.0.0.1:{management}",
        PHOTO_API_LOG__FORMAT="json",
    )

    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve"], cwd=tmp_path, env=addresses, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    (line,) = islice((line for line in process.stdout if "Listening at" in line), 1)
    process.terminate()
    process.communicate(timeout=90)

    assert f"127.0.0.1:{port}" in line
    assert f"127.0.0.1:{management}" in line
    assert process.returncode == 0


def test_serve_with_closed_standard_streams_writes_its_log_into_no_file(tmp_path: Path) -> None:
    addresses = environment(
        PHOTO_API_SERVER__BIND=f"127.0.0.1:{find_free_port()}",
        PHOTO_API_SERVER__MANAGEMENT_BIND=f"127.0.0.1:{find_free_port()}",
    )
    program = 'exec "$0" -c "from app.cli.serve import _open_standard_streams as o; import os; o(); '
    program += "print(*[os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)], file=open('seen', 'w'))\" <&- >&- 2>&-"

    subprocess.run(["sh", "-c", program, sys.executable], cwd=tmp_path, env=addresses, timeout=60, check=True)

    assert (tmp_path / "seen").read_text().split() == ["/dev/null"] * 3


def test_a_unix_socket_without_its_folder_ends_it_with_1_and_says_what_to_mend(tmp_path: Path) -> None:
    migrate(tmp_path)
    missing = tmp_path / "missing"

    ran = subprocess.run(
        [sys.executable, "-m", "app", "serve"],
        cwd=tmp_path,
        env=environment(PHOTO_API_SERVER__BIND=f"unix:{missing}/socket"),
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )

    assert ran.returncode == 1
    assert f"{missing}: there is no such folder" in ran.stderr
    assert "PHOTO_API_SERVER__BIND" in ran.stderr
    assert "Traceback" not in ran.stderr
