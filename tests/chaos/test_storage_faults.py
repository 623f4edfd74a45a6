"""What an upload answers when the object store fails at every attempt: rows 2 to 8, 13, 17 and 18, on a real Swift.

Whatever the store does, the photo is either stored and answered with success, or neither visible nor counted. What a
second attempt makes good is in ``test_guarded_storage_faults.py``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from app.photos.models import READY
from tests.chaos.crashes import assert_counted, assert_sound, rows, settle
from tests.chaos.guarded import ATTEMPTS, WITHOUT_OPENING
from tests.fakes.fault_proxy import Barrier, Fault, FaultProxy, Flip, Hold, Reset, Status
from tests.integration.judging import assert_problem
from tests.servers.client import new_photo
from tests.servers.postgres import PostgresServer
from tests.servers.product import Product, until
from tests.servers.stacks import cloud_stack
from tests.servers.swift import SwiftServer

UPLOAD_SECONDS = 4.0
"""Longer than a busy machine lets a process stand still: what is well is never given up."""

SIZE_BYTES = 100 * 1024
WRONG_ETAG = '"00000000000000000000000000000000"'


@pytest.fixture(scope="module")
def hasty(
    s3_server: SwiftServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    """A product that does not wait long for its store; no breaker opens, so that each test sees every attempt."""
    folder = tmp_path_factory.mktemp("hasty")
    pipelines = folder / "pipelines.toml"
    pipelines.write_text(WITHOUT_OPENING, encoding="utf-8")
    with cloud_stack(s3_server, postgres_server) as stack:
        settings = {
            "PHOTO_API_STORAGE__UPLOAD_TIMEOUT_SECONDS": str(UPLOAD_SECONDS),
            "PHOTO_API_STABILITY__PIPELINES_FILE": str(pipelines),
            "PHOTO_API_UPLOADS__LEASE_SECONDS": "30",
        }
        product = Product(stack, folder, workers=2, settings=settings)
        with closing(product):
            yield product


@pytest.fixture
def proxy(hasty: Product) -> Iterator[FaultProxy]:
    assert hasty.stack.proxy is not None
    yield hasty.stack.proxy
    hasty.stack.proxy.heal()


@dataclass(frozen=True)
class Case:
    """One fault of every PUT; ``arrives`` says whether the object is there in the end all the same."""

    name: str
    fault: Fault
    arrives: bool = False
    status: int = 503
    attempts: int = ATTEMPTS
    retry_after: int = 1


BEFORE_SWIFT, BEHIND_SWIFT = Barrier(), Barrier()
CASES = [
    Case("500", Status(500)),
    Case(
        "503 slow down",
        Status(503, (("Retry-After", "30"),), b"<Error><Code>SlowDown</Code></Error>"),
        attempts=1,
        retry_after=30,
    ),
    Case("429", Status(429)),
    Case("403", Status(403, (), b"<Error><Code>AccessDenied</Code></Error>"), attempts=1),
    Case("507", Status(507), status=507, attempts=1),
    Case("reset before the head", Reset("request")),
    Case("reset mid body", Reset("request", 64 * 1024)),
    Case("stored and reply lost", Reset("response"), arrives=True),
    Case("hangs before it is stored", Hold("request", BEFORE_SWIFT)),
    Case("hangs when it is stored", Hold("response", BEHIND_SWIFT), arrives=True),
    Case("another ETag", Status(200, (("ETag", WRONG_ETAG),)), attempts=1),
    Case("a bit flipped on its way", Flip("request", SIZE_BYTES // 2), attempts=1),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_failed_put_is_neither_visible_nor_counted_and_the_same_key_works_at_once(
    hasty: Product, proxy: FaultProxy, case: Case
) -> None:
    client, key, content = hasty.new_user(), secrets.token_hex(8), new_photo(SIZE_BYTES)
    objects = len(hasty.stack.object_keys())
    failures = hasty.metric("photo_api_external_request_errors_total", operation="put")
    proxy.inject(case.fault, method="PUT")
    puts = proxy.count("PUT")

    failed = client.send(content, key=key)
    tried = proxy.count("PUT") - puts
    seen, used = client.photos(), client.used_bytes()
    proxy.heal()
    if isinstance(case.fault, Hold):
        case.fault.barrier.release()
    if case.arrives:
        until(lambda: len(hasty.stack.object_keys()) > objects, "the object that nobody is told of")
    again = client.send(content, key=key)

    assert_problem(failed, case.status)
    assert case.status != 503 or int(failed.headers["Retry-After"]) >= case.retry_after
    assert (tried, seen, used) == (case.attempts, [], 0)
    assert (again.status_code, again.headers.get("Idempotency-Replayed")) == (201, None)
    assert hasty.metric("photo_api_external_request_errors_total", operation="put") == failures + case.attempts
    assert client.original(again.json()).content == content
    settle(hasty.stack)
    assert_counted(hasty.stack)
    assert len(client.photos()) == 1


def test_a_store_that_is_down_for_all_leaves_the_rest_working(hasty: Product, proxy: FaultProxy) -> None:
    client, content = hasty.new_user(), new_photo()
    kept = client.upload(content)
    proxy.inject(Status(500))

    answers = [client.send(new_photo()) for _ in range(4)]
    listed, ready = client.photos(), hasty.metric("photo_api_ready")
    proxy.heal()
    after = client.send(new_photo())

    for answer in answers:
        assert_problem(answer, 503)
    assert [photo["id"] for photo in listed] == [kept["id"]]
    assert ready == 1
    assert after.status_code == 201
    assert client.used_bytes() == len(content) + after.json()["size_bytes"]
    assert rows(hasty.stack, READY) >= 2
    assert_sound(hasty, client, {kept["id"]: content})
