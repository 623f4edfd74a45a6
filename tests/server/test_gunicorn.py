"""The real server: two listeners, totals over workers and their deaths, its own lines as NDJSON."""

from __future__ import annotations

import http.client
import inspect
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gunicorn
import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.workertmp import WorkerTmp

from app.server.arbiter import PhotoArbiter
from tests.server.running import MANAGEMENT, TINY, Server, environment, migrate, running, until

PROBES = ["/health/liveness", "/health/readiness", "/health", "/__lbheartbeat__", "/__heartbeat__", "/__version__"]
PRIVATE = ["/health/detailed", "/metrics", "/api/v1/admin", "/api/v1/admin/breakers"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.mark.parametrize("path", PROBES)
@pytest.mark.parametrize("management", [False, True])
def test_probes_answer_on_both_listeners_by_get_and_head(server: Server, path: str, *, management: bool) -> None:
    got = server.get(path, management=management, headers={"Host": "10.1.2.3"})
    head = server.get(path, management=management, method="HEAD", headers={"Host": "10.1.2.3"})

    assert (got.status, head.status, head.body) == (200, 200, b"")
    assert got.headers["Cache-Control"] == head.headers["Cache-Control"] == "no-store"
    assert got.headers["X-Request-Id"] != head.headers["X-Request-Id"]


@pytest.mark.parametrize("path", PRIVATE)
def test_private_paths_do_not_exist_on_the_public_listener(server: Server, path: str) -> None:
    forged = {"X-Forwarded-Host": "127.0.0.1:8001", "photo-api-listener": "management", "Host": "localhost"}

    assert server.get(path, headers=forged).status == 404


def test_metrics_and_details_are_on_the_management_listener(server: Server) -> None:
    until(lambda: server.metric("photo_api_ready") == 1, "the master's word that the server is ready")

    details, metrics = server.get("/health/detailed", management=True), server.get("/metrics", management=True)

    assert (details.status, metrics.status) == (200, 200)
    assert details.headers["Content-Type"] == "application/health+json"
    assert metrics.headers["Content-Type"].startswith("text/plain")
    assert b"photo_api_build_info{" in metrics.body


def test_the_product_is_not_on_the_management_listener(server: Server) -> None:
    answer = server.get("/pid", management=True)

    assert answer.status == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_a_shared_dependency_that_is_down_or_hangs_warns_and_the_probe_stays_200(server: Server) -> None:
    def checks() -> dict[str, str]:
        document = server.get("/health").json()
        return {name: entries[0]["status"] for name, entries in document["checks"].items()}

    until(lambda: checks()["upstream"] == "warn" and checks()["hanging"] == "warn", "both checks to warn")

    health, readiness = server.get("/health"), server.get("/health/readiness")
    assert (health.status, health.json()["status"], readiness.status) == (200, "warn", 200)


def test_details_say_value_age_latency_and_who_answers(server: Server) -> None:
    document = server.get("/health/detailed", management=True).json()

    memory = document["checks"]["memory"][0]
    assert memory["observed"]["resident_bytes"] > 1_000_000
    assert memory["age_seconds"] < 60
    assert document["instance"]["node_name"] == "tiny"
    assert {document["instance"]["pid"]} == server.management_pids()


def test_requests_are_counted_by_template_once_over_all_workers(server: Server) -> None:
    before = server.metric("photo_api_http_requests_total", route="/pid", code="200")

    served_by = [server.get("/pid?q=1").body for _ in range(40)]
    while len(set(served_by)) < 2:
        assert len(served_by) < 2000, "one worker got everything"
        served_by.append(server.get("/pid").body)
    for path in ("/health", "/nowhere/1", "/nowhere/2"):
        server.get(path)

    until(lambda: server.metric("photo_api_in_flight_requests") == 0, "nothing in flight")  # counted until then
    assert server.metric("photo_api_http_requests_total", route="/pid", code="200") == before + len(served_by)
    assert server.metric("photo_api_http_requests_total", route="/health") == 0
    assert server.metric("photo_api_http_requests_total", route="unmatched") >= 2


def test_a_client_that_leaves_a_stream_is_no_longer_in_flight(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.public)) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.recv(1000)
        until(lambda: server.metric("photo_api_in_flight_requests") == 1, "one in flight")

    until(lambda: server.metric("photo_api_in_flight_requests") == 0, "nothing in flight")


def test_every_line_is_ndjson_without_query_or_secret_and_probes_have_none(server: Server) -> None:
    answer = server.get("/broken?holiday=1", headers={"X-Request-Id": "known-1"})
    server.get("/health/liveness?holiday=1")
    until(lambda: any(line["status"] == 500 for line in server.log_lines()), "the request's line")

    lines = server.log_lines()
    assert answer.status == 500
    assert "Listening at" in " ".join(line["message"] for line in lines if line["logger"] == "gunicorn.error")
    assert {line["node_name"] for line in lines if line["logger"] == "photo_api.request"} == {"tiny"}
    assert [line["request_id"] for line in lines if line["status"] == 500] == ["known-1"]
    assert not [line for line in lines if str(line["route"]).startswith("/health")]
    text = (server.folder / "stdout").read_text(encoding="utf-8")
    assert "holiday" not in text
    assert "hunter2" not in text


def test_an_answer_that_breaks_off_is_one_error_with_id_and_route(server: Server) -> None:
    with pytest.raises(http.client.IncompleteRead):
        server.get("/breaks-off", headers={"X-Request-Id": "known-2"})
    until(lambda: any("in the middle" in str(line) for line in server.log_lines()), "the error")
    server.get("/pid", headers={"X-Request-Id": "known-3"})
    until(lambda: any(line["request_id"] == "known-3" for line in server.log_lines()), "the later line")
    until(lambda: server.metric("photo_api_in_flight_requests") == 0, "nothing in flight")

    errors = [line for line in server.log_lines() if "in the middle" in str(line)]
    assert [(line["severity_text"], line["request_id"], line["route"]) for line in errors] == [
        ("ERROR", "known-2", "/breaks-off")
    ]
    assert [line for line in server.log_lines() if line["message"].startswith("Error handling request")] == []


def test_totals_survive_a_killed_worker_and_its_gauges_vanish(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        for _ in range(30):
            server.get("/pid")
        before = server.pids()
        with socket.create_connection(("127.0.0.1", server.public)) as connection:
            connection.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.recv(1000)
            until(lambda: server.metric("photo_api_in_flight_requests") == 1, "one in flight")

            for pid in before:
                os.kill(pid, signal.SIGKILL)
            until(lambda: len(server.pids() - before) == 2, "two new workers")
            until(lambda: server.metric("photo_api_db_pool_max_connections") == 20, "gauges of two workers")

        assert server.metric("photo_api_in_flight_requests") == 0
        assert server.metric("photo_api_dedup_total") == 30
        server.get("/pid")
        assert server.metric("photo_api_dedup_total") == 31
        until(lambda: server.metric("photo_api_ready") == 1, "both workers to be ready")


def test_stopping_closes_the_application_in_each_process_and_ends_with_0(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        workers, (management,) = server.pids(), server.management_pids()
        server.process.send_signal(signal.SIGTERM)

        assert server.exit_code() == 0

    closed = {path.name for path in tmp_path.glob("closed-*")}
    assert closed == {*(f"closed-{pid}" for pid in workers), f"closed-management-{management}"}
    assert server.log_lines()[-1]["message"] == "Shutting down: Master"


def test_the_next_start_removes_what_a_server_left_and_keeps_what_one_uses(tmp_path: Path) -> None:
    parent = tmp_path / "var" / "run" / "metrics"
    with running(tmp_path, workers=1):
        (left,) = parent.iterdir()
    with running(tmp_path, workers=1) as first:
        (used,) = parent.iterdir()
        with running(tmp_path, workers=1):
            folders = set(parent.iterdir())

        assert first.metric("photo_api_ready") == 1

    assert left not in folders
    assert used in folders
    assert len(folders) == 2


def test_a_reader_of_the_log_that_hangs_delays_no_request(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        with running(tmp_path, workers=1, stdout=writer, PHOTO_API_LOG__QUEUE_SIZE="100") as server:
            statuses = {server.get("/pid").status for _ in range(600)}

            assert statuses == {200}
            until(lambda: server.metric("photo_api_log_dropped_total") > 0, "dropped lines")
            assert server.get("/health/readiness").status == 200
    finally:
        os.close(reader)
        os.close(writer)


def test_a_full_log_disk_costs_lines_and_no_request(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, running(tmp_path, workers=1, stdout=full.fileno()) as server:
        statuses = {server.get("/pid").status for _ in range(20)}

        assert statuses == {200}
        until(lambda: server.metric("photo_api_log_dropped_total") >= 20, "dropped lines")
        assert server.get("/health/readiness").status == 200


def test_room_for_the_metrics_is_reserved_so_that_a_full_disk_kills_no_worker(server: Server) -> None:
    files = list((server.folder / "var" / "run" / "metrics").glob("server-*/*.values"))

    reserved = [path.stat().st_blocks * 512 >= path.stat().st_size for path in files]

    assert len(files) >= 2
    assert all(reserved)


def test_a_worker_that_cannot_make_metrics_files_serves_without_them_and_says_so_once(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        before = server.pids()
        shutil.rmtree(tmp_path / "var" / "run" / "metrics")

        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(server.pids()) == 2 and min(before) not in server.pids(), "another worker")
        (pid,) = server.pids() - before
        until(lambda: server.get("/pid").body == str(pid).encode(), "an answer of the new worker")
        until(lambda: any(is_a_request_of(pid, line) for line in server.log_lines()), "its line, behind the others")

        assert server.get("/metrics", management=True).status == 200
        assert server.process.poll() is None
        warnings = [line for line in server.log_lines() if "no files for metrics" in line["message"]]
        assert len(warnings) == 1


def is_a_request_of(pid: int, line: dict[str, Any]) -> bool:
    """Tell whether a line is about a request that a worker has answered."""
    return (line["pid"], line["logger"]) == (pid, "photo_api.request")


def test_unix_sockets_part_the_listeners_too(tmp_path: Path) -> None:
    def listens(name: str) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(tmp_path / name)) == 0

    def status(path: str, name: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(tmp_path / name))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(65_536).split()[1]

    migrate(tmp_path)
    environ = environment(
        PHOTO_API_SERVER__BIND=f"unix:{tmp_path}/public",
        PHOTO_API_SERVER__MANAGEMENT_BIND=f"unix:{tmp_path}/management",
        PHOTO_API_SERVER__WORKERS="1",
    )
    command = ["-m", "app.server", TINY, MANAGEMENT]
    process = subprocess.Popen(
        [sys.executable, *command], cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: listens("public") and listens("management"), "the sockets")

        assert status("/metrics", "management") == b"200"
        assert status("/metrics", "public") == b"404"
        assert status("/health", "public") == b"200"
    finally:
        process.terminate()
        process.wait(60)


# What the master and the management process take over from gunicorn, by name and parameters.
MASTER = {
    "__init__": ["self", "app"],
    "setup": ["self", "app"],
    "start": ["self"],
    "run": ["self"],
    "init_signals": ["self"],
    "wait_for_signals": ["self", "timeout"],
    "handle_chld": ["self"],
    "handle_quit": ["self"],
    "handle_hup": ["self"],
    "handle_term": ["self"],
    "handle_int": ["self"],
    "handle_usr1": ["self"],
    "handle_usr2": ["self"],
    "handle_ttin": ["self"],
    "handle_ttou": ["self"],
    "maybe_promote_master": ["self"],
    "manage_workers": ["self"],
    "spawn_worker": ["self"],
    "murder_workers": ["self"],
    "reap_workers": ["self"],
    "kill_worker": ["self", "pid", "sig"],
    "kill_workers": ["self", "sig"],
    "reload": ["self"],
    "reexec": ["self"],
    "stop": ["self", "graceful"],
    "halt": ["self", "reason", "exit_status"],
}


def test_gunicorn_is_the_version_that_was_read() -> None:
    assert gunicorn.__version__ == "27.0.1", "read gunicorn/arbiter.py again before this is changed"


@pytest.mark.parametrize("name", MASTER)
def test_the_master_is_called_by_gunicorn_as_it_was_read(name: str) -> None:
    ours, gunicorns = (inspect.signature(getattr(kind, name)) for kind in (PhotoArbiter, Arbiter))

    assert list(gunicorns.parameters) == list(ours.parameters) == MASTER[name]


def test_gunicorns_loop_calls_what_ours_has_put_in_place() -> None:
    run = inspect.getsource(Arbiter.run)
    order = ["self.start()", "self.manage_workers()", "self.wait_for_signals(", "handler()", "self.murder_workers()"]

    places = [run.index(call) for call in order]

    assert places == sorted(places)
    assert run.index("self.manage_workers()", places[-1])
    assert "except (StopIteration, KeyboardInterrupt):\n            self.halt()" in run
    assert "self.stop()" in inspect.getsource(Arbiter.halt)
    assert "self.reap_workers()" in inspect.getsource(Arbiter.handle_chld)
    assert "self.reexec()" in inspect.getsource(Arbiter.handle_usr2)


def test_a_worker_of_gunicorn_is_made_and_run_as_the_master_does() -> None:
    made = ["self", "age", "ppid", "sockets", "app", "timeout", "cfg", "log"]

    assert list(inspect.signature(Worker.__init__).parameters) == made
    assert list(inspect.signature(ThreadWorker.init_signals).parameters) == ["self"]
    assert "self.wsgi = self.app.wsgi()" in inspect.getsource(Worker.load_wsgi)
    loop = inspect.getsource(ThreadWorker.run)
    assert loop.index("self.set_accept_enabled(True)") < loop.index("self.notify()")


def test_the_time_of_a_heartbeat_tells_a_worker_that_starts_from_one_that_runs() -> None:
    tmp = WorkerTmp(Config())
    try:
        starting = tmp.last_update() > time.monotonic()
        tmp.notify()
        running_now = tmp.last_update() <= time.monotonic()
    finally:
        tmp.close()

    assert (starting, running_now) == (True, True)


def test_a_replaced_server_is_named_as_gunicorn_does() -> None:
    assert "GUNICORN_PID" in inspect.getsource(Arbiter.maybe_promote_master)
    assert "'GUNICORN_FD'" in inspect.getsource(Arbiter.start)


def test_the_master_hears_every_signal_that_is_documented() -> None:
    documented = {"SIGHUP", "SIGQUIT", "SIGINT", "SIGTERM", "SIGTTIN", "SIGTTOU", "SIGUSR1", "SIGUSR2"}

    assert documented <= {signal.Signals(number).name for number in Arbiter.SIGNALS}
