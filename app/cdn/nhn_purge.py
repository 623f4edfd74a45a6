"""Removal of copies through NHN Cloud's CDN API, which takes whole URLs and finishes within seconds."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from app.cdn.base import Purger, check_path
from app.cdn.nhn_api import NhnApi, open_api
from app.settings_delivery import CdnSettings
from app.upstream.observing import CallObserver


class NhnPurger:
    """A :class:`app.cdn.base.Purger`. Thread-safe.

    Args:
        api: The API.
        base_url: What paths are appended to; its host is the CDN service that is purged.
    """

    def __init__(self, api: NhnApi, base_url: str) -> None:
        self._api = api
        self._base_url = base_url.rstrip("/")
        self._domain = urlsplit(base_url).hostname or ""

    def purge(self, paths: Sequence[str]) -> None:
        """Have the copies of some objects removed; see the port."""
        for path in paths:
            check_path(path)
        urls = [f"{self._base_url}{path}" for path in paths]
        self._api.ask("purge", "/purge/item", {"domain": self._domain, "purgeList": urls})

    def close(self) -> None:
        """Close the connections to the API."""
        self._api.close()


def open_purger(cdn: CdnSettings, observer: CallObserver) -> Purger:
    """Build the purger that the settings name, with nothing before it."""
    return NhnPurger(open_api(cdn, observer), cdn.base_url or "")
