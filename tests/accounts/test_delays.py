"""Login delays: the steps, the decay, who is counted, and that guessing in parallel gains nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from app.accounts.delays import LoginDelays, account_subject, address_subject, login_subjects
from app.accounts.sessions import Client
from app.db.engine import Database
from app.errors import InvalidCredentialsError, TooManyRequestsError
from tests.accounts.world import CLIENT, EMAIL, PASSWORD, CountingHashing, World, at_once
from tests.fakes.clocks import HandClock


def wait_after_failure(delays: LoginDelays, subject: str) -> float:
    delays.count_failure([subject])
    try:
        delays.require_patience([subject])
    except TooManyRequestsError as error:
        return error.retry_after_seconds or -1
    return 0.0


def test_after_five_failures_the_delay_doubles_to_five_minutes(database: Database, clock: HandClock) -> None:
    delays = LoginDelays(database, clock)

    waits = []
    for _ in range(16):
        waits.append(wait_after_failure(delays, account_subject(EMAIL)))
        clock.advance(waits[-1])

    assert waits[:13] == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert max(waits) == 300


def test_nobody_is_locked_out_for_good(database: Database, clock: HandClock) -> None:
    delays = LoginDelays(database, clock)
    for _ in range(100):
        clock.advance(wait_after_failure(delays, account_subject(EMAIL)))

    delays.require_patience([account_subject(EMAIL)])
    clock.advance(300 * 14)

    assert [wait_after_failure(delays, account_subject(EMAIL)) for _ in range(5)] == [0, 0, 0, 0, 1]


def test_one_failure_is_forgiven_every_five_minutes(database: Database, clock: HandClock) -> None:
    delays = LoginDelays(database, clock)
    for _ in range(4):
        wait_after_failure(delays, account_subject(EMAIL))

    clock.advance(300)

    assert [wait_after_failure(delays, account_subject(EMAIL)) for _ in range(2)] == [0, 1]


def test_a_clock_that_goes_back_forgives_nothing_and_counts_nothing_twice(
    database: Database, clock: HandClock
) -> None:
    delays = LoginDelays(database, clock)
    for _ in range(3):
        wait_after_failure(delays, account_subject(EMAIL))

    clock.advance(-3600)

    assert [wait_after_failure(delays, account_subject(EMAIL)) for _ in range(2)] == [0, 1]


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("192.0.2.1", "192.0.2.254", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("192.0.2.1", "::ffff:192.0.2.9", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_addresses_are_counted_by_their_network(one: str, other: str, together: bool) -> None:
    assert (address_subject(one) == address_subject(other)) is together


@pytest.mark.parametrize("address", [None, "", "unix:", "not an address"])
def test_without_an_address_only_the_account_is_counted(address: str | None) -> None:
    assert login_subjects(EMAIL, address) == (account_subject(EMAIL),)


def test_names_are_kept_as_hashes(world: World) -> None:
    with pytest.raises(InvalidCredentialsError):
        world.sessions.log_in(EMAIL, PASSWORD, CLIENT)

    with world.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM login_delays").all()

    assert len(rows) == 2
    assert EMAIL not in str(rows)
    assert "192.0.2" not in str(rows)


def fail(world: World, times: int, email: str = EMAIL, client: Client = CLIENT) -> None:
    for _ in range(times):
        with pytest.raises(InvalidCredentialsError):
            world.sessions.log_in(email, "wrong password", client)


def test_the_right_password_must_wait_too_and_then_passes(world: World, clock: HandClock) -> None:
    world.accounts.register(EMAIL, PASSWORD)
    fail(world, 5)
    before = world.passwords.verify(None, "x")

    with pytest.raises(TooManyRequestsError) as refused:
        world.sessions.log_in(EMAIL, PASSWORD, CLIENT)
    clock.advance(1)
    pair = world.sessions.log_in(EMAIL, PASSWORD, CLIENT)

    assert before is False
    assert refused.value.retry_after_seconds == 1
    assert pair.access_token


def test_a_delayed_attempt_costs_no_hash(world: World, hashing: CountingHashing) -> None:
    fail(world, 5)
    before = hashing.checks

    with pytest.raises(TooManyRequestsError):
        world.sessions.log_in(EMAIL, PASSWORD, CLIENT)

    assert hashing.checks == before


def test_an_unknown_account_is_delayed_like_a_known_one(world: World) -> None:
    fail(world, 5, "nobody@example.org")

    with pytest.raises(TooManyRequestsError):
        world.sessions.log_in("nobody@example.org", PASSWORD, Client("198.51.100.1"))


def test_a_success_resets_the_account_but_not_the_address(world: World, clock: HandClock) -> None:
    world.accounts.register(EMAIL, PASSWORD)
    fail(world, 4)
    world.sessions.log_in(EMAIL, PASSWORD, CLIENT)

    fail(world, 1, "bob@example.org", Client("192.0.2.99"))

    world.sessions.log_in(EMAIL, PASSWORD, Client("198.51.100.1"))
    with pytest.raises(TooManyRequestsError):
        world.sessions.log_in(EMAIL, PASSWORD, CLIENT)


def test_another_worker_knows_the_delay(world: World, clock: HandClock) -> None:
    other = World(world.database, world.ring_path, clock)
    fail(world, 5)

    with pytest.raises(TooManyRequestsError):
        other.sessions.log_in(EMAIL, PASSWORD, CLIENT)


def test_of_twenty_guesses_at_once_five_learn_their_result(any_world: World) -> None:
    any_world.accounts.register(EMAIL, PASSWORD)

    results = at_once(20, lambda n: any_world.sessions.log_in(EMAIL, f"wrong {n}", Client(None)))

    assert Counter(type(result) for result in results) == {InvalidCredentialsError: 5, TooManyRequestsError: 15}


def test_first_attempts_at_once_are_counted_or_delayed_and_none_fails_by_the_others(any_world: World) -> None:
    def count(number: int) -> None:
        names = [account_subject(f"{number // 10}@example.com"), account_subject(f"{number // 10}@example.org")]
        any_world.delays.count_failure(names)

    results = at_once(50, count)  # ten each at five pairs of names that nobody has tried

    assert Counter(type(result) for result in results) == {type(None): 25, TooManyRequestsError: 25}


def test_a_right_guess_beside_wrong_ones_that_began_a_delay_is_not_told(
    any_world: World, hashing: CountingHashing
) -> None:
    """The right one is held at its hash until five others have failed."""
    any_world.accounts.register(EMAIL, PASSWORD)
    hashing.gate.clear()

    def guess(number: int) -> object:
        if number == 0:
            return any_world.sessions.log_in(EMAIL, PASSWORD, Client(None))
        assert hashing.arrived.acquire(timeout=30)
        for _ in range(5):
            any_world.delays.count_failure([account_subject(EMAIL)])
        hashing.gate.set()
        return None

    result, _ = at_once(2, guess)

    assert isinstance(result, TooManyRequestsError)
    assert any_world.sessions.living(any_world.accounts.create("b@example.org", PASSWORD).id) == []


def test_twenty_right_logins_at_once_all_pass(any_world: World) -> None:
    account = any_world.accounts.register(EMAIL, PASSWORD)

    results = at_once(20, lambda _: any_world.sessions.log_in(EMAIL, PASSWORD, CLIENT))

    assert [result for result in results if isinstance(result, Exception)] == []
    assert len(any_world.sessions.living(account.id)) == 20


def test_counts_that_time_has_brought_to_zero_are_purged(world: World, clock: HandClock) -> None:
    fail(world, 1)

    early = world.delays.purge()
    clock.advance(300 * 14 + 1)

    assert early == 0
    assert world.delays.purge() == 2
