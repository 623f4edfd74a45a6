"""Keeping the leases of pending uploads alive while this process works on them.

One statement renews all of a process's leases. When the process dies they end by themselves, and the reaper
(:mod:`app.photos.upkeep`) takes over.
"""

from __future__ import annotations

import datetime as dt
import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import update

from app.db.base import utc_now
from app.db.engine import Database
from app.errors import DatabaseUnavailableError
from app.photos.models import PENDING, Photo

_log = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 3


class LeaseKeeper:
    """Renews the leases of this process in the background. Thread-safe.

    Args:
        database: Where the photos are.
        lease_seconds: How long a lease lasts without renewal.
    """

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._tokens: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def lease(self) -> Iterator[str]:
        """Yield a new lease token and renew what carries it until the block ends."""
        token = secrets.token_hex(16)
        with self._lock:
            self._tokens.add(token)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
                self._thread.start()
        try:
            yield token
        finally:
            with self._lock:
                self._tokens.discard(token)

    def until(self) -> dt.datetime:
        """Return when a lease that is taken now ends."""
        return utc_now() + dt.timedelta(seconds=self._lease_seconds)

    def renew(self) -> int:
        """Renew every lease of this process; return how many rows still carry one."""
        with self._lock:
            tokens = sorted(self._tokens)
        if not tokens:
            return 0
        with self._database.write() as connection:
            renewed = connection.execute(
                update(Photo)
                .where(Photo.lease_token.in_(tokens), Photo.state == PENDING)
                .values(lease_until=self.until())
            )
        return renewed.rowcount

    def close(self) -> None:
        """Stop renewing."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=self._lease_seconds)

    def _run(self) -> None:
        while not self._closed.wait(self._lease_seconds / _RENEWALS_PER_LEASE):
            try:
                self.renew()
            except DatabaseUnavailableError:
                _log.warning("leases could not be renewed; trying again")
