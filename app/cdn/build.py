"""The CDN that the settings name; each vendor's library is loaded only when it is used.

::

    edge_auth, nginx_secure_link    the signer alone: some microseconds
    cloudfront                      remembered(signer)
    nhn                             remembered(cdn_token(signer))
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from app.cdn.base import Purger, UrlSigner
from app.cdn.cached import CachedSigner, SizeGauge
from app.cdn.guarded import CDN_CLASSIFICATION, GuardedPurger, GuardedSigner
from app.cdn.probe import CdnProbe
from app.settings_delivery import CdnSettings
from app.stability import Classification, Pipeline
from app.upstream.observing import CallObserver

CDN_CLASSIFICATIONS: Final[Mapping[str, Classification]] = dict.fromkeys(
    ("cdn", "cdn_token", "cdn_purge"), CDN_CLASSIFICATION
)
"""What is a failure, by pipeline."""


def build_signer(
    cdn: CdnSettings, *, pipelines: Mapping[str, Pipeline], observer: CallObserver, gauge: SizeGauge
) -> UrlSigner | None:
    """Build what signs URLs.

    Args:
        cdn: Valid settings.
        pipelines: ``cdn_token`` among them.
        observer: Who hears of calls of a vendor's API.
        gauge: Follows how many URLs are remembered.

    Returns:
        None where there is no CDN.

    Raises:
        ConfigurationError: A file that the settings name cannot be used.
    """
    signer = build_bare_signer(cdn, observer)
    if cdn.backend == "nhn" and signer is not None:
        signer = GuardedSigner(signer, pipelines["cdn_token"])
    if cdn.backend in {"nhn", "cloudfront"} and signer is not None:
        signer = CachedSigner(signer, max_entries=cdn.token_cache_size, gauge=gauge, now=_now)
    return signer


def build_bare_signer(cdn: CdnSettings, observer: CallObserver) -> UrlSigner | None:
    """Build the vendor's signer alone, which remembers nothing and asks each time; as :func:`build_signer`."""
    base_url = cdn.base_url or ""
    match cdn.backend:
        case "edge_auth":
            from app.cdn.edge_auth import EdgeAuthSigner  # noqa: PLC0415  # only the vendor in use is loaded

            return EdgeAuthSigner(base_url, key_hex=_text(cdn.edge_auth_key), parameter=cdn.edge_auth_parameter)
        case "nhn":
            from app.cdn.nhn import NhnSigner  # noqa: PLC0415  # as above
            from app.cdn.nhn_api import open_api  # noqa: PLC0415  # as above

            return NhnSigner(
                open_api(cdn, observer),
                base_url,
                key_hex=_text(cdn.edge_auth_key),
                parameter=cdn.edge_auth_parameter,
                now=_now,
            )
        case "cloudfront":
            from app.cdn.cloudfront import CloudFrontUrlSigner, load_private_key  # noqa: PLC0415  # as above

            private_key = load_private_key(cdn.cloudfront_private_key_file)
            return CloudFrontUrlSigner(
                base_url, key_pair_id=cdn.cloudfront_key_pair_id or "", private_key=private_key
            )
        case "nginx_secure_link":
            from app.cdn.nginx_secure_link import SecureLinkSigner  # noqa: PLC0415  # as above

            return SecureLinkSigner(base_url, secret=_text(cdn.secure_link_secret))
        case "none":
            return None


def is_purged(cdn: CdnSettings) -> bool:
    """Tell whether copies of removed photos are removed from the CDN: its API is configured."""
    if cdn.backend == "cloudfront":
        return cdn.cloudfront_distribution_id is not None
    return cdn.backend in {"edge_auth", "nhn"} and cdn.nhn_app_key is not None


def build_purger(cdn: CdnSettings, *, pipelines: Mapping[str, Pipeline], observer: CallObserver) -> Purger | None:
    """Build what has copies removed.

    Args:
        cdn: Valid settings.
        pipelines: ``cdn_purge`` among them.
        observer: Who hears of calls of a vendor's API.

    Returns:
        None where :func:`is_purged` says that there is none.
    """
    if not is_purged(cdn):
        return None
    base_url = cdn.base_url or ""
    purger: Purger
    if cdn.backend == "cloudfront":
        from app.cdn.cloudfront_purge import CloudFrontPurger  # noqa: PLC0415  # boto3 takes much memory

        purger = CloudFrontPurger(
            cdn.cloudfront_distribution_id or "",
            base_path=urlsplit(base_url).path,
            timeout_seconds=cdn.timeout_seconds,
            observer=observer,
        )
    else:
        from app.cdn.nhn_api import open_api  # noqa: PLC0415  # only the vendor in use is loaded
        from app.cdn.nhn_purge import NhnPurger  # noqa: PLC0415  # as above

        purger = NhnPurger(open_api(cdn, observer), base_url)
    return GuardedPurger(purger, pipelines["cdn_purge"])


def build_probe(cdn: CdnSettings, *, pipelines: Mapping[str, Pipeline], observer: CallObserver) -> CdnProbe | None:
    """Build what looks at the edge.

    Args:
        cdn: Valid settings.
        pipelines: ``cdn`` among them.
        observer: Who hears of the looks.

    Returns:
        None where there is no CDN.
    """
    if cdn.backend == "none":
        return None
    return CdnProbe(
        cdn.base_url or "",
        path=cdn.probe_path,
        timeout_seconds=cdn.timeout_seconds,
        pipeline=pipelines["cdn"],
        observer=observer,
    )


def _text(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()


def _now() -> datetime:
    return datetime.now(UTC)
