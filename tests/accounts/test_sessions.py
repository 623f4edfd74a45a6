"""Sessions: login, rotation of refresh tokens, reuse, ends, and the races between them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app.accounts.keyring import REFRESH
from app.accounts.passwords import Argon2id
from app.accounts.ring_file import rotate_ring_file
from app.accounts.sessions import Client, TokenPair
from app.db.base import new_id
from app.db.engine import Database
from app.errors import InvalidCredentialsError, InvalidTokenError, NotFoundError
from tests.accounts.world import CLIENT, EMAIL, PASSWORD, CountingHashing, World, at_once
from tests.fakes.clocks import HandClock

NEW_PASSWORD = "another lighthouse, in the sun"


@pytest.fixture
def pair(world: World) -> TokenPair:
    world.accounts.register(EMAIL, PASSWORD)
    return world.sessions.log_in(EMAIL, PASSWORD, CLIENT)


def is_good(world: World, pair: TokenPair) -> bool:
    try:
        world.authenticator.authenticate(pair.access_token)
    except InvalidTokenError:
        return False
    return True


def test_a_login_gives_a_token_that_authenticates(world: World, pair: TokenPair) -> None:
    principal = world.authenticator.authenticate(pair.access_token)

    assert world.accounts.show(principal.user_id).email == EMAIL
    assert principal.session_id == world.sessions.living(principal.user_id)[0].id
    assert pair.expires_in == 600


@pytest.mark.parametrize("email", [EMAIL, "nobody@example.org"])
def test_an_unknown_user_gets_the_same_answer_after_the_same_work(
    world: World, hashing: CountingHashing, email: str
) -> None:
    world.accounts.register(EMAIL, PASSWORD)
    before = (hashing.hashes, hashing.checks)

    with pytest.raises(InvalidCredentialsError) as refused:
        world.sessions.log_in(email, "wrong password", CLIENT)

    assert (hashing.hashes, hashing.checks) == (before[0], before[1] + 1)
    assert refused.value.detail == "The e-mail address or the password is wrong."


def test_a_login_hashes_anew_when_the_parameters_have_changed(database: Database, tmp_path: Path) -> None:
    clock = HandClock()
    path = tmp_path / "ring.json"
    World(database, path, clock, hashing=Argon2id(16)).accounts.register(EMAIL, PASSWORD)
    today = World(database, path, clock, hashing=Argon2id(64))

    today.sessions.log_in(EMAIL, PASSWORD, CLIENT)
    with database.read() as connection:
        kept = connection.exec_driver_sql("SELECT password_hash FROM users").scalar_one()
    today.sessions.log_in(EMAIL, PASSWORD, CLIENT)

    assert "$m=64,t=1,p=1$" in kept


def test_a_refresh_uses_the_token_up_and_gives_the_next(world: World, pair: TokenPair) -> None:
    following = world.sessions.refresh(pair.refresh_token)

    assert following.refresh_token != pair.refresh_token
    assert is_good(world, following)
    assert world.sessions.refresh(following.refresh_token).refresh_token != following.refresh_token


def test_no_token_stands_in_the_database(world: World, pair: TokenPair) -> None:
    following = world.sessions.refresh(pair.refresh_token)

    with world.database.read() as connection:
        rows = str(connection.exec_driver_sql("SELECT * FROM refresh_tokens").all())

    assert len(pair.refresh_token) == 46
    assert pair.refresh_token[3:] not in rows
    assert following.refresh_token[3:] not in rows


def test_a_double_submit_within_ten_seconds_gets_the_same_successor(
    world: World, pair: TokenPair, clock: HandClock
) -> None:
    first = world.sessions.refresh(pair.refresh_token)
    clock.advance(10)

    second = world.sessions.refresh(pair.refresh_token)

    assert second.refresh_token == first.refresh_token
    assert is_good(world, second)


def test_a_double_submit_is_answered_by_another_worker_and_across_a_rotation(
    world: World, pair: TokenPair, clock: HandClock
) -> None:
    first = world.sessions.refresh(pair.refresh_token)
    rotate_ring_file(world.ring_path, [REFRESH], overlap_seconds=60, delay_seconds=0, now=clock)
    clock.advance(2)
    other = World(world.database, world.ring_path, clock)

    assert other.sessions.refresh(pair.refresh_token).refresh_token == first.refresh_token


def test_a_refresh_token_used_again_later_ends_its_session_and_is_logged(
    world: World, pair: TokenPair, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    following = world.sessions.refresh(pair.refresh_token)
    elsewhere = world.sessions.log_in(EMAIL, PASSWORD, CLIENT)
    assert is_good(world, following)
    clock.advance(11)

    with caplog.at_level(logging.WARNING), pytest.raises(InvalidTokenError):
        world.sessions.refresh(pair.refresh_token)

    assert not is_good(world, following)
    with pytest.raises(InvalidTokenError):
        world.sessions.refresh(following.refresh_token)
    assert is_good(world, elsewhere)
    assert "used twice" in caplog.text
    assert pair.refresh_token not in caplog.text


def test_a_refresh_token_whose_successor_was_used_is_reuse_even_within_ten_seconds(
    world: World, pair: TokenPair
) -> None:
    following = world.sessions.refresh(pair.refresh_token)
    last = world.sessions.refresh(following.refresh_token)

    with pytest.raises(InvalidTokenError):
        world.sessions.refresh(pair.refresh_token)

    assert not is_good(world, last)


def test_a_double_submit_whose_key_was_taken_away_ends_nothing(
    world: World, pair: TokenPair, clock: HandClock
) -> None:
    following = world.sessions.refresh(pair.refresh_token)
    rotate_ring_file(world.ring_path, [REFRESH], overlap_seconds=0, delay_seconds=0, now=clock)
    clock.advance(2)

    with pytest.raises(InvalidTokenError):
        world.sessions.refresh(pair.refresh_token)

    assert is_good(world, world.sessions.refresh(following.refresh_token))


@pytest.mark.parametrize(("idle_days", "holds"), [(6.9, True), (7, False)])
def test_an_unused_refresh_token_ends_after_seven_days(
    world: World,
    pair: TokenPair,
    clock: HandClock,
    idle_days: float,
    holds: bool,
) -> None:
    clock.advance(idle_days * 86_400)

    if holds:
        assert is_good(world, world.sessions.refresh(pair.refresh_token))
    else:
        with pytest.raises(InvalidTokenError):
            world.sessions.refresh(pair.refresh_token)


def test_a_session_ends_after_thirty_days_however_often_it_is_refreshed(
    world: World, pair: TokenPair, clock: HandClock
) -> None:
    for _ in range(5):
        clock.advance(5 * 86_400)
        pair = world.sessions.refresh(pair.refresh_token)
    clock.advance(5 * 86_400 - 1)
    pair = world.sessions.refresh(pair.refresh_token)
    was_good = is_good(world, pair)

    clock.advance(1)

    assert was_good
    assert not is_good(world, pair)
    with pytest.raises(InvalidTokenError):
        world.sessions.refresh(pair.refresh_token)


@pytest.mark.parametrize(
    "token", ["", "rt_", "rt_" + "A" * 43, "x" * 46, "rt_" + "é" * 43, "pk_aaaaaaaa_" + "A" * 43]
)
def test_an_unknown_refresh_token_is_refused_and_logs_out_nobody(world: World, pair: TokenPair, token: str) -> None:
    with pytest.raises(InvalidTokenError):
        world.sessions.refresh(token)
    world.sessions.log_out(token)

    assert is_good(world, pair)


def test_a_refresh_token_is_no_access_token_and_the_other_way_round(world: World, pair: TokenPair) -> None:
    with pytest.raises(InvalidTokenError):
        world.authenticator.authenticate(pair.refresh_token)
    with pytest.raises(InvalidTokenError):
        world.sessions.refresh(pair.access_token)


def test_logging_out_ends_one_session_at_once(world: World, pair: TokenPair) -> None:
    other = world.sessions.log_in(EMAIL, PASSWORD, CLIENT)
    assert is_good(world, pair)

    world.sessions.log_out(pair.refresh_token)

    assert not is_good(world, pair)
    assert is_good(world, other)
    with pytest.raises(InvalidTokenError):
        world.sessions.refresh(pair.refresh_token)


def test_ending_all_sessions_spares_other_users(world: World, pair: TokenPair) -> None:
    world.accounts.register("bob@example.org", PASSWORD)
    bob = world.sessions.log_in("bob@example.org", PASSWORD, CLIENT)
    user_id = world.authenticator.authenticate(pair.access_token).user_id

    world.sessions.end_all(user_id)

    assert not is_good(world, pair)
    assert is_good(world, bob)
    assert world.sessions.living(user_id) == []


def test_another_users_session_is_not_found_and_stays(world: World, pair: TokenPair) -> None:
    bob = world.accounts.register("bob@example.org", PASSWORD)
    session_id = world.authenticator.authenticate(pair.access_token).session_id
    assert session_id is not None

    details = []
    for one in (session_id, new_id()):
        with pytest.raises(NotFoundError) as refused:
            world.sessions.end(bob.id, one)
        details.append(refused.value.detail)

    assert details[0] == details[1]
    assert is_good(world, pair)


def test_a_session_that_has_ended_cannot_be_ended_again(world: World, pair: TokenPair) -> None:
    principal = world.authenticator.authenticate(pair.access_token)
    assert principal.session_id is not None
    world.sessions.end(principal.user_id, principal.session_id)

    with pytest.raises(NotFoundError):
        world.sessions.end(principal.user_id, principal.session_id)


def test_another_worker_believes_an_ended_session_for_five_seconds_at_the_most(
    world: World, pair: TokenPair, clock: HandClock
) -> None:
    other = World(world.database, world.ring_path, clock)
    assert is_good(other, pair)
    world.sessions.log_out(pair.refresh_token)

    clock.advance(5)

    assert not is_good(other, pair)


def test_without_a_cache_an_end_holds_at_once_everywhere(world: World, pair: TokenPair, clock: HandClock) -> None:
    other = World(world.database, world.ring_path, clock, cache_seconds=0)
    assert is_good(other, pair)

    world.sessions.log_out(pair.refresh_token)

    assert not is_good(other, pair)


def test_a_reading_under_way_during_an_end_is_not_believed(world: World, pair: TokenPair) -> None:
    principal = world.authenticator.authenticate(pair.access_token)
    assert principal.session_id is not None
    known = world.principals.session(principal.session_id)
    changes = world.principals.changes
    assert known is not None
    world.sessions.end_all(principal.user_id)

    world.principals.keep_session(principal.session_id, known, changes)

    assert not is_good(world, pair)


def test_the_name_of_the_device_is_kept_short_and_clean(world: World, pair: TokenPair) -> None:
    user_id = world.authenticator.authenticate(pair.access_token).user_id

    world.sessions.log_in(EMAIL, PASSWORD, Client(None, "a\x00b\r\n\x1b[31m" + "x" * 300))
    shown = world.sessions.living(user_id)[0].user_agent

    assert shown.startswith("a b [31mx")
    assert len(shown) == 200


def test_sessions_nobody_can_use_any_more_are_not_listed(world: World, pair: TokenPair, clock: HandClock) -> None:
    user_id = world.authenticator.authenticate(pair.access_token).user_id

    clock.advance(7 * 86_400)

    assert world.sessions.living(user_id) == []


def test_the_purge_takes_what_is_over_and_nothing_else(world: World, pair: TokenPair, clock: HandClock) -> None:
    ended = world.sessions.log_in(EMAIL, PASSWORD, CLIENT)
    world.sessions.log_out(ended.refresh_token)
    early = world.sessions.purge()
    clock.advance(86_400)
    revoked = world.sessions.purge()
    pair = world.sessions.refresh(pair.refresh_token)
    clock.advance(30 * 86_400)

    rest = world.sessions.purge()

    assert (early, revoked) == (0, 1)
    assert rest == 3  # two tokens and the session
    with world.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM refresh_tokens").scalar_one() == 0


# Races, on SQLite and PostgreSQL.


def test_a_refresh_token_sent_twenty_times_at_once_has_one_successor(any_world: World) -> None:
    any_world.accounts.register(EMAIL, PASSWORD)
    pair = any_world.sessions.log_in(EMAIL, PASSWORD, CLIENT)

    results = at_once(20, lambda _: any_world.sessions.refresh(pair.refresh_token))

    assert [result for result in results if isinstance(result, Exception)] == []
    assert len({result.refresh_token for result in results if isinstance(result, TokenPair)}) == 1
    with any_world.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM refresh_tokens").scalar_one() == 2


def test_reuse_and_refresh_at_once_end_the_session_whoever_wins(any_world: World, clock: HandClock) -> None:
    any_world.accounts.register(EMAIL, PASSWORD)
    old = any_world.sessions.log_in(EMAIL, PASSWORD, CLIENT)
    new = any_world.sessions.refresh(old.refresh_token)
    clock.advance(11)

    results = at_once(2, lambda n: any_world.sessions.refresh((old, new)[n].refresh_token))

    assert isinstance(results[0], InvalidTokenError)
    if isinstance(results[1], TokenPair):
        assert not is_good(any_world, results[1])
        with pytest.raises(InvalidTokenError):
            any_world.sessions.refresh(results[1].refresh_token)


def test_a_login_checked_before_a_password_change_begins_no_session_after_it(
    any_world: World, hashing: CountingHashing
) -> None:
    account = any_world.accounts.register(EMAIL, PASSWORD)
    hashing.gate.clear()

    def run(number: int) -> object:
        if number == 0:
            return any_world.sessions.log_in(EMAIL, PASSWORD, CLIENT)
        assert hashing.arrived.acquire(timeout=30)  # the login has read the old hash and is being checked
        _change_password(any_world, account.email)
        hashing.gate.set()
        return None

    login, change = at_once(2, run)

    assert change is None
    assert isinstance(login, InvalidCredentialsError)
    assert any_world.sessions.living(account.id) == []


def _change_password(world: World, email: str) -> None:
    """Change it as another worker would, past the gate of this one."""
    other = World(world.database, world.ring_path, world.clock)
    user_id = other.authenticator.authenticate(other.sessions.log_in(email, PASSWORD, CLIENT).access_token).user_id
    other.accounts.change_password(user_id, PASSWORD, NEW_PASSWORD, None)


def test_logins_and_a_password_change_at_once_leave_no_session_of_the_old_password(any_world: World) -> None:
    account = any_world.accounts.register(EMAIL, PASSWORD)

    def run(number: int) -> object:
        if number == 5:
            any_world.accounts.change_password(account.id, PASSWORD, NEW_PASSWORD, None)
            return None
        return any_world.sessions.log_in(EMAIL, PASSWORD, Client(None))

    results = at_once(10, run)

    assert results[5] is None
    assert any_world.sessions.living(account.id) == []
    assert not any(is_good(any_world, result) for result in results if isinstance(result, TokenPair))


def test_two_password_changes_at_once_let_one_win(any_world: World) -> None:
    account = any_world.accounts.register(EMAIL, PASSWORD)

    results = at_once(
        2, lambda n: any_world.accounts.change_password(account.id, PASSWORD, f"{NEW_PASSWORD} {n}", None)
    )

    winners = [number for number, result in enumerate(results) if result is None]
    assert len(winners) == 1
    assert any_world.sessions.log_in(EMAIL, f"{NEW_PASSWORD} {winners[0]}", CLIENT).access_token
