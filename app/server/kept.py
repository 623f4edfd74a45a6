"""Slow bodies: kept in files without names until they are whole, so that no thread waits for their clients."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from app.server.connections import Connection, Phase

_log = logging.getLogger(__name__)

KEPT_BYTES_MAX: Final = 1024 * 1024 * 1024
"""How much slow bodies may hold on the disk together; beyond it a thread waits for them."""

QUICK_SECONDS: Final = 1.0
"""A client whose body's beginning has come within this is quick enough for a thread to take the rest from it."""


class BodyKeeper:
    """Decides which bodies are kept, and knows how much room that takes. Belongs to the thread of the event loop.

    Args:
        folder: Where the files are.
        max_body_bytes: A longer body is not kept: the application refuses it by its announced length.
        now: The monotonic clock.
    """

    def __init__(self, folder: Path, max_body_bytes: int, now: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._max_body_bytes = max_body_bytes
        self._now = now
        self._reserved: dict[Connection, int] = {}

    def keeps(self, connection: Connection) -> bool:
        """Tell whether the rest of a body, whose beginning is here, is waited for without a thread.

        Args:
            connection: Its ``offered_at`` says since when its body is waited for.
        """
        missing = connection.missing_bytes
        if not missing or connection.phase is not Phase.BODY:
            return False
        if connection.kept is not None:
            return True
        is_quick = self._now() - connection.offered_at < QUICK_SECONDS
        is_too_much = missing > self._max_body_bytes or sum(self._reserved.values()) + missing > KEPT_BYTES_MAX
        if is_quick or is_too_much:
            return False
        try:
            connection.kept = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115  # forget closes it
        except OSError as error:
            _log.warning("a slow body cannot be kept (%s)", error.strerror)
            return False
        self._reserved[connection] = missing
        return True

    def forget(self, connection: Connection) -> None:
        """Let go of what was kept of a request that has ended."""
        if connection.kept is not None:
            del self._reserved[connection]
            connection.kept.close()
            connection.kept, connection.kept_bytes = None, 0
