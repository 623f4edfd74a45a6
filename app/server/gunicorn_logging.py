"""Gunicorn's own lines, through the product's pipeline: NDJSON, redacted, never waiting for the disk."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # it ships no types


class GunicornLogger(Logger):  # type: ignore[misc]  # its base has no types
    """Gunicorn's logger without handlers of its own: everything goes to the root logger.

    There is no access log: the product writes one line per request itself, and none per probe.
    """

    def setup(self, cfg: Any) -> None:
        """Take a configuration; called at start and on every reload."""
        self.cfg = cfg
        self._access_log_enabled = False
        self.loglevel = self.LOG_LEVELS.get(cfg.loglevel.lower(), logging.INFO)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(self.loglevel)
        self.access_log.handlers.clear()
        self.access_log.propagate = False
