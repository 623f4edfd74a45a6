"""The object store that the settings name; each vendor's library is loaded only when it is used."""

from __future__ import annotations

from app.settings_delivery import StorageSettings
from app.stability import Pipeline
from app.storage.base import ObjectStore
from app.upstream.observing import CallObserver


def build_store(
    storage: StorageSettings,
    *,
    max_connections: int = 8,
    swift_auth: Pipeline | None = None,
    observer: CallObserver | None = None,
) -> ObjectStore:
    """Build the object store.

    Args:
        storage: Valid settings.
        max_connections: How many connections to a service there may be at once in this process.
        swift_auth: The pipeline before the calls of Swift's identity service; None for nothing.
        observer: Who hears of those calls.
    """
    if storage.backend == "local":
        from app.storage.local import LocalObjectStore  # noqa: PLC0415  # only the store in use is loaded

        return LocalObjectStore(storage.local_root, group_readable=storage.local_group_readable)
    if storage.backend == "swift":
        from app.storage.swift_build import build_swift_store  # noqa: PLC0415  # only the store in use is loaded

        return build_swift_store(storage, max_connections=max_connections, swift_auth=swift_auth, observer=observer)
    from app.storage.s3 import S3Config, S3ObjectStore  # noqa: PLC0415  # boto3 takes a while and much memory

    return S3ObjectStore(
        S3Config(
            endpoint_url=storage.s3_endpoint_url,
            bucket=storage.s3_bucket or "",
            region=storage.s3_region,
            access_key_id=storage.s3_access_key_id.get_secret_value() if storage.s3_access_key_id else "",
            secret_access_key=storage.s3_secret_access_key.get_secret_value() if storage.s3_secret_access_key else "",
            max_connections=max_connections,
            upload_timeout_seconds=storage.upload_timeout_seconds,
            download_timeout_seconds=storage.download_timeout_seconds,
        )
    )
