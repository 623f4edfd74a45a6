"""The Swift store's own ways: what it sends, what it keeps open, and what it refuses by itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.storage.base import (
    ObjectNotFoundError,
    ObjectStore,
    StorageDeniedError,
    StorageFullError,
    StorageUnavailableError,
)
from app.storage.probe import BytesBody
from app.storage.swift import SwiftConfig, SwiftObjectStore
from app.storage.swift_answers import LARGEST_BYTES
from tests.fakes.bodies import BodyWithReaders, pattern
from tests.fakes.fault_proxy import FaultProxy, Status
from tests.servers.base import find_free_port
from tests.servers.swift import ACCOUNT_PATH, SwiftServer

CONTENT = pattern(2 * 1024 * 1024)
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


def put(store: ObjectStore, content: bytes = CONTENT, key: str = "a") -> None:
    store.put(key, BytesBody(content), content_type="image/jpeg")


def read(store: ObjectStore, key: str = "a") -> bytes:
    with store.open(key) as reader:
        return b"".join(reader)


def test_container_that_quotes_its_etags_is_understood(
    s3_server: SwiftServer, swift_config: SwiftConfig, direct: SwiftObjectStore
) -> None:
    s3_server.ask("POST", swift_config.container, headers={"X-Container-Rfc-Compliant-Etags": "true"})

    put(direct)

    assert s3_server.ask("HEAD", f"{swift_config.container}/a").headers["ETag"].startswith('"')
    assert read(direct) == CONTENT


def test_object_that_swift_takes_in_segments_only_is_refused_before_a_byte_is_sent(
    bare: SwiftObjectStore, proxy: FaultProxy
) -> None:
    class Huge(BytesBody):
        size_bytes = LARGEST_BYTES + 1

    with pytest.raises(StorageFullError, match="5 GiB"):
        bare.put("a", Huge(b""), content_type="image/jpeg")

    assert proxy.count() == 0


def test_server_that_does_not_speak_http_is_unavailable(config: SwiftConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}{ACCOUNT_PATH}"
        store = SwiftObjectStore(replace(config, identity=replace(config.identity, storage_url=url)))

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(b"220 mail.example.com ESMTP\r\n")

        done = pool.submit(answer)
        with pytest.raises(StorageUnavailableError):
            store.head("a")
        done.result(10)
        store.close()


def test_address_where_nobody_listens_is_unavailable(config: SwiftConfig) -> None:
    url = f"http://127.0.0.1:{find_free_port()}{ACCOUNT_PATH}"
    store = SwiftObjectStore(replace(config, identity=replace(config.identity, storage_url=url)))

    with pytest.raises(StorageUnavailableError):
        put(store)
    with pytest.raises(StorageUnavailableError):
        read(store)
    store.close()


def test_message_of_an_error_names_no_internals(
    config: SwiftConfig, bare: SwiftObjectStore, proxy: FaultProxy
) -> None:
    proxy.inject(Status(403), path=BYTES)

    with pytest.raises(StorageDeniedError) as caught:
        bare.head("a")

    text = caught.value.detail
    assert not any(secret in text for secret in (config.container, "127.0.0.1", config.identity.username, "403"))
    assert config.identity.password not in repr(config)


def test_connections_are_kept_and_used_again(bare: SwiftObjectStore, proxy: FaultProxy) -> None:
    for number in range(5):
        put(bare, pattern(1000, seed=number), key=f"k/{number}")
        read(bare, f"k/{number}")
        with pytest.raises(ObjectNotFoundError):
            bare.open("missing")
        list(bare.list())
        bare.delete(f"k/{number}")

    assert proxy.open_connections == 2  # one of them to the token service


def test_put_and_get_have_no_stall_in_them(bare: SwiftObjectStore, proxy: FaultProxy) -> None:
    put(bare)
    read(bare)

    assert all("expect" not in seen.headers for seen in proxy.requests)
    sent = proxy.requests[0].headers
    body = BytesBody(CONTENT)
    assert (sent["if-none-match"], sent["etag"], sent["x-object-meta-sha256"]) == ("*", body.md5, body.sha256)
    assert sent["content-type"] == "image/jpeg"


def test_second_attempt_after_a_refused_token_sends_the_body_from_its_start(
    bare: SwiftObjectStore, direct: SwiftObjectStore, s3_server: SwiftServer, proxy: FaultProxy
) -> None:
    body = BodyWithReaders(CONTENT, lambda _number, plain: plain)
    s3_server.revoke_tokens()

    bare.put("a", body, content_type="image/jpeg")

    assert body.opened == 2
    assert [seen.method for seen in proxy.requests] == ["PUT", "GET", "PUT"]
    assert read(direct) == CONTENT
    assert abs((direct.head("a").modified_at - datetime.now(UTC)).total_seconds()) < 120
