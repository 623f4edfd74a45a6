"""What gunicorn refuses before the application sees it, said as everything else is: problem documents with an id.

Gunicorn writes such answers itself, as HTML; :func:`write_refusal` takes the place of its function.
"""

from __future__ import annotations

import socket
from http import HTTPStatus

import orjson
from gunicorn import util  # type: ignore[import-untyped]  # gunicorn ships no types

from app.errors import MalformedRequestError
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

_DETAILS = {
    URI_TOO_LONG: "The address of the request is too long. Shorten the query.",
    HEADERS_TOO_LARGE: "The headers of the request are too large. Send fewer or shorter ones.",
    INTERNAL: "Something went wrong here.",
}
_MALFORMED_DETAIL = "The request is no valid HTTP: its line, its headers or the framing of its body cannot be read."


def install() -> None:
    """Let gunicorn write problem documents; it has no other place to say so."""
    util.write_error = write_refusal


def write_refusal(connection: socket.socket, status: int, reason: str, message: str) -> None:
    """Answer a request that never became one, and announce that the connection ends.

    Args:
        connection: The client's.
        status: The status that gunicorn chose.
        reason: Its words, which are not repeated.
        message: What the parser said, which may hold what the client sent; not repeated either.
    """
    del reason, message
    util.write_nonblock(connection, refusal(status))


def refusal(status: int) -> bytes:
    """Return the bytes of an answer.

    Args:
        status: The status that gunicorn chose; what has no type of its own is 400, or 500 for its own mistakes.
    """
    problem = _problem_of(status)
    request_id = choose_request_id("")
    document = {
        "type": TYPE_PREFIX + problem.slug,
        "title": problem.title,
        "status": problem.status,
        "detail": _DETAILS.get(problem, _MALFORMED_DETAIL),
        "request_id": request_id,
        "retryable": problem.retryable,
    }
    body = orjson.dumps(document)
    head = (
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
        f"Content-Type: {MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        f"X-Request-Id: {request_id}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(head).encode() + body


def _problem_of(status: int) -> Problem:
    for problem in (URI_TOO_LONG, HEADERS_TOO_LARGE, INTERNAL):
        if problem.status == status:
            return problem
    return PROBLEMS[MalformedRequestError]
