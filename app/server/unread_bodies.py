"""Answers that are ready before their request's body has been read: the rest of the body must go somewhere.

A refusal or a known duplicate is answered at once, while the client may still be sending. Left alone, the rest
would stand where the next request on the connection begins, and closing the connection with it unread would
make the kernel throw away the answer on its way out. So, after the answer: a modest rest is read and dropped, in
bounded time, and the connection goes on; a large or unknown one ends it, which the answer has announced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]  # it ships no types
from werkzeug.wsgi import ClosingIterator

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_DROPPED_BYTES_MAX = 4 * 1024 * 1024
_DROPPED_SECONDS_MAX = 2.0
_CHUNK_BYTES = 64 * 1024


class UnreadBodies:
    """WSGI middleware around the product; does nothing where no gunicorn stands in front.

    Args:
        application: What answers.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        reader = getattr(environ["wsgi.input"], "reader", None)
        if reader is None or not (environ.get("CONTENT_LENGTH") or environ.get("HTTP_TRANSFER_ENCODING")):
            return self._application(environ, start_response)
        response = getattr(start_response, "__self__", None)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            if response is not None and _left_bytes(reader) > _DROPPED_BYTES_MAX:
                response.force_close()  # gunicorn then says "Connection: close"
            return start_response(status, headers, exc_info)

        body = self._application(environ, start)
        return ClosingIterator(body, lambda: _drop(environ, reader))


def _left_bytes(reader: Any) -> float:
    """Return how many bytes of the body are still to come; infinity for chunks that have not ended."""
    if hasattr(reader, "length"):
        return float(reader.length)
    return float("inf") if getattr(reader, "parser", None) is not None else 0.0


def _drop(environ: WSGIEnvironment, reader: Any) -> None:
    if not _left_bytes(reader):
        return
    ends = time.monotonic() + _DROPPED_SECONDS_MAX
    dropped = 0
    connection = environ["gunicorn.socket"]
    try:
        while dropped < _DROPPED_BYTES_MAX and (seconds := ends - time.monotonic()) > 0:
            connection.settimeout(seconds)
            chunk = environ["wsgi.input"].read(_CHUNK_BYTES)
            if not chunk:
                break
            dropped += len(chunk)
        connection.settimeout(None)
    except (
        OSError,
        ValueError,
        ParseException,
    ):  # left, too slow, or broken chunks: the server closes
        return
