"""Leases of uploads: alive while their process works on them, and only then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, event

from app.db.engine import Database
from app.errors import DatabaseUnavailableError
from app.photos.leases import LeaseKeeper
from app.photos.models import READY
from tests.photos.world import World, image, new_photo

SHORT_SECONDS = 0.06


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        threading.Event().wait(0.005)


def test_a_renewal_moves_the_end_of_living_leases_and_of_no_others(any_world: World) -> None:
    owner_id = any_world.new_user()
    photos = [new_photo(owner_id, image(number)) for number in range(3)]
    with any_world.keeper.lease() as mine, any_world.keeper.lease() as also_mine:
        for photo, token in zip(photos, (mine, also_mine, "another's"), strict=True):
            any_world.ledger.reserve(photo, token, any_world.keeper.until())
        any_world.end_leases()
        ended = [row.lease_until for row in any_world.rows()]

        renewed = any_world.keeper.renew()

        left = [row.lease_until for row in any_world.rows()]
        assert renewed == 2
        assert [after > before for before, after in zip(ended, left, strict=True)] == [True, True, False]
    assert any_world.keeper.renew() == 0


def test_all_leases_of_a_process_are_renewed_in_one_statement(any_world: World) -> None:
    owner_id = any_world.new_user()
    statements: list[str] = []
    with any_world.keeper.lease() as first, any_world.keeper.lease() as second:
        for number, token in enumerate((first, second)):
            any_world.ledger.reserve(new_photo(owner_id, image(number)), token, any_world.keeper.until())

        def note(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
            statements.append(statement)

        event.listen(any_world.database.engine, "before_cursor_execute", note)
        try:
            any_world.keeper.renew()
        finally:
            event.remove(any_world.database.engine, "before_cursor_execute", note)

    assert [statement.split()[0] for statement in statements if statement != "BEGIN IMMEDIATE"] == ["UPDATE"]


def test_what_is_ready_carries_no_lease_to_renew(any_world: World) -> None:
    photo = new_photo(any_world.new_user())
    with any_world.keeper.lease() as token:
        reserved = any_world.ledger.reserve(photo, token, any_world.keeper.until())
        assert not hasattr(reserved, "document")
        any_world.ledger.commit(photo, reserved)

        assert any_world.keeper.renew() == 0

    assert [row.lease_until for row in any_world.rows(READY)] == [None]


def test_a_lease_outlives_its_length_while_the_work_goes_on(world: World) -> None:
    keeper = LeaseKeeper(world.database, SHORT_SECONDS)
    photo = new_photo(world.new_user())
    with keeper.lease() as token:
        first_end = keeper.until()
        world.ledger.reserve(photo, token, first_end)

        until(lambda: world.rows()[0].lease_until > first_end)

        assert world.keeper.until() > first_end
    keeper.close()


def test_a_closed_keeper_renews_no_more(world: World) -> None:
    keeper = LeaseKeeper(world.database, SHORT_SECONDS)
    before = set(threading.enumerate())
    with keeper.lease():
        (thread,) = (each for each in set(threading.enumerate()) - before if each.name == "lease-keeper")

        keeper.close()

        thread.join(20)  # closing waits for it as long as a lease lasts, which is a moment here
        assert not thread.is_alive()


class Failing(Database):
    """A database that fails once, then works."""

    def __init__(self, real: Database) -> None:
        self._real = real
        self.calls = 0
        self._engine = real.engine

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self.calls += 1
        if self.calls == 1:
            raise DatabaseUnavailableError("It is down.")
        with self._real.write() as connection:
            yield connection


def test_a_renewal_that_fails_is_tried_again(world: World) -> None:
    database = Failing(world.database)
    keeper = LeaseKeeper(database, SHORT_SECONDS)

    with keeper.lease():
        until(lambda: database.calls > 1)

    keeper.close()
