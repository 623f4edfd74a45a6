"""Tiers as the settings want them: memory alone is believed for 30 seconds, with Redis for as long as it is heard."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.cache.build import TierSet, open_ping, why_down
from app.cache.tiers import TierDownError
from app.ops.stamps import Stamps
from app.settings_delivery import CacheSettings, RedisSettings
from app.stability import Entry, Pipeline
from tests.cache.test_redis_tier import Plain
from tests.servers.product import until
from tests.servers.redis import RedisServer

ROOT = Path(__file__).resolve().parents[2]
KEPT = Entry("a@1.0", b"a", 300.0)


@contextmanager
def opened(url: str | None = None, **settings: Any) -> Iterator[TierSet]:
    redis = RedisSettings(url=None if url is None else SecretStr(url))
    made = TierSet(redis, CacheSettings(**settings), Stamps(None), Plain(), Pipeline("redis"), size_of=len)
    with closing(made):
        yield made


def fresh_in_memory(tiers: TierSet) -> float:
    tiers.tiers[0].put(KEPT.key, KEPT, 300.0)
    found = tiers.tiers[0].get(KEPT.key)
    assert found is not None
    return found.fresh_seconds


def test_without_redis_memory_is_believed_for_thirty_seconds_at_most() -> None:
    with opened() as tiers:
        assert [tier.name for tier in tiers.tiers] == ["memory"]
        assert 20.0 < fresh_in_memory(tiers) <= 30.0
        assert tiers.fresh_seconds == 30.0


def test_a_shorter_belief_stays_shorter() -> None:
    with opened(memory_seconds=5.0) as tiers:
        assert fresh_in_memory(tiers) <= 5.0


def test_no_belief_and_no_redis_is_no_tier() -> None:
    with opened(memory_seconds=0) as tiers:
        assert tiers.tiers == []


def test_with_redis_memory_is_believed_for_longer_while_it_is_heard(server: RedisServer) -> None:
    with opened(server.url) as tiers:
        until(lambda: tiers.hears, "the listener")
        heard = fresh_in_memory(tiers)
        server.kill()
        until(lambda: not tiers.hears, "the loss")
        unheard = fresh_in_memory(tiers)
    server.start()

    assert [tier.name for tier in tiers.tiers] == ["memory", "redis"]
    assert 45.0 < heard <= 60.0
    assert 20.0 < unheard <= 30.0


def test_a_sign_of_life_is_asked_of_redis_alone(server: RedisServer) -> None:
    ping = open_ping(RedisSettings(url=SecretStr(server.url), timeout_seconds=5))
    assert ping is not None
    ping()
    server.kill()

    with pytest.raises(TierDownError) as down:
        ping()
    server.start()
    assert why_down(down.value) == "Redis does not answer"
    assert open_ping(RedisSettings()) is None


def test_a_redis_that_refuses_is_not_called_one_that_does_not_answer(server: RedisServer) -> None:
    ping = open_ping(RedisSettings(url=SecretStr(server.url.replace("//", "//nobody:hunter2@")), timeout_seconds=5))
    assert ping is not None

    with pytest.raises(TierDownError) as refused:
        ping()

    said = why_down(refused.value)
    assert said.startswith("Redis answers and refuses (AuthenticationError)")
    assert "PHOTO_API_REDIS__URL" in said


def test_the_library_is_loaded_only_where_there_is_redis() -> None:
    program = "import sys, app.factory; sys.exit('redis' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
