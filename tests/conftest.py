"""The real servers that tests share, each started once per test process and only when a test asks for it.

With pytest-xdist every worker has its own. A server that is not installed skips its tests loudly; with
``CI=true`` that is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.storage.s3 import S3Config
from tests.servers.nginx import Nginx
from tests.servers.postgres import PostgresServer
from tests.servers.swift import SwiftServer


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    """OpenStack Swift with s3api."""
    server = SwiftServer(tmp_path_factory.mktemp("swift"))
    yield server
    server.stop()


@pytest.fixture
def s3_config(s3_server: SwiftServer) -> S3Config:
    """How to reach a new, empty bucket."""
    return s3_server.config(s3_server.create_bucket())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """PostgreSQL; a test that stops or kills it starts it again."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """SQLAlchemy's URL of a new, empty database."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Nginx]]:
    """A function that starts an nginx with the given content of its ``http`` block."""
    started: list[Nginx] = []

    def start(http: str) -> Nginx:
        folder: Path = tmp_path_factory.mktemp("nginx")
        server = Nginx(folder, http)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()
