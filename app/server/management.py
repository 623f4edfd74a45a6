"""The operations application: a second, small Flask application for health, details, metrics and operators.

The management process serves it whole; a worker serves its probes alone, for servers that are not the product's own
(:mod:`app.server.probe_split`). It is apart from the product so that probes pass by its host check, limits, log lines
and counters, and answer even when the product's edge does not. Errors are problem documents all the same, and what
operators ask for (``/api/…``) is logged, a line a request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from flask import Blueprint, Flask, Response, g, request

from app.http import problems
from app.http.context import choose_request_id
from app.ops.logging import bind, unbind_all
from app.ops.metrics import UNMATCHED_ROUTE
from app.ops.requests import REQUEST_LOGGER

_API_PREFIX: Final = "/api/"

_log = logging.getLogger(REQUEST_LOGGER)


def build_operations_app(blueprints: Iterable[Blueprint]) -> Flask:
    """Build the application.

    Args:
        blueprints: Its routes, see :func:`app.ops.routes.operations_blueprint`. Operations are mounted on what is
            returned, see :func:`app.http.operations.mount`.
    """
    app = Flask("photo-api-operations", static_folder=None)
    problems.install(app, listed_at="/openapi.json")

    def begin() -> None:
        g.request_id = choose_request_id(request.headers.get("X-Request-Id", ""))
        g.began = time.monotonic()
        unbind_all()
        bind(request_id=g.request_id)

    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        if request.path.startswith(_API_PREFIX):
            _log_request(response.status_code)
        return response

    app.before_request(begin)
    app.after_request(end)
    app.teardown_request(lambda _: unbind_all())
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    return app


def _log_request(status: int) -> None:
    facts = {
        "method": request.method[:16],
        "route": str(request.url_rule or UNMATCHED_ROUTE),
        "status": status,
        "duration_ms": round((time.monotonic() - g.began) * 1000, 2),
        "listener": "management",
    }
    _log.info("request", extra=facts)
