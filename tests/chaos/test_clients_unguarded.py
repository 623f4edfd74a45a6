"""The controls of rows 45 to 47: the same clients, and a product without the guard that the row is about."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.http.bodies import CHUNK_BYTES
from tests.chaos.crowds import Crowd, latencies
from tests.chaos.unguarded import without
from tests.integration.judging import head_of, stored
from tests.servers.client import new_photo
from tests.servers.product import Product, until
from tests.servers.stacks import CLOUD, Stack, embedded_stack

TAKES_WHAT_HAS_COME = f"""
from app.http import bodies

def chunks(request):
    try:
        while chunk := request.stream.read({CHUNK_BYTES}):
            yield chunk
    except Exception:
        return

bodies._chunks = chunks
"""
CLOSES_NO_ANSWER = """
from app.server import exchange

exchange.Exchange._end = lambda self: None
"""
HAS_NO_CONNECTION_FOR_SLOW_READERS = """
from app import factory

factory.HALF_WRITTEN_MAX = 0
"""
LENDS_UPLOADS_EVERYTHING = """
from app.ops import admission

admission.Admission._may_have = lambda self, lane: True
"""
THREADS = 2
LONGEST_SECONDS = 5.0
LARGE_BYTES = 12_000_000


@contextmanager
def unguarded(tmp_path: Path, lines: str, stack: Stack | None = None) -> Iterator[Product]:
    """Run a product of one worker that runs these lines first."""
    settings = {"PHOTO_API_SERVER__THREADS": str(THREADS), **without(tmp_path, lines)}
    folder = tmp_path / "product"
    folder.mkdir()
    product = Product(stack or embedded_stack(folder), folder, workers=1, settings=settings)
    try:
        yield product
    finally:
        product.close()


def test_row_45_without_its_guard_what_has_come_in_is_taken_for_a_photo(tmp_path: Path) -> None:
    with unguarded(tmp_path, TAKES_WHAT_HAS_COME) as product:
        user = product.new_user()
        head = head_of(user, "/api/v1/photos", "Content-Type: image/jpeg", f"Content-Length: {LARGE_BYTES}")
        with socket.create_connection(("127.0.0.1", product.port), 30) as connection:
            connection.sendall(head + new_photo(4_000_000))
            until(product.spooled_files, "the spool to take it")

        until(lambda: stored(product, user) == (1, 1), "half a photo to be stored")


def test_row_46_without_its_guard_answers_are_never_closed(tmp_path: Path) -> None:
    with unguarded(tmp_path, CLOSES_NO_ANSWER) as product:
        user = product.new_user()
        photo = user.upload(new_photo(LARGE_BYTES))
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", product.port), 30) as connection:
                connection.sendall(head_of(user, photo["links"]["original"], method="GET"))
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")

        until(lambda: product.metric("photo_api_in_flight_requests") == 0, "the clients to be gone")

        assert product.metric("photo_api_client_disconnect_total", during="download") == 0


def test_row_47_without_its_guard_slow_uploads_have_every_place(tmp_path: Path) -> None:
    with unguarded(tmp_path, LENDS_UPLOADS_EVERYTHING) as product:
        user = product.new_user()
        begun = head_of(user, "/api/v1/photos", "Content-Type: image/jpeg", f"Content-Length: {LARGE_BYTES}")
        body = new_photo(LARGE_BYTES)
        assert user.get("/api/v1/photos").ok

        with Crowd(product.port, begun + body[:300_000], body[300_000:], count=4):
            until(lambda: product.metric("photo_api_in_flight_requests") == 4, "the uploads to be at work")
            amid = latencies(lambda: user.get("/api/v1/photos", timeout=1), 3, longest=LONGEST_SECONDS)

    assert amid == [LONGEST_SECONDS] * 3  # no good answer


@pytest.mark.parametrize("stack_name", [CLOUD], indirect=True)
def test_row_47_without_its_guard_slow_readers_have_every_connection_to_the_store(
    tmp_path: Path, new_stack: Callable[[], Stack]
) -> None:
    with unguarded(tmp_path, HAS_NO_CONNECTION_FOR_SLOW_READERS, new_stack()) as product:
        user = product.new_user()
        photo = user.upload(new_photo(LARGE_BYTES))
        small = user.upload(new_photo())
        assert user.original(small).ok

        with Crowd(product.port, head_of(user, photo["links"]["original"], method="GET"), count=2 * THREADS):
            answer = user.get(small["links"]["original"])

    assert answer.status_code == 503
