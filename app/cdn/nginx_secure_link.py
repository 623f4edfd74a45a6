"""Links that an nginx of one's own verifies: ``ngx_http_secure_link_module`` in front of the bucket.

::

    https://cdn.example.org/o/ab/cd.jpg?md5=<22 characters>&expires=1767225600

What is digested is what this line of its configuration says::

    secure_link_md5 "SECRET $secure_link_expires $uri SECRET";

The secret stands on both sides, so that nothing can be appended to a digest that is known, and no collision of two
chosen beginnings helps. ``$uri`` is the decoded path. MD5 is what the module has.

Source: nginx, ngx_http_secure_link_module.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from datetime import datetime
from urllib.parse import unquote_to_bytes, urlsplit

from app.cdn.base import SignedUrl, UrlSigner, check_path, epoch_of, instant_of, secret_of
from app.settings_delivery import CdnSettings
from app.upstream.observing import CallObserver


class SecureLinkSigner:
    """A :class:`app.cdn.base.UrlSigner` for nginx. Thread-safe.

    Args:
        base_url: What paths are appended to; its own path is part of what is signed.
        secret: The one in nginx's configuration.
    """

    name = "nginx_secure_link"

    def __init__(self, base_url: str, *, secret: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._base_path = urlsplit(self._base_url).path
        self._secret = secret.encode()

    def sign(self, path: str, *, expires_at: datetime) -> SignedUrl:
        """Return a URL for one object; see the port."""
        check_path(path)
        ends = epoch_of(expires_at)
        uri = unquote_to_bytes(self._base_path + path)
        signed = b" ".join((self._secret, str(ends).encode(), uri, self._secret))
        digest = urlsafe_b64encode(hashlib.md5(signed, usedforsecurity=False).digest()).rstrip(b"=").decode()
        return SignedUrl(f"{self._base_url}{path}?md5={digest}&expires={ends}", instant_of(ends))

    def close(self) -> None:
        """Do nothing: there are no connections."""


def open_signer(cdn: CdnSettings, observer: CallObserver) -> UrlSigner:
    """Build the signer that the settings name; it calls nobody, so the observer hears nothing."""
    del observer
    return SecureLinkSigner(cdn.base_url or "", secret=secret_of(cdn.secure_link_secret))
