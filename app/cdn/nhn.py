"""Edge tokens of NHN Cloud, made by its API: for a key that rotates there, at the price of a call for each.

What comes back is not believed. A token has to open the path that was asked for, by the key that this server knows,
and must not live longer than was asked. Nothing is remembered here (:mod:`app.cdn.cached`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from app.cdn.base import SignedUrl, UrlSigner, check_path, epoch_of, instant_of, secret_of
from app.cdn.edge_auth import CLOCK_SECONDS, read_expiry
from app.cdn.nhn_api import NhnApi, open_api
from app.errors import UpstreamContentError
from app.settings_delivery import CdnSettings
from app.upstream.observing import CallObserver

_SKEW_SECONDS: Final = 30
"""How far the API's clock may be ahead: it counts from its own now, and the answer takes its time."""

_TOKEN = re.compile(r"[A-Za-z0-9=~_.*+%-]{1,2048}")


class NhnSigner:
    """A :class:`app.cdn.base.UrlSigner` that asks NHN's API for each token. Thread-safe.

    Args:
        api: The API.
        base_url: What paths are appended to; its own path is part of what is signed.
        key_hex: The CDN service's token encryption key, hexadecimal digits.
        parameter: The query parameter that carries the token.
        now: The wall clock.
    """

    name = "nhn"

    def __init__(
        self, api: NhnApi, base_url: str, *, key_hex: str, parameter: str, now: Callable[[], datetime]
    ) -> None:
        self._api = api
        self._base_url = base_url.rstrip("/")
        self._base_path = urlsplit(self._base_url).path
        self._key_hex = key_hex
        self._parameter = parameter
        self._now = now

    def sign(self, path: str, *, expires_at: datetime) -> SignedUrl:
        """Return a URL for one object; see the port."""
        check_path(path)
        ends = epoch_of(expires_at)
        whole_path = self._base_path + path
        lives_seconds = ends + CLOCK_SECONDS - epoch_of(self._now())
        if lives_seconds <= 0:
            message = "a signed URL cannot end before it begins"
            raise ValueError(message)
        document = self._api.ask(
            "token",
            "/auth-token",
            {
                "encryptKey": self._key_hex,
                "durationSeconds": lives_seconds,
                "singlePath": whole_path,
            },
        )
        tokens = document.get("authToken")
        token = tokens.get("singlePathToken") if isinstance(tokens, dict) else None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise UpstreamContentError("The CDN's API gave no token.")
        token_ends = read_expiry(bytes.fromhex(self._key_hex), whole_path, token)
        if token_ends is None or token_ends > ends + CLOCK_SECONDS + _SKEW_SECONDS:
            raise UpstreamContentError("The CDN's API gave a token for something else.")
        return SignedUrl(
            f"{self._base_url}{path}?{self._parameter}={token}", instant_of(min(ends, token_ends - CLOCK_SECONDS))
        )

    def close(self) -> None:
        """Close the connections to the API."""
        self._api.close()


def open_signer(cdn: CdnSettings, observer: CallObserver) -> UrlSigner:
    """Build the signer that the settings name, with nothing before it."""
    return NhnSigner(
        open_api(cdn, observer),
        cdn.base_url or "",
        key_hex=secret_of(cdn.edge_auth_key),
        parameter=cdn.edge_auth_parameter,
        now=lambda: datetime.now(UTC),
    )
