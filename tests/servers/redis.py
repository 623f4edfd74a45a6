"""A real Redis with a folder and a port of its own, which keeps nothing on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.servers.base import ServerProcess, find_free_port, skip_without


class RedisServer:
    """A running Redis that can be stopped, killed and started again on the same port; what it knew is then gone.

    Args:
        folder: Its own folder.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            skip_without("Redis is not installed: apt-get install redis-server")
        self._program = program
        self._folder = folder
        self._server: ServerProcess | None = None
        self.port = find_free_port()
        self.start()

    @property
    def url(self) -> str:
        """Its address, as the settings want it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server; does nothing when it runs."""
        if self._server is not None:
            return
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "no",
        }
        self._server = ServerProcess(
            [self._program, *(part for name, value in settings.items() for part in (f"--{name}", value))],
            log=self._folder / "redis.log",
        )
        self._server.wait_until_listening(self.port)

    def stop(self) -> None:
        """Shut down."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._server is not None:
            self._server.kill()
            self._server = None
