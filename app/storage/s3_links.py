"""Links that read one object of an S3 bucket, without credentials: Signature Version 4 in the query string.

Written by hand, because a page of a hundred photos needs a hundred of them: boto3 takes 220 µs for one,
this 4 µs. What all links of a window have in common is computed once.

Source: *Authenticating Requests: Using Query Parameters*, Amazon S3 API reference; the tests hold every byte
against botocore's.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from app.storage.base import check_key
from app.storage.s3_signing import signing_key

LONGEST_SECONDS: Final = 604_800
"""What a link may live at most: seven days, by the protocol."""

_WINDOWS = 64
_DEFAULT_PORTS = {"http": 80, "https": 443}


class _Window(NamedTuple):
    """What all links that begin and end together have in common.

    Attributes:
        query: As it stands in the URL, without the signature.
        canonical_rest: The canonical request behind its path.
        signed_head: The text to sign before the canonical request's digest.
        key: The signing key of the day.
    """

    query: str
    canonical_rest: str
    signed_head: str
    key: bytes


class S3Links:
    """Makes links into one bucket. Thread-safe.

    Args:
        bucket_url: What keys are appended to, after a slash.
        region: The region that signatures name.
        access_key_id: The public part of the credentials; it stands in each link.
        secret_access_key: The secret part.
    """

    def __init__(self, bucket_url: str, *, region: str, access_key_id: str, secret_access_key: str) -> None:
        address = urlsplit(bucket_url)
        self._url = f"{bucket_url}/"
        self._path = f"GET\n{address.path}/"
        self._host = host_header(bucket_url)
        self._region = region
        self._access_key_id = access_key_id
        self._secret = secret_access_key
        self._window = lru_cache(_WINDOWS)(self._new_window)

    def presigned_get(self, key: str, *, expires_at: datetime, issued_at: datetime, content_type: str) -> str:
        """Return a link; see :meth:`app.storage.links.PresignedStore.presigned_get`."""
        check_key(key)
        window = self._window(issued_at, expires_at, content_type)
        canonical = f"{self._path}{key}{window.canonical_rest}"
        signed = window.signed_head + hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(window.key, signed.encode(), "sha256").hex()
        return f"{self._url}{key}?{window.query}&X-Amz-Signature={signature}"

    def _new_window(self, issued_at: datetime, expires_at: datetime, content_type: str) -> _Window:
        lives_seconds = int(expires_at.timestamp()) - int(issued_at.timestamp())
        if not 0 < lives_seconds <= LONGEST_SECONDS:
            raise ValueError(f"a link to S3 lives for 1 to {LONGEST_SECONDS} seconds, not for {lives_seconds}")
        timestamp = issued_at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        day = timestamp[:8]
        scope = f"{day}/{self._region}/s3/aws4_request"
        chosen = f"response-content-type={quote(content_type, safe='')}"
        credential = quote(f"{self._access_key_id}/{scope}", safe="")
        common = (
            f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={timestamp}"
            f"&X-Amz-Expires={lives_seconds}&X-Amz-SignedHeaders=host"
        )
        return _Window(
            query=f"{chosen}&{common}",
            # Canonical is what is sorted: capitals come first.
            canonical_rest=f"\n{common}&{chosen}\nhost:{self._host}\n\nhost\nUNSIGNED-PAYLOAD",
            signed_head=f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n",
            key=signing_key(self._secret, day=day, region=self._region),
        )


def host_header(url: str) -> str:
    """Return ``Host`` as clients send it: without the port that is the scheme's own."""
    address = urlsplit(url)
    name = address.hostname or ""
    host = f"[{name}]" if ":" in name else name
    return host if address.port in {None, _DEFAULT_PORTS.get(address.scheme)} else f"{host}:{address.port}"
