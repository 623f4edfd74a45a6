"""Links into a Swift container: what a real Swift makes of them, and what start-up does for them."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit, urlunsplit

import pytest
import requests

from app.storage.base import StorageDeniedError, StorageTokenError, StorageUnavailableError
from app.storage.links import LinkCheck, PresignedStore, find_capability
from app.storage.probe import BytesBody
from app.storage.swift import SwiftConfig, SwiftObjectStore
from app.storage.swift_links import Digest, LinkingSwiftStore, TempUrls
from tests.fakes.fault_proxy import FaultProxy, Status
from tests.servers.swift import STRANGER_ACCESS_KEY_ID, SwiftServer

KEY = "a-key-of-temporary-urls"
PHOTO = "photos/1/original"
CONTENT = b"the bytes of a photo"


def linking(config: SwiftConfig, *, key: str = KEY, digest: Digest = "sha256") -> LinkingSwiftStore:
    return LinkingSwiftStore(config, temp_url_key=key, temp_url_digest=digest)


@pytest.fixture
def store(swift_config: SwiftConfig) -> Iterator[LinkingSwiftStore]:
    store = linking(swift_config)
    yield store
    store.close()


@pytest.fixture
def stored(store: LinkingSwiftStore) -> LinkingSwiftStore:
    """A store whose links hold, with a photo."""
    store.put(PHOTO, BytesBody(CONTENT), content_type="image/jpeg")
    store.check_links()
    return store


def in_a_minute() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)


def link_to(store: PresignedStore, key: str = PHOTO, expires_at: datetime | None = None) -> str:
    return store.presigned_get(
        key, expires_at=expires_at or in_a_minute(), issued_at=datetime.now(UTC), content_type="image/jpeg"
    )


def ask(method: str, url: str, **options: bytes) -> requests.Response:
    return requests.request(method, url, timeout=20, data=options.get("content"))


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha512"])
def test_link_reads_its_object_for_anybody_and_shows_it(
    stored: LinkingSwiftStore, swift_config: SwiftConfig, digest: Digest
) -> None:
    other = linking(swift_config, digest=digest)
    other.check_links()

    answer = ask("GET", link_to(other))

    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Content-Disposition"] == "inline"
    assert ask("HEAD", link_to(other)).status_code == 200
    other.close()


def test_link_is_made_as_swift_documents_it() -> None:
    made = TempUrls("photos", "mykey", "sha256").presign(
        "https://storage.example.org/v1/AUTH_a%3Ab", "GET", "k/1", datetime.fromtimestamp(1_700_000_000, UTC)
    )

    signature = hmac.new(b"mykey", b"GET\n1700000000\n/v1/AUTH_a:b/photos/k/1", "sha256").hexdigest()
    assert made == (
        f"https://storage.example.org/v1/AUTH_a%3Ab/photos/k/1?temp_url_sig={signature}"
        "&temp_url_expires=1700000000&inline"
    )


def test_same_arguments_give_the_same_link(stored: LinkingSwiftStore) -> None:
    ends = in_a_minute()

    assert link_to(stored, expires_at=ends) == link_to(stored, expires_at=ends)


def test_link_ends(stored: LinkingSwiftStore) -> None:
    assert ask("GET", link_to(stored, expires_at=datetime.now(UTC) - timedelta(seconds=1))).status_code == 401


@pytest.mark.parametrize("part", ["temp_url_sig", "temp_url_expires", "path"])
def test_altered_link_is_refused(stored: LinkingSwiftStore, part: str) -> None:
    stored.put("photos/2/original", BytesBody(b"another"), content_type="image/jpeg")
    url = urlsplit(link_to(stored))
    given = parse_qs(url.query)
    if part == "path":
        altered = url._replace(path=url.path.replace("photos/1", "photos/2"))
    else:
        value = given[part][0]
        altered = url._replace(query=url.query.replace(value, value[:-1] + ("1" if value[-1] == "0" else "0")))

    assert ask("GET", urlunsplit(altered)).status_code == 401


def test_link_that_reads_does_not_write(stored: LinkingSwiftStore) -> None:
    for method in ("PUT", "DELETE", "POST"):
        assert ask(method, link_to(stored), content=b"other").status_code == 401


def test_link_that_writes_writes_and_does_not_read_others(stored: LinkingSwiftStore) -> None:
    url = stored.presigned_put("photos/3", expires_at=in_a_minute())

    assert ask("PUT", url, content=b"written").status_code == 201

    with stored.open("photos/3") as reader:
        assert b"".join(reader) == b"written"
    assert ask("GET", url).status_code == 401


def test_link_needs_no_call_and_waits_for_none(swift_config: SwiftConfig, s3_server: SwiftServer) -> None:
    with FaultProxy(s3_server.port) as proxy:
        unknown = linking(s3_server.swift_config(swift_config.container, url=proxy.url))
        given = linking(
            replace(
                swift_config, identity=replace(swift_config.identity, storage_url="https://s.example.org/v1/AUTH_a/")
            )
        )

        with pytest.raises(StorageTokenError):
            link_to(unknown)
        assert link_to(given).startswith(f"https://s.example.org/v1/AUTH_a/{swift_config.container}/{PHOTO}?")
        assert proxy.count() == 0
        unknown.close()
        given.close()


def test_bad_key_gets_no_link(store: LinkingSwiftStore) -> None:
    for key in ("", "../a", "A", "a?b", "a#b"):
        with pytest.raises(ValueError, match="object key"):
            link_to(store, key)


def test_store_without_a_key_hands_out_no_links(swift_config: SwiftConfig, store: LinkingSwiftStore) -> None:
    plain = SwiftObjectStore(swift_config)

    assert find_capability(plain, PresignedStore) is None
    assert find_capability(plain, LinkCheck) is None
    assert find_capability(store, PresignedStore) is store
    assert find_capability(store, LinkCheck) is store
    plain.close()


def test_key_is_set_on_a_container_that_has_none(
    store: LinkingSwiftStore, s3_server: SwiftServer, swift_config: SwiftConfig
) -> None:
    store.check_links()
    store.check_links()

    headers = s3_server.ask("HEAD", swift_config.container).headers
    assert headers["X-Container-Meta-Temp-Url-Key"] == KEY


def test_key_that_stands_there_as_the_second_one_is_left_in_its_place(
    store: LinkingSwiftStore, s3_server: SwiftServer, swift_config: SwiftConfig
) -> None:
    keys = {"X-Container-Meta-Temp-Url-Key": "an-older-key", "X-Container-Meta-Temp-Url-Key-2": KEY}
    s3_server.ask("POST", swift_config.container, headers=keys)

    store.check_links()

    found = s3_server.ask("HEAD", swift_config.container).headers
    assert {name: found[name] for name in keys} == keys


def test_another_key_is_left_alone_and_told(
    store: LinkingSwiftStore, s3_server: SwiftServer, swift_config: SwiftConfig
) -> None:
    s3_server.ask("POST", swift_config.container, headers={"X-Container-Meta-Temp-Url-Key": "of-somebody-else"})

    with pytest.raises(StorageDeniedError) as caught:
        store.check_links()

    told = str(caught.value.__cause__)
    assert "PHOTO_API_STORAGE__SWIFT_TEMP_URL_KEY" in told
    assert "of-somebody-else" not in told
    assert KEY not in told
    found = s3_server.ask("HEAD", swift_config.container).headers
    assert found["X-Container-Meta-Temp-Url-Key"] == "of-somebody-else"


def test_link_that_swift_does_not_honour_is_told(swift_config: SwiftConfig, s3_server: SwiftServer) -> None:
    with FaultProxy(s3_server.port) as proxy:
        store = linking(s3_server.swift_config(swift_config.container, url=proxy.url))
        proxy.inject(Status(401), path="temp_url_sig")

        with pytest.raises(StorageDeniedError) as caught:
            store.check_links()

        assert "PHOTO_API_STORAGE__SWIFT_TEMP_URL_DIGEST" in str(caught.value.__cause__)
        store.close()


@pytest.mark.parametrize("path", ["/v1/", "temp_url_sig"], ids=["container", "link"])
def test_check_of_a_store_that_is_down_says_neither_yes_nor_no(
    swift_config: SwiftConfig, s3_server: SwiftServer, path: str
) -> None:
    with FaultProxy(s3_server.port) as proxy:
        store = linking(s3_server.swift_config(swift_config.container, url=proxy.url))
        proxy.inject(Status(503), path=path)

        with pytest.raises(StorageUnavailableError):
            store.check_links()
        store.close()


@pytest.mark.parametrize("wrong", ["container", "user"])
def test_check_of_what_is_not_ours_is_a_denial(swift_config: SwiftConfig, wrong: str) -> None:
    config = (
        replace(swift_config, container="no-such-container")
        if wrong == "container"
        else replace(swift_config, identity=replace(swift_config.identity, username=STRANGER_ACCESS_KEY_ID))
    )
    store = linking(config)

    with pytest.raises(StorageDeniedError):
        store.check_links()
    store.close()
