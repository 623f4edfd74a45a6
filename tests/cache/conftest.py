"""A real Redis for the tests of the caches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.servers.redis import RedisServer


@pytest.fixture(scope="package")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with closing(RedisServer(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[RedisServer]:
    """The same, empty, and as it was afterwards."""
    redis_server.client.flushall()
    yield redis_server
    redis_server.thaw()
    redis_server.client.client_unpause()
