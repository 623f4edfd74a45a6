"""Every error this product raises on purpose, as one tree.

No HTTP status is in here: ``app/http/problems.py`` maps a class to its status, type and title. The
``detail`` of an error is written for the client: what is wrong and what to do, never an internal name,
path, query or stack. What an operator needs besides goes into the log through ``__cause__``.

::

    PhotoApiError
    ├── ConfigurationError            settings that cannot work; the process exits with 78
    ├── RequestError                  the client can mend it
    │   ├── MalformedRequestError       unreadable body, header or cursor
    │   │   ├── IncompleteBodyError       fewer bytes than announced
    │   │   └── DigestMismatchError       Repr-Digest is not the digest of the bytes
    │   ├── ValidationFailedError       readable, but fields are wrong, missing or unknown
    │   ├── IdempotencyKeyReusedError   the same key with another body
    │   ├── PayloadTooLargeError        more bytes than allowed
    │   ├── RequestTimeoutError         the client sends nothing, or next to nothing
    │   ├── UnsupportedMediaTypeError   content of a kind that is not accepted
    │   ├── UndecodableImageError       broken structure
    │   ├── ImageLimitError             too many pixels, frames, scans or metadata
    │   ├── RangeNotSatisfiableError    no byte of the range exists
    │   └── PreconditionFailedError     If-Match names another version
    ├── AuthenticationError           who are you?
    │   ├── InvalidCredentialsError     e-mail address or password
    │   └── InvalidTokenError           token or key: malformed, expired, revoked, unknown
    ├── PermissionDeniedError         known, but not allowed
    │   ├── MissingScopeError           the token lacks a scope
    │   ├── LinkNotValidError           the link was changed, or has ended
    │   └── RegistrationClosedError     accounts are made by an administrator
    ├── NotFoundError                 not there, or not yours: the same answer
    ├── ConflictError                 the state of the resource forbids it now
    │   └── RequestInProgressError      the first request with this idempotency key still runs
    ├── TooManyRequestsError          slow down
    ├── QuotaExceededError            the account is full
    └── UnavailableError              not the client's fault; usually worth a retry
        ├── UpstreamTimeoutError        an upstream did not answer in time
        ├── UpstreamContentError        an upstream answered with wrong or missing content
        ├── UpstreamDeniedError         an upstream does not let us in, or is not who it should be
        ├── DatabaseUnavailableError    the database refused, died or was too slow
        │   ├── DatabaseBusyError         no free connection, or no lock, in time: too much work here
        │   ├── DatabaseConflictError     another transaction won: nothing was written, and it can be done again
        │   ├── DatabaseDisconnectedError the connection died; whether a commit took effect is unknown
        │   │   └── DatabaseTransactionLostError it died before the commit: nothing was written
        │   └── DatabaseReadOnlyError     it answers, and takes no change now
        ├── OverloadedError             more work here than can be done in time
        ├── DecoderKilledError          a process that decoded a photo was killed from outside
        ├── SpoolFullError              no room for incoming bodies on this host
        ├── ReadOnlyError               an operator has said that nothing changes now
        └── LeaseLostError              another process took over this work
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class PhotoApiError(Exception):
    """Base of all errors raised on purpose.

    Args:
        detail: One or two sentences for the client: what is wrong and what to do.
        retry_after_seconds: After how many seconds a retry makes sense, when that is known.
    """

    def __init__(self, detail: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds


class ConfigurationError(PhotoApiError):
    """Settings that cannot work.

    Args:
        mistakes: Every mistake found, one line each, without the value of any secret.
        profile: The profile they were found in; None when it is unknown or itself a mistake.
    """

    def __init__(self, mistakes: Sequence[str], *, profile: str | None = None) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)
        self.profile = profile


class RequestError(PhotoApiError):
    """A request that the client can mend."""


class MalformedRequestError(RequestError):
    """A body, header or cursor that cannot be read."""


class IncompleteBodyError(MalformedRequestError):
    """The body ended before the announced number of bytes had come, or the client left."""


class DigestMismatchError(MalformedRequestError):
    """The bytes received do not have the digest that the client sent along."""


class ValidationFailedError(RequestError):
    """Fields that are wrong, missing or unknown.

    Args:
        detail: The summary.
        errors: One mapping per mistake: ``pointer`` (RFC 6901) or ``parameter``, and ``detail``.
    """

    def __init__(self, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(detail)
        self.errors = tuple(errors)


class IdempotencyKeyReusedError(RequestError):
    """The idempotency key was used before, for another request."""


class PayloadTooLargeError(RequestError):
    """The body is larger than allowed."""


class RequestTimeoutError(RequestError):
    """The client has begun a request and then sends nothing more, or next to nothing."""

    def __init__(self) -> None:
        super().__init__("The rest of the request did not come in time. Send it again.")


class UnsupportedMediaTypeError(RequestError):
    """The content is of a kind that is not accepted."""


class UndecodableImageError(RequestError):
    """The image's structure is broken."""


class ImageLimitError(RequestError):
    """The image has more pixels, frames, scans or metadata than allowed."""


class RangeNotSatisfiableError(RequestError):
    """No byte of the requested range exists.

    Args:
        detail: What is wrong.
        size_bytes: The size of the whole representation, for ``Content-Range``.
    """

    def __init__(self, detail: str, size_bytes: int) -> None:
        super().__init__(detail)
        self.size_bytes = size_bytes


class PreconditionFailedError(RequestError):
    """``If-Match`` names a version that is no longer the current one."""


class AuthenticationError(PhotoApiError):
    """The request carries no identity, or one that does not hold."""


class InvalidCredentialsError(AuthenticationError):
    """The e-mail address or the password is wrong; which of them is not said."""


class InvalidTokenError(AuthenticationError):
    """A token or key that is malformed, expired, revoked or unknown."""


class PermissionDeniedError(PhotoApiError):
    """The identity is known, and this is not allowed to it."""


class MissingScopeError(PermissionDeniedError):
    """The token or key lacks a scope that this route needs."""


class LinkNotValidError(PermissionDeniedError):
    """A signed link that is not one of ours, was changed, or has ended."""


class RegistrationClosedError(PermissionDeniedError):
    """Accounts are made by an administrator here."""


class NotFoundError(PhotoApiError):
    """Not there, or not the caller's: both get the same answer."""


class ConflictError(PhotoApiError):
    """The state of the resource does not allow this now."""


class RequestInProgressError(ConflictError):
    """The first request with the same idempotency key is still running."""


class TooManyRequestsError(PhotoApiError):
    """The caller must wait before the next try."""


class QuotaExceededError(PhotoApiError):
    """The account's storage quota does not hold this photo."""


class UnavailableError(PhotoApiError):
    """Something the request needs is not available; the client did nothing wrong."""


class UpstreamTimeoutError(UnavailableError):
    """An upstream did not answer in time."""


class UpstreamContentError(UnavailableError):
    """An upstream answered with wrong content, or lost what it should have."""


class UpstreamDeniedError(UnavailableError):
    """An upstream does not accept our credentials, or its certificate does not hold: an operator must act."""


class DatabaseUnavailableError(UnavailableError):
    """The database refused, died, or was too slow."""


class DatabaseBusyError(DatabaseUnavailableError):
    """No connection or lock came free in time: there is too much work here, which says nothing of the server."""


class DatabaseConflictError(DatabaseUnavailableError):
    """Another transaction won (a deadlock, a serialization failure): nothing was written, it can be done again."""


class DatabaseDisconnectedError(DatabaseUnavailableError):
    """The connection died. What stood alone can be asked again; whether a commit took effect is unknown."""


class DatabaseTransactionLostError(DatabaseDisconnectedError):
    """The connection died before the commit was asked for: nothing was written, it can be done again."""


class DatabaseReadOnlyError(DatabaseUnavailableError):
    """The database answers and takes no change now: it is a standby, or was set so. Nothing was written."""


class OverloadedError(UnavailableError):
    """This server has more work than it can do in time; nothing of the request was looked at."""


class DecoderKilledError(UnavailableError):
    """A process was killed from outside while it had a photo: by the kernel for everybody's memory, or by a person.

    Once it says nothing of the photo; who meets it with the same one again and again should give that up.
    """


class SpoolFullError(UnavailableError):
    """There is no room left on this host for incoming bodies."""


class ReadOnlyError(UnavailableError):
    """An operator has said that nothing is changed for a while. Nothing of the request was looked at."""


class LeaseLostError(UnavailableError):
    """Another process took over this work while this one was too slow."""
