"""Judges the settings of a reload in a process of its own, while the server serves on and hears every signal.

It reads the settings and asks the world, as a start does: that may take as long as a database takes to say nothing.
What is wrong is logged, every mistake of it, and the exit code tells the master whether to go on.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Final

from app.errors import ConfigurationError
from app.server.forking import fork

_log = logging.getLogger(__name__)

_SECONDS_MAX: Final = 60.0
_RIGHT: Final = 0
_WRONG: Final = 78


class ReloadJudge:
    """One judgement at a time.

    Args:
        judge: Reads the settings and asks the world; raises what is wrong.
        now: The monotonic clock.

    Attributes:
        pid: The process at work; 0 when none is.
    """

    def __init__(self, judge: Callable[[], object], now: Callable[[], float] = time.monotonic) -> None:
        self.pid = 0
        self._judge = judge
        self._now = now
        self._ends_at = 0.0

    def start(self) -> None:
        """Begin.

        Raises:
            OSError: The system has no room for another process.
        """
        self.pid = fork(self._run)
        self._ends_at = self._now() + _SECONDS_MAX

    def ended(self, exit_code: int) -> bool:
        """Note the end of the process; tell whether the settings are right."""
        self.pid = 0
        return exit_code == _RIGHT

    def is_overdue(self) -> bool:
        """Tell whether it has taken too long: what cannot be judged is not taken over."""
        return self.pid != 0 and self._now() >= self._ends_at

    def _run(self) -> None:
        try:
            self._judge()
        except ConfigurationError as error:
            for mistake in error.mistakes:
                _log.error("the configuration is wrong", extra={"mistake": mistake})
            sys.exit(_WRONG)
        except Exception:  # noqa: BLE001  # the process ends with it; its master goes on
            _log.exception("the configuration cannot be judged; what held still holds")
            sys.exit(_WRONG)
