"""Gunicorn's own lines, through the product's pipeline: NDJSON, redacted, never waiting for the disk."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

from gunicorn.glogging import Logger

from app.ops.logging import is_reported

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
        """Log a warning; of an unreadable request only the kind of mistake, none of the client's bytes."""
        if isinstance(msg, str) and msg.startswith(_INVALID_REQUEST):
            who = msg.removeprefix(_INVALID_REQUEST).partition(": ")[0]
            msg, args = f"{_INVALID_REQUEST}%s: %s", (who, _kind_of(sys.exception()))
        super().warning(msg, *args, **kwargs)

    def debug(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Log what only matters while looking for a fault; of errors their kind: their words repeat the client's."""
        super().debug(msg, *(_kind_of(arg) if isinstance(arg, BaseException) else arg for arg in args), **kwargs)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Log an exception once: not again what broke a response and was logged there, with its request's id.

        Of the request that met it neither path nor query are logged.
        """
        error = sys.exception()
        if error is not None and is_reported(error):
            return
        if isinstance(msg, str) and msg.startswith(_FAILED_REQUEST):
            msg, args = _FAILED_REQUEST, ()
        super().exception(msg, *args, **kwargs)


def _kind_of(error: BaseException | None) -> str:
    return type(error).__name__ if error is not None else "unreadable"
