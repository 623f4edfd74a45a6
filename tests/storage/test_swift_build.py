"""From settings to a store: every setting arrives, and a key for temporary URLs decides whether there are links."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from app.settings_delivery import StorageSettings
from app.storage.links import PresignedStore, find_capability
from app.storage.probe import verify
from app.storage.swift import SwiftConfig
from app.storage.swift_build import build_swift_store
from app.storage.swift_identity import SwiftIdentity
from tests.servers.swift import SwiftServer


def settings(**changes: Any) -> StorageSettings:
    values: dict[str, Any] = {
        "backend": "swift",
        "swift_auth_url": "https://identity.example.org/v3",
        "swift_auth_version": "3",
        "swift_username": "user",
        "swift_password": SecretStr("a-password"),
        "swift_tenant_id": "project",
        "swift_user_domain": "Domain",
        "swift_region": "KR2",
        "swift_storage_url": "https://storage.example.org/v1/AUTH_a",
        "swift_container": "photos",
        "auth_timeout_seconds": 7,
        "upload_timeout_seconds": 8,
        "download_timeout_seconds": 9,
    }
    return StorageSettings(**{**values, **changes})


def test_every_setting_arrives() -> None:
    store = build_swift_store(settings(), max_connections=5, swift_auth=None, observer=None)

    assert store._config == SwiftConfig(
        identity=SwiftIdentity(
            auth_url="https://identity.example.org/v3",
            version="3",
            username="user",
            password="a-password",
            tenant_id="project",
            user_domain="Domain",
            region="KR2",
            storage_url="https://storage.example.org/v1/AUTH_a",
            timeout_seconds=7,
        ),
        container="photos",
        max_connections=5,
        upload_timeout_seconds=8,
        download_timeout_seconds=9,
    )
    store.close()


@pytest.mark.parametrize("key", [None, SecretStr("a-key-of-links")])
def test_only_a_key_of_temporary_urls_makes_a_store_with_links(key: SecretStr | None) -> None:
    store = build_swift_store(settings(swift_temp_url_key=key), max_connections=1, swift_auth=None, observer=None)

    assert (find_capability(store, PresignedStore) is None) is (key is None)
    store.close()


def test_what_was_built_works(swift_config: SwiftConfig, s3_server: SwiftServer) -> None:
    identity = swift_config.identity
    given = settings(
        swift_auth_url=identity.auth_url,
        swift_auth_version=identity.version,
        swift_username=identity.username,
        swift_password=SecretStr(identity.password),
        swift_storage_url=None,
        swift_container=swift_config.container,
    )
    store = build_swift_store(given, max_connections=2, swift_auth=None, observer=None)

    verify(store)
    store.close()
