"""The test servers themselves: they start, answer, and can be stopped, killed and started again."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pymysql
import pytest

from app.storage.probe import verify
from app.storage.s3 import S3Config, S3ObjectStore
from tests.servers import mariadb
from tests.servers.haproxy import Haproxy, Probing
from tests.servers.mariadb import MariadbServer
from tests.servers.nginx import Nginx
from tests.servers.postgres import USER, PostgresServer
from tests.servers.product import until
from tests.servers.redis import RedisServer
from tests.servers.scheduling import group_of


def test_swift_answers_s3_requests(s3_config: S3Config) -> None:
    store = S3ObjectStore(s3_config)

    verify(store)

    store.close()


def test_postgres_makes_databases_and_comes_back_after_a_kill(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url:
        name = url.rpartition("/")[2]

        postgres_server.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(host="127.0.0.1", port=postgres_server.port, user=USER, dbname=name)
        postgres_server.start()

        with psycopg.connect(host="127.0.0.1", port=postgres_server.port, user=USER, dbname=name) as connection:
            assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)


def test_mariadb_makes_databases_and_comes_back_after_a_kill(mariadb_server: MariadbServer) -> None:
    with mariadb_server.database() as url:
        name = url.rpartition("/")[2]

        mariadb_server.kill()
        with pytest.raises(pymysql.err.OperationalError):
            pymysql.connect(host="127.0.0.1", port=mariadb_server.port, user=mariadb.USER, database=name)
        mariadb_server.start()

        link = pymysql.connect(host="127.0.0.1", port=mariadb_server.port, user=mariadb.USER, database=name)
        with closing(link), link.cursor() as cursor:
            cursor.execute("SELECT database()")
            assert cursor.fetchone() == (name,)
    assert (name,) not in mariadb_server.execute("SHOW DATABASES")


def test_redis_answers_and_comes_back_after_a_kill(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    try:
        server.kill()
        server.start()
        with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(7) == b"+PONG\r\n"
    finally:
        server.close()


def test_nginx_serves_what_its_configuration_says(nginx: Callable[[str], Nginx]) -> None:
    server = nginx('server { listen 127.0.0.1:$PORT; location / { return 200 "hello"; } }')

    with urlopen(server.url, timeout=5) as answer:
        assert answer.read() == b"hello"


def test_tests_of_one_stack_share_a_process_and_others_share_it_by_file() -> None:
    assert group_of("tests/integration/test_lists.py::test_x[cloud-limit0]") == "cloud"
    assert group_of("tests/chaos/test_disk.py::test_y[5-embedded]") == "embedded"
    assert group_of("tests/integration/test_lists.py::test_x[mariadb-limit0]") == "mariadb"
    assert group_of("tests/chaos/test_disk.py::test_y") == "tests/chaos/test_disk.py"
    assert group_of("tests/cli/test_x.py::test_y[clouds]") == "tests/cli/test_x.py"


def test_haproxy_sends_requests_to_those_who_are_well_and_repeats_none(
    nginx: Callable[[str], Nginx], tmp_path: Path
) -> None:
    well = nginx("server { listen 127.0.0.1:$PORT; location / { return 200; } }")
    ill = nginx("server { listen 127.0.0.1:$PORT; location / { return 503; } }")

    balancer = Haproxy(tmp_path, [well.port, ill.port], probing=Probing(interval_ms=20))
    try:
        until(lambda: balancer.is_up(0) and not balancer.is_up(1), "the balancer's judgement")
        statuses = {urlopen(f"http://127.0.0.1:{balancer.port}", timeout=5).status for _ in range(8)}
        well.stop()
        with pytest.raises(HTTPError, match="503"):
            urlopen(f"http://127.0.0.1:{balancer.port}", timeout=5)
        until(balancer.failed_lines, "the balancer's line about it")
    finally:
        balancer.stop()

    assert statuses == {200}
    assert len(balancer.failed_lines()) == 1
