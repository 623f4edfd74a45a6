"""From settings to a Swift store: the only module here that knows how its settings are called."""

from __future__ import annotations

from typing import cast

from pydantic import SecretStr

from app.settings_delivery import StorageSettings
from app.stability import Pipeline
from app.storage.swift import SwiftConfig, SwiftObjectStore
from app.storage.swift_auth import SwiftTokens
from app.storage.swift_identity import IdentityService, SwiftIdentity
from app.storage.swift_links import LinkingSwiftStore
from app.upstream.observing import CallObserver, SilentObserver


def build_swift_store(
    storage: StorageSettings, *, max_connections: int, swift_auth: Pipeline | None, observer: CallObserver | None
) -> SwiftObjectStore:
    """Return the store that the settings describe; with a key for temporary URLs it also hands out links.

    Args:
        storage: Valid ones, whose backend is ``swift``.
        max_connections: How many requests may be under way at once in this process.
        swift_auth: The pipeline before the calls of the identity service; None for nothing.
        observer: Who hears of those calls; None for nobody.
    """
    config = SwiftConfig(
        identity=SwiftIdentity(
            auth_url=cast("str", storage.swift_auth_url),
            version=storage.swift_auth_version,
            username=storage.swift_username or "",
            password=_plain(storage.swift_password),
            tenant_id=storage.swift_tenant_id,
            user_domain=storage.swift_user_domain or "Default",
            region=storage.swift_region,
            storage_url=storage.swift_storage_url,
            timeout_seconds=storage.auth_timeout_seconds,
        ),
        container=storage.swift_container or "",
        max_connections=max_connections,
        upload_timeout_seconds=storage.upload_timeout_seconds,
        download_timeout_seconds=storage.download_timeout_seconds,
    )
    tokens = SwiftTokens(IdentityService(config.identity, observer or SilentObserver()), pipeline=swift_auth)
    if storage.swift_temp_url_key is None:
        return SwiftObjectStore(config, tokens=tokens)
    return LinkingSwiftStore(
        config,
        temp_url_key=_plain(storage.swift_temp_url_key),
        temp_url_digest=storage.swift_temp_url_digest,
        tokens=tokens,
    )


def _plain(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
