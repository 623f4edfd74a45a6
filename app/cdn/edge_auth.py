"""Edge tokens of NHN Cloud and Akamai, made here: no call, some microseconds each.

A token is a list of fields joined by ``~``, the last of which is an HMAC-SHA256 over the ones before it and, for a
token that opens a single path, over that path::

    exp=1767225610~hmac=<hex>        hmac = HMAC(key, "exp=1767225610~url=%2fo%2fab%2fcd.jpg")

The path is escaped the way ``java.net.URLEncoder`` does it, with the escapes in lower case; it is the whole path as
the client will send it. Tokens that open several paths (``acl``) are not made here: one that leaks opens one photo.

Source: NHN Cloud, CDN, console guide, "Access Control for Auth Token Authentication"; Akamai, "Auth Token 2.0
Verification".
"""

from __future__ import annotations

import hmac
import re
from datetime import datetime
from typing import Final
from urllib.parse import quote_plus, urlsplit

from app.cdn.base import SignedUrl, UrlSigner, check_path, epoch_of, instant_of, secret_of
from app.settings_delivery import CdnSettings
from app.upstream.observing import CallObserver

CLOCK_SECONDS: Final = 10
"""How much longer than needed a token lives, as NHN asks for: the edges' clocks differ."""

_ESCAPE = re.compile("%..")


class EdgeAuthSigner:
    """A :class:`app.cdn.base.UrlSigner` that makes tokens itself. Thread-safe.

    Args:
        base_url: What paths are appended to; its own path is part of what is signed.
        key_hex: The key as the vendor's console shows it: hexadecimal digits.
        parameter: The query parameter that carries the token.
    """

    name = "edge_auth"

    def __init__(self, base_url: str, *, key_hex: str, parameter: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._base_path = urlsplit(self._base_url).path
        self._key = bytes.fromhex(key_hex)
        self._parameter = parameter

    def sign(self, path: str, *, expires_at: datetime) -> SignedUrl:
        """Return a URL for one object; see the port."""
        check_path(path)
        ends = epoch_of(expires_at)
        token = make_token(self._key, self._base_path + path, ends + CLOCK_SECONDS)
        return SignedUrl(f"{self._base_url}{path}?{self._parameter}={token}", instant_of(ends))

    def close(self) -> None:
        """Do nothing: there are no connections."""


def open_signer(cdn: CdnSettings, observer: CallObserver) -> UrlSigner:
    """Build the signer that the settings name; it calls nobody, so the observer hears nothing."""
    del observer
    key = secret_of(cdn.edge_auth_key)
    return EdgeAuthSigner(cdn.base_url or "", key_hex=key, parameter=cdn.edge_auth_parameter)


def make_token(key: bytes, path: str, expires: int) -> str:
    """Return the token that opens one path.

    Args:
        key: Of the edge.
        path: The whole path, as it will be sent.
        expires: In seconds since 1970.
    """
    fields = f"exp={expires}"
    return f"{fields}~hmac={_mac(key, fields, path)}"


def read_expiry(key: bytes, path: str, token: str) -> int | None:
    """Return when a token ends, in seconds since 1970; None when it does not open a path.

    Args:
        key: Of the edge.
        path: The whole path.
        token: Made by someone else.
    """
    fields, _, mac = token.rpartition("~hmac=")
    expiries = [field for field in fields.split("~") if field.startswith("exp=")]
    if len(expiries) != 1 or not re.fullmatch(r"exp=[0-9]{1,12}", expiries[0]):
        return None
    if not mac.isascii() or not hmac.compare_digest(mac, _mac(key, fields, path)):
        return None
    return int(expiries[0].removeprefix("exp="))


def escape(text: str) -> str:
    """Return a text as it is signed: like ``java.net.URLEncoder``, with the escapes in lower case."""
    escaped = quote_plus(text, safe="*").replace("~", "%7e")
    return _ESCAPE.sub(lambda found: found.group().lower(), escaped)


def _mac(key: bytes, fields: str, path: str) -> str:
    return hmac.digest(key, f"{fields}~url={escape(path)}".encode(), "sha256").hex()
