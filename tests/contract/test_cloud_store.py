"""The suite of the stores that are reached over a network: what the port promises when that or the cloud fails.

``s3`` and ``swift`` (TempAuth) and ``nhn`` (v2.0 tokens of the stand-in) on one real Swift, behind the fault proxy.
What all stores promise on a good day is in ``test_object_store.py``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
import requests

from app.stability import Deadline, deadline_scope
from app.storage.base import (
    ObjectCorruptError,
    ObjectExistsError,
    ObjectStore,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageUnavailableError,
)
from app.storage.links import PresignedStore
from app.storage.probe import BytesBody
from app.storage.s3 import S3ObjectStore
from app.storage.swift import SwiftObjectStore
from app.storage.swift_links import LinkingSwiftStore
from tests.fakes.bodies import BodyWithReaders, BreakingReader, pattern
from tests.fakes.fault_proxy import Barrier, Cut, Delay, Drip, FaultProxy, Flip, Hold, Reset, Status
from tests.servers.identity import IdentityServer
from tests.servers.swift import ACCOUNT_PATH, SwiftServer

MIB = 1024 * 1024
CONTENT = pattern(2 * MIB)
OBJECT = "/photos/1"
"""In the path of what is asked of an object, in each protocol."""

KEY = OBJECT[1:]


@dataclass
class Cloud:
    """One bucket or container behind a proxy.

    Attributes:
        name: Of the protocol.
        store: What is tested.
        bucket: In the path of all that is asked of it.
        direct: The same objects past the proxy.
        proxy: Between them.
        with_timeouts: Opens one more store on the same objects with a short patience, in seconds.
        elsewhere: Opens a store on a bucket that is not there.
    """

    name: str
    bucket: str
    store: S3ObjectStore | SwiftObjectStore
    direct: S3ObjectStore | SwiftObjectStore
    proxy: FaultProxy
    with_timeouts: Callable[[float], ObjectStore]
    elsewhere: Callable[[], ObjectStore]


@pytest.fixture(params=["s3", "swift", "nhn"])
def cloud(request: pytest.FixtureRequest, s3_server: SwiftServer) -> Iterator[Cloud]:
    opened: list[ObjectStore] = []

    def keep(store: ObjectStore) -> ObjectStore:
        opened.append(store)
        return store

    with ExitStack() as closing:
        proxy = closing.enter_context(FaultProxy(s3_server.port))
        bucket = s3_server.create_bucket()
        if request.param == "s3":
            s3 = replace(s3_server.config(bucket, endpoint_url=proxy.url), page_size=2)
            made = Cloud(
                "s3",
                bucket,
                S3ObjectStore(s3),
                S3ObjectStore(s3_server.config(bucket)),
                proxy,
                lambda seconds: keep(
                    S3ObjectStore(replace(s3, upload_timeout_seconds=seconds, download_timeout_seconds=seconds))
                ),
                lambda: keep(S3ObjectStore(replace(s3, bucket="no-such-bucket"))),
            )
        else:
            swift = replace(s3_server.swift_config(bucket, url=proxy.url), page_size=2)
            if request.param == "nhn":
                service = closing.enter_context(IdentityServer(s3_server, storage_url=proxy.url + ACCOUNT_PATH))
                swift = replace(swift, identity=service.identity())
            made = Cloud(
                request.param,
                bucket,
                LinkingSwiftStore(swift, temp_url_key="a-key-of-links"),
                SwiftObjectStore(s3_server.swift_config(bucket)),
                proxy,
                lambda seconds: keep(
                    SwiftObjectStore(replace(swift, upload_timeout_seconds=seconds, download_timeout_seconds=seconds))
                ),
                lambda: keep(SwiftObjectStore(replace(swift, container="no-such-container"))),
            )
        yield made
        for store in (made.store, made.direct, *opened):
            store.close()


def put(store: ObjectStore, content: bytes = CONTENT, key: str = KEY) -> None:
    store.put(key, BytesBody(content), content_type="image/jpeg")


def read(store: ObjectStore, key: str = KEY) -> bytes:
    with store.open(key) as reader:
        return b"".join(reader)


def calls(store: ObjectStore) -> list[Callable[[], object]]:
    return [
        lambda: put(store, b"small"),
        lambda: put(store),
        lambda: store.head(KEY),
        lambda: store.open(KEY),
        lambda: store.delete(KEY),
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
        (403, StorageDeniedError),
        (301, StorageDeniedError),
        (307, StorageDeniedError),
        (400, StorageDeniedError),
        (501, StorageDeniedError),
        (413, StorageFullError),
        (507, StorageFullError),
    ],
)
def test_refusal_is_an_error_of_the_port_neither_tried_again_nor_followed(
    cloud: Cloud, status: int, error: type[StorageError]
) -> None:
    list(cloud.store.list())
    seen = cloud.proxy.count()
    cloud.proxy.inject(Status(status, headers=(("Location", f"{cloud.proxy.url}/elsewhere"),)), path=cloud.bucket)

    for number, call in enumerate(calls(cloud.store), 1):
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error
        assert str(status) in str(caught.value.__cause__)
        assert cloud.proxy.count() == seen + number


@pytest.mark.parametrize("after_bytes", [None, 0, MIB])
def test_upload_that_breaks_off_leaves_nothing(cloud: Cloud, after_bytes: int | None) -> None:
    cloud.proxy.inject(Reset("request", after_bytes), method="PUT", times=1)

    with pytest.raises(StorageUnavailableError):
        put(cloud.store)

    assert list(cloud.direct.list()) == []
    put(cloud.store)
    assert read(cloud.direct) == CONTENT
    assert cloud.proxy.count("PUT") == 2


def test_body_that_breaks_off_in_our_hands_leaves_nothing_and_is_opened_anew(cloud: Cloud) -> None:
    body = BodyWithReaders(CONTENT, lambda count, plain: BreakingReader(CONTENT[:MIB]) if count == 1 else plain)

    with pytest.raises(StorageError):
        cloud.store.put(KEY, body, content_type="image/jpeg")
    assert list(cloud.direct.list()) == []
    cloud.store.put(KEY, body, content_type="image/jpeg")

    assert body.opened == 2
    assert read(cloud.direct) == CONTENT


def test_upload_whose_reply_is_lost_is_success_when_it_is_sent_again(cloud: Cloud) -> None:
    cloud.proxy.inject(Reset("response"), method="PUT", times=1)
    with pytest.raises(StorageUnavailableError):
        put(cloud.store)

    put(cloud.store)

    asked = [seen.method for seen in cloud.proxy.requests if OBJECT in seen.path]
    assert asked == ["PUT", "PUT", "HEAD"]
    assert read(cloud.direct) == CONTENT


def test_another_body_under_the_key_is_not_taken_for_a_lost_reply(cloud: Cloud) -> None:
    put(cloud.direct, CONTENT[::-1])

    with pytest.raises(ObjectExistsError):
        put(cloud.store)

    assert read(cloud.direct) == CONTENT[::-1]


@pytest.mark.parametrize("index", [0, MIB + 7, 2 * MIB - 1])
def test_byte_altered_on_the_way_in_is_refused_and_nothing_is_kept(cloud: Cloud, index: int) -> None:
    cloud.proxy.inject(Flip("request", index), method="PUT", times=1)

    with pytest.raises(ObjectCorruptError):
        put(cloud.store)

    assert list(cloud.direct.list()) == []
    assert cloud.proxy.count("DELETE") == 0  # the cloud itself refused it: nothing had to be taken back
    put(cloud.store)
    assert read(cloud.direct) == CONTENT


@pytest.mark.parametrize("index", [0, MIB, 2 * MIB - 1])
def test_last_chunk_of_a_body_altered_on_the_way_out_is_held_back(cloud: Cloud, index: int) -> None:
    put(cloud.direct)
    cloud.proxy.inject(Flip("response", index), method="GET", path=OBJECT)
    got = 0

    def take_all() -> None:
        nonlocal got
        with cloud.store.open(KEY) as reader:
            for chunk in reader:
                got += len(chunk)

    with pytest.raises(ObjectCorruptError):
        take_all()

    assert got == 2 * MIB - 256 * 1024


@pytest.mark.parametrize(
    "fault",
    [Cut(0), Cut(MIB), Cut(2 * MIB - 1), Reset("response", MIB)],
    ids=["head", "middle", "end", "reset"],
)
def test_truncated_body_never_ends_cleanly(cloud: Cloud, fault: Cut | Reset) -> None:
    put(cloud.direct)
    cloud.proxy.inject(fault, method="GET", path=OBJECT, times=1)

    with pytest.raises(StorageUnavailableError):
        read(cloud.store)

    assert read(cloud.store) == CONTENT


def test_dripping_body_is_left_at_the_deadline(cloud: Cloud) -> None:
    put(cloud.direct)
    cloud.proxy.inject(Drip(piece_bytes=300, pause_seconds=0.02), method="GET", path=OBJECT)

    started = time.monotonic()
    with deadline_scope(Deadline(1.0)), pytest.raises(StorageTimeoutError):
        read(cloud.store)

    assert time.monotonic() - started < 20


def test_dripping_head_is_left_at_the_deadline(cloud: Cloud) -> None:
    put(cloud.store)
    cloud.proxy.inject(Drip(piece_bytes=1, pause_seconds=0.1), path=OBJECT)

    started = time.monotonic()
    with deadline_scope(Deadline(1.0)), pytest.raises(StorageTimeoutError):
        cloud.store.head(KEY)

    assert time.monotonic() - started < 20


def test_store_that_stops_taking_bytes_is_left_at_the_deadline(cloud: Cloud) -> None:
    list(cloud.store.list())
    cloud.proxy.inject(Hold("request", Barrier(), after_bytes=100_000), method="PUT")

    started = time.monotonic()
    with deadline_scope(Deadline(0.3)), pytest.raises(StorageTimeoutError):
        put(cloud.store, pattern(20 * MIB))

    assert time.monotonic() - started < 20


def test_hanging_store_is_left_at_the_deadline(cloud: Cloud) -> None:
    list(cloud.store.list())
    cloud.proxy.inject(Hold("response", Barrier()), path=cloud.bucket)

    for call in calls(cloud.store):
        started = time.monotonic()
        with deadline_scope(Deadline(0.2)), pytest.raises(StorageTimeoutError):
            call()
        assert time.monotonic() - started < 20


def test_hanging_store_is_left_when_the_adapters_own_patience_ends(cloud: Cloud) -> None:
    cloud.proxy.inject(Hold("response", Barrier()), path=cloud.bucket)
    store = cloud.with_timeouts(0.3)

    for call in calls(store):
        with pytest.raises(StorageTimeoutError):
            call()


def test_slow_store_is_waited_for(cloud: Cloud) -> None:
    cloud.proxy.inject(Delay(0.2), path=OBJECT)

    put(cloud.store)

    assert read(cloud.store) == CONTENT


def test_refused_connections_are_an_outage_and_no_loss(cloud: Cloud) -> None:
    put(cloud.store)
    cloud.proxy.refuse()

    for call in calls(cloud.store):
        with pytest.raises(StorageUnavailableError):
            call()

    cloud.proxy.heal()
    assert read(cloud.store) == CONTENT


def test_missing_bucket_is_a_denial_for_every_call(cloud: Cloud) -> None:
    store = cloud.elsewhere()

    for call in calls(store):
        with pytest.raises(StorageDeniedError):
            call()


def test_listing_that_breaks_off_between_pages_is_no_shorter_listing(cloud: Cloud) -> None:
    for number in range(5):
        put(cloud.direct, b"x", key=f"k/{number}")
    found = cloud.store.list()
    first = [next(found).key, next(found).key]
    cloud.proxy.inject(Status(503), method="GET")

    with pytest.raises(StorageUnavailableError):
        next(found)

    assert first == ["k/0", "k/1"]


def test_one_body_is_read_by_twenty_threads_at_once(cloud: Cloud) -> None:
    put(cloud.direct)

    with ThreadPoolExecutor(20) as pool:
        digests = set(pool.map(lambda _number: hashlib.sha256(read(cloud.store)).hexdigest(), range(20)))

    assert digests == {hashlib.sha256(CONTENT).hexdigest()}


def test_link_reads_what_the_store_reads_and_ends(cloud: Cloud) -> None:
    put(cloud.store, b"the bytes of a photo")
    if isinstance(cloud.store, LinkingSwiftStore):
        cloud.store.check_links()
    assert isinstance(cloud.store, PresignedStore)
    now = datetime.now(UTC)

    def link(issued_at: datetime, lives_seconds: int) -> str:
        assert isinstance(cloud.store, PresignedStore)
        ends = issued_at + timedelta(seconds=lives_seconds)
        return cloud.store.presigned_get(KEY, expires_at=ends, issued_at=issued_at, content_type="image/jpeg")

    good = requests.get(link(now, 60), timeout=20)
    ended = requests.get(link(now - timedelta(minutes=10), 60), timeout=20)

    assert (good.status_code, good.content) == (200, b"the bytes of a photo")
    assert ended.status_code in {401, 403}


@pytest.mark.parametrize("direction", [-1, 1])
def test_clock_that_is_an_hour_off_is_a_denial_or_of_no_account(
    s3_server: SwiftServer, direction: Literal[-1, 1]
) -> None:
    bucket = s3_server.create_bucket()
    s3 = S3ObjectStore(s3_server.config(bucket))
    s3._signer._now = lambda: datetime.now(UTC) + direction * timedelta(hours=1)
    with IdentityServer(s3_server) as service:
        service.skew_seconds = direction * 3600
        swift = SwiftObjectStore(replace(s3_server.swift_config(bucket), identity=service.identity()))

        with pytest.raises(StorageDeniedError):
            put(s3)
        put(swift)

        assert read(swift) == CONTENT
        swift.close()
    s3.close()
