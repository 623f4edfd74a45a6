"""Starts a real gunicorn with the product's configuration file and stops it by its process id."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from app.db.engine import Database, SilentObserver
from app.db.migrate import upgrade
from app.server.forking import MANAGEMENT_NAME, MASTER_NAME, WORKER_NAME
from app.settings import DatabaseSettings
from tests.servers.base import find_free_port, stand_still

ROOT = Path(__file__).resolve().parents[2]
TINY = "tests.server.tiny:build"
MANAGEMENT = "tests.server.tiny:build_management"
ANSWER_SECONDS = 60.0
END_SECONDS = 60.0
PATIENT_SECONDS = 300
"""A graceful time in which everything can be finished: a server that takes it ends long after ``END_SECONDS``."""


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Poll until a condition holds, or fail saying what did not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        threading.Event().wait(0.02)


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    folder: Path
    public: int
    management: int

    def get(
        self, path: str, *, management: bool = False, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Make one request on a connection of its own."""
        port = self.management if management else self.public
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, path, headers={"Host": "localhost", **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels; 0 when there is none."""
        text = self.get("/metrics", management=True).body.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def pids(self) -> set[int]:
        """Return the workers' process ids."""
        return children(self.process.pid, WORKER_NAME)

    def management_pids(self) -> set[int]:
        """Return the management processes' ids; one, but for a moment."""
        return children(self.process.pid, MANAGEMENT_NAME)

    def exit_code(self) -> int:
        """Wait for the master's end; return its exit code."""
        return self.process.wait(END_SECONDS)

    def messages(self) -> list[str]:
        """Return the messages of its log lines."""
        return [line["message"] for line in self.log_lines()]

    def said(self, beginning: str) -> int:
        """Return how many of its log lines begin so."""
        return sum(message.startswith(beginning) for message in self.messages())

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the lines of standard output; every one must be a JSON object."""
        text = (self.folder / "stdout").read_text(encoding="utf-8")
        whole, _, _ = text.rpartition("\n")  # a line may be being written
        return [json.loads(line) for line in whole.splitlines() if line]


def children(master: int, *names: str) -> set[int]:
    """Return the process ids of a master's children that have not ended, and go by one of these names if any is."""
    pids = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="ascii").split()
    found = {int(pid): _name(pid) for pid in pids}
    return {pid for pid, name in found.items() if name in names or (name and not names)}


def start_next(server: Server) -> int:
    """Have a server start the next one beside it; return the process id of the second master."""
    server.process.send_signal(signal.SIGUSR2)
    found: set[int] = set()

    def has_come() -> bool:
        found.update(children(server.process.pid, MASTER_NAME))
        return bool(found)

    # One look: it has this name as a copy of the first, then none of ours, and gives it to itself again.
    until(has_come, "a second master")
    (next_master,) = found
    return next_master


def end_next(next_master: int) -> None:
    """End the second master, which is nobody's child when the first has gone."""
    os.kill(next_master, signal.SIGQUIT)
    until(lambda: has_ended(next_master), "the second master's end")


def has_ended(pid: int | str) -> bool:
    """Tell whether a process is gone: its first thread, and all the others, which keep its connections open."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        return state == "Z" and len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
    except OSError:
        return True


def _name(pid: str) -> str:
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return ""
    return "" if has_ended(pid) else facts.partition("(")[2].rpartition(")")[0]


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let processes stand still until the block ends: others answer meanwhile, if any do."""
    for pid in pids:
        stand_still(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment with these settings and no other of the product."""
    foreign = {name: text for name, text in os.environ.items() if not name.startswith(("PHOTO_API_", "PROMETHEUS_"))}
    return {**foreign, "PYTHONPATH": str(ROOT), **settings}


def migrate(folder: Path) -> None:
    """Give a working folder the tables that a start demands, once."""
    file = folder / "var" / "photo-api.db"
    if file.exists():
        return
    file.parent.mkdir(exist_ok=True)
    with closing(Database(DatabaseSettings(url=SecretStr(f"sqlite:///{file}")), SilentObserver())) as database:
        upgrade(database)


@contextmanager
def running(
    folder: Path,
    *,
    workers: int = 2,
    stdout: IO[bytes] | int | None = None,
    application: str = TINY,
    management: str = MANAGEMENT,
    is_awaited: bool = True,
    graceful_seconds: int = 5,
    **more: str,
) -> Iterator[Server]:
    """Run the tiny application, or one made of it, until the block ends.

    Args:
        folder: The working folder.
        workers: How many.
        stdout: Where the log goes instead of a file.
        application: What the workers serve.
        management: What the management process serves.
        is_awaited: Whether the block begins when all workers are ready.
        graceful_seconds: How long a worker that stops may finish what is in flight.
        more: Settings, by the names of their variables.
    """
    migrate(folder)
    public_port, management_port = find_free_port(), find_free_port()
    settings = {
        "PHOTO_API_SERVER__BIND": f"127.0.0.1:{public_port}",
        "PHOTO_API_SERVER__MANAGEMENT_BIND": f"127.0.0.1:{management_port}",
        "PHOTO_API_SERVER__WORKERS": str(workers),
        "PHOTO_API_SERVER__REQUEST_DEADLINE_SECONDS": "3",
        "PHOTO_API_SERVER__GRACEFUL_TIMEOUT_SECONDS": str(graceful_seconds),
        "PHOTO_API_LOG__FORMAT": "json",
    }
    environ = environment(**(settings | more))
    command = [sys.executable, "-m", "app.server", application, management]
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=out if stdout is None else stdout, stderr=errors
        )
    server = Server(process, folder, public_port, management_port)
    try:
        if is_awaited:
            until(lambda: _answers(server, workers), "the workers to be ready")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _answers(server: Server, workers: int) -> bool:
    assert server.process.poll() is None, (server.folder / "stderr").read_text(encoding="utf-8")
    try:
        if len(server.pids()) != workers or server.metric("photo_api_db_pool_max_connections") != 10 * workers:
            return False
        return server.metric("photo_api_ready") == 1  # the master has said so, too
    except OSError:
        return False
