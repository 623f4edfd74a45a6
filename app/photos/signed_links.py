"""Links to this server that hold without a login: made for an owner, judged by their signature alone.

::

    /o/<locator>/<sha256>.<jpg|png|webp|gif|avif|heic|heif>?exp=<10 digits>&kid=<key>&sig=<22 of base64url>

The locator is where the store has the object: its key, or for a local store the folder of its file, so that nginx
finds the bytes with no more than the link. The signature is what nginx's ``secure_link_md5`` computes, because nginx
is to judge most links without asking anybody: MD5 over ``"<secret> <exp> <path> <secret>"``. Why that is enough here
is in docs/adr/0026-signed-origin-links.md.

A link holds in exactly one spelling: every octet of the request's target, as it came, has to be the one that was
made. Nothing is decoded, folded or put in order before it is judged.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from app.accounts.keyring import LINK, KeyRings, RingKey
from app.db.base import utc_now
from app.errors import LinkNotValidError
from app.storage.base import is_valid_key
from app.storage.links import FileStore

PREFIX: Final = "/o/"
"""What the path of every link begins with."""

EXTENSIONS: Final = MappingProxyType(
    {
        "image/jpeg": "jpg",
        "image/png": "png",
        "image/webp": "webp",
        "image/gif": "gif",
        "image/avif": "avif",
        "image/heic": "heic",
        "image/heif": "heif",
    }
)
"""The ending of a link by the photo's media type."""

_MEDIA_TYPES = {extension: media_type for media_type, extension in EXTENSIONS.items()}

# The last of the 22 characters has two bits of the digest: with its other bits set it would be another spelling.
_TARGET = re.compile(
    r"(?P<path>/o/(?P<locator>[a-z0-9_.,~/-]{1,600})/(?P<sha256>[0-9a-f]{64})"
    rf"\.(?P<extension>{'|'.join(_MEDIA_TYPES)}))"
    r"\?exp=(?P<exp>[0-9]{10})&kid=(?P<kid>[A-Za-z0-9_-]{1,32})&sig=(?P<sig>[A-Za-z0-9_-]{21}[AQgw])",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class LinkedObject:
    """What a valid link leads to.

    Attributes:
        object_key: Where the store has it.
        sha256: Lower-case hex digest of the bytes.
        content_type: Their media type.
        seconds_left: How long the link still holds, 0 to 3600.
    """

    object_key: str
    sha256: str
    content_type: str
    seconds_left: int


class SignedLinks:
    """Makes links and judges them. Thread-safe.

    Args:
        rings: The keys; those of the ring ``link``.
        files: The store, where its objects are files of this host; else None.
        public_url: What links begin with, without a slash at its end; None lets them begin with their path.
        now: The wall clock.
    """

    def __init__(
        self,
        rings: KeyRings,
        *,
        files: FileStore | None = None,
        public_url: str | None = None,
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._rings = rings
        self._files = files
        self._public_url = "" if public_url is None else public_url.rstrip("/")
        self._now = now

    def make(self, key: str, *, sha256: str, content_type: str, expires_at: dt.datetime) -> str:
        """Return a link to an object, which is not looked for.

        Args:
            key: The object's key.
            sha256: Lower-case hex digest of its bytes.
            content_type: One of :data:`EXTENSIONS`.
            expires_at: The last second in which it holds.

        Raises:
            UnavailableError: No key is active.
        """
        locator = key if self._files is None else self._files.folder_of(key)
        path = f"{PREFIX}{locator}/{sha256}.{EXTENSIONS[content_type]}"
        exp = f"{int(expires_at.timestamp()):010}"
        signing = self._rings.signing(LINK)
        return f"{self._public_url}{path}?exp={exp}&kid={signing.kid}&sig={_signature(signing, exp, path)}"

    def judge(self, target: str) -> LinkedObject:
        """Return what a link leads to.

        Args:
            target: Path and query of the request, octet by octet as they came.

        Raises:
            LinkNotValidError: It is none of ours, or was changed, or has ended.
        """
        matched = _TARGET.fullmatch(target)
        key = None if matched is None else self._rings.verifying(LINK, matched["kid"])
        if matched is None or key is None:
            raise _not_valid()
        if not hmac.compare_digest(_signature(key, matched["exp"], matched["path"]), matched["sig"]):
            raise _not_valid()
        seconds_left = int(matched["exp"]) - int(self._now().timestamp())
        if seconds_left < 0:
            raise LinkNotValidError("This link has ended. Ask for a new one.")
        locator = matched["locator"]
        object_key = self._files.key_in(locator) if self._files is not None else locator
        if object_key is None or not is_valid_key(object_key):  # signed while there was another kind of store
            raise _not_valid()
        return LinkedObject(object_key, matched["sha256"], _MEDIA_TYPES[matched["extension"]], seconds_left)


def secret_of(key: RingKey) -> str:
    """Return a key as it stands in what is signed, and in nginx's configuration: base64url without padding."""
    return urlsafe_b64encode(key.secret).decode().rstrip("=")


def _signature(key: RingKey, exp: str, path: str) -> str:
    secret = secret_of(key)
    signed = f"{secret} {exp} {path} {secret}".encode()
    # "Not for security" lets it work where a policy forbids MD5; that it is enough here, the ADR says.
    return urlsafe_b64encode(hashlib.md5(signed, usedforsecurity=False).digest()).decode().rstrip("=")


def _not_valid() -> LinkNotValidError:
    return LinkNotValidError("This link is not valid. Use it exactly as you got it, or ask for a new one.")
