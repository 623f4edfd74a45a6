"""Memory of a worker: at most 8 MiB more while a large upload is taken or refused, or a large original is served."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.integration.judging import head_of
from tests.servers.client import Client, new_photo
from tests.servers.product import Product, until

MIB = 1024 * 1024
GROWTH_BYTES = 8 * MIB
STREAM_BYTES = 2 * MIB
"""One chunk that is sent, one that comes, and what the allocator keeps of those before."""


@pytest.fixture(autouse=True)
def warm(product: Product, owner: Client) -> None:
    """Let every worker take and serve one large photo: what stays after that is no growth."""
    for _ in range(6):
        twin = owner.twin()
        photo = twin.send(new_photo(3 * MIB)).json()
        twin.original(photo)
        twin.send_form(new_photo(3 * MIB))
        twin.close()


def growth(product: Product, before: dict[int, int]) -> int:
    """Return by how many bytes the peak of a worker is over what it had."""
    after = product.peak_memory()
    assert set(before) == set(after)
    return max(after[pid] - before[pid] for pid in before)


@pytest.mark.parametrize("form", [False, True], ids=["raw", "form"])
def test_thirty_megabytes_are_taken_in_eight(product: Product, owner: Client, *, form: bool) -> None:
    content = new_photo(30_000_000)
    before = product.reset_peak_memory()

    answer = owner.send_form(content) if form else owner.send(content)

    assert answer.status_code == 201
    assert growth(product, before) <= GROWTH_BYTES


def _endless(total_bytes: int) -> Iterator[bytes]:
    yield new_photo()
    block = secrets.token_bytes(MIB)
    for _ in range(total_bytes // MIB):
        yield block


@pytest.mark.parametrize("kind", ["raw", "form", "chunked"])
def test_two_hundred_megabytes_are_refused_in_eight(product: Product, owner: Client, kind: str) -> None:
    lines = {
        "raw": ("Content-Type: image/jpeg", "Content-Length: 200000000"),
        "form": ("Content-Type: multipart/form-data; boundary=b", "Content-Length: 200000000"),
        "chunked": ("Content-Type: multipart/form-data; boundary=b", "Transfer-Encoding: chunked"),
    }[kind]
    before = product.reset_peak_memory()

    with socket.create_connection(("127.0.0.1", product.port), 30) as connection:
        connection.sendall(head_of(owner, "/api/v1/photos", *lines))
        with suppress(BrokenPipeError, ConnectionResetError):  # it stops reading, and says so
            for block in _framed(kind):
                connection.sendall(block)
        try:
            status = connection.recv(4096)[:12]
        except ConnectionResetError:
            status = b""

    # The answer may be lost in the reset that follows it: what counts is that it did not read on.
    assert status in {b"HTTP/1.1 413", b""}
    assert growth(product, before) <= GROWTH_BYTES
    until(lambda: product.spooled_files() == [], "the spool to be empty")


def _framed(kind: str) -> Iterator[bytes]:
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' if kind != "raw" else b""
    for block in (start, *_endless(200 * MIB)) if start else _endless(200 * MIB):
        yield b"%x\r\n%b\r\n" % (len(block), block) if kind == "chunked" else block


def test_twenty_megabytes_are_served_slowly_in_eight(product: Product, owner: Client) -> None:
    content = new_photo()[:-16] + secrets.token_bytes(20_000_000)
    photo = owner.upload(content)
    before = product.reset_peak_memory()

    received = bytearray()
    with owner.get(photo["links"]["original"], stream=True) as answer:
        while piece := answer.raw.read(100_000):
            received += piece
            if len(received) % 2_000_000 < 100_000:
                product.metric("photo_api_ready")  # takes its time between two reads

    assert bytes(received) == content
    assert growth(product, before) <= GROWTH_BYTES


@pytest.mark.parametrize("at_once", [8])
def test_eight_times_twenty_megabytes_are_served_at_once_in_a_bound(
    product: Product, owner: Client, at_once: int
) -> None:
    contents = [new_photo()[:-16] + secrets.token_bytes(20_000_000) for _ in range(at_once)]
    photos = [owner.upload(content) for content in contents]
    twins = [owner.twin() for _ in photos]
    before = product.reset_peak_memory()

    with ThreadPoolExecutor(at_once) as pool:
        served = list(pool.map(lambda twin, photo: twin.original(photo).content, twins, photos))

    assert served == contents
    assert growth(product, before) <= at_once * STREAM_BYTES
    for twin in twins:
        twin.close()
