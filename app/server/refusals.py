"""What the server refuses before the application sees it, said as everything else is: problem documents with an id.

Gunicorn writes such answers itself, as HTML; :func:`write_refusal` takes the place of its function. The event loop
writes the others: too much work, a request that does not come to its end.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

import orjson
from gunicorn import util

from app.errors import MalformedRequestError, OverloadedError, RequestTimeoutError
from app.http.context import choose_request_id
from app.http.problems import (
    HEADERS_TOO_LARGE,
    INTERNAL,
    MEDIA_TYPE,
    PROBLEMS,
    TYPE_PREFIX,
    URI_TOO_LONG,
    Problem,
)

_MALFORMED = PROBLEMS[MalformedRequestError]
_SLOW = PROBLEMS[RequestTimeoutError]
_OVERLOADED = PROBLEMS[OverloadedError]

_DETAILS = {
    URI_TOO_LONG: "The address of the request is too long. Shorten the query.",
    HEADERS_TOO_LARGE: "The headers of the request are too large. Send fewer or shorter ones.",
    INTERNAL: "Something went wrong here.",
    _SLOW: RequestTimeoutError().detail,
    _OVERLOADED: "There is more work here than can be done in time. Try again after the seconds in Retry-After.",
    _MALFORMED: "The request is no valid HTTP: its line, its headers or the framing of its body cannot be read.",
}
_BY_STATUS = {problem.status: problem for problem in (URI_TOO_LONG, HEADERS_TOO_LARGE, INTERNAL, _SLOW)}


class Writable(Protocol):
    """What an answer is written to: a socket, or what stands for it."""

    def sendall(self, content: bytes, /) -> None:
        """Send all of it."""
        ...


def install() -> None:
    """Let gunicorn write problem documents; it has no other place to say so."""
    util.write_error = write_refusal


def write_refusal(connection: Writable, status: int, reason: str, message: str) -> None:
    """Answer a request that never became one, and announce that the connection ends.

    Args:
        connection: The client's.
        status: The status that gunicorn chose.
        reason: Its words, which are not repeated.
        message: What the parser said, which may hold what the client sent; not repeated either.
    """
    del reason, message
    connection.sendall(refusal(status))


def refusal(status: int, request_id: str = "") -> bytes:
    """Return the bytes of an answer.

    Args:
        status: The status that gunicorn or the loop chose; what has no type of its own is 400, the server's own
            mistakes are 500.
        request_id: The one that the client gave; a new one when it is empty.
    """
    return _write(_BY_STATUS.get(status, _MALFORMED), request_id)


def overload(retry_after_seconds: int, request_id: str = "", *, is_last: bool = True) -> bytes:
    """Return the bytes of the answer to a request that there is no time for.

    Args:
        retry_after_seconds: When the client may try again, at least 1.
        request_id: The one that the client gave; a new one when it is empty.
        is_last: Whether the connection ends with it.
    """
    return _write(_OVERLOADED, request_id, retry_after_seconds, is_last=is_last)


def _write(
    problem: Problem, request_id: str, retry_after_seconds: int | None = None, *, is_last: bool = True
) -> bytes:
    request_id = choose_request_id(request_id)
    document: dict[str, object] = {
        "type": TYPE_PREFIX + problem.slug,
        "title": problem.title,
        "status": problem.status,
        "detail": _DETAILS[problem],
        "request_id": request_id,
        "retryable": problem.retryable,
    }
    retry = ""
    if retry_after_seconds is not None:
        document["retry_after_seconds"] = retry_after_seconds
        retry = f"Retry-After: {retry_after_seconds}\r\n"
    body = orjson.dumps(document)
    head = (
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
        f"Content-Type: {MEDIA_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"X-Request-Id: {request_id}\r\n"
        f"{retry}"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"Connection: {'close' if is_last else 'keep-alive'}\r\n\r\n"
    )
    return head.encode() + body
