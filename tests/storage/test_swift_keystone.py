"""The Swift store with a real Keystone v3 and a Swift that asks it, for ``make extended``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import requests

from app.storage.base import StorageDeniedError
from app.storage.probe import BytesBody, verify
from app.storage.swift import SwiftConfig
from app.storage.swift_auth import SwiftTokens
from app.storage.swift_identity import IdentityService
from app.storage.swift_links import LinkingSwiftStore
from tests.servers.keystone import KeystoneCloud

pytestmark = pytest.mark.extended

TOKEN_SECONDS = 3600


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeystoneCloud]:
    with KeystoneCloud(tmp_path_factory.mktemp("keystone-cloud"), token_seconds=TOKEN_SECONDS) as cloud:
        yield cloud


@pytest.fixture
def config(cloud: KeystoneCloud) -> SwiftConfig:
    return cloud.config()


@pytest.fixture
def tokens(config: SwiftConfig) -> SwiftTokens:
    return SwiftTokens(IdentityService(config.identity))


@pytest.fixture
def store(config: SwiftConfig, tokens: SwiftTokens) -> Iterator[LinkingSwiftStore]:
    store = LinkingSwiftStore(config, temp_url_key="a-key-of-links", tokens=tokens)
    yield store
    store.close()


def test_store_puts_gets_lists_and_deletes_with_keystones_tokens(store: LinkingSwiftStore) -> None:
    verify(store)
    store.put("k/1", BytesBody(b"one"), content_type="image/jpeg")

    assert [info.key for info in store.list("k/")] == ["k/1"]
    store.delete("k/1")
    assert list(store.list("k/")) == []


def test_token_lives_as_long_as_keystone_says(tokens: SwiftTokens, cloud: KeystoneCloud) -> None:
    access = tokens.current()

    assert access.lives_seconds == pytest.approx(TOKEN_SECONDS, abs=3)
    assert "/v1/AUTH_" in access.storage_url


def test_revoked_token_is_replaced_without_notice(
    store: LinkingSwiftStore, tokens: SwiftTokens, cloud: KeystoneCloud
) -> None:
    dead = tokens.current()
    cloud.revoke(dead.token)

    store.put("k/2", BytesBody(b"two"), content_type="image/jpeg")

    assert tokens.current().token != dead.token


@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"username": "nobody"}, {"tenant_id": "0" * 32}])
def test_wrong_credentials_are_a_denial(config: SwiftConfig, wrong: dict[str, str]) -> None:
    identity = replace(config.identity, **wrong)  # type: ignore[arg-type]  # all are strings

    with pytest.raises(StorageDeniedError):
        IdentityService(identity).authenticate()


def test_link_is_honoured_after_the_check_at_start(store: LinkingSwiftStore) -> None:
    store.put("k/3", BytesBody(b"three"), content_type="image/jpeg")
    store.check_links()
    now = datetime.now(UTC)

    link = store.presigned_get("k/3", expires_at=now + timedelta(minutes=1), issued_at=now, content_type="image/jpeg")

    assert requests.get(link, timeout=20).content == b"three"
