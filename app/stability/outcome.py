"""How a result is judged: success, failure or ignored.

Ignored is asked first, then failure; what is neither is a success. That a policy further inside refused the call, or
had no time left to begin it, is always ignored: nothing was asked of the dependency.

A judgement that raises is a mistake of whoever wrote it: the result then counts as ignored, and the caller gets the
call's own result or error all the same.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from .deadline import DeadlineExceededError
from .errors import CallRefusedError

_log = logging.getLogger(__name__)


class Outcome(enum.Enum):
    """What a finished call says about the dependency."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


def status_of(value: Any) -> int | None:
    """Return the HTTP status of a response, or of an error that carries one; None where there is none.

    Looks for ``status_code`` and ``status``, on the value itself and on its ``response``.
    """
    for holder in (value, getattr(value, "response", None)):
        for name in ("status_code", "status"):
            status = getattr(holder, name, None)
            if isinstance(status, int):
                return status
    return None


def retry_after_of(value: Any) -> float | None:
    """Return ``value.retry_after_seconds``, or None where there is no such number."""
    seconds = getattr(value, "retry_after_seconds", None)
    return float(seconds) if isinstance(seconds, int | float) and not isinstance(seconds, bool) else None


@dataclass(frozen=True, slots=True)
class Classification:
    """Rules that turn results and errors into outcomes. Immutable, thread-safe.

    Attributes:
        ignored: Errors that say nothing about the dependency.
        ignored_when: Says so of a single error.
        failures: Errors that are failures.
        failure_when: Says so of a single error that is not in ``failures``.
        failing_result: Says of a returned value that it is a failure.
        failing_statuses: HTTP statuses that are failures, of a returned value or of an error.
        status_of: Finds the status.
        retry_after_of: Finds how long the other side asked to be left alone, in seconds, in a value or an error.
    """

    ignored: tuple[type[Exception], ...] = ()
    ignored_when: Callable[[Exception], bool] | None = None
    failures: tuple[type[Exception], ...] = (Exception,)
    failure_when: Callable[[Exception], bool] | None = None
    failing_result: Callable[[Any], bool] | None = None
    failing_statuses: frozenset[int] = frozenset()
    status_of: Callable[[Any], int | None] = status_of
    retry_after_of: Callable[[Any], float | None] = retry_after_of

    @property
    def judges_results(self) -> bool:
        """Whether a returned value can be anything but a success."""
        return self.failing_result is not None or bool(self.failing_statuses)

    def of_error(self, error: BaseException) -> Outcome:
        """Return the outcome of an error; never raises.

        ``KeyboardInterrupt``, ``SystemExit``, ``GeneratorExit`` and all else that is no ``Exception`` is ignored.
        """
        if not isinstance(error, Exception):
            return Outcome.IGNORED
        try:
            if isinstance(error, self.ignored) or _was_refused(error):
                return Outcome.IGNORED
            if self.ignored_when is not None and self.ignored_when(error):
                return Outcome.IGNORED
            if isinstance(error, self.failures) or (self.failure_when is not None and self.failure_when(error)):
                return Outcome.FAILURE
            return self._of_status(error)
        except Exception:  # noqa: BLE001  # a rule's mistake is its own
            _log.exception("a classification raised; the call counts as ignored")
            return Outcome.IGNORED

    def of_result(self, value: Any) -> Outcome:
        """Return the outcome of a returned value; never raises."""
        if not self.judges_results:
            return Outcome.SUCCESS
        try:
            if self.failing_result is not None and self.failing_result(value):
                return Outcome.FAILURE
            return self._of_status(value)
        except Exception:  # noqa: BLE001  # a rule's mistake is its own
            _log.exception("a classification raised; the call counts as ignored")
            return Outcome.IGNORED

    def retry_after(self, value: Any) -> float | None:
        """Return how many seconds the other side asked for, more than 0; None when it did not; never raises."""
        try:
            seconds = self.retry_after_of(value)
            is_usable = seconds is not None and 0 < seconds < math.inf
        except Exception:  # noqa: BLE001  # a rule's mistake is its own
            _log.exception("a classification raised; no Retry-After is taken")
            return None
        return seconds if is_usable else None

    def _of_status(self, value: Any) -> Outcome:
        if self.failing_statuses and self.status_of(value) in self.failing_statuses:
            return Outcome.FAILURE
        return Outcome.SUCCESS


EVERY_ERROR_FAILS: Final = Classification()
"""Every exception is a failure, every returned value a success."""


def _was_refused(error: Exception) -> bool:
    return isinstance(error, CallRefusedError) or (isinstance(error, DeadlineExceededError) and error.refused)
