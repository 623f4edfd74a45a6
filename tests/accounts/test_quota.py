"""The quota: never exceeded, never lost, whoever comes at once."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest

from app.accounts import quota
from app.errors import InvalidTokenError, QuotaExceededError
from tests.accounts.world import EMAIL, PASSWORD, World, at_once


def take(world: World, user_id: UUID, size_bytes: int, default_quota_bytes: int = 100) -> None:
    with world.database.write() as connection:
        quota.take(connection, user_id, size_bytes, default_quota_bytes=default_quota_bytes)


def test_the_quota_may_be_filled_to_the_last_byte_and_not_further(world: World) -> None:
    user_id = world.accounts.register(EMAIL, PASSWORD).id
    take(world, user_id, 60)

    with pytest.raises(QuotaExceededError):
        take(world, user_id, 41)
    take(world, user_id, 40)

    assert world.accounts.show(user_id).used_bytes == 100


def test_an_accounts_own_quota_goes_before_the_default(world: World) -> None:
    user_id = world.accounts.register(EMAIL, PASSWORD).id
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE users SET quota_bytes = 10")

    with pytest.raises(QuotaExceededError):
        take(world, user_id, 11)

    assert world.accounts.show(user_id).quota_bytes == 10


def test_what_is_given_back_may_be_taken_again(world: World) -> None:
    user_id = world.accounts.register(EMAIL, PASSWORD).id
    take(world, user_id, 100)
    with world.database.write() as connection:
        quota.give_back(connection, user_id, 100)

    take(world, user_id, 100)

    assert world.accounts.show(user_id).used_bytes == 100


def test_a_closed_account_takes_no_room(world: World) -> None:
    user_id = world.accounts.register(EMAIL, PASSWORD).id
    world.accounts.close(user_id, PASSWORD, None)

    with pytest.raises(InvalidTokenError):
        take(world, user_id, 1)


def test_of_twenty_that_want_the_last_place_at_once_one_gets_it(any_world: World) -> None:
    user_id = any_world.accounts.register(EMAIL, PASSWORD).id
    take(any_world, user_id, 90)

    results = at_once(20, lambda _: take(any_world, user_id, 10))

    assert Counter(type(result) for result in results) == {type(None): 1, QuotaExceededError: 19}
    assert any_world.accounts.show(user_id).used_bytes == 100
