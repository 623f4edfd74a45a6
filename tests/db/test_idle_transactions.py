"""What a host that vanishes in the middle of a transaction leaves locked."""

from __future__ import annotations

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from app.db.engine import Database, SilentObserver
from app.errors import DatabaseUnavailableError
from app.settings import DatabaseSettings
from tests.servers.product import until

LOCKED = text("UPDATE held SET n = n + 1")


def test_a_transaction_that_stands_still_is_ended_and_its_locks_are_free(server_url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(server_url), statement_timeout_seconds=0.5)
    silent, other = (Database(settings, SilentObserver()) for _ in range(2))
    with other.write() as connection:
        connection.execute(text("CREATE TABLE held (n integer)"))
        connection.execute(text("INSERT INTO held VALUES (0)"))

    def is_free() -> bool:
        try:
            with other.write() as connection:
                connection.execute(LOCKED)
        except DatabaseUnavailableError:
            return False
        return True

    def stand_still() -> None:
        with silent.write() as connection:
            connection.execute(LOCKED)
            until(is_free, "the lock")

    with pytest.raises(DatabaseUnavailableError):
        stand_still()

    with other.read() as connection:
        assert connection.execute(text("SELECT n FROM held")).scalar_one() == 1
    silent.close()
    other.close()
