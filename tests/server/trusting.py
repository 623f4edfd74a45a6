"""The small application in a server whose front lacks a guard: every head is one that all readers read alike."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask

from app.server import heads
from app.settings import Settings
from tests.server import tiny


def build(settings: Settings) -> Flask:
    """Build the application of a worker whose front trusts every head."""
    heads._is_plain = _trust
    return tiny.build(settings)


def _trust(head: bytes, fields: Mapping[bytes, bytes]) -> bool:
    return True
