"""A small application for gunicorn's own threaded worker: a hello, an answer of many bytes, a body that is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LARGE_BYTES = 12_000_000


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer."""
    environ["wsgi.input"].read()
    length = LARGE_BYTES if environ["PATH_INFO"] == "/large" else 5
    start_response("200 OK", [("Content-Length", str(length))])
    return (bytes(min(65_536, length - position)) for position in range(0, length, 65_536))
