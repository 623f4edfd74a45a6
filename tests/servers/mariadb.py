"""A real MariaDB with a data folder and a port of its own.

``mariadbd`` refuses root, so that root runs it as ``mysql`` (or ``nobody``). The product's user has every right on
the tests' databases and none besides: a superuser would write on a server that is set to take no changes. Durability
is off: a killed server is then as good as a lost one.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pymysql

from tests.servers.base import READY_SECONDS, ServerProcess, ServerStartError, find_free_port, identity, skip_without

USER = "photo"
_RIGHTS = f"CREATE USER '{USER}'@'127.0.0.1'; GRANT ALL ON `test\\_%`.* TO '{USER}'@'127.0.0.1';"


class MariadbServer:
    """A running MariaDB that can be stopped, killed and started again on the same port."""

    def __init__(self) -> None:
        self._program = find_program()
        self._account = find_account()
        # Not in pytest's folder, whose parents only root may enter, and whose path is too long for a socket.
        self._folder = Path(tempfile.mkdtemp(prefix="photo-api-mariadb-"))
        self.port = find_free_port()
        self._server: ServerProcess | None = None
        if self._account is not None:
            entry = pwd.getpwnam(self._account)
            os.chown(self._folder, entry.pw_uid, entry.pw_gid)
        self._initialise()
        self.start()
        for statement in _RIGHTS.split(";")[:-1]:
            self.execute(statement)

    @property
    def pid(self) -> int:
        """The process id of the server."""
        assert self._server is not None
        return self._server.pid

    def url(self, database: str) -> str:
        """Return SQLAlchemy's URL of a database."""
        return f"mysql+pymysql://{USER}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, yield its SQLAlchemy URL, and drop it; who still holds it open is cut off.

        Its own character set is the one that no installation should have any more: tables must say theirs.
        """
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} CHARACTER SET latin1")
        try:
            yield self.url(name)
        finally:
            for number, _user, _host, used, *_ in self.execute("SHOW PROCESSLIST"):
                if used == name:
                    self.execute(f"KILL {number}", may_be_gone=True)
            self.execute(f"DROP DATABASE {name}")

    def execute(self, statement: str, *, may_be_gone: bool = False) -> tuple[tuple[Any, ...], ...]:
        """Run one statement as the superuser, outside any transaction, and return its rows.

        Args:
            statement: In the server's own words.
            may_be_gone: Whether the connection that it names may have ended by itself.
        """
        link = pymysql.connect(
            unix_socket=str(self._folder / "socket"), user="root", autocommit=True, connect_timeout=10
        )
        with closing(link), link.cursor() as cursor:
            try:
                cursor.execute(statement)
            except pymysql.err.OperationalError as error:
                if not may_be_gone or error.args[0] != pymysql.constants.ER.NO_SUCH_THREAD:
                    raise
                return ()
            return cursor.fetchall()

    def start(self) -> None:
        """Start the server; does nothing when it runs."""
        if self._server is not None:
            return
        settings = {
            "bind-address": "127.0.0.1",
            "port": str(self.port),
            "socket": str(self._folder / "socket"),
            "pid-file": str(self._folder / "pid"),
            "max-connections": "200",
            "innodb-buffer-pool-size": "64M",
            "innodb-log-file-size": "16M",
            "innodb-flush-log-at-trx-commit": "0",
            "innodb-doublewrite": "0",
            "innodb-flush-method": "nosync",
        }
        self._server = ServerProcess(
            [
                *(self._program, "--no-defaults", f"--datadir={self._folder / 'data'}", "--skip-name-resolve"),
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            log=self._folder / "mariadb.log",
            user=self._account,
        )
        self._server.wait_until_listening(self.port)
        self._wait_until_answering()

    def stop(self) -> None:
        """Shut down cleanly; the data stays."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        if self._server is not None:
            self._server.kill()
            self._server = None

    def remove(self) -> None:
        """End the server and remove the data; nobody needs what a clean end would write."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _initialise(self) -> None:
        install = shutil.which("mariadb-install-db")
        assert install is not None
        command = [
            *(["setpriv", *identity(self._account)] if self._account is not None else []),
            *(
                install,
                "--no-defaults",
                f"--datadir={self._folder / 'data'}",
                "--auth-root-authentication-method=normal",
            ),
            *("--skip-test-db", "--skip-name-resolve"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self._folder, check=False)
        if done.returncode != 0:
            raise ServerStartError(done.stdout + done.stderr)

    def _wait_until_answering(self) -> None:
        """Wait for the socket in the file system: it comes after the port."""
        ends = time.monotonic() + READY_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except pymysql.err.OperationalError:
                if time.monotonic() >= ends:
                    raise
                # Between two looks, not instead of one.
                time.sleep(0.02)
            else:
                return


def find_program() -> str:
    """Return the server's program."""
    program = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
    if program is None or shutil.which("mariadb-install-db") is None:
        skip_without("MariaDB is not installed: apt-get install mariadb-server")
    return program


def find_account() -> str | None:
    """Return whom MariaDB runs as: ourselves (None) unless we are root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "mysql" if "mysql" in names else "nobody"
