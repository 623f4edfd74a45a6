"""What all test servers share: a free port, a child process with a log, readiness, and a loud word when absent.

Not here: any server. A server listens on 127.0.0.1 only, keeps everything in its own folder, and is ended by
the id of the process that was started.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

READY_SECONDS = 90.0

# Below those that Linux gives to who asks for none: no client's end and no listener on port 0 comes to sit there.
_PORTS = range(20_000, 32_768)
_given_ports: set[int] = set()
_claims: list[int] = []


class ServerStartError(Exception):
    """A server ended or did not accept connections in time."""


def skip_without(reason: str) -> NoReturn:
    """Skip a test whose server cannot run here; with ``CI=true`` that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"a test server is missing: {reason}")
    pytest.skip(f"NOT TESTED: {reason}")


def find_free_port() -> int:
    """Return a port that nobody listens on, and that no test is given anew while this process lives."""
    while True:
        port = secrets.choice(_PORTS)
        if port in _given_ports or not _claim(port):
            continue
        _given_ports.add(port)
        if _can_be_bound(port):
            return port


def _claim(port: int) -> bool:
    """Tell whether a port is this process's until it ends, among all that run tests as this user."""
    if not _claims:
        path = Path(tempfile.gettempdir()) / f"photo-api-test-ports-{os.getuid()}"
        _claims.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        fcntl.lockf(_claims[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def _can_be_bound(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def backlog(port: int) -> int:
    """Return how many connections of a port the kernel has completed and nobody has accepted."""
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
            return int(fields[4].partition(":")[2], 16)
    return 0


def stand_still(pid: int) -> None:
    """Stop a process where it is; return when all of its threads stand: a signal sent has not worked yet."""
    os.kill(pid, signal.SIGSTOP)
    ends = time.monotonic() + READY_SECONDS
    while any(_runs(stat) for stat in Path(f"/proc/{pid}/task").glob("*/stat")):
        assert time.monotonic() < ends, f"process {pid} does not stand still"
        time.sleep(0.002)


def _runs(thread: Path) -> bool:
    """Return whether a thread is neither stopped nor ended, by its state in proc(5)."""
    try:
        facts = thread.read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return facts.rpartition(")")[2].split()[0] not in {"T", "Z", "X"}


class ServerProcess:
    """A child process that ends with the test run, even when that is killed.

    Args:
        command: What to run.
        log: Where its output goes.
        user: Whom to run it as; None means as ourselves.
        environ: Its environment; None means ours.
        end: The signal that asks it to stop.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        user: str | None = None,
        environ: Mapping[str, str] | None = None,
        end: signal.Signals = signal.SIGTERM,
    ) -> None:
        setpriv = shutil.which("setpriv")
        prefix = [] if setpriv is None else [setpriv, "--pdeathsig", end.name.removeprefix("SIG"), *identity(user)]
        self._log = log
        self._end = end
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if environ is None else dict(environ),
                cwd=log.parent,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_listening(self, port: int) -> None:
        ends = time.monotonic() + READY_SECONDS
        while time.monotonic() < ends:
            if self._process.poll() is not None:
                raise ServerStartError(self._log.read_text(errors="replace")[-4000:])
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                # Between two looks, not instead of one.
                time.sleep(0.02)
            else:
                return
        self.stop()
        raise ServerStartError(f"nothing listens on port {port}: {self._log.read_text(errors='replace')[-4000:]}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stand_still(self) -> None:
        stand_still(self.pid)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(self._end)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


def identity(user: str | None) -> list[str]:
    """Return the options of ``setpriv`` that make a process run as another user; only root can."""
    if user is None or os.getuid() != 0:
        return []
    import pwd

    entry = pwd.getpwnam(user)
    return [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
