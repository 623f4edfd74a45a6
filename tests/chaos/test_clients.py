"""Clients that leave in the middle, and replies that never arrive."""

from __future__ import annotations

import secrets
import socket
import struct
from contextlib import suppress

import pytest
import requests

from tests.chaos.invariants import Baseline, require_again, require_consistency, require_whole
from tests.fakes.fault_proxy import FaultProxy, Reset
from tests.integration.judging import head_of, stored
from tests.servers.client import Client, new_photo
from tests.servers.product import Product, until


@pytest.mark.parametrize("hard", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("form", [False, True], ids=["raw", "form"])
def test_row_45_a_client_that_leaves_mid_upload_leaves_nothing(
    product: Product, user: Client, *, form: bool, hard: bool
) -> None:
    content = new_photo(6_000_000)
    baseline, name = Baseline(product), "photo_api_client_disconnect_total"
    left, errors = product.metric(name, during="upload"), _server_errors(product)
    kind = "multipart/form-data; boundary=b" if form else "image/jpeg"
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' if form else b""

    for _ in range(4):
        until(lambda: not product.spooled_files(), "the spool of the one before to be gone")
        with socket.create_connection(("127.0.0.1", product.port), 30) as connection:
            connection.sendall(
                head_of(user, "/api/v1/photos", f"Content-Type: {kind}", f"Content-Length: {len(content) + 500}")
            )
            connection.sendall(start + content[:4_000_000])
            until(product.spooled_files, "the spool to take it")
            if hard:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    until(lambda: product.metric(name, during="upload") == left + 4, "the clients to be missed")
    assert stored(product, user) == (0, 0)
    assert _server_errors(product) == errors
    baseline.require()
    require_again(user, content)


def test_row_46_clients_that_leave_mid_download_leave_nothing_open(product: Product, user: Client) -> None:
    content = new_photo()[:-16] + secrets.token_bytes(12_000_000)
    photo = user.upload(content)
    user.original(photo)
    baseline, name = Baseline(product), "photo_api_client_disconnect_total"
    left, errors = product.metric(name, during="download"), _server_errors(product)
    request = head_of(user, photo["links"]["original"], method="GET")

    for _ in range(200):
        with socket.create_connection(("127.0.0.1", product.port), 30) as connection:
            connection.sendall(request)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")

    until(lambda: product.metric(name, during="download") == left + 200, "the clients to be missed", 60)
    assert _server_errors(product) == errors
    baseline.require()
    proxy = product.stack.proxy
    if proxy is not None:
        # What stays open towards storage is the pool's, not a client's.
        until(lambda: proxy.open_connections <= 2 * 16 * product.workers, "the others to be closed")
    assert user.original(photo).content == content


def test_row_23_a_reply_that_is_lost_is_given_again(product: Product, user: Client) -> None:
    content, key = new_photo(700_000), secrets.token_hex(8)
    replays = product.metric("photo_api_idempotent_replay_total")
    with FaultProxy(product.port) as between:
        between.inject(Reset("response"), method="POST", path="/api/v1/photos")
        direct, user.url = user.url, between.url
        try:
            with pytest.raises(requests.ConnectionError):
                user.send(content, key=key)
            between.heal()
            again = user.send(content, key=key)
        finally:
            user.url = direct

    assert again.status_code == 201
    assert again.headers["Idempotency-Replayed"] == "true"
    assert [photo["id"] for photo in user.photos()] == [again.json()["id"]]
    assert product.metric("photo_api_idempotent_replay_total") == replays + 1
    assert user.used_bytes() == len(content)
    require_consistency(product, user)
    require_whole(user, {again.json()["id"]: content})


def test_a_lost_reply_without_a_key_is_a_duplicate(product: Product, user: Client) -> None:
    content = new_photo()
    with FaultProxy(product.port) as between:
        between.inject(Reset("response"), method="POST", path="/api/v1/photos", times=1)
        twin = user.twin()
        twin.url = between.url
        with suppress(requests.ConnectionError):
            twin.send(content)
        twin.close()

    again = user.send(content)

    assert (again.status_code, again.json()["status"]) == (200, "duplicate")
    assert len(user.photos()) == 1


def _server_errors(product: Product) -> float:
    counted = [sample for sample in product.metrics() if sample[0] == "photo_api_http_requests_total"]
    return sum(value for _, labels, value in counted if labels["code"] >= "500")
