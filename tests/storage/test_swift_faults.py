"""What the Swift store makes of a server that fails: real Swift behind the fault proxy, rows 1 to 18.

What it has to stand as every cloud does (rows 4, 6 and 9 to 13) is asked in ``tests/contract/test_cloud_store.py``;
here are the controls of those rows, and what is Swift's own.

The store alone tries nothing again, so it is its own control where a second attempt makes the fault good. Where the
guard is in the store, the control is a store without it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import requests

from app.stability import (
    CircuitBreaker,
    CircuitBreakerOptions,
    Deadline,
    Pipeline,
    deadline_scope,
)
from app.storage.base import (
    ObjectCorruptError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectStore,
    StorageDeniedError,
    StorageFullError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageUnavailableError,
)
from app.storage.guarded import STORAGE_CLASSIFICATION, GuardedObjectStore, StoragePipelines
from app.storage.probe import BytesBody
from app.storage.swift import SwiftConfig, SwiftObjectStore
from tests.fakes.bodies import pattern
from tests.fakes.fault_proxy import Barrier, Delay, FaultProxy, Flip, Hold, Reset, Status
from tests.fakes.storage_pipelines import quick_storage_pipelines
from tests.servers.product import until
from tests.servers.swift import ACCOUNT_PATH, STRANGER_ACCESS_KEY_ID, SwiftServer

MIB = 1024 * 1024
CONTENT = pattern(2 * MIB)
BYTES = "/v1/"
"""In the path of all that is asked of the account, and not of the token service."""


@pytest.fixture
def proxy(s3_server: SwiftServer) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def config(s3_server: SwiftServer, swift_config: SwiftConfig, proxy: FaultProxy) -> SwiftConfig:
    return s3_server.swift_config(swift_config.container, url=proxy.url)


@pytest.fixture
def direct(swift_config: SwiftConfig) -> Iterator[SwiftObjectStore]:
    store = SwiftObjectStore(swift_config)
    yield store
    store.close()


@pytest.fixture
def bare(config: SwiftConfig, proxy: FaultProxy) -> Iterator[SwiftObjectStore]:
    """The store alone, signed in."""
    store = SwiftObjectStore(config)
    assert list(store.list()) == []
    proxy.requests.clear()
    yield store
    store.close()


@pytest.fixture
def guarded(bare: SwiftObjectStore) -> GuardedObjectStore:
    return GuardedObjectStore(bare, quick_storage_pipelines())


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


def behind_breakers(store: ObjectStore, **options: Any) -> GuardedObjectStore:
    """Put a store behind breakers that open after four calls."""
    chosen = CircuitBreakerOptions(minimum_number_of_calls=4, sliding_window_size=4, **options)
    names = ("storage_read", "storage_write", "storage_delete", "storage_list")
    breakers = [CircuitBreaker(name, chosen, classification=STORAGE_CLASSIFICATION) for name in names]
    return GuardedObjectStore(
        store,
        StoragePipelines(*(Pipeline(name, [breaker]) for name, breaker in zip(names, breakers, strict=True))),
    )


def test_client_that_swift_has_given_up_on_is_an_outage_and_not_tried_again(
    bare: SwiftObjectStore, proxy: FaultProxy
) -> None:
    proxy.inject(Status(499), path=BYTES)

    for number, call in enumerate(calls(bare), 1):
        with pytest.raises(StorageUnavailableError):
            call()
        assert proxy.count() == number


def test_row_1_one_500_is_made_good_by_a_second_attempt(
    guarded: GuardedObjectStore, bare: SwiftObjectStore, direct: SwiftObjectStore, proxy: FaultProxy
) -> None:
    proxy.inject(Status(500), method="PUT", times=2)

    with pytest.raises(StorageUnavailableError):
        put(bare)
    put(guarded)

    assert proxy.count("PUT") == 1 + 2
    assert read(direct) == CONTENT


def test_row_2_store_that_fails_for_all_is_left_alone_by_an_open_breaker(
    bare: SwiftObjectStore, proxy: FaultProxy
) -> None:
    proxy.inject(Status(500), path=BYTES)
    store = behind_breakers(bare)

    for _ in range(10):
        with pytest.raises(StorageUnavailableError):
            store.head("a")
    guarded = proxy.count()
    for _ in range(10):
        with pytest.raises(StorageUnavailableError):
            bare.head("a")

    assert (guarded, proxy.count() - guarded) == (4, 10)


@pytest.mark.parametrize(("status", "silent"), [(429, None), (498, None), (503, 2)])
def test_row_3_throttling_store_is_believed_when_it_says_when_to_come_back(
    guarded: GuardedObjectStore, bare: SwiftObjectStore, proxy: FaultProxy, status: int, silent: int | None
) -> None:
    proxy.inject(Status(status, headers=(("Retry-After", "170"),)), path=BYTES)

    with pytest.raises(StorageThrottledError) as caught, deadline_scope(Deadline(20)):
        guarded.head("a")

    assert caught.value.retry_after_seconds == 170
    assert proxy.count() == 1  # the wait does not fit into the time left
    proxy.heal()
    proxy.inject(Status(status), path=BYTES)
    with pytest.raises(StorageUnavailableError) as unsaid:
        bare.head("a")
    assert unsaid.value.retry_after_seconds == silent


def test_row_3_throttling_that_shows_as_delay_is_a_slow_call(bare: SwiftObjectStore, proxy: FaultProxy) -> None:
    proxy.inject(Delay(0.06), path=BYTES)
    watching = behind_breakers(bare, slow_call_duration_threshold_seconds=0.03, slow_call_rate_threshold=0.5)
    not_watching = behind_breakers(bare)

    for store in (watching, not_watching):
        for number in range(4):
            put(store, b"small", key=f"{number}")

    with pytest.raises(StorageUnavailableError):
        put(watching, b"small", key="fifth")
    put(not_watching, b"small", key="fifth")


def test_row_5_black_hole_costs_the_connect_timeout(
    config: SwiftConfig, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [SwiftObjectStore(replace(config, connect_timeout_seconds=seconds)) for seconds in (0.2, 0.4)]
    for store in stores:
        assert list(store.list()) == []
    proxy.swallow()
    waits: list[float] = []
    connect = socket.create_connection

    def noted(address: tuple[str, int], seconds: float) -> socket.socket:
        waits.append(seconds)
        return connect(address, seconds)

    monkeypatch.setattr(socket, "create_connection", noted)
    for store in stores:
        with pytest.raises(StorageTimeoutError):
            store.head("a")

    assert waits == [0.2, 0.4]
    for store in stores:
        store.close()


def test_row_6_control_without_limits_a_call_waits_as_long_as_the_store(
    bare: SwiftObjectStore, direct: SwiftObjectStore, proxy: FaultProxy
) -> None:
    barrier = Barrier()
    proxy.inject(Hold("response", barrier), method="PUT", times=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(put, bare)
        barrier.wait_until_reached()
        assert not waiting.done()

        barrier.release()
        waiting.result(20)

    assert read(direct) == CONTENT


@pytest.mark.parametrize("after_bytes", [None, 0, MIB])
def test_row_7_reset_while_the_body_goes_out_stores_nothing_and_the_next_attempt_all(
    guarded: GuardedObjectStore,
    bare: SwiftObjectStore,
    direct: SwiftObjectStore,
    proxy: FaultProxy,
    after_bytes: int | None,
) -> None:
    proxy.inject(Reset("request", after_bytes), method="PUT", times=2)

    with pytest.raises(StorageUnavailableError):
        put(bare)
    assert list(direct.list()) == []
    put(guarded)

    assert read(direct) == CONTENT
    assert proxy.count("PUT") == 1 + 2


def test_row_8_lost_reply_is_taken_as_success_by_the_next_attempt(
    guarded: GuardedObjectStore, direct: SwiftObjectStore, proxy: FaultProxy
) -> None:
    proxy.inject(Reset("response"), method="PUT", times=1)

    put(guarded)

    assert [seen.method for seen in proxy.requests] == ["PUT", "PUT", "HEAD"]
    assert read(direct) == CONTENT


def test_row_8_control_another_body_under_the_key_is_not_taken_as_success(
    guarded: GuardedObjectStore, direct: SwiftObjectStore
) -> None:
    put(direct, CONTENT[::-1])

    with pytest.raises(ObjectExistsError):
        put(guarded)

    assert read(direct) == CONTENT[::-1]


def test_row_8_conflict_with_a_write_that_came_to_nothing_may_be_tried_again(
    bare: SwiftObjectStore, proxy: FaultProxy
) -> None:
    proxy.inject(Status(409), method="PUT")
    proxy.inject(Status(409), method="DELETE")

    with pytest.raises(StorageUnavailableError, match="being changed"):
        put(bare)
    with pytest.raises(StorageUnavailableError, match="being changed"):
        bare.delete("a")


def test_row_9_control_timeouts_of_requests_start_anew_with_every_byte(
    s3_server: SwiftServer,
    direct: SwiftObjectStore,
    swift_config: SwiftConfig,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(direct, CONTENT)
    barrier = Barrier()
    proxy.inject(Hold("response", barrier, after_bytes=5), method="GET")
    url = f"{proxy.url}{ACCOUNT_PATH}/{swift_config.container}/a"
    headers = {"X-Auth-Token": s3_server.new_token()}
    waits: list[float | None] = []
    receive = socket.SocketIO.readinto

    def noted(stream: socket.SocketIO, buffer: bytearray) -> int | None:
        waits.append(stream._sock.gettimeout())  # type: ignore[attr-defined]  # the stream wraps a socket
        return receive(stream, buffer)

    monkeypatch.setattr(socket.SocketIO, "readinto", noted)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(requests.get, url, headers=headers, timeout=20)
        barrier.wait_until_reached()
        until(lambda: len(waits) > 1, "the wait for what follows the first bytes")
        barrier.release()

        assert answer.result(20).content == CONTENT
    assert set(waits) == {20}


def test_row_12_control_object_without_our_digest_is_not_checked(
    bare: SwiftObjectStore, s3_server: SwiftServer, swift_config: SwiftConfig, proxy: FaultProxy
) -> None:
    s3_server.ask("PUT", f"{swift_config.container}/a", content=CONTENT)
    proxy.inject(Flip("response", MIB), method="GET")

    assert read(bare) != CONTENT


def test_row_13_control_without_an_etag_swift_keeps_altered_bytes(
    s3_server: SwiftServer, swift_config: SwiftConfig, proxy: FaultProxy
) -> None:
    proxy.inject(Flip("request", MIB + 7), method="PUT")
    path = f"{swift_config.container}/a"

    sent = requests.put(
        f"{proxy.url}{ACCOUNT_PATH}/{path}",
        data=CONTENT,
        headers={"X-Auth-Token": s3_server.new_token()},
        timeout=20,
    )

    assert sent.status_code == 201
    assert s3_server.ask("GET", path).content != CONTENT


@pytest.mark.parametrize("etag", ['"0123456789abcdef0123456789abcdef"', "", "opaque"])
def test_row_13_reply_with_another_digest_is_refused_and_the_object_removed(
    bare: SwiftObjectStore, proxy: FaultProxy, etag: str
) -> None:
    proxy.inject(Status(201, headers=(("ETag", etag),)), method="PUT")

    with pytest.raises(ObjectCorruptError):
        put(bare)

    assert [seen.method for seen in proxy.requests] == ["PUT", "DELETE", "HEAD"]


def test_row_14_missing_object_is_an_answer_and_opens_no_breaker(bare: SwiftObjectStore, proxy: FaultProxy) -> None:
    store = behind_breakers(bare)

    for _ in range(10):
        with pytest.raises(ObjectNotFoundError):
            store.head("missing")

    assert proxy.count() == 2 * 10  # and each time the container is looked at


def test_row_14_missing_container_is_denied_and_never_taken_for_missing_objects(config: SwiftConfig) -> None:
    store = SwiftObjectStore(replace(config, container="no-such-container"))

    for call in calls(store):
        with pytest.raises(StorageDeniedError) as caught:
            call()
        assert "PHOTO_API_STORAGE__SWIFT_CONTAINER" in str(caught.value.__cause__)
    store.close()


def test_row_17_wrong_credentials_are_denied_and_asked_about_once(config: SwiftConfig, proxy: FaultProxy) -> None:
    store = SwiftObjectStore(replace(config, identity=replace(config.identity, password="wrong")))
    guarded = GuardedObjectStore(store, quick_storage_pipelines())

    for call in calls(guarded):
        with pytest.raises(StorageDeniedError):
            call()

    assert proxy.count() == 1
    store.close()


def test_row_17_account_without_rights_is_denied_without_another_token(
    config: SwiftConfig, proxy: FaultProxy
) -> None:
    store = SwiftObjectStore(replace(config, identity=replace(config.identity, username=STRANGER_ACCESS_KEY_ID)))
    guarded = GuardedObjectStore(store, quick_storage_pipelines())

    for call in calls(guarded):
        with pytest.raises(StorageDeniedError):
            call()

    assert [seen.path for seen in proxy.requests].count("/auth/v1.0") == 1
    assert proxy.count() == 1 + len(calls(store))
    store.close()


@pytest.mark.parametrize("status", [413, 507])
def test_row_18_full_store_is_not_tried_again(
    guarded: GuardedObjectStore, direct: SwiftObjectStore, proxy: FaultProxy, status: int
) -> None:
    proxy.inject(Status(status), method="PUT")

    with pytest.raises(StorageFullError):
        put(guarded)

    assert proxy.count("PUT") == 1
    put(direct)
    assert read(guarded) == CONTENT


def test_row_18_container_with_a_quota_is_full(
    s3_server: SwiftServer, swift_config: SwiftConfig, direct: SwiftObjectStore
) -> None:
    s3_server.ask("POST", swift_config.container, headers={"X-Container-Meta-Quota-Bytes": str(MIB)})

    with pytest.raises(StorageFullError):
        put(direct)

    put(direct, b"small")
