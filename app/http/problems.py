"""From errors to answers: each error class has a status, a stable type and a title (RFC 9457).

The client gets the error's ``detail`` and nothing internal. What nobody foresaw becomes one general 500, and is
logged once, with the request id that the client was given.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any, NamedTuple

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge, SecurityError

from app import errors
from app.images import jobs
from app.stability import DeadlineExceededError
from app.storage import base as storage

_log = logging.getLogger(__name__)

TYPE_PREFIX = "urn:photo-api:problem:"
MEDIA_TYPE = "application/problem+json"
_ERRORS_CACHED_SECONDS = 0


class Problem(NamedTuple):
    """How an error class is answered."""

    status: int
    slug: str
    title: str
    retryable: bool = False


PROBLEMS: dict[type[Exception], Problem] = {
    errors.IncompleteBodyError: Problem(400, "incomplete-body", "The body ended early", retryable=True),
    errors.DigestMismatchError: Problem(400, "digest-mismatch", "The digest does not match", retryable=True),
    errors.MalformedRequestError: Problem(400, "malformed-request", "The request cannot be read"),
    errors.ValidationFailedError: Problem(422, "validation-failed", "Some fields are wrong"),
    errors.IdempotencyKeyReusedError: Problem(422, "idempotency-key-reused", "The idempotency key was used before"),
    errors.PayloadTooLargeError: Problem(413, "payload-too-large", "The body is too large"),
    errors.RequestTimeoutError: Problem(408, "request-timeout", "The request came too slowly", retryable=True),
    errors.UnsupportedMediaTypeError: Problem(415, "unsupported-media-type", "This kind of content is not accepted"),
    jobs.HeifNotInstalledError: Problem(422, "heif-not-supported", "HEIC photos cannot be shown here"),
    errors.UndecodableImageError: Problem(422, "undecodable-image", "The image is broken"),
    errors.ImageLimitError: Problem(422, "image-limit-exceeded", "The image exceeds a limit"),
    errors.RangeNotSatisfiableError: Problem(416, "range-not-satisfiable", "No such range"),
    errors.PreconditionFailedError: Problem(412, "precondition-failed", "The resource has changed"),
    errors.InvalidCredentialsError: Problem(401, "invalid-credentials", "Wrong e-mail address or password"),
    errors.AuthenticationError: Problem(401, "invalid-token", "Not authenticated"),
    errors.MissingScopeError: Problem(403, "missing-scope", "A scope is missing"),
    errors.LinkNotValidError: Problem(403, "link-not-valid", "This link does not hold"),
    errors.RegistrationClosedError: Problem(403, "registration-closed", "Registration is closed"),
    errors.PermissionDeniedError: Problem(403, "permission-denied", "Not allowed"),
    errors.NotFoundError: Problem(404, "not-found", "Not found"),
    errors.RequestInProgressError: Problem(
        409, "request-in-progress", "The first request still runs", retryable=True
    ),
    errors.ConflictError: Problem(409, "conflict", "Not possible now"),
    errors.TooManyRequestsError: Problem(429, "too-many-requests", "Too many requests", retryable=True),
    errors.QuotaExceededError: Problem(507, "quota-exceeded", "The quota is used up"),
    storage.ObjectNotFoundError: Problem(502, "object-missing", "The stored photo is missing"),
    storage.ObjectCorruptError: Problem(502, "object-corrupt", "The stored photo is damaged", retryable=True),
    storage.StorageTimeoutError: Problem(504, "storage-timeout", "Storage did not answer in time", retryable=True),
    storage.StorageFullError: Problem(507, "storage-full", "The object store is full"),
    errors.UpstreamTimeoutError: Problem(504, "upstream-timeout", "An upstream did not answer", retryable=True),
    errors.UpstreamContentError: Problem(502, "upstream-content", "An upstream gave wrong content", retryable=True),
    errors.OverloadedError: Problem(503, "overloaded", "Too much work here", retryable=True),
    errors.DatabaseReadOnlyError: Problem(503, "read-only", "No changes for the moment", retryable=True),
    errors.ReadOnlyError: Problem(503, "read-only", "No changes for the moment", retryable=True),
    errors.SpoolFullError: Problem(503, "spool-full", "No room on this host", retryable=True),
    errors.UnavailableError: Problem(503, "unavailable", "Temporarily not available", retryable=True),
    DeadlineExceededError: Problem(504, "deadline-exceeded", "The request took too long", retryable=True),
}
INTERNAL = Problem(500, "internal-error", "Something went wrong here")
HOST_NOT_ALLOWED = Problem(400, "host-not-allowed", "This host name is not served")
METHOD_NOT_ALLOWED = Problem(405, "method-not-allowed", "Method not allowed")
URI_TOO_LONG = Problem(414, "uri-too-long", "The address is too long")
HEADERS_TOO_LARGE = Problem(431, "headers-too-large", "The headers are too large")
_DEFAULT_RETRY_AFTER_SECONDS = 2.0
_BY_STATUS = {
    400: PROBLEMS[errors.MalformedRequestError],
    404: PROBLEMS[errors.NotFoundError],
    405: METHOD_NOT_ALLOWED,
    413: PROBLEMS[errors.PayloadTooLargeError],
    415: PROBLEMS[errors.UnsupportedMediaTypeError],
}


def problem_for(kind: type[BaseException]) -> Problem:
    """Return how an error class is answered: its own entry, or its nearest ancestor's."""
    for ancestor in kind.__mro__:
        if ancestor in PROBLEMS:
            return PROBLEMS[ancestor]
    return INTERNAL


def answer(problem: Problem, detail: str, *, retry_after_seconds: float | None = None, **more: Any) -> Response:
    """Build the ``application/problem+json`` answer.

    Args:
        problem: Status, type, title.
        detail: For the client.
        retry_after_seconds: Sent as ``Retry-After``, rounded up; 429 and 503 always get one.
        more: Further members of the document.
    """
    if retry_after_seconds is None and problem.status in {429, 503}:
        retry_after_seconds = _DEFAULT_RETRY_AFTER_SECONDS
    document = {
        "type": TYPE_PREFIX + problem.slug,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "request_id": g.get("request_id", ""),
        "retryable": problem.retryable,
        **more,
    }
    headers = {"Cache-Control": "no-store"}
    if retry_after_seconds is not None:
        seconds = max(1, math.ceil(retry_after_seconds))
        document["retry_after_seconds"] = seconds
        headers["Retry-After"] = str(seconds)
    if problem.status == 401:  # noqa: PLR2004  # the one status whose challenge HTTP demands
        headers["WWW-Authenticate"] = 'Bearer realm="photo-api"'
    return Response(orjson.dumps(document), problem.status, headers, content_type=MEDIA_TYPE)


def install(app: Flask, *, listed_at: str = "/docs") -> None:
    """Answer every error of an app with a problem document.

    Args:
        app: The app.
        listed_at: The path at which it lists its routes.
    """
    app.register_error_handler(errors.PhotoApiError, _answer_ours)
    app.register_error_handler(DeadlineExceededError, _answer_deadline)
    app.register_error_handler(HTTPException, partial(_answer_werkzeug, listed_at=listed_at))
    app.register_error_handler(Exception, _answer_unforeseen)


def _answer_ours(error: errors.PhotoApiError) -> Response:
    problem = problem_for(type(error))
    more: dict[str, Any] = {}
    if isinstance(error, errors.ValidationFailedError):
        more["errors"] = list(error.errors)
    if problem.status >= 500:  # noqa: PLR2004  # server errors are ours to look at
        _log.warning("request failed: %s", problem.slug, exc_info=error.__cause__)
    response = answer(problem, error.detail, retry_after_seconds=error.retry_after_seconds, **more)
    if isinstance(error, errors.RangeNotSatisfiableError):
        response.headers["Content-Range"] = f"bytes */{error.size_bytes}"
        response.headers["Accept-Ranges"] = "bytes"
    return response


def _answer_deadline(_error: DeadlineExceededError) -> Response:
    return answer(PROBLEMS[DeadlineExceededError], "The request took too long. Try again.")


def _answer_werkzeug(error: HTTPException, *, listed_at: str) -> Response:
    status = error.code or 500
    if isinstance(error, SecurityError):
        return answer(HOST_NOT_ALLOWED, "Use a host name that this server is configured for.")
    if isinstance(error, RequestEntityTooLarge):
        return answer(PROBLEMS[errors.PayloadTooLargeError], "The body is too large for this route.")
    problem = _BY_STATUS.get(status) or Problem(status, "malformed-request", error.name)
    detail = _WERKZEUG_DETAILS.get(status, error.name + ".").format(listed_at=listed_at)
    response = answer(problem, detail)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


_WERKZEUG_DETAILS = {
    404: "There is nothing at this path. The routes are listed at {listed_at}.",
    405: "This path does not know this method; see the Allow header.",
}


def _answer_unforeseen(error: Exception) -> Response:
    _log.error("unforeseen error on %s %s", request.method, request.url_rule, exc_info=error)
    g.unforeseen = type(error).__name__
    return answer(INTERNAL, "Something went wrong here. It has been logged with this request id.")
