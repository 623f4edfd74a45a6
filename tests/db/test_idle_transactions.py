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
    settings = DatabaseSettings(url=SecretStr(server_url))
    soon = settings.model_copy(update={"statement_timeout_seconds": 0.5})
    silent, other = Database(soon, SilentObserver()), Database(settings, SilentObserver())
    with other.write() as connection:
        connection.execute(text("CREATE TABLE held (n integer)"))
        connection.execute(text("INSERT INTO held VALUES (0)"))
    held: list[bool] = []

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
            held.append(True)
            until(is_free, "the lock")

    def was_ended() -> bool:
        with pytest.raises(DatabaseUnavailableError):
            stand_still()
        return bool(held)  # on a busy machine the lock alone may take longer than a statement may

    until(was_ended, "a transaction with the lock")

    with other.read() as connection:
        assert connection.execute(text("SELECT n FROM held")).scalar_one() == 1
    silent.close()
    other.close()
