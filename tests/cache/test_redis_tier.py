"""Redis as a tier: what is late, poisoned, huge or slow is never served and never written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from app.cache.redis_tier import CHANNEL, PREFIX, RedisTier, connect, ping
from app.cache.tiers import ENTRY_BYTES_MAX, PoisonedEntryError, TierDownError, TierRefusedError, key_of
from app.stability.cache_tiers import Entry
from tests.fakes.clocks import HandClock
from tests.servers.product import until
from tests.servers.redis import RedisServer

STALE_SECONDS = 3600.0
NAME = "photo:1"
KEY = key_of(NAME, "a.0")
PLACE = PREFIX + NAME
PATIENT_SECONDS = 20.0
"""The time-out where nothing is to be late: a busy machine is no slow server."""
TIMEOUT_SECONDS = 0.5


class Plain:
    """Values are bytes; each begins with the name it is for."""

    def encode(self, value: Any) -> bytes:
        return bytes(value)

    def decode(self, name: str, raw: bytes) -> bytes:
        if not raw.startswith(name.encode()):
            raise PoisonedEntryError("another name")
        return raw


def tier_of(url: str, clock: HandClock, *, timeout_seconds: float = PATIENT_SECONDS) -> RedisTier:
    client = connect(url, timeout_seconds=timeout_seconds, max_connections=4)
    return RedisTier(client, Plain(), stale_seconds=STALE_SECONDS, clock=clock)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def tier(server: RedisServer, clock: HandClock) -> Iterator[RedisTier]:
    with closing(tier_of(server.url, clock)) as made:
        yield made


@pytest.fixture
def other(server: RedisServer, clock: HandClock) -> Iterator[RedisTier]:
    with closing(tier_of(server.url, clock)) as made:
        yield made


def keep(tier: RedisTier, content: bytes = b"photo:1 old", seconds: float = 300.0) -> None:
    """Do as the cache does: look, ask, keep."""
    tier.get(KEY)
    tier.put(KEY, Entry(KEY, content, seconds), seconds + STALE_SECONDS)


def test_what_one_keeps_the_other_finds_with_what_is_left_of_its_time(tier: RedisTier, other: RedisTier) -> None:
    keep(tier)

    found = other.get(key_of(NAME, "another stamp"))

    assert found is not None
    assert found.value == b"photo:1 old"
    assert 240.0 < found.fresh_seconds <= 300.0


def test_one_that_is_past_its_freshness_is_stale(tier: RedisTier, server: RedisServer) -> None:
    keep(tier)
    server.client.pexpire(PLACE, int((STALE_SECONDS - 10) * 1000))

    found = tier.get(KEY)

    assert found is not None
    assert -70.0 < found.fresh_seconds <= -10.0


def test_a_write_that_comes_after_a_change_is_not_written(tier: RedisTier, other: RedisTier) -> None:
    assert tier.get(KEY) is None  # and asks the database, which still has the old photo
    other.begin([NAME])
    other.settle([NAME])

    tier.put(KEY, Entry(KEY, b"photo:1 old", 300.0), 3900.0)

    assert other.get(KEY) is None


def test_a_plain_write_would_have_been_kept_there(server: RedisServer, other: RedisTier) -> None:
    other.settle([NAME])

    server.client.set(PLACE, b"photo:1 old", px=3_900_000)  # the control: without the script

    found = other.get(KEY)
    assert found is not None
    assert found.value == b"photo:1 old"


def test_a_write_that_comes_after_a_new_value_is_not_written(tier: RedisTier, other: RedisTier) -> None:
    assert tier.get(KEY) is None
    other.begin([NAME])
    other.settle([NAME])
    keep(other, b"photo:1 new")

    tier.put(KEY, Entry(KEY, b"photo:1 old", 300.0), 3900.0)

    found = other.get(KEY)
    assert found is not None
    assert found.value == b"photo:1 new"


def test_while_something_changes_nobody_writes_it(tier: RedisTier, other: RedisTier) -> None:
    other.begin([NAME])

    keep(tier)

    assert tier.get(KEY) is None


def test_after_a_change_the_new_value_is_kept(tier: RedisTier, other: RedisTier) -> None:
    keep(tier)
    other.begin([NAME])
    other.settle([NAME])

    keep(tier, b"photo:1 new")

    found = other.get(KEY)
    assert found is not None
    assert found.value == b"photo:1 new"


def test_a_fetch_that_took_too_long_is_not_written(tier: RedisTier, clock: HandClock) -> None:
    tier.get(KEY)
    clock.advance(31.0)

    tier.put(KEY, Entry(KEY, b"photo:1 old", 300.0), 3900.0)

    assert tier.get(KEY) is None


def test_who_has_not_looked_writes_nothing(tier: RedisTier, server: RedisServer) -> None:
    tier.put(KEY, Entry(KEY, b"photo:1 old", 300.0), 3900.0)

    assert not server.client.exists(PLACE)


def test_what_is_not_there_any_more_is_forgotten_and_what_never_was_leaves_no_trace(
    tier: RedisTier, server: RedisServer
) -> None:
    keep(tier)
    tier.get(KEY)
    tier.remove(KEY)
    gone = tier.get(KEY)
    unknown = key_of("photo:2", "a.0")
    tier.get(unknown)
    tier.remove(unknown)

    assert gone is None
    assert server.client.keys(f"{PREFIX}photo:2") == []


def test_a_tier_that_is_doubted_is_neither_asked_nor_written(tier: RedisTier, server: RedisServer) -> None:
    keep(tier)
    unshared = key_of(NAME, "a.0", is_shared=False)

    assert tier.get(unshared) is None
    tier.put(unshared, Entry(unshared, b"photo:1 x", 300.0), 3900.0)
    tier.remove(unshared)

    assert server.client.get(PLACE) == b"photo:1 old"


POISON: dict[str, Callable[[Any], object]] = {
    "another photo's": lambda client: client.set(PLACE, b"photo:2 old", px=60_000),
    "not ours": lambda client: client.set(PLACE, b"\x80\x04pickle", px=60_000),
    "huge": lambda client: client.set(PLACE, b"photo:1" + b"x" * 20_000_000, px=60_000),
    "a byte too long": lambda client: client.set(PLACE, b"photo:1".ljust(ENTRY_BYTES_MAX + 1), px=60_000),
    "without an end": lambda client: client.set(PLACE, b"photo:1 old"),
    "a list": lambda client: client.rpush(PLACE, b"photo:1 old"),
    "a hash": lambda client: client.hset(PLACE, "photo:1", "old"),
}


@pytest.mark.parametrize("kind", POISON)
def test_poison_is_refused_and_the_true_value_kept(tier: RedisTier, server: RedisServer, kind: str) -> None:
    POISON[kind](server.client)

    with pytest.raises(PoisonedEntryError):
        tier.get(KEY)
    tier.put(KEY, Entry(KEY, b"photo:1 true", 300.0), 3900.0)

    found = tier.get(KEY)
    assert found is not None
    assert found.value == b"photo:1 true"


def test_what_is_too_long_is_not_written(tier: RedisTier) -> None:
    keep(tier, b"photo:1".ljust(ENTRY_BYTES_MAX + 1))

    assert tier.get(KEY) is None


def test_a_change_is_told_to_all_with_its_names(tier: RedisTier, server: RedisServer) -> None:
    with closing(server.client.pubsub()) as heard:  # type: ignore[no-untyped-call]  # redis types most of itself
        heard.subscribe(CHANNEL)
        heard.get_message(timeout=5)

        tier.settle([NAME, "photo:2"])

        message = heard.get_message(timeout=5)
    assert message is not None
    assert message["data"].decode() == f'{{"from": "{tier.token}", "names": ["photo:1", "photo:2"]}}'


FAULTS: dict[str, Callable[[RedisServer], None]] = {
    "paused": lambda server: server.pause(5.0),
    "frozen": RedisServer.freeze,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_slow_server_costs_one_time_out(server: RedisServer, clock: HandClock, fault: str) -> None:
    def connections() -> int:
        return int(server.client.info("stats")["total_connections_received"])

    with closing(tier_of(server.url, clock, timeout_seconds=TIMEOUT_SECONDS)) as tier:
        until(lambda: is_kept(tier), "a first answer in time")
        made = connections()
        FAULTS[fault](server)
        began = time.monotonic()

        with pytest.raises(TierDownError):
            tier.get(KEY)

        took = time.monotonic() - began
        server.thaw()
        # To try again takes a connection of its own: the one that was too late is given up.
        assert (took >= TIMEOUT_SECONDS, connections()) == (True, made)
        until(lambda: is_kept(tier), "an answer again")
        assert connections() > made


def is_kept(tier: RedisTier) -> bool:
    """Do as :func:`keep`; tell whether Redis answered in time."""
    try:
        keep(tier)
    except TierDownError:
        return False
    return True


def test_a_dead_server_is_down_and_one_that_is_back_is_asked_again(server: RedisServer, tier: RedisTier) -> None:
    keep(tier)
    server.kill()
    with pytest.raises(TierDownError):
        tier.get(KEY)

    server.start()

    assert tier.get(KEY) is None
    keep(tier)
    assert tier.get(KEY) is not None


def test_no_secret_is_in_what_a_failure_says() -> None:
    client = connect("redis://:hunter2@127.0.0.1:1/0", timeout_seconds=PATIENT_SECONDS, max_connections=1)

    with pytest.raises(TierDownError) as failure:
        ping(client)

    assert failure.value.__cause__ is None
    assert "hunter2" not in f"{failure.value!r} {failure.value}"


@pytest.fixture
def users(server: RedisServer) -> Iterator[RedisServer]:
    """The server with a user who may do all, and one who may do nothing."""
    may_all: dict[str, Any] = {"keys": ["*"], "channels": ["*"], "categories": ["+@all"]}
    server.client.acl_setuser("keeper", enabled=True, passwords=["+right"], **may_all)
    server.client.acl_setuser("guest", enabled=True, passwords=["+right"], categories=["-@all"])
    yield server
    server.client.acl_deluser("keeper", "guest")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("keeper:hunter2@127.0.0.1:{port}/0", "(AuthenticationError); check the user or the password"),
        ("nobody:hunter2@127.0.0.1:{port}/0", "(AuthenticationError); check the user or the password"),
        (":hunter2@127.0.0.1:{port}/0", "(AuthenticationError); check the user or the password"),
        ("guest:right@127.0.0.1:{port}/0", "(NoPermissionError); check the rights of the user"),
        ("keeper:right@127.0.0.1:{port}/99", "(ResponseError); check the number of the database"),
    ],
    ids=["password", "user", "needless", "rights", "number"],
)
def test_what_redis_refuses_is_told_with_its_setting_and_without_the_password(
    users: RedisServer, clock: HandClock, address: str, told: str
) -> None:
    url = f"redis://{address.format(port=users.port)}"
    with (
        closing(connect(url, timeout_seconds=PATIENT_SECONDS, max_connections=1)) as client,
        closing(tier_of(url, clock)) as tier,
    ):
        calls: list[Callable[[], None]] = [lambda: ping(client), lambda: keep(tier)]
        for call in calls:
            with pytest.raises(TierRefusedError) as failure:
                call()

            said = str(failure.value)
            assert said == f"Redis answers and refuses {told} in PHOTO_API_REDIS__URL"
            assert failure.value.__cause__ is None or "hunter2" not in str(failure.value.__cause__)


def test_threads_do_not_write_over_what_others_have_seen(tier: RedisTier, other: RedisTier) -> None:
    assert tier.get(KEY) is None
    thread = threading.Thread(target=tier.put, args=(KEY, Entry(KEY, b"photo:1 old", 300.0), 3900.0))
    thread.start()
    thread.join()

    assert other.get(KEY) is None
