"""What the S3 store makes of a server that fails: real Swift behind the fault proxy."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.stability import Deadline, deadline_scope
from app.storage.base import (
    ObjectCorruptError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectStore,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageUnavailableError,
)
from app.storage.probe import BytesBody
from app.storage.s3 import S3Config, S3ObjectStore
from tests.fakes.bodies import pattern
from tests.fakes.fault_proxy import Barrier, Cut, Drip, FaultProxy, Flip, Hold, Reset, Status
from tests.servers.base import find_free_port
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


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, StorageUnavailableError),
        (502, StorageUnavailableError),
        (503, StorageUnavailableError),
        (429, StorageThrottledError),
        (498, StorageThrottledError),
        (408, StorageTimeoutError),
        (401, StorageDeniedError),
        (403, StorageDeniedError),
        (301, StorageDeniedError),
        (307, StorageDeniedError),
        (400, StorageDeniedError),
        (501, StorageDeniedError),
        (413, StorageFullError),
        (507, StorageFullError),
    ],
)
def test_every_refusal_has_its_error_and_is_not_retried(
    store: S3ObjectStore, proxy: FaultProxy, status: int, error: type[StorageError]
) -> None:
    proxy.inject(Status(status, headers=(("Location", "http://127.0.0.1:1/"),)))

    for number, call in enumerate(calls(store), 1):
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error
        assert str(status) in str(caught.value.__cause__)
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


def test_refused_connection_is_unavailable(s3_config: S3Config) -> None:
    store = S3ObjectStore(replace(s3_config, endpoint_url=f"http://127.0.0.1:{find_free_port()}"))

    for call in calls(store):
        with pytest.raises(StorageUnavailableError):
            call()


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


def test_missing_bucket_is_denied_and_never_taken_for_missing_objects(s3_config: S3Config) -> None:
    store = S3ObjectStore(replace(s3_config, bucket="no-such-bucket"))

    for call in calls(store):
        with pytest.raises(StorageDeniedError):
            call()
    store.close()


@pytest.mark.parametrize("after_bytes", [None, 0, MIB])
def test_reset_while_the_body_goes_out_stores_nothing_and_the_next_attempt_all(
    store: S3ObjectStore, direct: S3ObjectStore, proxy: FaultProxy, after_bytes: int | None
) -> None:
    proxy.inject(Reset("request", after_bytes), method="PUT", times=1)

    with pytest.raises(StorageUnavailableError):
        put(store)
    assert list(direct.list()) == []
    put(store)

    assert read(direct) == CONTENT
    assert proxy.count("PUT") == 2


def test_lost_reply_is_taken_as_success_by_the_next_attempt(
    store: S3ObjectStore, direct: S3ObjectStore, proxy: FaultProxy
) -> None:
    proxy.inject(Reset("response"), method="PUT", times=1)

    with pytest.raises(StorageUnavailableError):
        put(store)
    put(store)

    assert [seen.method for seen in proxy.requests] == ["PUT", "PUT", "HEAD"]
    assert read(direct) == CONTENT


def test_lost_reply_of_another_body_is_not_taken_as_success(store: S3ObjectStore, direct: S3ObjectStore) -> None:
    put(direct, CONTENT[::-1])

    with pytest.raises(ObjectExistsError):
        put(store)

    assert read(direct) == CONTENT[::-1]


def test_byte_altered_on_the_way_in_is_refused_and_nothing_is_stored(
    store: S3ObjectStore, direct: S3ObjectStore, proxy: FaultProxy
) -> None:
    proxy.inject(Flip("request", MIB + 7), method="PUT", times=1)

    with pytest.raises(ObjectCorruptError):
        put(store)

    assert list(direct.list()) == []
    put(store)
    assert read(direct) == CONTENT


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


@pytest.mark.parametrize("fault", [Cut(MIB), Cut(2 * MIB - 1), Cut(0), Reset("response", MIB)])
def test_truncated_object_never_ends_cleanly(
    store: S3ObjectStore, direct: S3ObjectStore, proxy: FaultProxy, fault: Cut | Reset
) -> None:
    put(direct)
    proxy.inject(fault, method="GET", times=1)

    with pytest.raises(StorageUnavailableError):
        read(store)

    assert read(store) == CONTENT


@pytest.mark.parametrize("index", [0, MIB, 2 * MIB - 1])
def test_last_chunk_of_a_corrupted_object_is_held_back(
    store: S3ObjectStore, direct: S3ObjectStore, proxy: FaultProxy, index: int
) -> None:
    put(direct)
    proxy.inject(Flip("response", index), method="GET")
    got = 0

    def take_all() -> None:
        nonlocal got
        with store.open("a") as reader:
            for chunk in reader:
                got += len(chunk)

    with pytest.raises(ObjectCorruptError):
        take_all()

    assert got == 2 * MIB - 256 * 1024


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


def test_deadline_ends_every_call_to_a_hanging_store(store: S3ObjectStore, proxy: FaultProxy) -> None:
    barrier = Barrier()
    proxy.inject(Hold("response", barrier))

    for call in calls(store):
        started = time.monotonic()
        with deadline_scope(Deadline(0.2)), pytest.raises(StorageTimeoutError):
            call()
        assert time.monotonic() - started < 5


def test_own_limits_end_calls_without_a_deadline(config: S3Config, proxy: FaultProxy) -> None:
    store = S3ObjectStore(replace(config, upload_timeout_seconds=0.2, download_timeout_seconds=0.2))
    proxy.inject(Hold("response", Barrier()))

    for call in calls(store):
        with pytest.raises(StorageTimeoutError):
            call()
    store.close()


def test_store_that_drips_its_headers_cannot_hold_a_thread(store: S3ObjectStore, proxy: FaultProxy) -> None:
    proxy.inject(Drip(piece_bytes=1, pause_seconds=0.05))

    started = time.monotonic()
    with deadline_scope(Deadline(0.4)), pytest.raises(StorageTimeoutError):
        store.head("a")

    assert time.monotonic() - started < 5


def test_store_that_drips_its_bytes_cannot_hold_a_thread(
    store: S3ObjectStore, direct: S3ObjectStore, proxy: FaultProxy
) -> None:
    put(direct)
    proxy.inject(Drip(piece_bytes=300, pause_seconds=0.02), method="GET")

    started = time.monotonic()
    with deadline_scope(Deadline(0.5)), pytest.raises(StorageTimeoutError), store.open("a") as reader:
        list(reader)

    assert time.monotonic() - started < 5


def test_store_that_stops_taking_bytes_cannot_hold_a_thread(store: S3ObjectStore, proxy: FaultProxy) -> None:
    proxy.inject(Hold("request", Barrier(), after_bytes=100_000), method="PUT")

    started = time.monotonic()
    with deadline_scope(Deadline(0.3)), pytest.raises(StorageTimeoutError):
        put(store, pattern(20 * MIB))

    assert time.monotonic() - started < 5


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
