"""The errors that nginx answers itself, as problem documents of the same shape as the server's own."""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from app import errors
from app.http.problems import (
    HEADERS_TOO_LARGE,
    INTERNAL,
    METHOD_NOT_ALLOWED,
    PROBLEMS,
    TYPE_PREFIX,
    URI_TOO_LONG,
    Problem,
)

RETRY_AFTER_SECONDS: Final = 2
"""When a client may try again when the server does not answer, as the server's own 503 says it."""

_REPEAT = " A change that you sent may have been made: repeat it with the same Idempotency-Key."


class EdgeProblem(NamedTuple):
    """An answer of nginx.

    Attributes:
        problem: Its status, type and title.
        detail: For the client.
        causes: The codes of nginx that lead to it; some exist only within nginx.
        retry_after_seconds: When to try again; None without a ``Retry-After``, or when it depends on the zone.
    """

    problem: Problem
    detail: str
    causes: tuple[int, ...]
    retry_after_seconds: int | None = None


EDGE_PROBLEMS: Final = (
    # 495 to 497: a certificate of the client's that is wrong or missing, plain HTTP where TLS is spoken.
    EdgeProblem(PROBLEMS[errors.MalformedRequestError], "This is no valid HTTP request.", (400, 495, 496, 497)),
    EdgeProblem(PROBLEMS[errors.PermissionDeniedError], "This is not allowed.", (403,)),
    EdgeProblem(
        PROBLEMS[errors.NotFoundError], "There is nothing at this path. The routes are listed at /docs.", (404,)
    ),
    EdgeProblem(METHOD_NOT_ALLOWED, "This path does not know this method.", (405,)),
    EdgeProblem(PROBLEMS[errors.RequestTimeoutError], "Send the request again.", (408,)),
    EdgeProblem(PROBLEMS[errors.PayloadTooLargeError], "The body is too large for this route.", (413,)),
    EdgeProblem(URI_TOO_LONG, "The request line is too long.", (414,)),
    EdgeProblem(
        Problem(421, "misdirected-request", "This host name is not served"),
        "Use a host name that this server is configured for.",
        (421,),
    ),
    EdgeProblem(
        PROBLEMS[errors.TooManyRequestsError],
        "Too many requests from this address. Wait before the next one.",
        (429,),
    ),
    EdgeProblem(HEADERS_TOO_LARGE, "The headers are too large.", (431, 494)),
    EdgeProblem(INTERNAL, "Something went wrong here.", (500, 507)),
    EdgeProblem(
        Problem(501, "not-implemented", "Not implemented"), "This form of request is not understood.", (501,)
    ),
    EdgeProblem(
        Problem(502, "bad-gateway", "The server does not answer", retryable=True),
        f"The server does not answer, or is just starting.{_REPEAT}",
        (502,),
        RETRY_AFTER_SECONDS,
    ),
    EdgeProblem(
        PROBLEMS[errors.UnavailableError], "The server does not answer now. Try again.", (503,), RETRY_AFTER_SECONDS
    ),
    EdgeProblem(
        Problem(504, "gateway-timeout", "The server took too long", retryable=True),
        f"The server took too long.{_REPEAT}",
        (504,),
        RETRY_AFTER_SECONDS,
    ),
    EdgeProblem(Problem(505, "http-version", "This version of HTTP is not spoken"), "Use HTTP/1.1.", (505,)),
)
"""Every error that nginx can answer by itself in front of this server."""


def document(edge: EdgeProblem, *, request_id: str, retry_after: str) -> str:
    """Return the problem document as text, with nginx's variables in the place of what only a request knows.

    Args:
        edge: Which.
        request_id: The variable of the request's id.
        retry_after: The variable of the seconds, for an answer whose ``Retry-After`` depends on the request.
    """
    problem = edge.problem
    members: dict[str, object] = {
        "type": TYPE_PREFIX + problem.slug,
        "title": problem.title,
        "status": problem.status,
        "detail": edge.detail,
        "request_id": request_id,
        "retryable": problem.retryable,
    }
    if edge.retry_after_seconds is not None:
        members["retry_after_seconds"] = edge.retry_after_seconds
    if problem.status == 429:  # noqa: PLR2004  # the one whose seconds the zone knows
        members["retry_after_seconds"] = retry_after
    text = orjson.dumps(members).decode()
    return text.replace(f'"{retry_after}"', retry_after)
