"""The real product: ``python -m app serve`` and other commands in a folder of its own, with a client and its figures.

Everything it opens is under that folder; it is ended by the id of the process that was started.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import requests
from prometheus_client.parser import text_string_to_metric_families

from app.ops.lifecycle import HostLife, Phase
from app.ops.state import PAGE_NAME, StatePage
from app.server.forking import WORKER_NAME
from app.server.state_folder import STATE_FOLDER
from tests.accounts.world import open_database
from tests.server.running import children, has_ended
from tests.servers.base import find_free_port, stand_still
from tests.servers.client import Client
from tests.servers.stacks import Stack

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 90.0
RENDERING = {"PHOTO_API_RENDITIONS__DELAY_SECONDS": "0"}
"""Settings of a product that makes renditions right after uploads; others make only those that are asked for."""
STOP_SECONDS = 20.0


def until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Poll until a condition holds; fail saying what did not come."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"waited in vain for: {what}"
        time.sleep(0.02)  # between two looks, not instead of one


class Product:
    """A running product on one stack.

    Args:
        stack: What stands behind it.
        folder: Its own folder, which is its working folder.
        workers: How many worker processes.
        settings: More settings, by the names of their variables.
        stdout: Where its log goes instead of a file.
        prefix: A program that runs it, such as ``prlimit``.
    """

    def __init__(
        self,
        stack: Stack,
        folder: Path,
        *,
        workers: int = 2,
        settings: Mapping[str, str] | None = None,
        stdout: IO[bytes] | int | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.stack = stack
        self.folder = folder
        self.workers = workers
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.management_url = f"http://127.0.0.1:{find_free_port()}"
        self.environ = self._environment(settings or {})
        self._stdout = stdout
        self._prefix = prefix
        self._clients: list[Client] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._migrate()
        try:
            self.start()
        except BaseException:  # nobody has it yet who could close it: it would run beside all tests that follow
            self.stop()
            raise

    def _migrate(self) -> None:
        """Make the tables that ``python -m app migrate`` makes, without the second in which a process starts."""
        if self.stack.database_url.startswith("sqlite:///"):
            Path(self.stack.database_url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        open_database(self.stack.database_url).close()

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        ours = {
            name: value for name, value in os.environ.items() if not name.startswith(("PHOTO_API_", "PROMETHEUS_"))
        }
        return {
            **ours,
            "PYTHONPATH": str(ROOT),
            "PHOTO_API_LOG__FORMAT": "json",
            "PHOTO_API_SERVER__BIND": self.url.removeprefix("http://"),
            "PHOTO_API_SERVER__MANAGEMENT_BIND": self.management_url.removeprefix("http://"),
            "PHOTO_API_SERVER__WORKERS": str(self.workers),
            "PHOTO_API_SERVER__TRUSTED_PROXIES": "127.0.0.1",
            "PHOTO_API_UPLOADS__SPOOL_DIR": str(self.spool_folder),
            "PHOTO_API_UPLOADS__LEASE_SECONDS": "4",
            "PHOTO_API_RENDITIONS__DELAY_SECONDS": "86400",
            **self.stack.environ,
            **more,
        }

    @property
    def spool_folder(self) -> Path:
        """Where bodies of more than 1 MiB go."""
        return self.folder / "var" / "spool"

    @property
    def log_path(self) -> Path:
        """What it printed to standard output."""
        return self.folder / "product.log"

    @property
    def error_path(self) -> Path:
        """What it printed to standard error."""
        return self.folder / "product.err"

    @property
    def pid(self) -> int:
        """The master's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def serve_command(self) -> list[str]:
        """What starts it."""
        return [sys.executable, "-m", "app", "serve"]

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``python -m app …`` in the product's folder with its settings."""
        done = subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def start(self) -> None:
        """Start serving and wait until every worker is ready."""
        setpriv = shutil.which("setpriv")
        leash = [] if setpriv is None else [setpriv, "--pdeathsig", "TERM"]
        with self.log_path.open("ab") as output, self.error_path.open("ab") as errors:
            self._process = subprocess.Popen(
                [*leash, *self._prefix, *self.serve_command],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output if self._stdout is None else self._stdout,
                stderr=errors,
            )
        until(self.is_ready, "the product to be ready", START_SECONDS)

    def is_ready(self) -> bool:
        """Tell whether every worker serves."""
        assert self._process is not None
        assert self._process.poll() is None, self.error_path.read_text() + self.log_path.read_text()[-4000:]
        try:
            answered = len(self.worker_pids()) == self.workers and self.metric("photo_api_ready") == 1
            return answered and len(self._ready_pids()) == self.workers
        except requests.RequestException:
            return False

    def _ready_pids(self) -> set[int]:
        """Return the workers that have said so on the page of this host: they are past building the application."""
        report = HostLife(StatePage(self.folder / STATE_FOLDER / PAGE_NAME, writable=False)).look()
        ready = () if report is None else (word.pid for word in report.workers if word.phase is Phase.READY)
        return set(ready) & self.worker_pids()

    def worker_pids(self) -> set[int]:
        """Return the process ids of the workers."""
        return children(self.pid, WORKER_NAME)

    def kill_workers(self) -> None:
        """Kill every worker with SIGKILL and wait until others serve."""
        before = self.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not before & self.worker_pids() and self.is_ready(), "new workers", START_SECONDS)

    def kill(self) -> None:
        """Kill the master and all its processes with SIGKILL."""
        assert self._process is not None
        stand_still(self.pid)  # or it might start another process, or clear one away
        pids = children(self.pid)
        self._process.kill()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        until(lambda: all(has_ended(pid) for pid in pids), "their end")

    def restart(self) -> None:
        """Stop politely and start again, on the same ports."""
        self.stop()
        self.start()

    def stop(self) -> int:
        """Stop politely; return the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.returncode

    def wait(self, seconds: float) -> int:
        """Wait for the end of a master that was told to stop; return its exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def close(self) -> None:
        """Stop, and close the clients."""
        for client in self._clients:
            client.close()
        self.stop()

    def client(self) -> Client:
        """Return a client without an account; it is closed with the product."""
        client = Client(self.url)
        self._clients.append(client)
        return client

    def new_user(self) -> Client:
        """Return a client with an account of its own, logged in."""
        client = self.client()
        client.register()
        client.log_in()
        return client

    def metrics(self) -> list[tuple[str, dict[str, str], float]]:
        """Return every sample of all workers: name, labels, value."""
        answer = requests.get(f"{self.management_url}/metrics", timeout=10)
        answer.raise_for_status()
        families = text_string_to_metric_families(answer.text)
        return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]

    def metric(self, name: str, /, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels; 0 when there is none."""
        return sum(value for found, has, value in self.metrics() if found == name and labels.items() <= has.items())

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the lines of standard output; every one must be a JSON object."""
        whole, _, _ = self.log_path.read_text(encoding="utf-8").rpartition("\n")  # a line may be being written
        return [json.loads(line) for line in whole.splitlines()]

    def find_logged(self, private: Collection[str]) -> set[str]:
        """Return which of these texts stand anywhere in what was logged, in any of their usual forms."""
        logged = self.log_path.read_text(encoding="utf-8") + self.error_path.read_text(encoding="utf-8")
        return {
            text for text in private if text in logged or json.dumps(text)[1:-1] in logged or quote(text) in logged
        }

    def private(self) -> set[str]:
        """Return what its clients have sent and got that must never be logged."""
        return {text for client in self._clients for text in client.private}

    def open_files(self) -> list[str]:
        """Return what every file descriptor of every worker is."""
        return [target for pid in self.worker_pids() for target in _descriptors(pid)]

    def spooled_files(self) -> list[str]:
        """Return files of the spool that are still held, with a name or without."""
        folder = str(self.spool_folder)
        named = [str(path) for path in self.spool_folder.glob("*")]
        return named + [target for target in self.open_files() if target.startswith(folder)]

    @contextmanager
    def blocked(self, folder: Path) -> Iterator[None]:
        """Let a file stand where a folder of the product is: even root can make no folder there.

        Health makes the folder, and a file in it, at any moment; so it is tried until it works.
        """

        def is_blocked() -> bool:
            with suppress(OSError):
                folder.rmdir()
            with suppress(OSError):
                folder.write_text("")
            return folder.is_file()

        until(is_blocked, f"a file in the place of {folder}")
        try:
            yield
        finally:
            folder.unlink()
            folder.mkdir(exist_ok=True)

    def reset_peak_memory(self) -> dict[int, int]:
        """Return each worker's resident bytes, and let its peak start from there."""
        for pid in self.worker_pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
        return {pid: memory_of(pid, "VmRSS") for pid in self.worker_pids()}

    def peak_memory(self) -> dict[int, int]:
        """Return the most resident bytes each worker has had since the reset."""
        return {pid: memory_of(pid, "VmHWM") for pid in self.worker_pids()}


def _descriptors(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except (FileNotFoundError, ProcessLookupError):  # closed while we looked
            continue
    return found


def memory_of(pid: int, field: str) -> int:
    """Return what the kernel says of a process's memory, in bytes: ``VmRSS`` for now, ``VmHWM`` for the peak."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
