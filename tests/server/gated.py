"""The tiny application with answers that wait for a file ``go`` in the working folder, and one that reads a body."""

from __future__ import annotations

import time
from pathlib import Path

from flask import Flask, request

from app.settings import Settings
from tests.server.tiny import build

GO = "go"


def build_gated(settings: Settings) -> Flask:
    """Build the application of a worker."""
    app = build(settings)
    app.add_url_rule("/gated", view_func=_gated)
    app.add_url_rule("/brief", view_func=_brief)
    app.add_url_rule("/api/v1/photos", view_func=_upload, methods=["POST"])
    return app


def _gated() -> str:
    while not Path(GO).exists():
        time.sleep(0.01)  # between two looks, not instead of one
    return "gone"


def _brief() -> str:
    time.sleep(0.02)  # as long as a quick call to a database
    return "done"


def _upload() -> str:
    return str(len(request.get_data()))
