"""Accounts: registration, password change, closing, and the races between them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from app.accounts.emails import normalize_email
from app.accounts.service import Account
from app.accounts.sessions import Client
from app.db.engine import Database
from app.errors import (
    ConflictError,
    InvalidCredentialsError,
    InvalidTokenError,
    PermissionDeniedError,
    RegistrationClosedError,
    TooManyRequestsError,
    ValidationFailedError,
)
from tests.accounts.world import CLIENT, EMAIL, PASSWORD, World, at_once, in_days
from tests.fakes.clocks import HandClock

NEW_PASSWORD = "another lighthouse, in the sun"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Ada@Example.ORG", "ada@example.org"),
        ("ada@münchen.example", "ada@xn--mnchen-3ya.example"),
        ("É@example.org", "é@example.org"),
        ("e\u0301@example.org", "é@example.org"),
        ("me@nas", "me@nas"),
    ],
)
def test_an_address_is_kept_in_one_form(given: str, kept: str) -> None:
    assert normalize_email(given) == kept
    assert normalize_email(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "a b@example.org",
        "ada@example.org\n",
        "ada@exa\0mple.org",
        "ada@example.org, bob@example.org",
        "<ada@example.org>",
        "ada@[127.0.0.1]",
        "x" * 65 + "@example.org",
        "\u202eada@example.org",
        "é" * 40 + "@" + ".".join(["é" * 50] * 5),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an e-mail address|must have at most"):
        normalize_email(text)


def test_an_account_starts_empty_with_the_default_quota(world: World) -> None:
    account = world.accounts.register(EMAIL, PASSWORD)

    assert world.accounts.show(account.id) == account
    assert (account.quota_bytes, account.used_bytes, account.is_admin) == (1_000_000, 0, False)


def test_registration_may_be_closed_but_not_to_the_administrator(
    database: Database, tmp_path: Path, clock: HandClock
) -> None:
    world = World(database, tmp_path / "ring.json", clock, is_registration_open=False)

    with pytest.raises(RegistrationClosedError):
        world.accounts.register(EMAIL, PASSWORD)

    assert world.accounts.create(EMAIL, PASSWORD, is_admin=True).is_admin


def test_a_taken_address_is_a_conflict(world: World) -> None:
    world.accounts.register(EMAIL, PASSWORD)

    with pytest.raises(ConflictError):
        world.accounts.register(EMAIL, "something else entirely")


def test_a_refused_password_makes_no_account(world: World) -> None:
    with pytest.raises(ValidationFailedError):
        world.accounts.register(EMAIL, "password")

    assert world.accounts.register(EMAIL, PASSWORD).email == EMAIL


def test_of_twenty_registrations_at_once_one_wins(any_world: World) -> None:
    results = at_once(20, lambda _: any_world.accounts.register(EMAIL, PASSWORD))

    assert Counter(type(result) for result in results) == {Account: 1, ConflictError: 19}


def test_a_password_change_ends_all_sessions_and_spares_api_keys(world: World, clock: HandClock) -> None:
    account = world.accounts.register(EMAIL, PASSWORD)
    pairs = [world.sessions.log_in(EMAIL, PASSWORD, CLIENT) for _ in range(2)]
    principal = world.authenticator.authenticate(pairs[0].access_token)
    _, key = world.api_keys.create(principal, "script", ["photos:read"], in_days(clock, 1))

    world.accounts.change_password(account.id, PASSWORD, NEW_PASSWORD, None)

    for pair in pairs:
        with pytest.raises(InvalidTokenError):
            world.authenticator.authenticate(pair.access_token)
        with pytest.raises(InvalidTokenError):
            world.sessions.refresh(pair.refresh_token)
    assert world.authenticator.authenticate(key).user_id == account.id
    with pytest.raises(InvalidCredentialsError):
        world.sessions.log_in(EMAIL, PASSWORD, CLIENT)
    assert world.sessions.log_in(EMAIL, NEW_PASSWORD, CLIENT).access_token


def test_a_token_from_before_a_password_change_is_refused_by_its_version_alone(world: World) -> None:
    """Even if its session were alive: the version in the token is older than the user's."""
    account = world.accounts.register(EMAIL, PASSWORD)
    pair = world.sessions.log_in(EMAIL, PASSWORD, CLIENT)
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE users SET token_version = token_version + 1")

    with pytest.raises(InvalidTokenError):
        world.authenticator.authenticate(pair.access_token)
    assert world.sessions.living(account.id)


def test_a_wrong_present_password_changes_nothing_and_is_counted(world: World) -> None:
    account = world.accounts.register(EMAIL, PASSWORD)
    pair = world.sessions.log_in(EMAIL, PASSWORD, CLIENT)

    for _ in range(5):
        with pytest.raises(PermissionDeniedError):
            world.accounts.change_password(account.id, "wrong password", NEW_PASSWORD, "192.0.2.1")
    with pytest.raises(TooManyRequestsError):
        world.accounts.change_password(account.id, PASSWORD, NEW_PASSWORD, "192.0.2.1")

    assert world.authenticator.authenticate(pair.access_token).user_id == account.id


def test_a_new_password_is_judged_like_a_first_one(world: World) -> None:
    account = world.accounts.register(EMAIL, PASSWORD)

    with pytest.raises(ValidationFailedError) as refused:
        world.accounts.change_password(account.id, PASSWORD, "password1", None)

    assert refused.value.errors[0]["pointer"] == "/new_password"


def test_a_closed_account_is_gone_at_once_and_its_address_free(world: World, clock: HandClock) -> None:
    account = world.accounts.register(EMAIL, PASSWORD)
    pair = world.sessions.log_in(EMAIL, PASSWORD, CLIENT)
    principal = world.authenticator.authenticate(pair.access_token)
    _, key = world.api_keys.create(principal, "script", ["photos:read"], in_days(clock, 1))
    world.authenticator.authenticate(key)

    world.accounts.close(account.id, PASSWORD, None)

    for credential in (pair.access_token, key):
        with pytest.raises(InvalidTokenError):
            world.authenticator.authenticate(credential)
    with pytest.raises(InvalidTokenError):
        world.sessions.refresh(pair.refresh_token)
    with pytest.raises(InvalidTokenError):
        world.accounts.show(account.id)
    with pytest.raises(InvalidTokenError):
        world.accounts.close(account.id, PASSWORD, None)
    assert world.accounts.register(EMAIL, PASSWORD).id != account.id


def test_a_closed_account_waits_for_the_maintenance_thread_without_address_or_password(world: World) -> None:
    account = world.accounts.register(EMAIL, PASSWORD)

    world.accounts.close(account.id, PASSWORD, None)

    with world.database.read() as connection:
        row = connection.exec_driver_sql("SELECT email, password_hash, deleted_at FROM users").one()
    assert EMAIL not in row.email
    assert row.password_hash == "!"
    assert row.deleted_at is not None


def test_a_closed_accounts_kept_row_cannot_log_in(world: World) -> None:
    account = world.accounts.register(EMAIL, PASSWORD)
    world.accounts.close(account.id, PASSWORD, None)

    for password in ("!", PASSWORD):
        with pytest.raises(InvalidCredentialsError):
            world.sessions.log_in(f"{account.id}@closed.invalid", password, CLIENT)


def test_closing_needs_the_password(world: World) -> None:
    account = world.accounts.register(EMAIL, PASSWORD)

    with pytest.raises(PermissionDeniedError):
        world.accounts.close(account.id, "wrong password", None)

    assert world.accounts.show(account.id).email == EMAIL


def test_logins_and_keys_made_while_the_account_is_closed_do_not_outlive_it(
    any_world: World, clock: HandClock
) -> None:
    account = any_world.accounts.register(EMAIL, PASSWORD)
    principal = any_world.authenticator.authenticate(any_world.sessions.log_in(EMAIL, PASSWORD, CLIENT).access_token)

    def run(number: int) -> object:
        if number == 0:
            any_world.accounts.close(account.id, PASSWORD, None)
            return None
        if number % 2:
            return any_world.sessions.log_in(EMAIL, PASSWORD, Client(None)).access_token
        return any_world.api_keys.create(principal, "late", ["photos:read"], in_days(clock, 1))[1]

    results = at_once(9, run)

    assert results[0] is None
    assert any_world.sessions.living(account.id) == []
    assert any_world.api_keys.of_user(account.id) == []
    for credential in results:
        if isinstance(credential, str):
            with pytest.raises(InvalidTokenError):
                any_world.authenticator.authenticate(credential)
