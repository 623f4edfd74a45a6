"""A real Redis on a free port of 127.0.0.1, which keeps nothing on disk."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path

import redis

from tests.servers.base import ServerProcess, find_free_port, skip_without


class RedisServer:
    """A running server; ended by the id of the process that was started.

    Args:
        folder: Its own folder.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            skip_without("no redis-server; make servers installs it")
        self._program = program
        self._folder = folder
        self.port = find_free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process = self._start()
        # Past every time-out of the product's: what a test does to the server must not end the test.
        self.client = redis.Redis(port=self.port, socket_timeout=20)

    def _start(self) -> ServerProcess:
        options = {"bind": "127.0.0.1", "port": self.port, "save": "", "appendonly": "no", "dir": self._folder}
        command = [self._program, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
        process = ServerProcess(command, log=self._folder / "redis.log")
        process.wait_until_listening(self.port)
        return process

    def listeners(self, channel: str) -> int:
        """Return how many listen to a channel."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as asked:
            asked.sendall(f"PUBSUB NUMSUB {channel}\r\n".encode())
            return int(asked.recv(1000).rpartition(b":")[2])

    def pause(self, seconds: float) -> None:
        """Answer no command of a client for a time."""
        self.client.client_pause(int(seconds * 1000))

    def freeze(self) -> None:
        """Stop the process where it is: connections stay, answers do not come."""
        self._process.stand_still()

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; what it had is lost."""
        self._process.kill()

    def start(self) -> None:
        """Start it again on the same port, empty."""
        self._process = self._start()

    def close(self) -> None:
        """End it."""
        self.client.close()
        self._process.send(signal.SIGCONT)
        self._process.stop()
