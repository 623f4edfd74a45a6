"""The CDN that the settings name; each vendor's library is loaded only when it is used.

::

    edge_auth, nginx_secure_link    the signer alone: some microseconds
    cloudfront                      remembered(signer)
    nhn                             remembered(cdn_token(signer))
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Final

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

# A vendor's module has open_signer() or open_purger(), which take the settings and who hears of calls.
_SIGNERS: Final = {
    "edge_auth": "app.cdn.edge_auth",
    "nhn": "app.cdn.nhn",
    "cloudfront": "app.cdn.cloudfront",
    "nginx_secure_link": "app.cdn.nginx_secure_link",
}
_PURGERS: Final = {
    "edge_auth": "app.cdn.nhn_purge",
    "nhn": "app.cdn.nhn_purge",
    "cloudfront": "app.cdn.cloudfront_purge",
}


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
    if cdn.backend == "none":
        return None
    vendor: Any = import_module(_SIGNERS[cdn.backend])
    signer: UrlSigner = vendor.open_signer(cdn, observer)
    return signer


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
    vendor: Any = import_module(_PURGERS[cdn.backend])
    purger: Purger = vendor.open_purger(cdn, observer)
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


def _now() -> datetime:
    return datetime.now(UTC)
