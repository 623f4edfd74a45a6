"""A real nginx with a configuration of the test's own, on a free port, everything under one folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.servers.base import ServerProcess, ServerStartError, find_free_port, skip_without

_CONFIGURATION = """
{main}
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{http}
}}
"""


class Nginx:
    """A running nginx.

    Args:
        folder: Its own folder.
        http: What stands in the ``http`` block; ``$PORT`` and ``$FOLDER`` are replaced by the free port to
            listen on (``listen 127.0.0.1:$PORT;``) and by the folder.
        main: What stands before all blocks, such as the modules to load.
        port: The port to listen on instead.
    """

    def __init__(self, folder: Path, http: str, *, main: str = "", port: int | None = None) -> None:
        self._program = find_program()
        self._main = main
        self.folder = folder
        self.port = find_free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        self._file = folder / "nginx.conf"
        self.configure(http)
        self._check()
        self._server = ServerProcess(
            [self._program, "-p", str(folder), "-c", str(self._file)],
            log=folder / "nginx.log",
            end=signal.SIGQUIT,
        )
        self._server.wait_until_listening(self.port)

    @property
    def pid(self) -> int:
        """The process id of the master."""
        return self._server.pid

    @property
    def log(self) -> str:
        """What nginx has said."""
        return (self.folder / "nginx.log").read_text(errors="replace")

    def configure(self, http: str) -> None:
        """Write another configuration; :meth:`reload` makes it hold."""
        user = "user root;" if os.getuid() == 0 else ""
        filled = http.replace("$PORT", str(self.port)).replace("$FOLDER", str(self.folder))
        self._file.write_text(_CONFIGURATION.format(main=self._main, user=user, folder=self.folder, http=filled))

    def reload(self) -> None:
        """Read the configuration anew, without dropping a connection."""
        self._check()
        self._server.send(signal.SIGHUP)

    def stop(self) -> None:
        """Stop at once."""
        self._server.send(signal.SIGTERM)
        self._server.stop()

    def _check(self) -> None:
        command = [self._program, "-t", "-q", "-p", str(self.folder), "-c", str(self._file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServerStartError(done.stderr)


def find_program() -> str:
    """Return nginx's program."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        skip_without("nginx is not installed: apt-get install nginx")
    return program
