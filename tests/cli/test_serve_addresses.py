"""``serve`` says in one line which address is taken and which setting chooses another."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.running import environment, migrate
from tests.servers.base import find_free_port

SETTINGS = {
    "BIND": "PORT= with make run, PHOTO_API_SERVER__BIND",
    "MANAGEMENT_BIND": "PHOTO_API_SERVER__MANAGEMENT_BIND",
}


@pytest.mark.parametrize("taken", SETTINGS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_in_use_is_one_line_with_its_setting_and_1(tmp_path: Path, taken: str, host: str) -> None:
    migrate(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"{host}:{other.getsockname()[1]}"
        free = {f"PHOTO_API_SERVER__{name}": f"127.0.0.1:{find_free_port()}" for name in SETTINGS}
        environ = environment(**(free | {f"PHOTO_API_SERVER__{taken}": address}))

        done = subprocess.run(
            [sys.executable, "-m", "app", "serve"],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert (done.returncode, done.stdout) == (1, "")
    expected = f"Cannot listen on {address} (Address already in use). Choose another address: {SETTINGS[taken]}.\n"
    assert done.stderr == expected
