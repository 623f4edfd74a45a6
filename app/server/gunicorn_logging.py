"""Gunicorn's own lines, through the product's pipeline: NDJSON, redacted, never waiting for the disk."""

from __future__ import annotations

import logging
from typing import Any, Final

from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # it ships no types

_INVALID_REQUEST: Final = "Invalid request from ip="
_FAILED_REQUEST: Final = "Error handling request"


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

    def warning(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Log a warning; of an unreadable request only what was wrong with it, not what stood there."""
        if isinstance(msg, str) and msg.startswith(_INVALID_REQUEST):
            who, _, what = msg.partition(": ")
            msg = f"{who}: {what.partition(': ')[0]}"
        super().warning(msg, *args, **kwargs)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Log an exception; of the request that met it neither path nor query."""
        if isinstance(msg, str) and msg.startswith(_FAILED_REQUEST):
            msg, args = _FAILED_REQUEST, ()
        super().exception(msg, *args, **kwargs)
