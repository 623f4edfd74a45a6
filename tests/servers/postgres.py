"""A real PostgreSQL with a data folder and a port of its own.

``initdb`` refuses root, so that root runs it as ``postgres`` (or ``nobody``). Durability is off unless a test
asks for it: a killed server is then as good as a lost one.
"""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql

from tests.server.running import children, has_ended, until
from tests.servers.base import ServerProcess, ServerStartError, find_free_port, identity, skip_without

USER = "photo"


class PostgresServer:
    """A running PostgreSQL that can be stopped, killed and started again on the same port.

    Args:
        durable: Whether what was committed survives a kill (``fsync`` on).
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._programs = find_programs()
        self._account = find_account()
        # Not in pytest's folder, whose parents only root may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="photo-api-postgres-"))
        self._durable = durable
        self.port = find_free_port()
        self._server: ServerProcess | None = None
        if self._account is not None:
            entry = pwd.getpwnam(self._account)
            os.chown(self._folder, entry.pw_uid, entry.pw_gid)
        self._initialise()
        self.start()

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        assert self._server is not None
        return self._server.pid

    def url(self, database: str) -> str:
        """Return SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, yield its SQLAlchemy URL, and drop it with all its connections."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield self.url(name)
        finally:
            self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, statement: sql.Composed | sql.SQL) -> None:
        """Run one statement as the superuser, outside any transaction."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, dbname="postgres", autocommit=True, connect_timeout=10
        ) as connection:
            connection.execute(statement)

    def start(self) -> None:
        """Start the server; does nothing when it runs."""
        if self._server is not None:
            return
        durable = "on" if self._durable else "off"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "32MB",
            "fsync": durable,
            "synchronous_commit": durable,
            "full_page_writes": durable,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._server = ServerProcess(
            [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *options],
            log=self._folder / "postgres.log",
            user=self._account,
            end=signal.SIGINT,
        )
        self._server.wait_until_listening(self.port)
        self._wait_until_answering()

    def stop(self) -> None:
        """Shut down quickly but cleanly; the data stays."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def kill(self) -> None:
        """Kill the postmaster and all its children with SIGKILL, as a host does that dies.

        A child that is at work would notice only when it waits, and no other postmaster starts before its end.
        """
        if self._server is not None:
            self._server.stand_still()  # there will be no more children
            left = children(self._server.pid)
            self._server.kill()
            for pid in left:
                with suppress(ProcessLookupError):  # it has noticed
                    os.kill(pid, signal.SIGKILL)
            until(lambda: all(has_ended(pid) for pid in left), "the end of PostgreSQL")
            self._server = None

    def remove(self) -> None:
        """Stop and remove the data."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _initialise(self) -> None:
        command = [
            *(["setpriv", *identity(self._account)] if self._account is not None else []),
            str(self._programs / "initdb"),
            *("--pgdata", str(self._folder / "data")),
            *("--username", USER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self._folder, check=False)
        if done.returncode != 0:
            raise ServerStartError(done.stderr)

    def _wait_until_answering(self) -> None:
        """Wait out the recovery after a crash, while connections are accepted only to be refused."""
        while True:
            try:
                self.execute(sql.SQL("SELECT 1"))
            except psycopg.OperationalError as error:
                if "starting up" not in str(error) and "recovery" not in str(error):
                    raise
            else:
                return


def find_programs() -> Path:
    """Return the folder of the newest PostgreSQL's programs."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))  # noqa: PTH207 - Path.glob: no absolute
    program = found[-1] if found else shutil.which("initdb")
    if program is None:
        skip_without("PostgreSQL is not installed: apt-get install postgresql")
    return Path(program).resolve().parent


def find_account() -> str | None:
    """Return whom PostgreSQL runs as: ourselves (None) unless we are root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
