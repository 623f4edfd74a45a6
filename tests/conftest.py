"""The real servers that tests share, each started once per test process and only when a test asks for it.

With pytest-xdist every worker has its own. A server that is not installed skips its tests loudly; with
``CI=true`` that is a failure.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from app.db.engine import Database
from app.storage.s3 import S3Config
from app.storage.swift import SwiftConfig
from tests.accounts.world import open_database
from tests.servers.client import Client
from tests.servers.mariadb import MariadbServer
from tests.servers.nginx import Nginx
from tests.servers.postgres import PostgresServer
from tests.servers.product import Product
from tests.servers.stacks import CLOUD, EMBEDDED, MARIADB, Stack, cloud_stack, embedded_stack, mariadb_stack
from tests.servers.swift import SwiftServer

# What takes longest, the longest first: begun at the end, it would keep one process alone at work.
_LONG = ("tests/drills", "tests/chaos", "tests/edge", "tests/server", "tests/http_contract", "tests/integration")

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let tests that share a server run in one process."""
    from tests.servers.scheduling import ServerScheduling

    return ServerScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest tests begin first, so that all processes end at about the same time."""
    items.sort(key=lambda item: _rank_of(item.nodeid))


@pytest.fixture(autouse=True)
def _log_levels_of_one_test() -> Iterator[None]:
    """Take back what a test makes of the level of all logs: others count what is logged."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


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


@pytest.fixture
def swift_config(s3_server: SwiftServer) -> SwiftConfig:
    """How to reach a new, empty container in Swift's own protocol."""
    return s3_server.swift_config(s3_server.create_bucket())


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


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariadbServer]:
    """MariaDB; a test that stops or kills it starts it again."""
    server = MariadbServer()
    yield server
    server.remove()


@pytest.fixture
def mariadb_url(mariadb_server: MariadbServer) -> Iterator[str]:
    """SQLAlchemy's URL of a new, empty database."""
    with mariadb_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def kept_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with all tables that whole rooms share: each test empties it first."""
    with closing(open_database(f"sqlite:///{tmp_path_factory.mktemp('kept')}/photos.db")) as database:
        yield database


@pytest.fixture(scope="session")
def kept_postgresql(postgres_server: PostgresServer) -> Iterator[Database]:
    """The same on PostgreSQL."""
    with postgres_server.database() as url, closing(open_database(url)) as database:
        yield database


@pytest.fixture(scope="session")
def kept_mariadb(mariadb_server: MariadbServer) -> Iterator[Database]:
    """The same on MariaDB."""
    with mariadb_server.database() as url, closing(open_database(url)) as database:
        yield database


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def kept_database(request: pytest.FixtureRequest) -> Database:
    """Each of them in turn, where locks and SQL matter."""
    database: Database = request.getfixturevalue(f"kept_{request.param}")
    database.close()  # another file's test may have restarted the server: no connection of before is used
    return database


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


@pytest.fixture(scope="session", params=[EMBEDDED, CLOUD])
def stack_name(request: pytest.FixtureRequest) -> str:
    """Each stack in turn; with pytest-xdist the tests of one stack stay in one process."""
    return str(request.param)


@pytest.fixture(scope="session")
def new_stack(
    stack_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Stack]]:
    """A function that makes a new, empty stack."""
    if stack_name == EMBEDDED:
        yield lambda: embedded_stack(tmp_path_factory.mktemp("embedded"))
        return
    if stack_name == MARIADB:
        mariadb = request.getfixturevalue("mariadb_server")
        with ExitStack() as opened:
            yield lambda: opened.enter_context(mariadb_stack(tmp_path_factory.mktemp("mariadb"), mariadb))
        return
    swift, postgres = request.getfixturevalue("s3_server"), request.getfixturevalue("postgres_server")
    with ExitStack() as opened:
        yield lambda: opened.enter_context(cloud_stack(swift, postgres))


@pytest.fixture(scope="session")
def product(new_stack: Callable[[], Stack], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The product, shared by all tests that leave it as they found it."""
    running = Product(new_stack(), tmp_path_factory.mktemp("product"))
    yield running
    running.close()
    assert running.find_logged(running.private()) == set()
    assert all(isinstance(line, dict) for line in running.log_lines())


@pytest.fixture
def new_product(new_stack: Callable[[], Stack], tmp_path: Path) -> Iterator[Callable[..., Product]]:
    """A function that starts a product of the test's own, with what ``Product`` takes besides stack and folder."""
    with ExitStack() as opened:

        def start(stack: Stack | None = None, **options: Any) -> Product:
            running = Product(new_stack() if stack is None else stack, tmp_path, **options)
            opened.callback(running.close)
            return running

        yield start


@pytest.fixture(scope="module")
def owner(product: Product) -> Client:
    """A user whom the tests of one file share."""
    return product.new_user()


@pytest.fixture
def user(product: Product) -> Client:
    """A user without photos."""
    return product.new_user()


def _rank_of(nodeid: str) -> int:
    """Return a test's place by its folder: tests of a lower rank begin first."""
    folders = [rank for rank, folder in enumerate(_LONG) if nodeid.startswith(f"{folder}/")]
    return folders[0] if folders else len(_LONG)
