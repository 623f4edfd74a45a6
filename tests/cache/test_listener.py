"""Other processes' changes are heard of, and what may have been missed counts as changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.cache.announcements import Announcer
from app.cache.listener import ChangeListener, names_of
from app.cache.redis_tier import CHANNEL, RedisTier, connect
from app.ops.stamps import Stamps
from app.stability import Pipeline
from tests.cache.test_redis_tier import NAME, tier_of
from tests.fakes.clocks import HandClock
from tests.servers.product import until
from tests.servers.redis import RedisServer


class Process:
    """What one process has: stamps of its own host, Redis, and a listener."""

    def __init__(self, url: str) -> None:
        self.tier: RedisTier = tier_of(url, HandClock())
        self.announcer = Announcer(Stamps(None, owing_seconds=300.0), self.tier, Pipeline("redis"))
        self.listener = ChangeListener(
            lambda: connect(url, timeout_seconds=1.0, max_connections=2), self.announcer, self.tier.token
        )
        self.listener.start()

    def close(self) -> None:
        self.listener.close()
        self.tier.close()


@pytest.fixture
def here(server: RedisServer) -> Iterator[Process]:
    with closing(Process(server.url)) as process:
        until(lambda: process.listener.is_connected, "the listener")
        yield process


@pytest.fixture
def there(server: RedisServer) -> Iterator[Process]:
    with closing(Process(server.url)) as process:
        until(lambda: process.listener.is_connected, "the other listener")
        yield process


def test_a_change_there_renews_the_key_here_and_no_other(here: Process, there: Process) -> None:
    before, other = here.announcer.key(NAME), here.announcer.key("photo:2")

    with there.announcer.changing([NAME]):
        pass

    until(lambda: here.announcer.key(NAME) != before, "the change")
    assert here.announcer.key("photo:2") == other


def test_a_lost_connection_renews_every_key_and_it_comes_back_by_itself(here: Process, server: RedisServer) -> None:
    before = here.announcer.key(NAME)

    server.kill()
    until(lambda: not here.listener.is_connected, "the loss")
    lost = here.announcer.key(NAME)
    server.start()
    until(lambda: here.listener.is_connected, "the return")

    assert len({before, lost, here.announcer.key(NAME)}) == 3


def test_a_server_that_does_not_answer_any_more_counts_as_lost(here: Process, server: RedisServer) -> None:
    server.freeze()

    until(lambda: not here.listener.is_connected, "the loss")

    server.thaw()
    until(lambda: here.listener.is_connected, "the return")


def test_what_redis_was_not_told_while_it_was_dead_is_told_after_its_return(
    here: Process, there: Process, server: RedisServer
) -> None:
    server.kill()
    with here.announcer.changing([NAME]):
        pass
    assert here.announcer.key(NAME).endswith("!")
    server.start()

    until(lambda: not here.announcer.key(NAME).endswith("!"), "the debt to be paid")

    stone = server.client.get(f"photo-api:1:{NAME}")
    assert isinstance(stone, bytes)
    assert stone[:2] == b"!s"


def test_words_that_nobody_of_us_said_are_not_heard(here: Process, server: RedisServer) -> None:
    before = here.announcer.key(NAME)
    for words in (b"", b"\xff\xfe", b"[" * 60_000, b"{}", b"null", b"x" * 100_000, b'{"names": {"photo:1": 1}}'):
        server.client.publish(CHANNEL, words)
    server.client.publish(CHANNEL, json.dumps({"names": ["photo:2"]}))

    other = here.announcer.key("photo:2")
    server.client.publish(CHANNEL, json.dumps({"names": ["photo:2"]}))

    until(lambda: here.announcer.key("photo:2") != other, "what came last")
    assert here.listener.is_connected
    assert here.announcer.key(NAME) == before


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (b'{"from": "a", "names": ["photo:1"]}', ["photo:1"]),
        (b'{"from": "me", "names": ["photo:1"]}', []),
        (b'{"from": "a", "names": [1, null, "photo:1", ["x"]]}', ["photo:1"]),
        (b'{"from": "a", "names": "photo:1"}', []),
        (b'{"from": "a", "names": ["' + b"x" * 201 + b'"]}', []),
        (1, []),
    ],
    ids=["names", "own words", "no names among them", "no list", "too long", "a number"],
)
def test_names_are_read_from_what_is_ours_to_hear(raw: object, names: list[str]) -> None:
    assert names_of(raw, own="me") == names


def test_a_redis_that_refuses_is_told_once_with_its_setting(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.url.replace("//", "//nobody:hunter2@")

    with closing(Process(url)):
        until(lambda: bool(caplog.records), "a line of the log")

    (said,) = [record.getMessage() for record in caplog.records if record.name == "app.cache.listener"]
    assert said.startswith("changes by other instances are not heard of: Redis answers and refuses")
    assert "PHOTO_API_REDIS__URL" in said
    assert "hunter2" not in caplog.text
