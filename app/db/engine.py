"""The engine: connections, transactions, pool figures, query times and the slow-query log.

Two ways in. ``read()`` gives a connection on which every statement stands alone (no BEGIN, no COMMIT: two
round trips less); ``write()`` gives one transaction that commits when the block ends and rolls back when it
raises. On SQLite a writing transaction starts with BEGIN IMMEDIATE, so that two writers queue for the lock
instead of failing in the middle. Both give the connection back in every path.

What a database does wrong leaves here as a :class:`~app.errors.DatabaseUnavailableError`; integrity errors pass
through, for the callers that provoke them on purpose.

A SQLite database holds everybody's data: its file is made with mode 0600 and its missing folders with 0700, under
any umask. What exists already keeps its mode, which its operator may have chosen; so does a folder shared with
others. The file comes with the first connection and not before.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import orjson
import psycopg
from sqlalchemy import Connection, Engine, PoolProxiedConnection, create_engine, event, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from app.db import mariadb
from app.db.pool import PoolFigures, PoolObserver, WatchedPool
from app.db.prepared import PreparedReads, PreparedSelect, Record, Values
from app.db.time_limits import StatementLimit, patient_connection, time_of_its_own
from app.errors import (
    DatabaseBusyError,
    DatabaseConflictError,
    DatabaseDisconnectedError,
    DatabaseReadOnlyError,
    DatabaseTransactionLostError,
    DatabaseUnavailableError,
)
from app.settings import DatabaseSettings

_log = logging.getLogger(__name__)

T = TypeVar("T")

MANAGEMENT_CONNECTIONS: Final = 2
"""Connections to the database that the management process opens at most: for checks, and for who operators are."""

_STATEMENT_CHARACTERS_LOGGED = 100
_SQLITE_BUSY_SECONDS = 5.0
_RETRY_AFTER_SECONDS = 2.0
_BACK_TO_SAVEPOINT = "ROLLBACK TO SAVEPOINT"  # all that PostgreSQL takes in a transaction with a failed statement
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_CONFLICTS = frozenset({"40001", "40P01"}) | mariadb.CONFLICTS
"""Serialization failure and deadlock: PostgreSQL's SQLSTATEs, MariaDB's number."""
_BUSY = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED", "55P03"}) | mariadb.BUSY
"""A lock that did not come free in time."""
_READ_ONLY = frozenset({"25006", "SQLITE_READONLY"}) | mariadb.READ_ONLY
"""A server that takes no changes: a standby, or one that was set so."""
_UNAVAILABLE = "The database is not available. Try again in a moment."
_DETAILS: dict[type[DatabaseUnavailableError], str] = {
    DatabaseReadOnlyError: "Nothing can be changed just now; reading works. Try again in a moment."
}
_TRANSACTION = "photo_api_transaction"
_IDLE_SINCE = "photo_api_idle_since"
_TRUSTED_IDLE_SECONDS = 1.0
_QUESTION = text("SELECT 0")
_IS_READ_ONLY = {
    "postgresql": text("SELECT current_setting('transaction_read_only')::boolean"),
    "mysql": text("SELECT @@global.read_only"),
}


class DatabaseObserver(PoolObserver, Protocol):
    """Who hears of the database's work. Called on hot paths: must neither raise nor block."""

    def query(self, seconds: float) -> None:
        """One statement took so long."""
        ...

    def slow_query(self) -> None:
        """One statement took at least the threshold."""
        ...

    def database_error(self, kind: str) -> None:
        """A statement or a connection failed; ``kind`` is one of a few fixed words."""
        ...


class SilentObserver:
    """A :class:`DatabaseObserver` where there are no metrics: in commands, and before the start."""

    def query(self, seconds: float) -> None:
        """Do nothing."""

    def slow_query(self) -> None:
        """Do nothing."""

    def database_error(self, kind: str) -> None:
        """Do nothing."""

    def pool(self, active: int, idle: int, waiting: int) -> None:
        """Do nothing."""

    def pool_wait(self, seconds: float) -> None:
        """Do nothing."""

    def pool_timeout(self) -> None:
        """Do nothing."""


class StatementObserver(SilentObserver):
    """Passes on what is heard of statements and nothing of the pool: for a process whose pool is no worker's.

    Args:
        observer: Who hears of statements.
    """

    def __init__(self, observer: DatabaseObserver) -> None:
        self._observer = observer

    def query(self, seconds: float) -> None:
        """Pass on how long one statement took."""
        self._observer.query(seconds)

    def slow_query(self) -> None:
        """Pass on that one took at least the threshold."""
        self._observer.slow_query()

    def database_error(self, kind: str) -> None:
        """Pass on that one failed."""
        self._observer.database_error(kind)


class _BinaryCursor(psycopg.Cursor[Any]):
    """Results in PostgreSQL's binary form: a third less work for instants and ids."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.format = psycopg.pq.Format.BINARY


class Database:
    """A database and its pool. Thread-safe; made once per process, after the fork.

    Args:
        settings: The URL, the pool's size and the thresholds.
        observer: Who hears of queries, errors and the pool.
    """

    def __init__(self, settings: DatabaseSettings, observer: DatabaseObserver) -> None:
        self._settings = settings
        self._observer = observer
        url = make_url(settings.url.get_secret_value())
        self.dialect: str = url.get_backend_name()
        self._engine = create_engine(
            url,
            poolclass=WatchedPool,
            pool_size=settings.pool_size,
            max_overflow=settings.max_overflow,
            pool_timeout=settings.pool_timeout_seconds,
            pool_recycle=settings.pool_recycle_seconds,
            connect_args=_connect_arguments(url, settings),
            json_serializer=_json_text,
            json_deserializer=orjson.loads,
            hide_parameters=True,
            **_isolation(self.dialect),
        )
        # Statements stand alone unless a transaction is asked for: reading then needs no round trip but its own.
        self._writing = self._engine
        if self.dialect != "sqlite":
            self._writing = self._engine.execution_options(isolation_level="READ COMMITTED")
        self._reading = self._engine.execution_options(**{_TRANSACTION: "read"})
        # The settings refuse a database in memory, and URIs.
        self._file = Path(url.database) if self.dialect == "sqlite" and url.database else None
        if self._file is not None:
            event.listen(self._engine, "do_connect", partial(_make_file, self._file))
        if self.dialect != "sqlite":
            connect = _patient_connect(self.dialect, settings.statement_timeout_seconds)
            event.listen(self._engine, "do_connect", lambda _dialect, _entry, args, more: connect(*args, **more))
        watch = _StatementWatch(self._engine, settings.slow_query_seconds, observer)
        _listen(self._engine, self.dialect, watch)
        limit = StatementLimit(
            self.dialect, _SQLITE_BUSY_SECONDS if self.dialect == "sqlite" else settings.statement_timeout_seconds
        )
        _limit_statements(self._engine, limit)
        self._prepared = PreparedReads(self._engine, limit, watch)

    @property
    def engine(self) -> Engine:
        """The engine itself, for migrations and tests; services use ``read()`` and ``write()``."""
        return self._engine

    @property
    def max_connections(self) -> int:
        """How many connections the pool opens at the most."""
        return self._settings.pool_size + self._settings.max_overflow

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database, which the first connection makes; None for others."""
        return self._file

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection on which each statement commits by itself; see :meth:`run_read` for the usual case.

        Raises:
            DatabaseUnavailableError: Refused, died, timed out, or no free connection in time.
        """
        with self._translated(), self._reading.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection in one transaction: committed at the end, rolled back on any exception.

        See :meth:`run_write` for the usual case.

        Raises:
            DatabaseTransactionLostError: The connection died before the commit: nothing took effect.
            DatabaseUnavailableError: Refused, died, timed out, or no free connection in time. When it comes
                out of the commit itself, whether it took effect is unknown.
        """
        with self._translated(), self._writing.connect() as connection:
            is_complete = False
            try:
                with connection.begin():
                    yield connection
                    is_complete = True
            except DBAPIError as error:
                kind = _kind_of(error)
                if kind is DatabaseReadOnlyError:  # a new one may lead to the server that takes changes
                    connection.invalidate()
                if kind is DatabaseDisconnectedError and not is_complete:
                    raise DatabaseTransactionLostError(
                        _UNAVAILABLE, retry_after_seconds=_RETRY_AFTER_SECONDS
                    ) from error
                raise

    def run_read(self, work: Callable[[Connection], T]) -> T:
        """Return what some statements find, each standing alone.

        Args:
            work: Reads, and does nothing else: a guarded database may do it again when a connection dies.

        Raises:
            DatabaseUnavailableError: See :meth:`read`.
        """
        with self.read() as connection:
            return work(connection)

    def run_write(self, work: Callable[[Connection], T], *, own_seconds: float | None = None) -> T:
        """Return what some statements in one transaction come to, when it is committed.

        Args:
            work: Touches nothing but the database: a guarded one may do it again when another transaction won, or
                when the connection died before the commit.
            own_seconds: Instead of what remains to the request, for what has to be done when its time is up, too.

        Raises:
            DatabaseUnavailableError: See :meth:`write`.
        """
        with time_of_its_own(own_seconds), self.write() as connection:
            return work(connection)

    def ask(self, select: PreparedSelect, values: Values) -> list[Record]:
        """Return all rows that one prepared statement finds: the way of the hot reads, in one round trip.

        Raises:
            DatabaseUnavailableError: See :meth:`read`.
        """
        with self._translated():
            return self._prepared.ask(select, values)

    def ping(self) -> bool:
        """Make one round trip, past any breaker, and return whether the server takes no changes now: a standby.

        Raises:
            DatabaseUnavailableError: It did not work.
        """
        question = _IS_READ_ONLY.get(self.dialect, _QUESTION)
        with self._translated(), self._reading.connect() as connection:
            return bool(connection.execute(question).scalar_one())

    def pool(self) -> PoolFigures:
        """Return what the pool holds now; from memory."""
        pool = self._engine.pool
        assert isinstance(pool, WatchedPool)  # noqa: S101  # we made it above
        return pool.figures()

    def close(self) -> None:
        """Close all pooled connections."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except PoolTimeoutError as error:
            self._observer.database_error("pool_timeout")
            raise DatabaseBusyError(
                "All database connections are in use. Try again in a moment.", retry_after_seconds=1.0
            ) from error
        except DBAPIError as error:
            kind = _kind_of(error)
            raise kind(_DETAILS.get(kind, _UNAVAILABLE), retry_after_seconds=_RETRY_AFTER_SECONDS) from error
        except SQLAlchemyError as error:
            self._observer.database_error("client")
            raise DatabaseUnavailableError(
                "The database could not be used. Try again in a moment.", retry_after_seconds=_RETRY_AFTER_SECONDS
            ) from error


def _kind_of(error: DBAPIError) -> type[DatabaseUnavailableError]:
    if error.connection_invalidated:
        return DatabaseDisconnectedError
    cause = error.orig
    # MariaDB's number first: its SQLSTATE is often the one that says nothing.
    code = mariadb.number_of(cause) or getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    if code in _CONFLICTS:
        return DatabaseConflictError
    if code in _READ_ONLY:
        return DatabaseReadOnlyError
    return DatabaseBusyError if code in _BUSY else DatabaseUnavailableError


def _patient_connect(dialect: str, answer_seconds: float) -> Callable[..., Any]:
    return mariadb.PatientMariadb if dialect == "mysql" else patient_connection(answer_seconds).connect


def _make_file(file: Path, *_connecting: Any) -> None:
    with suppress(OSError):  # it is there, or SQLite says what is wrong
        missing = [folder for folder in file.parents if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)  # with parents=True those would get the default mode
        # Never opened when it exists: closing it would drop the locks that SQLite has on it in this process.
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _FILE_MODE))


def _json_text(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_UTC_Z).decode()


def _connect_arguments(url: URL, settings: DatabaseSettings) -> dict[str, Any]:
    timeout = settings.statement_timeout_seconds
    match url.get_backend_name():
        case "postgresql":
            return {
                "connect_timeout": max(2, round(settings.pool_timeout_seconds)),
                "application_name": "photo-api",
                "cursor_factory": _BinaryCursor,
                # The second is for hosts that vanish within a transaction: nobody waits for their locks for hours.
                "options": f"-c statement_timeout={round(timeout * 1000)}"
                f" -c idle_in_transaction_session_timeout={round(timeout * 2000)} -c timezone=UTC",
            }
        case "mysql":
            return mariadb.connect_arguments(timeout)
        case _:
            return {"timeout": _SQLITE_BUSY_SECONDS}


def _isolation(dialect: str) -> dict[str, Any]:
    if dialect == "sqlite":  # _begin_sqlite says when a transaction begins
        return {}
    return {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}


def _listen(engine: Engine, dialect: str, watch: _StatementWatch) -> None:
    if dialect == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        _listen_for_dead_connections(engine)
    _listen_to_queries(engine, watch)
    assert isinstance(engine.pool, WatchedPool)  # noqa: S101  # the caller made it so
    engine.pool.observer = watch.observer


def _prepare_sqlite(connection: Any, _entry: ConnectionPoolEntry) -> None:
    # The driver must not begin transactions by itself: _begin_sqlite does, and says IMMEDIATE.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "foreign_keys=ON",
        f"busy_timeout={round(_SQLITE_BUSY_SECONDS * 1000)}",
        "synchronous=FULL",  # an acknowledged photo survives a power cut
    ):
        connection.execute(f"PRAGMA {pragma}")
    # SQLite's own knows ASCII only, and a search must find "Ärger" by "ärger" as on the other databases.
    connection.create_function("lower", 1, _lower, deterministic=True)


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


def _stands_alone(connection: Connection) -> bool:
    return connection.get_execution_options().get(_TRANSACTION) == "read"


def _begin_sqlite(connection: Connection) -> None:
    if not _stands_alone(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _listen_for_dead_connections(engine: Engine) -> None:
    """Ping a connection before use when it was idle for a while; a busy one has just shown that it lives."""

    def returned(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_IDLE_SINCE] = time.monotonic()

    def taken(connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        idle_since = entry.info.get(_IDLE_SINCE)
        if idle_since is None or time.monotonic() - idle_since < _TRUSTED_IDLE_SECONDS:
            return
        try:
            is_alive = engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            is_alive = False
        if not is_alive:
            raise DisconnectionError("the connection died while it was idle")  # the pool opens another one

    event.listen(engine, "checkin", returned)
    event.listen(engine, "checkout", taken)


def _limit_statements(engine: Engine, limit: StatementLimit) -> None:
    def before(connection: Connection, cursor: Any, statement: str, *_execution: Any) -> None:
        if not statement.startswith(_BACK_TO_SAVEPOINT):
            limit.apply(connection.info, cursor, in_transaction=not _stands_alone(connection))

    event.listen(engine, "before_cursor_execute", before)


class _StatementWatch:
    """What the observer hears of statements, whichever way they are asked."""

    def __init__(self, engine: Engine, slow_seconds: float, observer: DatabaseObserver) -> None:
        self._engine = engine
        self._slow_seconds = slow_seconds
        self.observer = observer

    def statement_ended(self, statement: str, seconds: float) -> None:
        self.observer.query(seconds)
        if seconds >= self._slow_seconds:
            self.observer.slow_query()
            shown = " ".join(statement.split())[:_STATEMENT_CHARACTERS_LOGGED]
            _log.warning("slow query", extra={"duration_ms": round(seconds * 1000, 1), "statement": shown})

    def statement_failed(self, connection: PoolProxiedConnection | None, error: Any) -> bool:
        lost = self._engine.dialect.is_disconnect(error, connection and connection.dbapi_connection, None)
        self.failed(is_disconnect=lost)
        if lost and connection is not None:
            assert isinstance(self._engine.pool, WatchedPool)  # noqa: S101  # the database made it so
            self._engine.pool.lose(connection, error)
        return lost

    def failed(self, *, is_disconnect: bool) -> None:
        self.observer.database_error("disconnect" if is_disconnect else "statement")


def _listen_to_queries(engine: Engine, watch: _StatementWatch) -> None:
    def before(_connection: Connection, _cursor: Any, _statement: str, _values: Any, context: Any, *_: Any) -> None:
        context.photo_api_started = time.perf_counter()

    def note(statement: str | None, context: Any) -> None:
        began = getattr(context, "photo_api_started", None)
        if began is None or statement is None:
            return
        context.photo_api_started = None  # what fails while its rows are fetched has been noted
        watch.statement_ended(statement, time.perf_counter() - began)

    def after(_connection: Connection, _cursor: Any, statement: str, _values: Any, context: Any, *_: Any) -> None:
        note(statement, context)

    def failed(context: ExceptionContext) -> None:
        if isinstance(context.sqlalchemy_exception, DBAPIError):  # the slowest of all end by their timeout
            note(context.statement, context.execution_context)
        if not isinstance(context.sqlalchemy_exception, IntegrityError):
            watch.failed(is_disconnect=context.is_disconnect)

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    event.listen(engine, "handle_error", failed)
