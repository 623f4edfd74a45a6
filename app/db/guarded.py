"""The database behind its pipelines: the same port, and every use of it passes one breaker.

::

    read(), write()     database                              breaker(block)
    run_read(work)      database_read ▶ database              timeout(retry(breaker(work)))
    ask(select)         database_read ▶ database              timeout(retry(breaker(select)))
    run_write(work)     database_write ▶ database             timeout(retry(breaker(transaction(work))))

A block of ``with`` cannot be done again; a function can. What a read asks is asked again when its connection died,
what a transaction does is done again when another one won, or when its connection died before the commit. A commit
whose connection died is neither: whether it took effect is unknown, and the caller finds out.

That all connections are in use, that a transaction lost, or that a standby takes no changes says nothing of what the
server can still do, and opens nothing. ``ping()`` goes past the breaker: health asks how the database is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn, ParamSpec, TypeVar

from sqlalchemy import Connection

from app.db.engine import Database, DatabaseObserver
from app.db.prepared import PreparedSelect, Record, Values
from app.db.time_limits import time_of_its_own
from app.errors import (
    DatabaseBusyError,
    DatabaseConflictError,
    DatabaseDisconnectedError,
    DatabaseReadOnlyError,
    DatabaseTransactionLostError,
    DatabaseUnavailableError,
)
from app.settings import DatabaseSettings
from app.stability import CallRefusedError, CircuitBreaker, Classification, DeadlineExceededError, Pipeline

P = ParamSpec("P")
T = TypeVar("T")


def _no_time(_error: object) -> None:
    """Return None: no database asks for a pause. What our errors say is a guess, for the client."""


DATABASE_CLASSIFICATION: Final = Classification(
    failures=(DatabaseUnavailableError,),
    ignored=(DatabaseBusyError, DatabaseConflictError, DatabaseReadOnlyError, DeadlineExceededError),
    retry_after_of=_no_time,
)
"""What errors say of the server: those of work, and those of too much work here, say nothing."""

READ_CLASSIFICATION: Final = Classification(failures=(DatabaseDisconnectedError,), retry_after_of=_no_time)
"""What is worth asking again."""

WRITE_CLASSIFICATION: Final = Classification(
    failures=(DatabaseConflictError, DatabaseTransactionLostError), retry_after_of=_no_time
)
"""What is worth doing again, and can be."""


DATABASE_CLASSIFICATIONS: Final = {
    "database": DATABASE_CLASSIFICATION,
    "database_read": READ_CLASSIFICATION,
    "database_write": WRITE_CLASSIFICATION,
}
"""The same, by the names of the pipelines."""


@dataclass(frozen=True, slots=True)
class DatabasePipelines:
    """The pipelines of one database.

    Attributes:
        every_use: Around everything.
        read: Around :meth:`GuardedDatabase.run_read`.
        write: Around :meth:`GuardedDatabase.run_write`.
    """

    every_use: Pipeline
    read: Pipeline
    write: Pipeline


class GuardedDatabase(Database):
    """A :class:`~app.db.engine.Database` behind pipelines. Thread-safe; made once per process, after the fork.

    Args:
        settings: The URL, the pool's size and the thresholds.
        observer: Who hears of queries, errors and the pool.
        pipelines: What stands before it.
    """

    def __init__(self, settings: DatabaseSettings, observer: DatabaseObserver, pipelines: DatabasePipelines) -> None:
        super().__init__(settings, observer)
        self._pipelines = pipelines
        self._breaker = pipelines.every_use.find(CircuitBreaker)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection on which each statement commits by itself; see :meth:`Database.read`."""
        with self._let_through(), super().read() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection in one transaction; see :meth:`Database.write`."""
        with self._let_through(), super().write() as connection:
            yield connection

    def run_read(self, work: Callable[[Connection], T]) -> T:
        """Return what some statements find; they are asked again when their connection died."""
        return self._run(self._pipelines.read, super().run_read, work)

    def run_write(self, work: Callable[[Connection], T], *, own_seconds: float | None = None) -> T:
        """Return what a transaction comes to; done again when another one won, or it was lost before its commit."""
        with time_of_its_own(own_seconds):
            return self._run(self._pipelines.write, super().run_write, work)

    def ask(self, select: PreparedSelect, values: Values) -> list[Record]:
        """Return all rows that one prepared statement finds; it is asked again when its connection died."""
        return self._run(self._pipelines.read, self._ask_once, select, values)

    def _ask_once(self, select: PreparedSelect, values: Values) -> list[Record]:
        return self._run(self._pipelines.every_use, super().ask, select, values)

    def _run(self, pipeline: Pipeline, run: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return pipeline.call(run, *args, **kwargs)
        except CallRefusedError as refusal:
            _raise_unavailable(refusal)

    @contextmanager
    def _let_through(self) -> Iterator[None]:
        if self._breaker is None:
            yield
            return
        try:
            permit = self._breaker.acquire()
        except CallRefusedError as refusal:
            _raise_unavailable(refusal)
        with permit:
            yield


def _raise_unavailable(refusal: CallRefusedError) -> NoReturn:
    # Without a cause: a refusal in an outage is no news, and its log line needs no traceback.
    raise DatabaseUnavailableError(
        "The database is not available. Try again in a moment.", retry_after_seconds=refusal.retry_after_seconds
    ) from None
