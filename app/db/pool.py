"""The connection pool: waits no longer than the request has, and says what it holds, who waits and for how long.

::

    checkout ─▶ a connection is idle ──────────────────────────────▶ taken
             ─▶ fewer than pool_size + max_overflow are open ─▶ one more is opened
             ─▶ all are in use ─▶ waits ─▶ the first that comes back ─▶ taken
                                    └────▶ pool_timeout, or the request's deadline ─▶ TimeoutError

Who waits is a thread that serves a request, so there are never more waiting than there are threads. A connection
that comes back is given to one of them at once; nothing has to be polled, and nothing closes behind a burst.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import PoolProxiedConnection
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.util import queue

from app.db.time_limits import shorten


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """What a pool holds at one moment.

    Attributes:
        active: Connections in use.
        idle: Open ones that nobody uses.
        waiting: Threads that wait for one.
        max_connections: How many it opens at the most.
        timeouts: How often a thread has waited in vain so far.
    """

    active: int
    idle: int
    waiting: int
    max_connections: int
    timeouts: int = 0

    @property
    def is_full(self) -> bool:
        """Whether the next one to ask has to wait."""
        return self.active >= self.max_connections


class PoolObserver(Protocol):
    """Who hears of the pool. Called on hot paths: must neither raise nor block."""

    def pool(self, active: int, idle: int, waiting: int) -> None:
        """So many connections are in use, so many are open and free, and so many threads wait for one."""
        ...

    def pool_wait(self, seconds: float) -> None:
        """A thread that had to wait for a connection has done so for so long, in vain or not."""
        ...

    def pool_timeout(self) -> None:
        """A thread has waited in vain."""
        ...


class WatchedPool(QueuePool):
    """SQLAlchemy's queue pool, with its figures and with waits that end with the request.

    SQLAlchemy's own events come before a connection is back, so that the last one of a burst would stay counted.

    Attributes:
        observer: Who hears of it; None for nobody.
    """

    observer: PoolObserver | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._counting = threading.Lock()
        self._waiting = 0
        self._timeouts = 0
        self._last = (0, 0, 0)
        super().__init__(*arguments, **options)

    @property
    def _timeout(self) -> float:
        return shorten(self._own_timeout)

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        self._own_timeout = seconds

    def recreate(self) -> WatchedPool:
        """Return a new one of the same kind, for the engine's ``dispose``."""
        again = super().recreate()
        assert isinstance(again, WatchedPool)  # noqa: S101  # it is made of our class
        again.observer = self.observer
        again._timeout = self._own_timeout  # noqa: SLF001  # another pool of this class
        again._timeouts = self._timeouts  # noqa: SLF001  # another pool of this class
        return again

    def figures(self) -> PoolFigures:
        """Return what it holds now; takes no lock, since an event loop asks that must not wait for a thread."""
        active, idle, waiting = self._last
        return PoolFigures(
            active=active,
            idle=idle,
            waiting=waiting,
            max_connections=self.size() + self._max_overflow,
            timeouts=self._timeouts,
        )

    def lose(self, connection: PoolProxiedConnection, error: BaseException) -> None:
        """Give a connection up, and every other one that is as old, before it is used again."""
        self._invalidate(connection, error)

    def _do_get(self) -> ConnectionPoolEntry:
        # Not SQLAlchemy's own: it decides to wait where nobody can see it.
        try:
            record = self._pool.get(block=False)
        except queue.Empty:
            record = self._opened() or self._waited_for()
        self._changed()
        return record

    def _opened(self) -> ConnectionPoolEntry | None:
        if not self._inc_overflow():
            return None
        self._changed()  # its place is taken while it is being made, which may take long
        try:
            return self._create_connection()
        except BaseException:
            self._dec_overflow()
            self._changed()
            raise

    def _waited_for(self) -> ConnectionPoolEntry:
        self._changed(waiting=1)
        began = time.monotonic()
        try:
            return self._pool.get(block=True, timeout=self._timeout)
        except queue.Empty:
            # One that could not be opened has left a place, and wakes nobody.
            opened = self._opened()
            if opened is None:
                self._timeouts += 1
                if self.observer is not None:
                    self.observer.pool_timeout()
                raise PoolTimeoutError("all connections are in use") from None
            return opened
        finally:
            self._changed(waiting=-1)
            if self.observer is not None:
                self.observer.pool_wait(time.monotonic() - began)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        self._changed()

    def _changed(self, *, waiting: int = 0) -> None:
        with self._counting:  # figures and report together: the last report is then of the last figures
            self._waiting += waiting
            self._last = figures = (self.checkedout(), self.checkedin(), self._waiting)
            if self.observer is not None:
                self.observer.pool(*figures)
