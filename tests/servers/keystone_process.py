"""Keystone in one process, run by the interpreter of ``.venv-keystone``.

Usage: ``keystone_process.py FOLDER TOKEN_SECONDS``. Everything is written under the folder: an SQLite database, keys
for fernet tokens. When the service accepts connections, one line with its port goes to standard output. The end of
standard input ends it.
"""

# mypy: ignore-errors
# (Keystone is installed in the other environment only.)

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

ADMIN_PASSWORD = "an-administrators-password"

CONF = """
[DEFAULT]
log_dir = {folder}
[database]
connection = sqlite:///{folder}/keystone.db
[token]
provider = fernet
expiration = {seconds}
[fernet_tokens]
key_repository = {folder}/fernet
[credential]
key_repository = {folder}/credential
[cache]
enabled = false
"""


def prepare(folder: Path, seconds: int, url: str) -> Path:
    """Make the tables, the keys and an administrator; return the configuration."""
    for name in ("fernet", "credential"):
        (folder / name).mkdir(mode=0o700)
    conf = folder / "keystone.conf"
    conf.write_text(CONF.format(folder=folder, seconds=seconds))
    manage = [str(Path(sys.executable).with_name("keystone-manage")), "--config-file", str(conf)]
    keys_of = ["--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid())]
    for command in (
        ["db_sync"],
        ["fernet_setup", *keys_of],
        ["credential_setup", *keys_of],
        [
            "bootstrap",
            *("--bootstrap-password", ADMIN_PASSWORD),
            *("--bootstrap-username", "admin", "--bootstrap-project-name", "admin", "--bootstrap-region-id", "KR1"),
            *("--bootstrap-public-url", url, "--bootstrap-internal-url", url, "--bootstrap-admin-url", url),
        ],
    ):
        subprocess.run([*manage, *command], check=True, stdout=sys.stderr)
    return conf


def serve(folder: Path, seconds: int) -> None:
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, None, threaded=True)
    conf = prepare(folder, seconds, f"http://127.0.0.1:{server.server_port}/v3")
    os.environ["OS_KEYSTONE_CONFIG_DIR"] = str(folder)
    sys.argv = ["keystone", "--config-file", str(conf)]
    from keystone.server.wsgi import initialize_public_application

    server.app = initialize_public_application()
    threading.Thread(target=end_with_parent, daemon=True).start()
    print(server.server_port, flush=True)  # noqa: T201 - the answer to who started it
    server.serve_forever()


def end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
