"""Links of ``secure_link``: what stands in nginx's configuration is what is digested."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from datetime import UTC, datetime

from app.cdn.nginx_secure_link import SecureLinkSigner

ENDS = datetime(2026, 1, 1, 0, 0, 0, tzinfo=UTC)


def test_the_digest_is_over_secret_end_decoded_path_and_secret() -> None:
    signer = SecureLinkSigner("https://cdn.example.org/p", secret="s3cret")
    digest = hashlib.md5("s3cret 1767225600 /p/ä b.jpg s3cret".encode(), usedforsecurity=False).digest()

    signed = signer.sign("/%C3%A4%20b.jpg", expires_at=ENDS)

    expected = urlsafe_b64encode(digest).decode().rstrip("=")
    assert signed.url == f"https://cdn.example.org/p/%C3%A4%20b.jpg?md5={expected}&expires=1767225600"
    assert signed.expires_at == ENDS
