"""CloudFront: URLs signed with an RSA key, by the canned policy.

A canned policy names one URL and its end, and is not part of the URL: an edge makes it anew and verifies what is
signed. A policy with a wildcard would be signed once for all photos, and would open all photos to whoever has one;
so each photo is signed for itself, and remembered (:mod:`app.cdn.cached`): a signature costs most of a millisecond.

Source: Amazon CloudFront Developer Guide, "Create a signed URL using a canned policy". The digest is SHA-1, which is
what CloudFront verifies; policies are made here, so that nobody else chooses what is digested.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from botocore.signers import CloudFrontSigner as PolicySigner
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from app.cdn.base import SignedUrl, UrlSigner, check_path, epoch_of, instant_of
from app.errors import ConfigurationError
from app.settings_delivery import CdnSettings
from app.upstream.observing import CallObserver

_FILE: Final = "PHOTO_API_CDN__CLOUDFRONT_PRIVATE_KEY_FILE"
_KEY_BITS: Final = 2048
_FILE_BYTES_MAX: Final = 64 * 1024


class CloudFrontUrlSigner:
    """A :class:`app.cdn.base.UrlSigner` for one distribution. Thread-safe.

    Args:
        base_url: What paths are appended to.
        key_pair_id: The id of the public key in the distribution's key group.
        private_key: The key to it.
    """

    name = "cloudfront"

    def __init__(self, base_url: str, *, key_pair_id: str, private_key: rsa.RSAPrivateKey) -> None:
        self._base_url = base_url.rstrip("/")
        self._signer = PolicySigner(
            key_pair_id,
            lambda policy: private_key.sign(policy, padding.PKCS1v15(), hashes.SHA1()),  # noqa: S303  # all that CloudFront verifies
        )

    def sign(self, path: str, *, expires_at: datetime) -> SignedUrl:
        """Return a URL for one object; see the port."""
        check_path(path)
        ends = instant_of(epoch_of(expires_at))
        url = self._signer.generate_presigned_url(f"{self._base_url}{path}", date_less_than=ends.astimezone(UTC))
        return SignedUrl(url, ends)

    def close(self) -> None:
        """Do nothing: there are no connections."""


def open_signer(cdn: CdnSettings, observer: CallObserver) -> UrlSigner:
    """Build the signer that the settings name; it calls nobody, so the observer hears nothing.

    Raises:
        ConfigurationError: The key's file cannot be used.
    """
    del observer
    private_key = load_private_key(cdn.cloudfront_private_key_file)
    return CloudFrontUrlSigner(
        cdn.base_url or "", key_pair_id=cdn.cloudfront_key_pair_id or "", private_key=private_key
    )


def load_private_key(file: Path | None) -> rsa.RSAPrivateKey:
    """Read a private key.

    Args:
        file: PEM, not encrypted, RSA of 2048 bits or more.

    Raises:
        ConfigurationError: It cannot be read, or is another key; says nothing of what is in it.
    """
    if file is None:
        raise ConfigurationError([f"{_FILE}: must be set"])
    try:
        with file.open("rb") as opened:
            content = opened.read(_FILE_BYTES_MAX)
        key = serialization.load_pem_private_key(content, password=None)
    except OSError as error:
        mend = "Name the key's file, and let the server's user read it"
        raise ConfigurationError([f"{_FILE}: the file cannot be read ({error.strerror}). {mend}"]) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without a cause: what the parser says may show a piece of the key.
        none = "the file holds no private key in PEM without a password. Name that of openssl genrsa"
        raise ConfigurationError([f"{_FILE}: {none}"]) from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < _KEY_BITS:
        raise ConfigurationError([f"{_FILE}: CloudFront needs an RSA key of {_KEY_BITS} bits"])
    return key
