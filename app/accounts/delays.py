"""Login delays: whoever fails often must wait, an account and an address each on its own count.

After five failures 1 second, then 2, 4, … up to 300; one failure is forgiven every five minutes, so that nobody is
locked out for good. A success clears the account's count, not the address's. The counts stand in the database:
they hold over workers and restarts. Names are kept as hashes only.

An attempt that ran beside the failure that began a delay gets no answer but the delay (see
:meth:`LoginDelays.count_failure`): guessing in parallel gains nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Callable, Collection
from contextlib import suppress

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.accounts.models import LoginDelay
from app.db.base import utc_now
from app.db.engine import Database
from app.errors import TooManyRequestsError, UnavailableError

FREE_FAILURES = 5
DELAY_SECONDS_MAX = 300
FORGIVEN_EVERY_SECONDS = 300
_FAILURES_MAX = FREE_FAILURES + 9  # 2**9 is the first above the longest delay
_TRIES = 4  # each of the two rows can come in between once, and be purged at that moment


def account_subject(email: str) -> str:
    """Return the name under which failures with an e-mail address are counted, whether it has an account or not."""
    return _hashed(f"account {email}")


def address_subject(address: str | None) -> str | None:
    """Return the name under which an address's failures are counted: its /24 or /64; None when it has none."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    bits = 24 if parsed.version == 4 else 64  # noqa: PLR2004  # the two versions of IP
    return _hashed(f"address {ipaddress.ip_network((parsed, bits), strict=False)}")


def login_subjects(email: str, address: str | None) -> tuple[str, ...]:
    """Return both names of an attempt, in the one order in which their rows are locked."""
    by_address = address_subject(address)
    return tuple(sorted(filter(None, (account_subject(email), by_address))))


class LoginDelays:
    """Counts failures and makes callers wait. Thread-safe.

    Args:
        database: Where the counts are.
        now: The wall clock.
    """

    def __init__(self, database: Database, now: Callable[[], dt.datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    def require_patience(self, subjects: Collection[str], connection: Connection | None = None) -> None:
        """Let an attempt pass only when none of its subjects has to wait.

        Args:
            subjects: From :func:`login_subjects`.
            connection: The transaction to look in; None: one of its own.

        Raises:
            TooManyRequestsError: With the seconds to wait.
        """
        if connection is None:
            self._database.run_read(lambda own: self.require_patience(subjects, own))
            return
        query = select(LoginDelay.failures, LoginDelay.blocked_until).where(LoginDelay.subject_hash.in_(subjects))
        for failures, blocked_until in connection.execute(query):
            self._refuse_before(blocked_until, failures)

    def count_failure(self, subjects: Collection[str]) -> None:
        """Count a failed attempt.

        Raises:
            TooManyRequestsError: Others failed meanwhile, so that this one must not learn its result.
        """
        for _ in range(_TRIES):
            # When another attempt has made a row first, begin anew: on MariaDB the transaction that came second keeps
            # a lock on that row which two of them cannot both make their own.
            with suppress(IntegrityError), self._database.write() as connection:
                for subject in subjects:
                    self._count(connection, subject)
                return
        raise UnavailableError("The attempt could not be counted. Try again.")

    def forgive(self, connection: Connection, subject: str) -> None:
        """Forget a subject's failures, in the transaction of the success."""
        connection.execute(update(LoginDelay).where(LoginDelay.subject_hash == subject).values(failures=0))

    def purge(self) -> int:
        """Delete counts that time has brought to zero and return how many."""
        before = self._now() - dt.timedelta(seconds=FORGIVEN_EVERY_SECONDS * _FAILURES_MAX)
        with self._database.write() as connection:
            return connection.execute(delete(LoginDelay).where(LoginDelay.updated_at < before)).rowcount

    def _count(self, connection: Connection, subject: str) -> None:
        now = self._now()
        row = _locked_row(connection, subject, now)
        self._refuse_before(row.blocked_until, row.failures)
        elapsed = max(0.0, (now - row.updated_at).total_seconds())
        remaining = max(0, row.failures - int(elapsed / FORGIVEN_EVERY_SECONDS))
        failures = min(remaining + 1, _FAILURES_MAX)
        connection.execute(
            update(LoginDelay)
            .where(LoginDelay.subject_hash == subject)
            .values(
                failures=failures,
                blocked_until=now + dt.timedelta(seconds=_delay_seconds(failures)),
                updated_at=now,
            )
        )

    def _refuse_before(self, blocked_until: dt.datetime, failures: int) -> None:
        # Another host's clock may be ahead, or this one's was set back: nobody waits longer than the step says.
        wait = min((blocked_until - self._now()).total_seconds(), _delay_seconds(failures))
        if wait > 0:
            raise TooManyRequestsError("Too many failed attempts. Wait, then try again.", retry_after_seconds=wait)


def _locked_row(connection: Connection, subject: str, now: dt.datetime) -> Row[int, dt.datetime, dt.datetime]:
    """Return a subject's row, locked.

    Raises:
        IntegrityError: There was none, and another attempt has made it meanwhile.
    """
    ours = select(LoginDelay.failures, LoginDelay.blocked_until, LoginDelay.updated_at).where(
        LoginDelay.subject_hash == subject
    )
    if connection.execute(ours).one_or_none() is not None:
        row = connection.execute(ours.with_for_update()).one_or_none()
        if row is not None:  # else the purge took it in between
            return row
    connection.execute(insert(LoginDelay).values(subject_hash=subject, failures=0, blocked_until=now, updated_at=now))
    return connection.execute(ours.with_for_update()).one()


def _delay_seconds(failures: int) -> int:
    return 0 if failures < FREE_FAILURES else min(2 ** (failures - FREE_FAILURES), DELAY_SECONDS_MAX)


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
