"""Flask without what this API never uses, and answers that are complete when they are made.

Both are what a request pays for each time: Flask reads the host for routes that have none, and Werkzeug copies and
checks the headers of an answer again on its way out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response
from werkzeug.datastructures import Headers
from werkzeug.routing import MapAdapter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import WSGIEnvironment

_STATUS_LINES = {int(status): f"{int(status)} {status.phrase.upper()}" for status in HTTPStatus}

_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class Application(Flask):
    """A Flask whose routes are paths alone, of any host, and whose functions are no coroutines."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what finds the route of a request; None outside one."""
        if request is None:
            return None
        return MapAdapter(self.url_map, "", "/", "", request.scheme, request.path, request.method)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as it is."""
        return func


class Answer(Response):
    """An answer from memory, whose headers and length are said once.

    Args:
        status: The status code.
        content: The body; None for none.
        headers: Those of this answer.
        content_type: Of the body.
    """

    default_mimetype = None

    def __init__(
        self,
        status: int,
        content: bytes | None,
        headers: Mapping[str, str],
        *,
        content_type: str = "application/json",
    ) -> None:
        complete = Headers([*headers.items()])
        if content is not None:
            complete.add("Content-Type", content_type)
            complete.add("Content-Length", str(len(content)))
        elif status not in _BODILESS:
            complete.add("Content-Length", "0")
        super().__init__([] if content is None else [content], _STATUS_LINES.get(status, status), complete)

    def get_wsgi_response(self, environ: WSGIEnvironment) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        """Return body, status line and headers for the server."""
        body: Any = () if environ["REQUEST_METHOD"] == "HEAD" else self.response
        return body, self.status, self.headers.to_wsgi_list()
