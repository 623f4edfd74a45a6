"""What the Swift store makes of answers that no honest Swift gives, and of those that only some give."""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.message import Message
from typing import Any

import pytest

from app.storage.base import ObjectCorruptError, StorageThrottledError, StorageUnavailableError
from app.storage.probe import BytesBody
from app.storage.swift import SwiftConfig, SwiftObjectStore
from app.storage.swift_answers import SwiftAnswerError, read_etag, storage_error
from tests.fakes.fault_proxy import FaultProxy, Status
from tests.servers.swift import SwiftServer

DATE = ("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT")
MD5 = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def proxy(s3_server: SwiftServer) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def store(s3_server: SwiftServer, swift_config: SwiftConfig, proxy: FaultProxy) -> Iterator[SwiftObjectStore]:
    store = SwiftObjectStore(s3_server.swift_config(swift_config.container, url=proxy.url))
    yield store
    store.close()


def entry(name: Any = "a", size: Any = 1, moment: Any = "2026-11-21T00:00:00.000000") -> dict[str, Any]:
    return {"name": name, "bytes": size, "last_modified": moment, "hash": MD5, "content_type": "image/jpeg"}


@pytest.mark.parametrize(
    ("value", "md5"),
    [
        (MD5, MD5),
        (f'"{MD5}"', MD5),
        (f'W/"{MD5}"', MD5),
        (MD5.upper(), MD5),
        (f'"{MD5}-2"', None),
        (f'"{MD5}', None),
        (f"{MD5} {MD5}", None),
        ("", None),
    ],
)
def test_etag_states_an_md5_with_quotes_and_without(value: str, md5: str | None) -> None:
    headers = Message()
    headers["ETag"] = value

    assert read_etag(headers) == md5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"{}",
        b"[7]",
        json.dumps([entry(name=7)]).encode(),
        json.dumps([entry(size=-1)]).encode(),
        json.dumps([entry(size=True)]).encode(),
        json.dumps([entry(size="1")]).encode(),
        json.dumps([entry(moment="yesterday")]).encode(),
        json.dumps([entry("b"), entry("a")]).encode(),
        json.dumps([entry("a"), entry("a")]).encode(),
    ],
    ids=range(11),
)
def test_listing_that_is_not_understood_is_no_empty_listing(
    store: SwiftObjectStore, proxy: FaultProxy, body: bytes
) -> None:
    proxy.inject(Status(200, body=body), path="format=json")

    with pytest.raises(StorageUnavailableError):
        list(store.list())


def test_listing_that_turns_in_circles_is_found_out(store: SwiftObjectStore, proxy: FaultProxy) -> None:
    proxy.inject(Status(200, body=json.dumps([entry("a"), entry("b")]).encode()), path="format=json")

    with pytest.raises(StorageUnavailableError):
        list(store.list())

    assert proxy.count("GET") == 1 + 2


def test_listing_without_content_is_its_end(store: SwiftObjectStore, proxy: FaultProxy) -> None:
    proxy.inject(Status(204), path="format=json")

    assert list(store.list()) == []


def test_keys_that_others_have_made_are_left_out_and_stepped_over(
    swift_config: SwiftConfig, s3_server: SwiftServer
) -> None:
    for name in ("A", "a b", "a%0Ab", "p/%E2%98%83", "q/1", "z%23%3F"):
        s3_server.ask("PUT", f"{swift_config.container}/{name}", content=b"x")
    store = SwiftObjectStore(SwiftConfig(swift_config.identity, swift_config.container, page_size=1))

    assert [info.key for info in store.list()] == ["q/1"]
    store.close()


@pytest.mark.parametrize("header", [("X-Static-Large-Object", "True"), ("X-Object-Manifest", "c/segments/")])
def test_segmented_object_without_a_digest_is_not_taken_for_a_photo(
    store: SwiftObjectStore, proxy: FaultProxy, header: tuple[str, str]
) -> None:
    proxy.inject(Status(200, headers=(DATE, header), body=b"abc"), method="GET", path="/v1/")

    with pytest.raises(ObjectCorruptError):
        store.open("a")


def test_segmented_object_is_read_and_checked_by_the_digest_of_the_whole(
    swift_config: SwiftConfig, s3_server: SwiftServer
) -> None:
    container = swift_config.container
    for number, part in enumerate((b"first", b"second")):
        s3_server.ask("PUT", f"{container}/segments/{number}", content=part)
    whole = BytesBody(b"firstsecond")
    manifest = json.dumps([{"path": f"/{container}/segments/{number}"} for number in range(2)]).encode()
    headers = {"X-Object-Meta-Sha256": whole.sha256}
    s3_server.ask("PUT", f"{container}/static?multipart-manifest=put", content=manifest, headers=headers)
    s3_server.ask("PUT", f"{container}/dynamic", headers={**headers, "X-Object-Manifest": f"{container}/segments/"})
    s3_server.ask("PUT", f"{container}/unknown", headers={"X-Object-Manifest": f"{container}/segments/"})
    store = SwiftObjectStore(swift_config)

    for key in ("static", "dynamic"):
        with store.open(key) as reader:
            assert b"".join(reader) == b"firstsecond"
    with pytest.raises(ObjectCorruptError, match="segments"):
        store.open("unknown")

    s3_server.ask("DELETE", f"{container}/segments/1")
    s3_server.ask("PUT", f"{container}/segments/1", content=b"SECOND")
    with pytest.raises((ObjectCorruptError, StorageUnavailableError)), store.open("dynamic") as reader:
        list(reader)
    store.close()


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Last-Modified", "yesterday"),),
        (DATE, ("Content-Range", "bytes x-y/z")),
    ],
    ids=["none", "date", "range"],
)
def test_facts_that_are_not_understood_are_no_object(
    store: SwiftObjectStore, proxy: FaultProxy, headers: tuple[tuple[str, str], ...]
) -> None:
    proxy.inject(Status(206, headers=headers, body=b"b"), method="GET", path="/v1/")

    with pytest.raises((StorageUnavailableError, ObjectCorruptError)):
        store.open("a", start=1, length=2)


def test_store_that_ignores_ranges_is_found_out(store: SwiftObjectStore, proxy: FaultProxy) -> None:
    proxy.inject(Status(200, headers=(DATE,), body=b"al"), method="GET", path="/v1/")

    with pytest.raises(ObjectCorruptError):
        store.open("a", start=4, length=2)


def test_503_that_says_when_to_come_back_is_throttling() -> None:
    error = storage_error(SwiftAnswerError(503, "tx1"), "17")

    assert type(error) is StorageThrottledError
    assert error.retry_after_seconds == 17


def test_transaction_id_that_is_none_is_not_repeated(store: SwiftObjectStore, proxy: FaultProxy) -> None:
    proxy.inject(Status(500, headers=(("X-Trans-Id", "<script>"),)), path="/v1/")

    with pytest.raises(StorageUnavailableError) as caught:
        store.head("a")

    assert str(caught.value.__cause__) == "the object store answered 500 (transaction unknown)"
