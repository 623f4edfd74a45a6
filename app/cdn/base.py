"""The port to a content delivery network: signed URLs, and the removal of copies.

A CDN here fetches objects from the bucket and serves them under ``base_url + "/" + object_key``, to whoever shows a
signature that holds. Signing is the only thing that is asked of it for a link; whether its edge works is what
:mod:`app.cdn.probe` finds out.

An adapter asks once and neither retries nor remembers failures: that is what stands before it
(:mod:`app.cdn.guarded`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol, runtime_checkable
from urllib.parse import quote, unquote_to_bytes

from pydantic import SecretStr

_PATH_BYTES_MAX: Final = 2048
_CONTROL: Final = re.compile("%(?:[01].|7F)")


class SignedUrl(NamedTuple):
    """A URL that works without further credentials until it ends.

    Attributes:
        url: Absolute. It is a bearer secret: nothing logs it.
        expires_at: When it ends, UTC; never later than was asked, but for the clock difference that a vendor's own
            rules ask for (10 s with edge tokens).
    """

    url: str
    expires_at: datetime

    def __repr__(self) -> str:
        """Return it without what is secret."""
        return f"SignedUrl(url={self.url.partition('?')[0]!r}, expires_at={self.expires_at!r})"


class UrlSigner(Protocol):
    """Makes signed URLs. Thread-safe."""

    @property
    def name(self) -> str:
        """The vendor, as the setting ``cdn.backend`` names it."""
        ...

    def sign(self, path: str, *, expires_at: datetime) -> SignedUrl:
        """Return a URL for one object.

        The same path and end give the same URL, as long as a vendor's API gives it (then: while its token is
        remembered).

        Args:
            path: Begins with a slash, and percent-encoded as it will be sent: what RFC 3986 calls unreserved and
                slashes plain, everything else encoded, upper-case; no two slashes in a row, no ``.`` and no ``..``.
            expires_at: When the URL must have ended; with a time zone.

        Raises:
            ValueError: The path or the end is not of that form, or is over and an API would have to be asked for it;
                nothing is signed then.
            UnavailableError: The vendor's API does not answer, or not as it should.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


@runtime_checkable
class Purger(Protocol):
    """Has copies removed from the edge. Thread-safe."""

    def purge(self, paths: Sequence[str]) -> None:
        """Have the copies of some objects removed; doing it again is harmless.

        The vendor has taken the order when this returns; its edges follow within seconds or minutes.

        Args:
            paths: As in :meth:`UrlSigner.sign`; at least one, at most :data:`PURGED_AT_ONCE`.

        Raises:
            ValueError: A path is not of that form.
            UnavailableError: The vendor's API does not answer, or refuses.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


def secret_of(given: SecretStr | None) -> str:
    """Return the text of a setting that the chosen vendor needs."""
    return "" if given is None else given.get_secret_value()


PURGED_AT_ONCE: Final = 100
"""The largest number of paths in one order."""


def check_path(path: str) -> None:
    """Raise ``ValueError`` when a path is not of the form that signers take.

    There is one way to write a path, so that no server on the way can read it otherwise than it was signed.
    """
    is_canonical = (
        path.startswith("/")
        and len(path) <= _PATH_BYTES_MAX
        and quote(unquote_to_bytes(path)) == path
        and _CONTROL.search(path) is None
        and "//" not in path
        and not {".", ".."} & set(path.split("/"))
    )
    if not is_canonical:
        message = "the path of a signed URL is not in its canonical form"
        raise ValueError(message)


def epoch_of(instant: datetime) -> int:
    """Return an instant as whole seconds since 1970, rounded down.

    Raises:
        ValueError: It has no time zone: nobody knows when it is.
    """
    if instant.tzinfo is None:
        message = "the end of a signed URL needs a time zone"
        raise ValueError(message)
    return int(instant.timestamp() // 1)


def instant_of(epoch_seconds: float) -> datetime:
    """Return seconds since 1970 as an instant, UTC."""
    return datetime.fromtimestamp(epoch_seconds, UTC)
