"""Stops while uploads run: whoever is in flight is finished, whoever is stuck is cut off and cleaned up."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Self

import pytest
import requests

from app.ops.lifecycle import Phase, State, WorkerWord
from app.ops.state import PAGE_NAME
from app.photos.models import PENDING
from app.server.state_folder import STATE_FOLDER
from tests.chaos.crashes import rows
from tests.chaos.held import HeldUploads, look, require_count
from tests.chaos.invariants import require_consistency, require_whole
from tests.fakes.fault_proxy import Barrier, Hold
from tests.server.running import children, stopped
from tests.servers.postgres import PostgresServer
from tests.servers.product import START_SECONDS, Product, until
from tests.servers.stacks import cloud_stack, embedded_stack
from tests.servers.swift import SwiftServer

CUT = "requests were cut at the graceful time-out"
END_SECONDS = 60.0
LAME_DUCK = "PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS"
GRACEFUL = "PHOTO_API_SERVER__GRACEFUL_TIMEOUT_SECONDS"
DEADLINE = "PHOTO_API_SERVER__REQUEST_DEADLINE_SECONDS"
SILENCE = "PHOTO_API_SERVER__CLIENT_TIMEOUT_SECONDS"
GRACEFUL_SECONDS = 9.0
"""So long that who stands still for a while on a busy machine is in time all the same."""

IMPATIENT = {GRACEFUL: f"{GRACEFUL_SECONDS:g}", DEADLINE: "7"}

NewProduct = Callable[..., Product]


@pytest.fixture
def embedded_product(tmp_path: Path) -> Iterator[NewProduct]:
    """A function that starts a product of the test's own, on a folder and SQLite."""
    with ExitStack() as ending:

        def start(**settings: str) -> Product:
            (tmp_path / "stack").mkdir()
            stack = embedded_stack(tmp_path / "stack")
            product = Product(stack, tmp_path, settings={SILENCE: "120", **settings})
            ending.callback(product.close)
            return product

        yield start


class Probes:
    """Kept connections to every worker, on each of which one probe can be asked after the signal."""

    def __init__(self, product: Product, each: int) -> None:
        self._product = product
        self._connections: dict[int, list[http.client.HTTPConnection]] = {}
        for pid in product.worker_pids():
            with stopped(*(product.worker_pids() - {pid})):
                self._connections[pid] = [self._connected() for _ in range(each)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connections in self._connections.values():
            for connection in connections:
                connection.close()

    def ask(self, pid: int, path: str) -> int:
        """Ask a worker; return the status of its answer."""
        connection = self._connections[pid].pop()
        with closing(connection):
            return _asked(connection, path)

    def _connected(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._product.port, timeout=20)
        assert _asked(connection, "/health/readiness") == 200
        return connection


def _asked(connection: http.client.HTTPConnection, path: str) -> int:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def accepts(product: Product) -> bool:
    """Tell whether the public listener takes connections."""
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", product.port), 5):
        return True
    return False


def cut_requests(product: Product) -> list[int]:
    """Return how many requests each worker says to have cut off."""
    return [line["requests"] for line in product.log_lines() if line["message"] == CUT]


def have_missed_the_page(product: Product) -> set[int]:
    """Return the processes that have said that they can no longer read it."""
    lost = [line for line in product.log_lines() if line["message"].startswith("the state page of this host is lost")]
    return {line["pid"] for line in lost if line["doing"] == "reading"}


def has_begun_to_drain(product: Product) -> bool:
    """Tell whether the master has said so in the log."""
    return any(line["message"].startswith("SIGTERM: draining") for line in product.log_lines())


def test_row_41_a_stop_in_the_middle_of_twenty_uploads_loses_none(new_product: NewProduct) -> None:
    product = new_product(settings={LAME_DUCK: "6", SILENCE: "120"})
    user = product.new_user()
    workers = product.worker_pids()
    with Probes(product, each=2) as probes, HeldUploads(product, user) as uploads:
        for pid in workers:
            uploads.hold(10, worker=pid)
        require_count(product, 20)

        os.kill(product.pid, signal.SIGTERM)
        until(lambda: word_of(product, product.pid) is State.DRAINING, "the master's word")
        readiness = {probes.ask(pid, "/health/readiness") for pid in workers}
        alive = {probes.ask(pid, "/health/liveness") for pid in workers}
        new = user.twin().get("/api/v1/users/me")
        before = [uploads.finish() for _ in range(5)]
        until(lambda: look(product).in_flight == 15, "the finished ones to be counted out")
        until(lambda: not accepts(product), "the listener to be closed")
        after = [uploads.finish() for _ in range(15)]

    assert readiness == {503}  # at the first question after the master's word, in every worker
    assert alive == {200}
    assert (new.status_code, new.headers["Connection"]) == (200, "close")
    assert before + after == [201] * 20
    assert product.wait(END_SECONDS) == 0
    assert cut_requests(product) == []
    product.start()
    require_consistency(product, user)
    require_whole(user, uploads.acknowledged)


def test_control_a_server_that_is_killed_loses_the_uploads(embedded_product: NewProduct) -> None:
    product = embedded_product()
    user = product.new_user()
    with HeldUploads(product, user) as uploads:
        uploads.hold(4)
        require_count(product, 4)

        product.kill()

        assert [uploads.finish() for _ in range(4)] == [None] * 4


def test_control_workers_that_cannot_hear_their_master_stay_ready(embedded_product: NewProduct) -> None:
    product = embedded_product(**{LAME_DUCK: "120"})
    folder = product.folder / STATE_FOLDER
    with stopped(product.pid, *children(product.pid)):  # nobody makes it anew meanwhile
        os.truncate(folder / PAGE_NAME, 0)
        shutil.rmtree(folder)
        folder.touch()  # no page can be made there
    until(lambda: have_missed_the_page(product) >= product.worker_pids(), "both workers to miss the page")

    os.kill(product.pid, signal.SIGTERM)
    until(lambda: has_begun_to_drain(product), "the master to drain")
    seen = [requests.get(f"{product.url}/health/readiness", timeout=60).status_code for _ in range(20)]
    os.kill(product.pid, signal.SIGTERM)  # the lame duck ends

    assert set(seen) == {200}
    assert product.wait(END_SECONDS) == 0


def test_row_42_a_client_that_never_finishes_is_cut_at_the_graceful_time_out(embedded_product: NewProduct) -> None:
    product = embedded_product(**IMPATIENT)
    user = product.new_user()
    with HeldUploads(product, user) as uploads:
        uploads.hold(3)
        require_count(product, 3)

        began = time.monotonic()
        os.kill(product.pid, signal.SIGTERM)
        finished = uploads.finish()
        stuck = [uploads.answered() for _ in range(2)]
        took = time.monotonic() - began

    assert (finished, stuck) == (201, [None, None])
    assert GRACEFUL_SECONDS - 0.1 < took < 45
    assert product.wait(END_SECONDS) == 0
    assert sum(cut_requests(product)) == 2
    assert list(product.spool_folder.glob("*")) == []
    product.start()
    require_consistency(product, user)
    require_whole(user, uploads.acknowledged)


def test_control_uploads_that_end_in_time_are_not_cut(embedded_product: NewProduct) -> None:
    product = embedded_product(**IMPATIENT)
    user = product.new_user()
    with HeldUploads(product, user) as uploads:
        uploads.hold(3)
        require_count(product, 3)

        os.kill(product.pid, signal.SIGTERM)
        statuses = [uploads.finish() for _ in range(3)]

    assert statuses == [201] * 3
    assert product.wait(END_SECONDS) == 0
    assert cut_requests(product) == []


def test_what_a_reload_cuts_off_is_counted(embedded_product: NewProduct) -> None:
    product = embedded_product(**IMPATIENT)
    user = product.new_user()
    before = product.worker_pids()
    with HeldUploads(product, user) as uploads:
        uploads.hold(1)
        require_count(product, 1)

        os.kill(product.pid, signal.SIGHUP)

        assert uploads.answered() is None
        until(lambda: not before & product.worker_pids() and product.is_ready(), "the new workers", START_SECONDS)
    until(lambda: product.metric("photo_api_drain_timeout_total") == 1, "that to be counted")
    require_count(product, 0)
    assert user.twin().send(b"x").status_code == 415


@pytest.fixture
def hanging(s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Product]:
    """A product whose next PUT stands at a barrier until the test ends."""
    with cloud_stack(s3_server, postgres_server) as stack:
        settings = {**IMPATIENT, SILENCE: "120"}
        with closing(Product(stack, tmp_path, settings=settings)) as product:
            yield product


def test_row_42_an_upload_that_is_cut_between_its_two_transactions_is_reaped(hanging: Product) -> None:
    product, proxy, barrier = hanging, hanging.stack.proxy, Barrier()
    assert proxy is not None
    user = product.new_user()
    with HeldUploads(product, user) as uploads:
        uploads.hold(1)
        require_count(product, 1)
        proxy.inject(Hold("request", barrier), method="PUT", times=1)

        os.kill(product.pid, signal.SIGTERM)
        until(lambda: {word.phase for word in workers_of(product)} == {Phase.STOPPING}, "the worker to finish")
        began = time.monotonic()
        # So late that the stop's time is over before the request's own, and so early that the PUT begins before that.
        until(lambda: time.monotonic() > began + GRACEFUL_SECONDS / 2 + 1, "half of the graceful time to be over")
        status = uploads.finish()
        code = product.wait(END_SECONDS)

    assert (status, code, cut_requests(product)) == (None, 0, [1])
    assert rows(product.stack, PENDING) == 1
    barrier.release()
    product.start()
    until(lambda: rows(product.stack, PENDING) == 0, "the row to be reaped", 40)
    until(lambda: product.metric("photo_api_orphans_reaped_total") == 1, "that to be counted")
    require_consistency(product, user)


def test_the_drain_command_waits_for_the_last_upload(embedded_product: NewProduct) -> None:
    product = embedded_product(**{LAME_DUCK: "1"})
    user = product.new_user()
    with HeldUploads(product, user) as uploads, ThreadPoolExecutor(1) as beside:
        uploads.hold(2)
        require_count(product, 2)

        command = beside.submit(product.command, "drain", "--wait", "--json", check=False)
        until(lambda: look(product).servers[0].state is State.DRAINING, "the drain")
        until(lambda: not accepts(product), "the listener to be closed")
        statuses = [uploads.finish()]
        waits = not command.done()
        statuses.append(uploads.finish())
        done = command.result()

    (server,) = json.loads(done.stdout)["servers"]
    assert (waits, statuses) == (True, [201, 201])
    assert (done.returncode, done.stderr) == (0, "")
    assert (server["pid"], server["before"], server["asked"], server["gone"]) == (product.pid, "ready", True, True)
    assert product.wait(END_SECONDS) == 0


def test_after_an_upgrade_one_command_drains_the_server_it_names_or_both(embedded_product: NewProduct) -> None:
    product = embedded_product()
    user = product.new_user()
    with HeldUploads(product, user) as uploads:
        uploads.hold(2)
        require_count(product, 2)
        os.kill(product.pid, signal.SIGUSR2)
        until(lambda: len(look(product).servers) == 2, "a server beside the first", START_SECONDS)
        (new,) = [word.pid for word in look(product).servers if word.pid != product.pid]
        until(lambda: word_of(product, new) is State.READY, "the second to be ready", START_SECONDS)

        both = look(product).in_flight
        named = product.command("drain", "--pid", str(product.pid), "--json")
        until(lambda: {word.phase for word in workers_of(product)} == {Phase.STOPPING}, "the first to accept no more")
        statuses = [uploads.finish() for _ in range(2)]
        code = product.wait(END_SECONDS)
        served = user.twin().get("/api/v1/users/me")
        rest = product.command("drain", "--wait", "--json")

    assert both == 2
    assert [server["pid"] for server in json.loads(named.stdout)["servers"]] == [product.pid]
    assert (statuses, code) == ([201, 201], 0)
    assert served.status_code == 200
    (server,) = json.loads(rest.stdout)["servers"]
    assert (server["pid"], server["asked"], server["gone"]) == (new, True, True)
    assert not accepts(product)


def workers_of(product: Product) -> tuple[WorkerWord, ...]:
    """Return what the workers of the first server say."""
    return look(product).of_master(product.pid).workers


def word_of(product: Product, pid: int) -> State | None:
    """Return what a master says of its server; None when it says nothing."""
    return next((word.state for word in look(product).servers if word.pid == pid), None)
