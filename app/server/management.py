"""The operations application: a second, small Flask application for health, details and metrics.

It is apart from the product so that probes pass by its host check, limits, log lines and counters, and answer
even when the product's edge does not. Errors are problem documents all the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from flask import Blueprint, Flask, Response, g, request

from app.http import problems
from app.http.context import choose_request_id


def build_operations_app(blueprints: Iterable[Blueprint]) -> Flask:
    """Build the application.

    Args:
        blueprints: Its routes, see :func:`app.ops.routes.operations_blueprint`.
    """
    app = Flask("photo-api-operations", static_folder=None)
    problems.install(app)

    def begin() -> None:
        g.request_id = choose_request_id(request.headers.get("X-Request-Id", ""))

    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    app.before_request(begin)
    app.after_request(end)
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    return app
