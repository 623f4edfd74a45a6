"""Named leases: of all processes that ask, one holds a name until its time is over or it gives it back."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import String, delete, insert, or_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, UtcDateTime, utc_now
from app.db.engine import Database


class Lease(Base):
    """One row a name that was ever held."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    lease_until: Mapped[dt.datetime] = mapped_column(UtcDateTime)


def hold(database: Database, name: str, owner: str, seconds: float) -> bool:
    """Take or renew a lease in one statement.

    Args:
        database: Where the leases are.
        name: What is leased, at most 50 characters.
        owner: Who asks, at most 64 characters, different in every process.
        seconds: How long it lasts from now, greater than 0.

    Returns:
        True when ``owner`` holds the lease afterwards.
    """
    now = utc_now()
    until = now + dt.timedelta(seconds=seconds)
    mine_or_ended = or_(Lease.owner == owner, Lease.lease_until < now)
    with database.write() as connection:
        renewed = connection.execute(
            update(Lease).where(Lease.name == name, mine_or_ended).values(owner=owner, lease_until=until)
        )
        if renewed.rowcount:
            return True
        try:
            with connection.begin_nested():
                connection.execute(insert(Lease).values(name=name, owner=owner, lease_until=until))
        except IntegrityError:
            return False
        return True


def change_nothing(database: Database) -> None:
    """Make a change that finds no row: it tells whether the database takes changes.

    Raises:
        DatabaseReadOnlyError: It takes none.
        DatabaseUnavailableError: That cannot be told.
    """
    with database.write() as connection:
        connection.execute(update(Lease).where(Lease.name == "").values(owner=""))


def release(database: Database, name: str, owner: str) -> None:
    """Give a lease back, if it is still the owner's."""
    with database.write() as connection:
        connection.execute(delete(Lease).where(Lease.name == name, Lease.owner == owner))
