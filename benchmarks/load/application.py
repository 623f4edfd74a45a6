"""Work of a known size behind the real server: waiting, as for a database, and computing.

``measured`` is wired as the product is, for the product's own worker. ``plain`` has the same routes
and no protection at all, for gunicorn's stock threaded worker: what a server without admission does.
"""

from __future__ import annotations

import time
from typing import Final

from flask import Flask, request

from app.settings import Settings
from tests.server import tiny

WAITING_SECONDS: Final = 0.05
COMPUTING_STEPS: Final = 120_000
"""About 10 ms of one core."""
WAIT_PATH: Final = "/wait"
COMPUTE_PATH: Final = "/compute"
UPLOAD_PATH: Final = "/api/v1/photos"
"""Where admission sees an upload."""


def measured(settings: Settings) -> Flask:
    """Build the protected application."""
    app = tiny.build(settings)
    _add_work(app)
    return app


def plain() -> Flask:
    """Build the unprotected application; its probes wait with everything else."""
    app = Flask("plain")
    _add_work(app)
    app.add_url_rule("/health", "health", lambda: "well")
    app.add_url_rule("/health/readiness", "readiness", lambda: "ready")
    return app


def _add_work(app: Flask) -> None:
    app.add_url_rule(WAIT_PATH, view_func=_wait)
    app.add_url_rule(COMPUTE_PATH, view_func=_compute)
    app.add_url_rule(UPLOAD_PATH, view_func=_upload, methods=["POST"])


def _wait() -> str:
    time.sleep(WAITING_SECONDS)  # what a query takes
    return "done"


def _compute() -> str:
    total = 0
    for step in range(COMPUTING_STEPS):
        total += step
    return str(total)


def _upload() -> tuple[str, int]:
    received = len(request.get_data())
    time.sleep(WAITING_SECONDS)  # what an object store takes
    return str(received), 201
