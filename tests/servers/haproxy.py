"""A real haproxy that plays the load balancer: it probes its backends, and it repeats nothing that failed.

Everything under one folder, on a free port of 127.0.0.1. Retries and redispatch are off, so that a request that a
backend loses is lost for the client, too, and can be counted.
"""

from __future__ import annotations

import csv
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers.base import READY_SECONDS, ServerProcess, ServerStartError, find_free_port, skip_without

_CONFIGURATION = """
global
    stats socket {folder}/haproxy.sock mode 600 level admin
    log stdout format raw local0
    maxconn 4000
    nbthread 1
    # Small, so that a slow client is slow for the backend, too.
    tune.rcvbuf.server 65536
    tune.sndbuf.client 65536

defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
    timeout check 2s
    retries 0
    no option redispatch
    retry-on none
    option http-keep-alive
    option dontlognull
    http-reuse {reuse}

frontend clients
    bind 127.0.0.1:{port} backlog 4096
    log global
    log-format "%cp [%t] %s connect %Tc answer %Tr all %Ta ms status %ST end %tsc %HM %HP"
    default_backend group

backend group
    balance roundrobin
    option httpchk
    http-check send meth GET uri /health/readiness ver HTTP/1.1 hdr Host localhost
    http-check expect status 200
    default-server inter {interval_ms}ms fastinter {interval_ms}ms downinter {interval_ms}ms fall {fall} rise {rise}
{servers}
"""


@dataclass(frozen=True)
class Probing:
    """How the balancer finds out who is well.

    Attributes:
        interval_ms: Between two probes of one backend.
        fall: So many failed probes take a backend out.
        rise: So many good ones take it back in.
    """

    interval_ms: int = 200
    fall: int = 2
    rise: int = 1

    @property
    def notice_seconds(self) -> float:
        """How long a backend must serve on after its readiness is gone: two probes, and one that was under way."""
        return self.interval_ms * (self.fall + 1) / 1000


class Haproxy:
    """A running haproxy.

    Args:
        folder: Its own folder; its path must be short enough for a unix socket.
        backends: The ports on 127.0.0.1 of those that it spreads requests over.
        probing: How it probes them.
        reuses: Whether connections to backends are kept and shared among clients.
    """

    def __init__(
        self, folder: Path, backends: Sequence[int], *, probing: Probing | None = None, reuses: bool = True
    ) -> None:
        program = find_program()
        self.folder = folder
        self.port = find_free_port()
        self.probing = probing or Probing()
        self._socket = folder / "haproxy.sock"
        file = folder / "haproxy.cfg"
        servers = "\n".join(
            f"    server {name_of(number)} 127.0.0.1:{port} check" for number, port in enumerate(backends)
        )
        file.write_text(
            _CONFIGURATION.format(
                folder=folder,
                port=self.port,
                reuse="safe" if reuses else "never",
                interval_ms=self.probing.interval_ms,
                fall=self.probing.fall,
                rise=self.probing.rise,
                servers=servers,
            ),
            encoding="utf-8",
        )
        checked = subprocess.run([program, "-c", "-q", "-f", str(file)], capture_output=True, text=True, check=False)
        if checked.returncode != 0:
            raise ServerStartError(checked.stdout + checked.stderr)
        self._server = ServerProcess(
            [program, "-db", "-f", str(file)], log=folder / "haproxy.log", end=signal.SIGTERM
        )
        self._server.wait_until_listening(self.port)
        self._wait_for_its_word()

    def _wait_for_its_word(self) -> None:
        """Wait for the socket that answers questions: it comes a moment after the port listens."""
        ends = time.monotonic() + READY_SECONDS
        while not self._socket.exists():
            if time.monotonic() > ends:
                self.stop()
                raise ServerStartError((self.folder / "haproxy.log").read_text(encoding="utf-8", errors="replace"))
            time.sleep(0.01)  # between two looks, not instead of one

    def states(self) -> dict[str, str]:
        """Return what the balancer thinks of each backend: ``UP``, ``DOWN``, ``UP 1/2`` …"""
        return {row["svname"]: row["status"] for row in self._statistics() if row["pxname"] == "group"}

    def is_up(self, number: int) -> bool:
        """Tell whether a backend gets requests."""
        return self.states()[name_of(number)].startswith("UP")

    def are_all_up(self) -> bool:
        """Tell whether every backend gets requests."""
        return all(state.startswith("UP") for name, state in self.states().items() if name != "BACKEND")

    def failed_lines(self) -> list[str]:
        """Return its log's lines of requests that did not end as they should: ``--`` says that one did."""
        text = (self.folder / "haproxy.log").read_text(encoding="utf-8", errors="replace")
        return [line for line in text.splitlines() if " end " in line and " end --" not in line]

    def stop(self) -> None:
        """Stop at once."""
        self._server.stop()

    def _statistics(self) -> list[dict[str, str]]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(5)
            asking.connect(str(self._socket))
            asking.sendall(b"show stat\n")
            text = b"".join(iter(lambda: asking.recv(65_536), b"")).decode("ascii")
        return list(csv.DictReader(text.removeprefix("# ").splitlines()))


def name_of(number: int) -> str:
    """Return haproxy's name of a backend."""
    return f"vm{number}"


def find_program() -> str:
    """Return haproxy's program."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        skip_without("haproxy is not installed: apt-get install haproxy")
    return program
