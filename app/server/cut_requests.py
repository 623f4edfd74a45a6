"""Counts in the master what its workers cannot count any more: the requests of one that it had to kill.

A worker that ends by itself counts what it cuts (``photo_api_drain_timeout_total``). The master's count is in a file
of its own beside those of the workers, made when there is something to count; whoever is scraped adds it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, values

from app.ops.metric_values import ValueFile
from app.server.metrics_folder import VARIABLE

_log = logging.getLogger(__name__)

NAME: Final = "photo_api_drain_timeout_total"
MEANING: Final = "Requests cut off because they outlasted the graceful time-out."
"""As the workers have them, see :class:`app.ops.metrics.Metrics`."""


class CutRequests:
    """The count of one master. One thread at a time; never raises.

    Args:
        environ: The environment of the master, in which the folder is named by now or never.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._folder = environ.get(VARIABLE)
        self._add: Callable[[float], None] | None = None

    def add(self, requests: int) -> None:
        """Count requests that were cut.

        Args:
            requests: How many; 0 makes no file.
        """
        if requests <= 0 or self._folder is None:
            return
        if self._add is None:
            self._add = _open(Path(self._folder))
        self._add(requests)


def _open(folder: Path) -> Callable[[float], None]:
    try:
        values.ValueClass = ValueFile(folder, "management").value_class()
    except OSError as error:
        _log.warning("no file for metrics (%s): requests of killed workers are not in the totals", error.strerror)
        return lambda _requests: None
    return Counter(NAME, MEANING, registry=CollectorRegistry()).inc
