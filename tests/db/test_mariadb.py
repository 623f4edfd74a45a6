"""What MariaDB would do differently unless it is told: text, numbers, sizes, locks, and errors by its own numbers."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

import pymysql
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import IntegrityError

from app.accounts.models import User
from app.db import mariadb, migrate
from app.db.base import new_id
from app.db.engine import Database
from app.errors import (
    DatabaseBusyError,
    DatabaseConflictError,
    DatabaseDisconnectedError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
)
from app.settings import DatabaseSettings
from tests.db.conftest import Observer, ask
from tests.servers.mariadb import MariadbServer

INSTANT = dt.datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=dt.UTC)


def user(email: str, **values: Any) -> dict[str, Any]:
    given = {"password_hash": "", "is_admin": False, "token_version": 0, "used_bytes": 0}
    return {**given, "id": new_id(), "email": email, "created_at": INSTANT, "updated_at": INSTANT, **values}


@pytest.fixture
def migrated(open_database: Callable[..., Database]) -> Database:
    """An empty database with every table, on each kind of database."""
    database = open_database()
    migrate.upgrade(database)
    return database


def add_users(database: Database, *rows: dict[str, Any]) -> None:
    with database.write() as connection:
        connection.execute(insert(User), list(rows))


def test_text_that_differs_in_one_octet_is_another_text(migrated: Database) -> None:
    emails = [
        "ada@x",
        "Ada@x",
        "adá@x",
        "ada@x ",
        "ada@x\N{ZERO WIDTH SPACE}",
        "\N{CAMERA WITH FLASH}@x",
        "\N{CAMERA}@x",
    ]

    add_users(migrated, *map(user, emails))

    with migrated.read() as connection:
        found = {
            email: list(connection.execute(select(User.email).where(User.email == email)).scalars())
            for email in emails
        }
    assert found == {email: [email] for email in emails}
    with pytest.raises(IntegrityError):
        add_users(migrated, user("adá@x"))


def test_text_is_in_the_order_of_its_code_points(migrated: Database) -> None:
    emails = ["B@x", "a@x", "a@x ", "b@x", "é@x", "\N{FULLWIDTH LATIN SMALL LETTER A}", "\N{CAMERA}"]
    add_users(migrated, *map(user, reversed(emails)))

    with migrated.read() as connection:
        assert list(connection.execute(select(User.email).order_by(User.email)).scalars()) == emails


def test_ids_are_in_the_order_of_their_birth_and_instants_keep_their_microseconds(migrated: Database) -> None:
    ids = [UUID(int=(number << 80) | (7 << 76) | (8 << 60)) for number in (1, 2, 255, 1 << 20, 1 << 40)]
    later = INSTANT + dt.timedelta(microseconds=1)

    add_users(migrated, *(user(f"{id_}", id=id_, updated_at=later) for id_ in reversed(ids)))

    with migrated.read() as connection:
        rows = connection.execute(select(User.id, User.created_at, User.updated_at).order_by(User.id)).all()
        newer = connection.execute(select(User.id).where(User.updated_at > User.created_at)).all()
    assert [tuple(row) for row in rows] == [(id_, INSTANT, later) for id_ in ids]
    assert len(newer) == len(ids)


@pytest.fixture
def database(mariadb_url: str) -> Iterator[Database]:
    """A MariaDB with one table of two rows."""
    with closing(Database(DatabaseSettings(url=SecretStr(mariadb_url)), Observer())) as opened:
        with opened.write() as connection:
            connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY, name VARCHAR(5))"))
            connection.execute(text("INSERT INTO things VALUES (1, 'one'), (2, 'two')"))
        yield opened


def rename(connection: Connection, number: int, name: str) -> None:
    connection.execute(text("UPDATE things SET name = :name WHERE id = :id"), {"id": number, "name": name})


def test_what_does_not_fit_is_refused_and_not_cut_off(mariadb_server: MariadbServer, database: Database) -> None:
    (before,) = mariadb_server.execute("SELECT @@global.sql_mode")[0]
    mariadb_server.execute("SET GLOBAL sql_mode = ''")
    try:
        database.close()  # the new connections begin with the server's own mode
        with pytest.raises(DatabaseUnavailableError), database.write() as connection:
            rename(connection, 1, "too long")
    finally:
        mariadb_server.execute(f"SET GLOBAL sql_mode = '{before}'")

    assert ask(database, "SELECT name FROM things WHERE id = 1") == "one"


@pytest.mark.parametrize("in_savepoint", [False, True])
def test_who_loses_a_deadlock_is_told_so_and_has_changed_nothing(database: Database, *, in_savepoint: bool) -> None:
    both_hold_one = threading.Barrier(2, timeout=30)
    lost: list[DatabaseConflictError] = []

    def cross(first: int, second: int) -> None:
        def work(connection: Connection) -> None:
            rename(connection, first, f"by{first}")
            both_hold_one.wait()
            if not in_savepoint:
                rename(connection, second, f"by{first}")
                return
            with connection.begin_nested():
                rename(connection, second, f"by{first}")

        try:
            database.run_write(work)
        except DatabaseConflictError as error:
            lost.append(error)

    threads = [threading.Thread(target=cross, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(lost) == 1
    with database.read() as connection:
        (name,) = set(connection.execute(text("SELECT name FROM things")).scalars())
    assert name in {"by1", "by2"}


def test_a_wait_for_a_lock_ends_with_the_time_of_its_statement(mariadb_url: str, database: Database) -> None:
    settings = DatabaseSettings(url=SecretStr(mariadb_url), statement_timeout_seconds=0.5)
    with closing(Database(settings, Observer())) as impatient, database.write() as connection:
        rename(connection, 1, "mine")
        with pytest.raises(DatabaseUnavailableError), impatient.write() as other:
            rename(other, 1, "his")

    assert ask(database, "SELECT name FROM things WHERE id = 1") == "mine"


def test_a_lock_that_the_server_itself_gave_up_is_too_much_work(database: Database) -> None:
    with database.write() as connection:
        rename(connection, 1, "mine")
        with pytest.raises(DatabaseBusyError), database.write() as other:
            other.execute(text("SELECT 1 FROM things WHERE id = 1 FOR UPDATE NOWAIT"))


def test_a_transaction_that_was_set_to_read_only_is_told_from_an_outage(database: Database) -> None:
    def change() -> None:
        with database.read() as connection:
            connection.execute(text("SET SESSION TRANSACTION READ ONLY"))
            rename(connection, 1, "new")

    with pytest.raises(DatabaseReadOnlyError):
        change()


def test_when_the_connection_dies_in_a_commit_that_is_told(mariadb_server: MariadbServer, database: Database) -> None:
    def die() -> None:
        with database.write() as connection:
            rename(connection, 1, "new")
            number = connection.execute(text("SELECT connection_id()")).scalar_one()
            mariadb_server.execute(f"KILL {number}")

    with pytest.raises(DatabaseDisconnectedError):
        die()

    assert ask(database, "SELECT name FROM things WHERE id = 1") == "one"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (pymysql.err.OperationalError(1213, "Deadlock found"), 1213),
        (pymysql.err.OperationalError(1305, "SAVEPOINT sa_savepoint_1 does not exist"), 1213),
        (pymysql.err.OperationalError(1305, "FUNCTION nothing does not exist"), 1305),
        (pymysql.err.InterfaceError("(0, '')"), None),
        (pymysql.err.InterfaceError(), None),
        (ValueError(1213), None),
        (None, None),
    ],
)
def test_an_error_has_the_number_that_the_server_gave_it(error: BaseException | None, number: int | None) -> None:
    assert mariadb.number_of(error) == number
