"""Row 47: two hundred clients that send or read slowly hold no thread and disturb nobody; then nothing is left."""

from __future__ import annotations

import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from app.server.kept import QUICK_SECONDS
from tests.chaos.crowds import CLIENTS, Crowd, is_undisturbed, latencies
from tests.chaos.invariants import Baseline, require_again, require_consistency
from tests.chaos.plain import LARGE_BYTES
from tests.integration.judging import head_of, stored
from tests.servers.base import ServerProcess, find_free_port
from tests.servers.client import Client, new_photo
from tests.servers.product import ROOT, Product, until
from tests.servers.stacks import Stack

PATIENCE_SECONDS = 6
"""Of the server; much longer than a busy machine lets a crowd stand still."""

ASKED = 100
HELD_BYTES = 1024 * 1024
"""What an answer may hold that its client reads slowly: the chunk being written, the next one, and what is around."""
POOLED = 2 * 10 + 6
"""Connections that pools may have opened to keep, when 200 clients leave at once: ten to the database per worker."""
SLOW_UPLOADS = 40
FINISHED = 5
CRAWLERS = 64
"""More than there are places for uploads: 8 of a worker's 16, for those of reads are not lent to them."""


@pytest.fixture(scope="module")
def patient(new_stack: Callable[[], Stack], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product that does not wait long for a silent client."""
    settings = {"PHOTO_API_SERVER__CLIENT_TIMEOUT_SECONDS": str(PATIENCE_SECONDS)}
    running = Product(new_stack(), tmp_path_factory.mktemp("patient"), settings=settings)
    yield running
    running.close()


@pytest.fixture(scope="module")
def person(patient: Product) -> Client:
    return patient.new_user()


@pytest.fixture(scope="module")
def read(person: Client) -> Callable[[], requests.Response]:
    """A good client's read: the metadata of a photo, a list and a small original in turn."""
    photo = person.upload(new_photo())
    paths = [f"/api/v1/photos/{photo['id']}", "/api/v1/photos", photo["links"]["original"]]

    def ask() -> requests.Response:
        paths.append(paths.pop(0))
        return person.get(paths[0], timeout=5)

    latencies(ask, 3 * len(paths))
    return ask


def test_row_47_slow_readers_disturb_nobody(
    patient: Product, person: Client, read: Callable[[], requests.Response]
) -> None:
    photo = person.upload(new_photo()[:-16] + secrets.token_bytes(LARGE_BYTES))
    person.original(photo)
    baseline, alone = Baseline(patient), latencies(read, ASKED)
    memory = sum(patient.reset_peak_memory().values())

    with Crowd(patient.port, head_of(person, photo["links"]["original"], method="GET")) as crowd:
        amid = latencies(read, ASKED)
        upload = person.send(new_photo())
        in_flight = patient.metric("photo_api_in_flight_requests")

        assert crowd.statuses() == [200] * CLIENTS
        assert crowd.ended == 0
    assert in_flight >= CLIENTS
    assert sum(patient.peak_memory().values()) - memory <= CLIENTS * HELD_BYTES
    assert upload.status_code == 201
    assert is_undisturbed(alone, amid), (alone, amid)
    baseline.require(slack=POOLED)


def test_row_47_readers_that_stop_are_cut_off_and_hold_nothing(patient: Product, person: Client) -> None:
    photo = person.upload(new_photo()[:-16] + secrets.token_bytes(LARGE_BYTES))
    person.original(photo)
    baseline = Baseline(patient)
    gone = patient.metric("photo_api_client_disconnect_total", during="download")
    request = head_of(person, photo["links"]["original"], method="GET")

    with Crowd(patient.port, request, reads=False):
        until(
            lambda: patient.metric("photo_api_client_disconnect_total", during="download") == gone + CLIENTS,
            "all readers to be given up",
            60,
        )

    baseline.require(slack=POOLED)


def test_row_47_slow_uploads_of_small_bodies_hold_no_place(
    patient: Product, person: Client, read: Callable[[], requests.Response]
) -> None:
    baseline, alone = Baseline(patient), latencies(read, ASKED)
    body = new_photo(200_000)
    begun = head_of(person, "/api/v1/photos", "Content-Type: image/jpeg", f"Content-Length: {len(body)}")

    with Crowd(patient.port, begun, body) as crowd:
        amid = latencies(read, ASKED)
        uploads = [person.send(new_photo()).status_code for _ in range(10)]

        assert crowd.ended == 0
    assert uploads == [201] * 10
    assert is_undisturbed(alone, amid), (alone, amid)
    baseline.require(slack=POOLED)


def test_row_47_slow_uploads_of_large_bodies_hold_no_place_and_are_stored_when_they_are_whole(
    patient: Product, person: Client
) -> None:
    bodies = [new_photo(600_000) for _ in range(SLOW_UPLOADS)]
    clients = [socket.create_connection(("127.0.0.1", patient.port), 30) for _ in bodies]
    fields = ("Content-Type: image/jpeg", "Content-Length: 600000", "Connection: close")
    head = head_of(person, "/api/v1/photos", *fields)
    for client in clients:
        client.sendall(head)
    name = "photo_api_in_flight_requests"
    until(lambda: patient.metric(name) == SLOW_UPLOADS, "the server to wait for their bodies")
    time.sleep(QUICK_SECONDS)  # that is what makes them slow
    for client, body in zip(clients, bodies, strict=True):
        client.sendall(body[:400_000])

    others = [person.send(new_photo()).status_code for _ in range(5)]
    in_flight = patient.metric(name)
    statuses = []
    for client, body in zip(clients[:FINISHED], bodies, strict=False):
        client.sendall(body[400_000:])
        statuses.append(client.recv(65_536).split()[1])
    for client in clients:
        client.close()

    assert (others, in_flight) == ([201] * 5, SLOW_UPLOADS)
    assert statuses == [b"201"] * FINISHED
    require_again(person, bodies[0])


def test_row_47_large_uploads_that_begin_quickly_and_then_crawl_are_cut_off_and_leave_nothing(
    patient: Product, read: Callable[[], requests.Response]
) -> None:
    sender = patient.new_user()
    baseline, alone = Baseline(patient), latencies(read, ASKED)
    body = new_photo(4_000_000)
    head = head_of(sender, "/api/v1/photos", "Content-Type: image/jpeg", f"Content-Length: {len(body)}")

    with Crowd(patient.port, head + body[:300_000], body[300_000:], count=CRAWLERS) as crowd:
        amid = latencies(read, ASKED)
        until(lambda: crowd.ended == CRAWLERS, "all of them to be cut off", 60)

        assert set(crowd.statuses()) <= {408, 503}  # too slow for a thread, or no place for it
    assert is_undisturbed(alone, amid), (alone, amid)
    until(lambda: patient.metric("photo_api_in_flight_requests") == 0, "the senders to be missed", 60)
    baseline.require(slack=POOLED)
    assert stored(patient, sender) == (0, 0)
    require_again(sender, body)
    require_consistency(patient, sender)


def test_row_47_slow_heads_are_cut_off_and_disturb_nobody(
    patient: Product, read: Callable[[], requests.Response]
) -> None:
    baseline, alone = Baseline(patient), latencies(read, ASKED)

    with Crowd(patient.port, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"a" * 60_000) as crowd:
        amid = latencies(read, ASKED)
        until(lambda: crowd.ended == CLIENTS, "all of them to be cut off", 60)

        assert crowd.statuses() == [408] * CLIENTS
    assert is_undisturbed(alone, amid), (alone, amid)
    baseline.require(slack=POOLED)


CROWDS = [
    pytest.param(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n", None, id="readers"),
    pytest.param(
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n", b"a" * 900_000, id="bodies"
    ),
    pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"a" * 60_000, id="heads"),
]


@pytest.mark.parametrize(("begun", "rest"), CROWDS)
def test_gunicorn_s_own_threaded_worker_is_disturbed_by_each_of_them(
    tmp_path: Path, begun: bytes, rest: bytes | None
) -> None:
    port = find_free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"]
    command += ["--workers", "2", "--threads", "16", "--no-control-socket", "tests.chaos.plain:application"]
    server = ServerProcess(command, log=tmp_path / "plain.log", environ={"PYTHONPATH": str(ROOT)}, end=signal.SIGQUIT)
    try:
        server.wait_until_listening(port)
        alone = latencies(lambda: requests.get(f"http://127.0.0.1:{port}/", timeout=1), ASKED)
        with Crowd(port, begun, rest, count=100, waits=False):
            amid = latencies(lambda: requests.get(f"http://127.0.0.1:{port}/", timeout=1), 5)
    finally:
        server.stop()

    assert not is_undisturbed(alone, amid)
