"""A real nginx with the configuration that ``python -m app render nginx`` makes, in front of a server."""

from __future__ import annotations

import getpass
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.server.edge import render_nginx
from app.server.edge_delivery import LinkKey
from app.settings import Settings, load_settings
from tests.servers.base import ServerProcess, find_free_port
from tests.servers.nginx import find_program


class Edge:
    """A running edge.

    Args:
        folder: Its own folder.
        server: Where the server listens, as in ``server.bind``.
        settings: More settings, by the names of their variables without ``PHOTO_API_``.
        link_keys: The keys of signed links.
    """

    def __init__(
        self,
        folder: Path,
        server: str,
        settings: Mapping[str, str] | None = None,
        link_keys: Sequence[LinkKey] = (),
    ) -> None:
        program = find_program()
        self.folder = folder
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = settings_of(folder, server, self.port, settings or {})
        self.file = write_files(self.settings, folder, link_keys)
        arguments = ["-p", str(folder), "-c", str(self.file)]
        done = subprocess.run([program, "-t", "-q", *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, _without_user(done.stderr)) == (0, "")
        self._server = ServerProcess(
            [program, *arguments, "-g", "daemon off;"], log=folder / "nginx.out", end=signal.SIGQUIT
        )
        self._server.wait_until_listening(self.port)

    @property
    def pid(self) -> int:
        """The process id of the master."""
        return self._server.pid

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """Open a connection, from any address of the loopback network."""
        return socket.create_connection(("127.0.0.1", self.port), 20, source_address=(source, 0))

    def log_lines(self, count: int) -> list[dict[str, Any]]:
        """Wait for this many lines of the access log and return all; every one must be a JSON object.

        nginx writes a line only after the answer has gone out.
        """
        wait_for(lambda: len(self._lines()) >= count)
        return [json.loads(line) for line in self._lines()]

    def logged(self, request_id: str) -> dict[str, Any]:
        """Wait for the line of one request and return it."""
        wait_for(lambda: any(request_id in line for line in self._lines()))
        (line,) = [line for line in self._lines() if json.loads(line)["request_id"] == request_id]
        found: dict[str, Any] = json.loads(line)
        return found

    def _lines(self) -> list[str]:
        text = (self.folder / "access.log").read_text(encoding="utf-8")
        return text.rpartition("\n")[0].splitlines()  # the last line may be half there

    @property
    def errors(self) -> str:
        """What the error log says."""
        return (self.folder / "error.log").read_text(encoding="utf-8")

    def quit(self) -> None:
        """Ask nginx to finish what is under way and to end, as its unit does; do not wait."""
        self._server.send(signal.SIGQUIT)

    def stop(self) -> None:
        """Stop at once."""
        self._server.send(signal.SIGTERM)
        self._server.stop()


def wait_for(condition: Callable[[], bool], *, seconds_between: float = 0.02) -> None:
    """Look until a condition holds; fail when it does not in 20 seconds."""
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(seconds_between)  # between two looks


def settings_of(folder: Path, server: str, port: int, more: Mapping[str, str]) -> Settings:
    """Return settings whose files are all in one folder."""
    ours = {
        "SERVER__BIND": server,
        "EDGE__BIND": f"127.0.0.1:{port}",
        "EDGE__USER": getpass.getuser(),
        "EDGE__PID_FILE": str(folder / "nginx.pid"),
        "EDGE__LOG_FOLDER": str(folder),
        "EDGE__BODY_FOLDER": str(folder),
        "EDGE__DECISION_FOLDER": str(folder / "decisions"),
        "EDGE__DECISION_BIND": f"127.0.0.1:{find_free_port()}",
        **more,
    }
    return load_settings({f"PHOTO_API_{name}": text for name, text in ours.items()}, working_folder=folder)


def write_files(settings: Settings, folder: Path, link_keys: Sequence[LinkKey] = ()) -> Path:
    """Render into a folder; return the path of ``nginx.conf``."""
    for name, text in render_nginx(settings, folder=folder, link_keys=link_keys).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "nginx.conf"


def _without_user(complaints: str) -> str:
    """Leave out nginx's remark that ``user`` means nothing to who is not root."""
    return "".join(line for line in complaints.splitlines(keepends=True) if '"user" directive' not in line)
