"""API keys: every way one can fail, scopes, ends, last use, and the limit."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from app.accounts.api_keys import KEYS_PER_USER_MAX
from app.accounts.scopes import ADMIN_SCOPES, USER_SCOPES
from app.db.base import new_id
from app.errors import (
    ConflictError,
    InvalidTokenError,
    MissingScopeError,
    NotFoundError,
    ValidationFailedError,
)
from app.http.identity import Principal
from tests.accounts.world import CLIENT, EMAIL, PASSWORD, World, at_once, in_days
from tests.fakes.clocks import HandClock


def owner_of(world: World, email: str = EMAIL, *, is_admin: bool = False) -> Principal:
    world.accounts.create(email, PASSWORD, is_admin=is_admin)
    return world.authenticator.authenticate(world.sessions.log_in(email, PASSWORD, CLIENT).access_token)


@pytest.fixture
def owner(world: World) -> Principal:
    return owner_of(world)


def last_use(world: World, owner: Principal) -> object:
    return world.api_keys.of_user(owner.user_id)[0].last_used_at


def test_a_key_authenticates_its_user_with_its_scopes_only(world: World, owner: Principal, clock: HandClock) -> None:
    record, key = world.api_keys.create(owner, "script", ["photos:write", "photos:read"], in_days(clock, 30))

    principal = world.authenticator.authenticate(key)

    assert principal.user_id == owner.user_id
    assert principal.scopes == {"photos:read", "photos:write"}
    assert (principal.session_id, principal.api_key_id) == (None, record.id)
    assert key.startswith(record.key_prefix)


def test_a_key_has_the_form_of_the_design_and_only_its_hash_is_kept(
    world: World, owner: Principal, clock: HandClock
) -> None:
    _, key = world.api_keys.create(owner, "script", ["photos:read"], in_days(clock, 30))
    prefix, key_id, secret = key.split("_", 2)

    with world.database.read() as connection:
        row = str(connection.exec_driver_sql("SELECT * FROM api_keys").all())

    assert (prefix, len(key_id), len(secret)) == ("pk", 8, 43)
    assert secret not in row


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: key[:12] + ("A" if key[12] != "A" else "B") + key[13:],
        lambda key: "pk_aaaaaaaa" + key[11:],
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key + "\n",
        lambda key: key.upper(),
        lambda key: key.replace("pk_", "pk-"),
        lambda key: key[:12],
        lambda key: key[:12] + "A" * 43,
        lambda _: "pk_",
        lambda _: "pk_" + "é" * 8 + "_" + "é" * 43,
        lambda _: "pk_" + "A" * 10_000,
    ],
)
def test_a_key_that_is_not_exactly_right_is_refused(
    world: World, owner: Principal, clock: HandClock, *, change: object, is_known: bool
) -> None:
    _, key = world.api_keys.create(owner, "script", ["photos:read"], in_days(clock, 30))
    if is_known:
        world.authenticator.authenticate(key)

    with pytest.raises(InvalidTokenError):
        world.authenticator.authenticate(change(key))  # type: ignore[operator]  # a function of the table


def test_a_key_stops_at_its_end_also_when_it_is_believed(world: World, owner: Principal, clock: HandClock) -> None:
    _, key = world.api_keys.create(owner, "script", ["photos:read"], in_days(clock, 2 / 86_400))
    clock.advance(1)
    world.authenticator.authenticate(key)

    clock.advance(1)

    with pytest.raises(InvalidTokenError, match="expired"):
        world.authenticator.authenticate(key)


@pytest.mark.parametrize("days", [-1, 0, 366.01, 4000])
def test_a_key_must_end_within_a_year(world: World, owner: Principal, clock: HandClock, days: float) -> None:
    with pytest.raises(ValidationFailedError):
        world.api_keys.create(owner, "script", ["photos:read"], in_days(clock, days))

    assert world.api_keys.of_user(owner.user_id) == []


@pytest.mark.parametrize("scope", sorted(ADMIN_SCOPES))
def test_a_user_makes_no_key_with_admin_scopes(world: World, owner: Principal, clock: HandClock, scope: str) -> None:
    with pytest.raises(MissingScopeError):
        world.api_keys.create(owner, "script", ["photos:read", scope], in_days(clock, 1))


def test_a_key_makes_no_key_that_can_do_more(world: World, owner: Principal, clock: HandClock) -> None:
    _, key = world.api_keys.create(owner, "maker", ["keys:manage", "photos:read"], in_days(clock, 1))
    maker = world.authenticator.authenticate(key)

    with pytest.raises(MissingScopeError):
        world.api_keys.create(maker, "more", ["photos:read", "photos:write"], in_days(clock, 1))
    _, child = world.api_keys.create(maker, "same", ["photos:read"], in_days(clock, 1))

    assert world.authenticator.authenticate(child).scopes == {"photos:read"}


def test_a_key_loses_what_its_owner_may_no_longer_do(world: World, clock: HandClock) -> None:
    owner = owner_of(world, is_admin=True)
    _, key = world.api_keys.create(owner, "ops", ["admin:ops", "photos:read"], in_days(clock, 1))
    before = world.authenticator.authenticate(key).scopes
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE users SET is_admin = false")

    clock.advance(5)

    assert before == {"admin:ops", "photos:read"}
    assert world.authenticator.authenticate(key).scopes == {"photos:read"}
    assert owner.scopes == USER_SCOPES | ADMIN_SCOPES


def test_a_deleted_key_stops_at_once(world: World, owner: Principal, clock: HandClock) -> None:
    record, key = world.api_keys.create(owner, "script", ["photos:read"], in_days(clock, 30))
    world.authenticator.authenticate(key)

    world.api_keys.delete(owner.user_id, record.id)

    with pytest.raises(InvalidTokenError):
        world.authenticator.authenticate(key)


def test_another_users_key_is_not_found_and_stays(world: World, owner: Principal, clock: HandClock) -> None:
    record, key = world.api_keys.create(owner, "script", ["photos:read"], in_days(clock, 30))
    other = owner_of(world, "bob@example.org")

    details = []
    for one in (record.id, new_id()):
        with pytest.raises(NotFoundError) as refused:
            world.api_keys.delete(other.user_id, one)
        details.append(refused.value.detail)

    assert details[0] == details[1]
    assert world.api_keys.of_user(other.user_id) == []
    assert world.authenticator.authenticate(key).user_id == owner.user_id


def test_the_last_use_is_noted_at_most_once_a_minute(world: World, owner: Principal, clock: HandClock) -> None:
    _, key = world.api_keys.create(owner, "script", ["photos:read"], in_days(clock, 30))
    other = World(world.database, world.ring_path, clock)
    unused = last_use(world, owner)

    world.authenticator.authenticate(key)
    first, first_at = last_use(world, owner), clock()
    clock.advance(59)
    world.authenticator.authenticate(key)
    other.authenticator.authenticate(key)
    second = last_use(world, owner)
    clock.advance(1)
    world.authenticator.authenticate(key)

    assert unused is None
    assert first == second == first_at
    assert last_use(world, owner) == clock()


def test_a_use_that_cannot_be_noted_fails_no_request(
    world: World, owner: Principal, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    _, key = world.api_keys.create(owner, "script", ["photos:read"], in_days(clock, 30))
    with world.database.write() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER broken BEFORE UPDATE ON api_keys BEGIN SELECT raise(FAIL, 'no'); END"
        )
        connection.exec_driver_sql("ALTER TABLE api_keys RENAME COLUMN last_used_at TO gone")

    with caplog.at_level(logging.WARNING):
        principal = world.authenticator.authenticate(key)

    assert principal.user_id == owner.user_id
    assert "could not be noted" in caplog.text
    assert key not in caplog.text


def test_the_limit_holds_when_the_last_keys_are_made_at_once(any_world: World, clock: HandClock) -> None:
    owner = owner_of(any_world)
    for _ in range(KEYS_PER_USER_MAX - 2):
        any_world.api_keys.create(owner, "script", ["photos:read"], in_days(clock, 1))

    results = at_once(8, lambda _: any_world.api_keys.create(owner, "last", ["photos:read"], in_days(clock, 1)))

    assert Counter(type(result) for result in results) == {tuple: 2, ConflictError: 6}
    assert len(any_world.api_keys.of_user(owner.user_id)) == KEYS_PER_USER_MAX
