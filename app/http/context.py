"""What every request carries: its id, its deadline, its place in the log and the metrics.

Health and metrics paths are no part of this: they are served beside the app (see ``app/server``).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from flask import Flask, Request, Response, g, request
from werkzeug.sansio.utils import host_is_trusted

from app.http import problems
from app.ops.requests import WAITED_KEY
from app.stability import Deadline, enter_deadline, leave_deadline

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_NO_ROUTE = "(none)"
_EVERY_ANSWER = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_HOSTS_REMEMBERED = 256
_FINAL_DOT = re.compile(r"\.(?=(?::\d*)?$)")


class RequestObserver(Protocol):
    """Who hears of requests. Called once per request, after the answer is made; must not raise."""

    def request_started(self, request_id: str, route: str) -> None:
        """A request has come in; ``route`` is a template, never a path."""
        ...

    def request_ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """Its answer's head is ready; ``route`` is a template, never a path."""
        ...

    def unforeseen(self, kind: str) -> None:
        """An exception that nobody foresaw, by the name of its class."""
        ...


def choose_request_id(given: str) -> str:
    """Return the id that a client sent, if it is fit for logs and headers, and else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


def install(app: Flask, observer: RequestObserver, *, deadline_seconds: float, allowed_hosts: list[str]) -> None:
    """Give every request of an app its id, deadline and record.

    Args:
        app: The Flask app.
        observer: Who hears of each request.
        deadline_seconds: From the last byte of the request's body (see :func:`restart_deadline`); what the request
            has waited for its turn is taken off.
        allowed_hosts: Names that ``Host`` may have, ``.example.org`` for all below; empty for any.
    """
    trusted = [_name_of(host) for host in allowed_hosts]

    @lru_cache(_HOSTS_REMEMBERED)
    def is_served(host: str) -> bool:
        return host_is_trusted(_name_of(host), trusted)

    def begin() -> Response | None:
        # Each look at `g` and `request` costs as much as what is done with it here: one look is enough.
        visit, asked = g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  # Werkzeug documents it
        visit.started = time.perf_counter()
        visit.deadline_seconds = deadline_seconds
        visit.request_id = choose_request_id(asked.environ.get("HTTP_X_REQUEST_ID", ""))
        left_seconds = max(0.0, deadline_seconds - asked.environ.get(WAITED_KEY, 0.0))
        visit.deadline_token = enter_deadline(Deadline(left_seconds))
        observer.request_started(visit.request_id, _route(asked))
        if trusted and not is_served(asked.environ.get("HTTP_HOST") or asked.host):
            return problems.answer(problems.HOST_NOT_ALLOWED, "Use a host name that this server is configured for.")
        return None

    def end(response: Response) -> Response:
        visit, asked = g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  # documented, and one look
        response.headers.add("X-Request-Id", visit.request_id)
        if "unforeseen" in visit:
            observer.unforeseen(visit.unforeseen)
        observer.request_ended(asked.method, _route(asked), response.status_code, time.perf_counter() - visit.started)
        return response

    def leave(_error: BaseException | None) -> None:
        token = g.pop("deadline_token", None)
        if token is not None:
            leave_deadline(token)

    app.before_request(begin)
    app.after_request(end)
    app.teardown_request(leave)
    app.wsgi_app = SafeHeaders(app.wsgi_app)  # type: ignore[method-assign]  # Flask's documented way to add middleware


class SafeHeaders:
    """WSGI middleware: gives each answer the headers that every one has, where it does not say something else.

    Args:
        application: What answers.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            chosen = {name.lower() for name, _ in headers}
            more = [pair for pair in _EVERY_ANSWER if pair[0].lower() not in chosen]
            return start_response(status, headers + more, exc_info)

        return self._application(environ, start)


def _route(asked: Request) -> str:
    return asked.url_rule.rule if asked.url_rule else _NO_ROUTE


def _name_of(host: str) -> str:
    """Return a host as it is compared: case and the dot of a full name say nothing."""
    return _FINAL_DOT.sub("", host.lower())


def restart_deadline() -> None:
    """Start the request's time anew: the client's sending does not count, only ours from the last byte on."""
    leave_deadline(g.pop("deadline_token"))
    g.deadline_token = enter_deadline(Deadline(g.deadline_seconds))
