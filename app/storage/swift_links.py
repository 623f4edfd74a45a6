"""Links that read or write one object of a Swift container without a token: temporary URLs.

A link carries a digest, made with a key that stands on the container as well, of the method, the end and the path.
So the key must be there: :meth:`LinkingSwiftStore.check_links` looks at start-up, puts it there when the container
has none, and tries a link out.

Source: *Temporary URL middleware*, OpenStack Swift; *Object Storage API guide, Create a temporary URL*, NHN Cloud.
"""

from __future__ import annotations

import hmac
import re
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from urllib.parse import quote, unquote, urlsplit

from app.storage.base import DenialReason, StorageDeniedError, check_key
from app.storage.swift import SwiftConfig, SwiftObjectStore
from app.storage.swift_auth import SwiftTokens
from app.storage.swift_identity import DENIED, token_error

_PROBE_KEY: Final = "probe/link"
_PROBE_SECONDS = 60
_KEY_HEADERS: Final = ("X-Container-Meta-Temp-Url-Key", "X-Container-Meta-Temp-Url-Key-2")
_READERS: Final = "X-Container-Read"
_KEY = "PHOTO_API_STORAGE__SWIFT_TEMP_URL_KEY"

# .r:* and .r:example.org, in the spellings that Swift reads; a minus forbids.
_OPEN: Final = re.compile(r"\.r(?:ef|eferr?er)?:(?!\s*-)", re.IGNORECASE)

Method = Literal["GET", "PUT"]
Digest = Literal["sha1", "sha256", "sha512"]


class TempUrls:
    """Makes temporary URLs into one container. Thread-safe, makes no call.

    Args:
        container: The container.
        key: The key that stands on it.
        digest: Of signatures, one that the cluster allows.
    """

    def __init__(self, container: str, key: str, digest: Digest) -> None:
        self._container = container
        self._key = key.encode()
        self._digest = digest

    def presign(self, storage_url: str, method: Method, key: str, expires_at: datetime) -> str:
        """Return a link; one for GET is good for HEAD, too.

        Args:
            storage_url: The account's address, without a slash at its end.
            method: What the link allows. Whoever has one for PUT may write any bytes there until it ends.
            key: The object's key; it is not looked for.
            expires_at: When it ends; whole seconds count.

        Raises:
            ValueError: The key breaks the grammar.
        """
        check_key(key)
        ends = int(expires_at.timestamp())
        # What is signed is the path as the server decodes it.
        path = f"{unquote(urlsplit(storage_url).path)}/{self._container}/{key}"
        signature = hmac.new(self._key, f"{method}\n{ends}\n{path}".encode(), self._digest).hexdigest()
        # inline: without it every answer is an attachment, and no page can show it.
        query = f"temp_url_sig={signature}&temp_url_expires={ends}&inline"
        return f"{storage_url}/{quote(self._container)}/{key}?{query}"


class LinkingSwiftStore(SwiftObjectStore):
    """A :class:`app.storage.swift.SwiftObjectStore` that also hands out links. Thread-safe.

    Args:
        config: Where the container is and how to reach it.
        temp_url_key: The key of its temporary URLs.
        temp_url_digest: Of signatures.
        tokens: As for the store.
    """

    def __init__(
        self,
        config: SwiftConfig,
        *,
        temp_url_key: str,
        temp_url_digest: Digest = "sha256",
        tokens: SwiftTokens | None = None,
    ) -> None:
        super().__init__(config, tokens=tokens)
        self._temp_url_key = temp_url_key
        self._links = TempUrls(config.container, temp_url_key, temp_url_digest)

    def presigned_get(
        self,
        key: str,
        *,
        expires_at: datetime,
        issued_at: datetime,  # noqa: ARG002  # Swift's links say only when they end
        content_type: str,  # noqa: ARG002  # and have the type that the object was stored with
    ) -> str:
        """Return a link; see :meth:`app.storage.links.PresignedStore.presigned_get`."""
        return self._presign("GET", key, expires_at)

    def presigned_put(self, key: str, *, expires_at: datetime) -> str:
        """Return a link that writes an object; see :meth:`TempUrls.presign`.

        Raises:
            ValueError: The key breaks the grammar.
            StorageUnavailableError: The account's address is not known yet.
        """
        return self._presign("PUT", key, expires_at)

    def check_links(self) -> None:
        """Look whether links would be honoured; see :meth:`app.storage.links.LinkCheck.check_links`."""
        headers = self._container_headers()
        found = [headers[name] for name in _KEY_HEADERS if headers.get(name)]
        if not found:
            self._set_container_headers({_KEY_HEADERS[0]: self._temp_url_key})
        elif self._temp_url_key not in found:
            raise StorageDeniedError(DENIED) from DenialReason(
                f"the container has another key for temporary URLs. Set {_KEY} to it, or put the new key beside it "
                f"as {_KEY_HEADERS[1]}"
            )
        expires_at = datetime.now(UTC) + timedelta(seconds=_PROBE_SECONDS)
        if not self._is_honoured(_PROBE_KEY, urlsplit(self._presign("GET", _PROBE_KEY, expires_at)).query):
            raise StorageDeniedError(DENIED) from DenialReason(
                "the object store refuses its own temporary URLs. Does the cluster allow the digest that "
                "PHOTO_API_STORAGE__SWIFT_TEMP_URL_DIGEST names, and is this host's clock right?"
            )

    def is_public(self) -> bool:
        """Tell whether a link's name is enough; see :meth:`app.storage.links.PublicityCheck.is_public`.

        Swift tells the container's owner alone. Readers by referrer count: anybody can say where they come from.
        """
        readers = self._container_headers().get(_READERS, "").split(",")
        return any(_OPEN.match(reader.strip()) for reader in readers)

    def _presign(self, method: Method, key: str, expires_at: datetime) -> str:
        storage_url = self._storage_url
        if storage_url is None:
            check_key(key)
            raise token_error()
        return self._links.presign(storage_url, method, key, expires_at)
