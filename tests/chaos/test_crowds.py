"""Row 32: two hundred want the same photo at once, which nobody has fetched before."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from app.photos.small_originals import SMALL_BYTES
from tests.chaos.unguarded import without
from tests.drills.watch import upstream_calls
from tests.fakes.fault_proxy import Barrier, FaultProxy, Hold
from tests.servers.client import Client, new_photo
from tests.servers.postgres import PostgresServer
from tests.servers.product import Product, until
from tests.servers.stacks import cloud_stack
from tests.servers.swift import SwiftServer

CROWD = 200
HELD_AT_ONCE = 10
TIMEOUT_SECONDS = 60
SHARED = "photo_api_singleflight_shared_total"
KEPT_FOR_ANY_CROWD = """
from app.photos import small_originals

small_originals.SmallOriginals.__init__.__kwdefaults__["kept_seconds"] = 120.0
"""
"""On a busy machine a crowd takes longer to pass than on a server."""


@pytest.fixture(scope="module")
def single(
    s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    """A product of one process, with storage behind a fault proxy."""
    folder: Path = tmp_path_factory.mktemp("single")
    with cloud_stack(s3_server, postgres_server) as stack:
        settings = without(tmp_path_factory.mktemp("patience"), KEPT_FOR_ANY_CROWD)
        product = Product(stack, folder, workers=1, settings=settings)
        with closing(product):
            yield product


@pytest.fixture
def proxy(single: Product) -> Iterator[FaultProxy]:
    assert single.stack.proxy is not None
    yield single.stack.proxy
    single.stack.proxy.heal()


def read_by_crowd(
    product: Product, proxy: FaultProxy, photo: dict[str, Any], owner: Client, number: int
) -> list[bytes]:
    """Let many ask for a photo while its first read stands at the store; return what each got."""
    barrier = Barrier()
    proxy.inject(Hold("response", barrier), method="GET", path="/originals/")
    url, identity = product.url + photo["links"]["original"], dict(owner.http.headers)

    def read(_number: int) -> bytes:
        got: list[bytes] = []

        def answered() -> bool:
            answer = requests.get(url, headers=identity, timeout=TIMEOUT_SECONDS)
            if answer.status_code == requests.codes.ok:
                got.append(answer.content)
            else:  # more at once than there is room for: they come again
                assert answer.status_code == requests.codes.service_unavailable, answer.text
            return bool(got)

        until(answered, "an original", TIMEOUT_SECONDS)
        return got[0]

    with ThreadPoolExecutor(number) as pool:
        answers = [pool.submit(read, each) for each in range(number)]
        barrier.wait_until_reached()
        until(lambda: product.metric("photo_api_in_flight_requests") >= min(HELD_AT_ONCE, number), "a crowd")
        barrier.release()
        return [answer.result(TIMEOUT_SECONDS) for answer in answers]


def test_row_32_a_crowd_takes_one_read_of_the_store(single: Product, proxy: FaultProxy) -> None:
    owner = single.new_user()
    content = new_photo(200_000)
    photo, before = owner.upload(content), (upstream_calls(proxy, "GET"), single.metric(SHARED))

    found = read_by_crowd(single, proxy, photo, owner, CROWD)

    assert set(found) == {content}
    assert upstream_calls(proxy, "GET") == before[0] + 1
    assert single.metric(SHARED) == before[1] + CROWD - 1


def test_row_32_what_is_too_large_to_be_held_is_read_for_each(single: Product, proxy: FaultProxy) -> None:
    owner = single.new_user()
    content = new_photo()[:-16] + secrets.token_bytes(SMALL_BYTES)
    photo, before = owner.upload(content), upstream_calls(proxy, "GET")

    found = read_by_crowd(single, proxy, photo, owner, 8)

    assert set(found) == {content}
    assert upstream_calls(proxy, "GET") == before + 8
