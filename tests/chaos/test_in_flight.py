"""Requests in flight are counted exactly, over all workers, whatever becomes of clients, workers and the page."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from app.ops.lifecycle import Phase, State
from app.ops.state import PAGE_NAME
from app.server.state_folder import STATE_FOLDER
from tests.chaos.held import HeldUploads, look, read_to_the_end, require_count, slow_reader
from tests.chaos.invariants import Baseline
from tests.integration.judging import head_of
from tests.servers.client import Client, new_photo
from tests.servers.product import START_SECONDS, Product, until
from tests.servers.stacks import Stack, embedded_stack

ORIGINAL_BYTES = 24_000_000  # more than the kernel holds for a reader that does not read
UPLOAD_BYTES = 2_000_000
POOLED_CONNECTIONS = 2 * 10  # what the database pools of both workers may have opened to keep


PATIENT = {"PHOTO_API_SERVER__CLIENT_TIMEOUT_SECONDS": "120"}  # who is held here is not cut off for its silence

NewProduct = Callable[..., Product]


@pytest.fixture(scope="module")
def product(new_stack: Callable[[], Stack], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product that waits for its clients, shared by the tests of this file."""
    with closing(Product(new_stack(), tmp_path_factory.mktemp("patient"), settings=PATIENT)) as running:
        yield running


@pytest.fixture
def embedded_product(tmp_path: Path) -> Iterator[NewProduct]:
    """A function that starts a product to be harmed; what stands behind it does not matter here."""
    with ExitStack() as ending:

        def start(*, workers: int = 2, **settings: str) -> Product:
            (tmp_path / "stack").mkdir()
            stack = embedded_stack(tmp_path / "stack")
            started = Product(stack, tmp_path, workers=workers, settings={**PATIENT, **settings})
            ending.callback(started.close)
            return started

        yield start


def test_a_request_counts_from_its_first_byte_to_the_last_of_its_answer(product: Product, user: Client) -> None:
    photo = user.upload(new_photo(ORIGINAL_BYTES))
    user.get("/api/v1/users/me")  # its connection stays, and counts for nothing
    require_count(product, 0)
    with HeldUploads(product, user) as uploads, ExitStack() as connections:
        beginning = connections.enter_context(socket.create_connection(("127.0.0.1", product.port), 30))
        beginning.sendall(b"G")
        require_count(product, 1)
        uploads.hold(5)
        require_count(product, 6)
        reader = connections.enter_context(slow_reader(product, user, photo["links"]["original"]))
        require_count(product, 7)

        statuses = [uploads.finish() for _ in range(4)]

        require_count(product, 3)
        read_to_the_end(reader, ORIGINAL_BYTES)
        require_count(product, 2)
        beginning.sendall(b"ET /api/v1/users/me HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert beginning.recv(4096).startswith(b"HTTP/1.1 401")
        require_count(product, 1)
        statuses.append(uploads.finish())
    require_count(product, 0)
    assert statuses == [201] * 5


def test_probes_and_scrapes_are_never_counted(product: Product, user: Client) -> None:
    with HeldUploads(product, user) as uploads:
        uploads.hold(1)
        require_count(product, 1)

        seen = {(user.get("/health").status_code, look(product).in_flight) for _ in range(20)}

        assert seen == {(200, 1)}
    require_count(product, 0)


@pytest.mark.parametrize("hard", [False, True], ids=["fin", "rst"])
def test_fifty_clients_that_leave_at_any_point_are_all_counted_out(
    product: Product, user: Client, *, hard: bool
) -> None:
    content = new_photo(UPLOAD_BYTES)
    head = head_of(user, "/api/v1/photos", "Content-Type: image/jpeg", f"Content-Length: {len(content)}")
    whole = head + content
    baseline = Baseline(product)
    require_count(product, 0)

    with ExitStack() as connections:
        for number in range(50):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", product.port), 30))
            # From within the head to shortly before the body's end.
            connection.sendall(whole[: 10 + number * (len(whole) - 20) // 50])
            if hard:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        require_count(product, 50)

    require_count(product, 0)
    baseline.require(slack=POOLED_CONNECTIONS)
    assert user.send(content).status_code == 201


def test_downloads_that_are_cut_are_counted_until_then(product: Product, user: Client) -> None:
    photo = user.upload(new_photo(ORIGINAL_BYTES))
    baseline = Baseline(product)

    with ExitStack() as connections:
        for _ in range(12):
            connections.enter_context(slow_reader(product, user, photo["links"]["original"]))
        require_count(product, 12)

    require_count(product, 0)
    baseline.require()


def test_what_a_killed_worker_was_at_is_counted_out_and_no_more(embedded_product: NewProduct) -> None:
    product = embedded_product()
    user = product.new_user()
    victim, other = sorted(product.worker_pids())
    with HeldUploads(product, user) as uploads:
        uploads.hold(3, worker=other)
        uploads.hold(4, worker=victim)
        require_count(product, 7)

        os.kill(victim, signal.SIGKILL)

        until(lambda: look(product).in_flight == 3, "the count without the dead worker")
        until(product.is_ready, "another worker", START_SECONDS)
        require_count(product, 3)
        report = look(product)
        assert victim not in {word.pid for word in report.workers}
        assert {word.pid for word in report.workers} == product.worker_pids()
        assert [uploads.finish() for _ in range(3)] == [201] * 3
    require_count(product, 0)


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product whose page is harmed by one test after the other, and nothing else of it."""
    folder = tmp_path_factory.mktemp("harmed")
    with closing(Product(embedded_stack(tmp_path_factory.mktemp("stack")), folder, settings=PATIENT)) as running:
        yield running


def _cut(page: Path) -> None:
    os.truncate(page, 100)


def _overwrite(page: Path) -> None:
    page.write_bytes(os.urandom(page.stat().st_size))


def _take_the_folder_away(page: Path) -> None:
    # At once: the server makes it anew, and would put something into what is being emptied.
    shutil.rmtree(page.parent.rename(page.parent.with_name("taken away")))


@pytest.mark.parametrize(
    "harm", [Path.unlink, _cut, _overwrite, _take_the_folder_away], ids=["gone", "cut", "overwritten", "folder gone"]
)
def test_a_page_that_is_lost_while_requests_run_is_exact_again(harmed: Product, harm: Callable[[Path], None]) -> None:
    product, user = harmed, harmed.new_user()
    first, second = sorted(product.worker_pids())
    with HeldUploads(product, user) as uploads:
        uploads.hold(2, worker=first)
        uploads.hold(3, worker=second)
        require_count(product, 5)

        harm(product.folder / STATE_FOLDER / PAGE_NAME)

        require_count(product, 5)
        assert {word.pid: word.in_flight for word in look(product).workers} == {first: 2, second: 3}
        ready = [(product.pid, State.READY)]
        until(lambda: [(word.pid, word.state) for word in look(product).servers] == ready, "the master's word")
        assert [uploads.finish() for _ in range(5)] == [201] * 5
    require_count(product, 0)
    assert product.worker_pids() == {first, second}


def test_a_worker_that_makes_room_for_another_counts_until_it_has_finished(embedded_product: NewProduct) -> None:
    product = embedded_product(workers=1, PHOTO_API_SERVER__MAX_REQUESTS="40")
    user = product.new_user()
    (old,) = product.worker_pids()
    with HeldUploads(product, user) as uploads:
        uploads.hold(2, worker=old)
        require_count(product, 2)

        until(lambda: user.twin().get("/api/v1/users/me").ok and _phase(product, old) > Phase.READY, "its last one")
        until(lambda: len(product.worker_pids()) == 2, "another worker beside it", START_SECONDS)

        require_count(product, 2)
        assert [uploads.finish() for _ in range(2)] == [201] * 2
    require_count(product, 0)
    until(lambda: old not in product.worker_pids(), "its end")
    assert len(product.worker_pids()) == 1


def test_a_reload_counts_old_and_new_workers_together(embedded_product: NewProduct) -> None:
    product = embedded_product()
    user = product.new_user()
    before = product.worker_pids()
    with HeldUploads(product, user) as uploads:
        for pid in before:
            uploads.hold(2, worker=pid)
        require_count(product, 4)

        os.kill(product.pid, signal.SIGHUP)
        until(lambda: len(product.worker_pids() - before) == 2, "two workers beside the old ones", START_SECONDS)
        have_stopped = partial(_are_stopping, product, before)
        until(have_stopped, "the old ones to accept no more", START_SECONDS)
        uploads.hold(3)

        require_count(product, 7)
        assert [uploads.finish() for _ in range(4)] == [201] * 4
        until(lambda: not before & product.worker_pids(), "the end of the old ones")
        require_count(product, 3)
        assert [uploads.finish() for _ in range(3)] == [201] * 3
    require_count(product, 0)


def _are_stopping(product: Product, pids: set[int]) -> bool:
    return all(_phase(product, pid) is Phase.STOPPING for pid in pids)


def _phase(product: Product, pid: int) -> Phase:
    return next((word.phase for word in look(product).workers if word.pid == pid), Phase.STOPPING)
