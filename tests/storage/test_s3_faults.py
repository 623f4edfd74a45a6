"""What the S3 store alone makes of a server that fails: real Swift behind the fault proxy.

What it has to stand as every cloud does is asked in ``tests/contract/test_cloud_store.py``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.storage.base import (
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectStore,
    StorageDeniedError,
    StorageFullError,
    StorageUnavailableError,
)
from app.storage.probe import BytesBody
from app.storage.s3 import S3Config, S3ObjectStore
from tests.fakes.bodies import pattern
from tests.fakes.fault_proxy import Cut, FaultProxy, Status
from tests.servers.swift import STRANGER_ACCESS_KEY_ID, SwiftServer

MIB = 1024 * 1024
CONTENT = pattern(2 * MIB)


@pytest.fixture
def proxy(s3_server: SwiftServer) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def config(s3_config: S3Config, proxy: FaultProxy) -> S3Config:
    return replace(s3_config, endpoint_url=proxy.url)


@pytest.fixture
def direct(s3_config: S3Config) -> Iterator[S3ObjectStore]:
    store = S3ObjectStore(s3_config)
    yield store
    store.close()


@pytest.fixture
def store(config: S3Config) -> Iterator[S3ObjectStore]:
    store = S3ObjectStore(config)
    yield store
    store.close()


def put(store: ObjectStore, content: bytes = CONTENT, key: str = "a") -> None:
    store.put(key, BytesBody(content), content_type="image/jpeg")


def read(store: ObjectStore, key: str = "a") -> bytes:
    with store.open(key) as reader:
        return b"".join(reader)


def calls(store: ObjectStore) -> list[Callable[[], object]]:
    return [
        lambda: put(store, b"small"),
        lambda: put(store),
        lambda: store.head("a"),
        lambda: store.open("a"),
        lambda: store.delete("a"),
        lambda: list(store.list()),
    ]


def test_unauthorized_is_a_denial_and_not_tried_again(store: S3ObjectStore, proxy: FaultProxy) -> None:
    proxy.inject(Status(401))

    for number, call in enumerate(calls(store), 1):
        with pytest.raises(StorageDeniedError):
            call()
        assert proxy.count() == number


def test_retry_after_of_a_throttling_store_is_passed_on(store: S3ObjectStore, proxy: FaultProxy) -> None:
    proxy.inject(Status(503, headers=(("Retry-After", "17"),), body=b"<Error><Code>SlowDown</Code></Error>"))

    with pytest.raises(StorageUnavailableError) as caught:
        store.head("a")

    assert caught.value.retry_after_seconds == 17


def test_message_of_an_error_names_no_internals(s3_config: S3Config, store: S3ObjectStore, proxy: FaultProxy) -> None:
    proxy.inject(Status(403, body=b"<Error><Code>SignatureDoesNotMatch</Code></Error>"))

    with pytest.raises(StorageDeniedError) as caught:
        store.head("a")

    text = caught.value.detail
    assert not any(secret in text for secret in (s3_config.bucket, "127.0.0.1", s3_config.access_key_id, "403"))
    assert s3_config.secret_access_key not in repr(s3_config)


def test_server_that_does_not_speak_http_is_unavailable(s3_config: S3Config) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        store = S3ObjectStore(replace(s3_config, endpoint_url=f"http://127.0.0.1:{listener.getsockname()[1]}"))

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(b"220 mail.example.com ESMTP\r\n")

        done = pool.submit(answer)
        with pytest.raises(StorageUnavailableError):
            store.head("a")
        done.result(10)


def test_refusal_before_the_whole_body_was_taken_is_heard(s3_config: S3Config) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        store = S3ObjectStore(replace(s3_config, endpoint_url=f"http://127.0.0.1:{listener.getsockname()[1]}"))

        def refuse() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 507 Full\r\nContent-Length: 0\r\n\r\n")

        done = pool.submit(refuse)
        with pytest.raises(StorageFullError):
            put(store, bytes(40 * MIB))
        done.result(10)


@pytest.mark.parametrize("wrong", [{"secret_access_key": "wrong"}, {"access_key_id": "test:nobody"}])
def test_wrong_credentials_are_denied(s3_config: S3Config, wrong: dict[str, str]) -> None:
    store = S3ObjectStore(replace(s3_config, **wrong))  # type: ignore[arg-type]  # both fields are strings

    for call in calls(store):
        with pytest.raises(StorageDeniedError):
            call()
    store.close()


def test_account_without_rights_is_denied(s3_config: S3Config) -> None:
    store = S3ObjectStore(replace(s3_config, access_key_id=STRANGER_ACCESS_KEY_ID))

    for call in calls(store):
        with pytest.raises(StorageDeniedError):
            call()
    store.close()


def test_reply_with_another_digest_is_refused_and_the_object_removed(store: S3ObjectStore, proxy: FaultProxy) -> None:
    proxy.inject(Status(200, headers=(("ETag", '"0123456789abcdef0123456789abcdef"'),)), method="PUT")

    with pytest.raises(ObjectCorruptError):
        put(store)

    assert [seen.method for seen in proxy.requests] == ["PUT", "DELETE"]


def test_reply_with_the_etag_of_a_managed_key_is_no_corruption(store: S3ObjectStore, proxy: FaultProxy) -> None:
    headers = (("ETag", '"opaque-value"'), ("x-amz-server-side-encryption", "aws:kms"))
    proxy.inject(Status(200, headers=headers), method="PUT")

    put(store)

    assert proxy.count() == 1


def test_store_that_ignores_ranges_is_found_out(store: S3ObjectStore, proxy: FaultProxy) -> None:
    headers = (("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT"),)
    proxy.inject(Status(200, headers=headers, body=b"al"), method="GET")

    with pytest.raises(ObjectCorruptError):
        store.open("a", start=4, length=2)


@pytest.mark.parametrize("body", [b"", b"not XML", b"<L><Contents/></L>", b"<L><IsTruncated>true</IsTruncated></L>"])
def test_listing_that_is_not_understood_is_no_empty_listing(
    store: S3ObjectStore, proxy: FaultProxy, body: bytes
) -> None:
    proxy.inject(Status(200, body=body))

    with pytest.raises(StorageUnavailableError):
        list(store.list())


def test_connections_are_kept_and_used_again(store: S3ObjectStore, proxy: FaultProxy) -> None:
    for number in range(5):
        put(store, pattern(1000, seed=number), key=f"k/{number}")
        read(store, f"k/{number}")
        with pytest.raises(ObjectNotFoundError):
            store.open("missing")
        list(store.list())
        store.delete(f"k/{number}")

    assert proxy.open_connections == 1


def test_connection_that_the_server_closed_is_replaced_before_it_is_used(
    store: S3ObjectStore, proxy: FaultProxy
) -> None:
    proxy.inject(Cut(0), method="DELETE")

    for _ in range(3):
        store.delete("a")
        proxy.wait_until_no_connection()

    assert proxy.count() == 3


def test_reader_closed_early_gives_its_slot_back(config: S3Config, direct: S3ObjectStore, proxy: FaultProxy) -> None:
    put(direct)
    store = S3ObjectStore(replace(config, max_connections=1))

    for _ in range(10):
        with store.open("a") as reader:
            next(iter(reader))

    assert store.head("a").size_bytes == 2 * MIB
    store.close()


def test_full_pool_says_so_within_the_connect_timeout(config: S3Config, direct: S3ObjectStore) -> None:
    put(direct)
    store = S3ObjectStore(replace(config, max_connections=1, connect_timeout_seconds=0.1))

    with store.open("a"), pytest.raises(StorageUnavailableError, match="busy"):
        store.head("a")

    assert store.head("a").size_bytes == 2 * MIB
    store.close()


def test_put_and_get_have_no_stall_in_them(store: S3ObjectStore, proxy: FaultProxy) -> None:
    put(store)
    read(store)

    assert all("expect" not in seen.headers for seen in proxy.requests)
    sent = proxy.requests[0].headers
    assert sent["if-none-match"] == "*"
    assert sent["x-amz-meta-sha256"] == sent["x-amz-content-sha256"] == BytesBody(CONTENT).sha256
    assert {"content-md5", "content-type"} <= sent.keys()
