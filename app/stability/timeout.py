"""The timeout: how long a call may take, told to everything that it does.

No thread watches and nothing is interrupted. For the time of the call the current deadline is narrowed, and whoever
waits for the wire takes its time-outs from it (:func:`.deadline.remaining_seconds`)::

    Timeout(30) ─▶ Retry ─▶ Timeout(5) ─▶ client
         │                       │           └─ connect, read, statement: min(own, what remains)
         │                       └─ outermost: the time of all attempts and the waits between them
         └─ inside a retry: the time of one attempt

A deadline is never extended: when the one outside is as tight, nothing is entered at all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from .clock import SYSTEM_CLOCK
from .deadline import Deadline, DeadlineExceededError, leave_deadline, narrow_deadline
from .events import Event, EventBus
from .figures import Counts
from .options import Options, option

if TYPE_CHECKING:
    from .call import Call, Proceed
    from .clock import Clock
    from .context import PolicyContext
    from .figures import Figure

_log = logging.getLogger(__name__)

REFUSED: Final = "refused"
"""No time was left; the function was not called."""
FAILED_LATE: Final = "failed_late"
"""The call failed when its time was over: what a time-out usually looks like."""
RETURNED_LATE: Final = "returned_late"
"""The call returned when its time was over; the result was returned all the same."""

OUTCOMES: Final = (REFUSED, FAILED_LATE, RETURNED_LATE)
"""What is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTimedOut(Event):
    """A call took longer than this policy allows.

    Attributes:
        operation: The call's.
        attempt: The number of its attempt.
        timeout_seconds: What the policy allows.
        error: Class of the error that it ended with; ``""`` when it returned a result, late.
    """

    level: ClassVar[int] = logging.WARNING

    operation: str
    attempt: int
    timeout_seconds: float
    error: str


@dataclass(frozen=True, kw_only=True)
class TimeoutOptions(Options):
    """How long."""

    timeout_seconds: float = option(
        1.0, "The longest a call may take, from here on inwards", unit="seconds", above=0, high=86_400
    )


class Timeout:
    """A policy that gives a call an end. Thread-safe.

    Args:
        name: For events and metrics.
        options: How long.
        clock: Where "now" comes from. With one that raises or gives no number, only the deadline outside holds.
        bus: Who hears of calls that took too long.
    """

    Options: ClassVar[type[TimeoutOptions]] = TimeoutOptions

    def __init__(
        self,
        name: str,
        options: TimeoutOptions | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        bus: EventBus | None = None,
    ) -> None:
        self.name = name
        self.options = TimeoutOptions() if options is None else options
        self._seconds = self.options.timeout_seconds
        self._clock = clock
        self._monotonic = clock.monotonic
        self._bus = bus or EventBus()
        self._counts = Counts("timeouts", name, "outcome", OUTCOMES)
        self._count = self._counts.add

    @classmethod
    def build(cls, options: TimeoutOptions, context: PolicyContext) -> Self:
        """Return a timeout for a pipeline; see :class:`.context.PolicyKind`."""
        return cls(context.name, options, clock=context.clock, bus=context.bus)

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        """Run a call within its time.

        Returns:
            What the call returned, also when it is late.

        Raises:
            DeadlineExceededError: No time was left; the function was not called.
            Exception: What the call raised, unchanged; its clients' time-outs among it.
        """
        own: Deadline | None
        try:
            own = Deadline(self._seconds, self._clock)
            token = narrow_deadline(own)
        except DeadlineExceededError as error:
            error.refused = True
            self._count(REFUSED)
            raise
        except Exception:  # noqa: BLE001  # a broken clock must not lose the call
            with suppress(Exception):  # what a log handler raises
                _log.exception("a clock raised; the call has no time of its own", extra={"policy": self.name})
            own = token = None
        if own is None or token is None:
            return proceed(call)
        try:
            result = proceed(call)
        except Exception as error:
            if self._is_over(own):
                self._late(FAILED_LATE, call, type(error).__name__)
            raise
        finally:
            leave_deadline(token)
        if self._is_over(own):
            self._late(RETURNED_LATE, call, "")
        return result

    def figures(self) -> Iterator[Figure]:
        """Yield how many calls had no time, or took too long."""
        yield from self._counts.figures()

    def _is_over(self, own: Deadline) -> bool:
        """Return whether the own deadline has passed; never raises: a result or an error is on its way out."""
        try:
            return self._monotonic() >= own.at
        except Exception:  # noqa: BLE001  # a broken clock must not lose the result
            with suppress(Exception):  # what a log handler raises
                _log.exception("a clock raised; the call counts as in time", extra={"policy": self.name})
            return False

    def _late(self, outcome: str, call: Call[Any], error: str) -> None:
        self._count(outcome)
        self._bus.publish(
            CallTimedOut(
                name=self.name,
                operation=call.operation,
                attempt=call.attempt,
                timeout_seconds=self._seconds,
                error=error,
            )
        )
