"""What is kept of every request: its log line, its metrics, and that it is in flight until its body is closed.

:class:`RequestRecorder` is told by the HTTP edge when a request starts and when its answer's head is ready;
:class:`InFlight` wraps the WSGI application, because only there the end of a streamed body is seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Self

from app.ops.lifecycle import Lifecycle
from app.ops.logging import bind, bound, is_reported, mark_reported, unbind_all
from app.ops.metrics import UNMATCHED_ROUTE, Metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REQUEST_LOGGER: Final = "photo_api.request"
"""The logger of the one line per request."""

COUNTED_KEY: Final = "photo_api.counted"
"""In a WSGI environment: true when the server counts the request itself, from its first byte on."""

WAITED_KEY: Final = "photo_api.waited_seconds"
"""In a WSGI environment: how many seconds a request has waited for its turn after it had come in; missing: none."""

_log = logging.getLogger(REQUEST_LOGGER)


class RequestRecorder:
    """Counts, times and logs requests. Thread-safe.

    Args:
        metrics: Where to count.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def request_started(self, request_id: str, route: str) -> None:
        """Bind id and route to all lines of this thread, until the next request or :class:`InFlight`'s end."""
        unbind_all()
        bind(request_id=request_id, route=_counted_route(route))

    def request_ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count and log an answer whose head is ready.

        Args:
            method: As received.
            route: The template that matched; what is in brackets of its own (``(none)``) counts as unmatched.
            status: Of HTTP.
            seconds: Since the request's head.
        """
        template = _counted_route(route)
        self._metrics.request_answered(method, template, status, seconds)
        _log.info(
            "request",
            extra={
                "method": method[:16],
                "route": template,
                "status": status,
                "duration_ms": round(seconds * 1000, 2),
            },
        )

    def unforeseen(self, kind: str) -> None:
        """Count an exception that nobody foresaw, by the name of its class."""
        self._metrics.unforeseen(kind)


def _counted_route(route: str) -> str:
    return UNMATCHED_ROUTE if route.startswith("(") else route


def identify(user_id: str) -> None:
    """Bind the authenticated user's id to the lines of this request."""
    if bound().get("user_id") != user_id:
        bind(user_id=user_id)


class InFlight:
    """WSGI middleware: a request is in flight from its head until its response body is closed.

    It leaves the counting to a server that does it already, see :data:`COUNTED_KEY`: that one knows of the request
    before there is a head. What breaks a body in the middle is logged here, once, while the request's id is still
    known; the server sees it too and cuts the connection.

    Args:
        application: What answers.
        lifecycle: Who counts.
    """

    def __init__(self, application: WSGIApplication, lifecycle: Lifecycle) -> None:
        self._application = application
        self._lifecycle = lifecycle

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        if environ.get(COUNTED_KEY):
            leave = unbind_all
        else:
            self._lifecycle.enter()
            leave = self._leave
        try:
            body = self._application(environ, start_response)
        except BaseException:
            leave()
            raise
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(body, wrapper):
            # The server sends such a body with sendfile, but only as long as it sees the wrapper itself.
            closing: Any = body
            closing.close = _followed_by(getattr(body, "close", None), leave)
            return body
        return _WatchedBody(body, leave)

    def _leave(self) -> None:
        self._lifecycle.leave()
        unbind_all()


class _WatchedBody:
    """A response body that says when it breaks and when it is closed."""

    def __init__(self, body: Iterable[bytes], leave: Callable[[], None]) -> None:
        self._next = iter(body).__next__
        self.close = _followed_by(getattr(body, "close", None), leave)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            return self._next()
        except StopIteration:
            raise
        except Exception as error:
            if not is_reported(error):
                _log.exception("a response broke in the middle")
                mark_reported(error)
            raise


def _followed_by(first: Callable[[], None] | None, then: Callable[[], None]) -> Callable[[], None]:
    def close() -> None:
        try:
            if first is not None:
                first()
        finally:
            then()

    return close
