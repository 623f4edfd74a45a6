"""Named leases and the outbox, on every database."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text, update

from app.db import leases, outbox
from app.db.base import Base, new_id, utc_now
from app.db.engine import Database
from app.db.leases import Lease
from app.db.outbox import OutboxRow
from app.errors import DatabaseReadOnlyError


@pytest.fixture
def tables(database: Database) -> Database:
    with database.write() as connection:
        Base.metadata.create_all(connection, tables=[Lease.metadata.tables["leases"], Base.metadata.tables["outbox"]])
    return database


def end_lease(database: Database, name: str) -> None:
    with database.write() as connection:
        past = utc_now() - dt.timedelta(seconds=1)
        connection.execute(update(Lease).where(Lease.name == name).values(lease_until=past))


def test_a_lease_has_one_holder_until_its_end(tables: Database) -> None:
    assert leases.hold(tables, "work", "one", 60)
    assert leases.hold(tables, "work", "one", 60)
    assert not leases.hold(tables, "work", "two", 60)
    assert leases.hold(tables, "other", "two", 60)

    end_lease(tables, "work")

    assert leases.hold(tables, "work", "two", 60)
    assert not leases.hold(tables, "work", "one", 60)


def test_only_the_holder_gives_a_lease_back(tables: Database) -> None:
    leases.hold(tables, "work", "one", 60)

    leases.release(tables, "work", "two")
    assert not leases.hold(tables, "work", "two", 60)
    leases.release(tables, "work", "one")

    assert leases.hold(tables, "work", "two", 60)


def test_a_change_that_changes_nothing_works_where_changes_are_taken(tables: Database) -> None:
    leases.hold(tables, "work", "one", 60)

    leases.change_nothing(tables)

    assert not leases.hold(tables, "work", "two", 60)


def test_a_change_that_changes_nothing_is_refused_where_none_are_taken_and_its_connection_is_not_used_again(
    tables: Database,
) -> None:
    switch = {"postgresql": "SET default_transaction_read_only = on", "sqlite": "PRAGMA query_only = ON"}
    with tables.read() as connection:  # the connection that the pool gives again
        connection.execute(text(switch.get(tables.dialect, "SET SESSION TRANSACTION READ ONLY")))

    with pytest.raises(DatabaseReadOnlyError):
        leases.change_nothing(tables)

    leases.change_nothing(tables)


@pytest.mark.parametrize("state", ["new", "ended"])
def test_of_many_that_ask_at_once_one_gets_it(tables: Database, state: str) -> None:
    if state == "ended":
        leases.hold(tables, "work", "dead", 60)
        end_lease(tables, "work")

    with ThreadPoolExecutor(16) as pool:
        held = list(pool.map(lambda index: leases.hold(tables, "work", f"owner-{index}", 60), range(16)))

    assert held.count(True) == 1


def test_news_goes_with_its_transaction_or_not_at_all(tables: Database) -> None:
    photo_id = new_id()

    def fail() -> None:
        with tables.write() as connection:
            outbox.add(connection, outbox.PHOTO_READY, new_id(), {})
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with tables.write() as connection:
        outbox.add(connection, outbox.OBJECT_DELETE, photo_id, {"object_key": "originals/x"}, delay_seconds=60)

    with tables.read() as connection:
        row = connection.execute(select(OutboxRow)).one()
    assert (row.kind, row.photo_id, row.payload) == ("object.delete", photo_id, {"object_key": "originals/x"})
    assert (row.available_at - row.created_at).total_seconds() == 60
    assert row.attempts == 0


def test_rows_stand_in_the_order_in_which_they_were_written(tables: Database) -> None:
    ids = [new_id() for _ in range(5)]

    for photo_id in ids:
        with tables.write() as connection:
            outbox.add(connection, outbox.PHOTO_READY, photo_id, {})

    with tables.read() as connection:
        assert list(connection.execute(select(OutboxRow.photo_id).order_by(OutboxRow.id)).scalars()) == ids
