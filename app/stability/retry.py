"""The retry: does again what failed, later and not for ever.

::

    execute ─▶ attempt ─▶ success, ignored, refusal ────────────────────────────▶ as it is
                  ▲  └──▶ failure ─▶ may it? ─ no ──────────────────────────────▶ the failure as it is
                  │                     │      exhausted · not_repeatable · budget_spent
                  │                    yes       retry_after_too_long · no_time
                  │                     ▼
                  └─ yes ─ still? ◀─ backoff
                              └ no ─────────────────────────────────────────────▶ the failure as it is
                                  budget_spent · no_time

The backoff has full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS 2015): a wait is drawn evenly from
nothing to a bound that doubles, and the bound is capped before it is drawn. Retries of all calls together are
bounded by a :class:`.retry_budget.RetryBudget`.

Whatever goes wrong in the policy's surroundings - a clock, a source of chance - ends the retries and not the call:
its own result or error comes out.
"""

from __future__ import annotations

import logging
import random as chance
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from .clock import SYSTEM_CLOCK
from .deadline import DeadlineExceededError, current_deadline
from .errors import CallRefusedError
from .events import Event, EventBus
from .figures import Counts, Figure
from .options import Options, option
from .outcome import EVERY_ERROR_FAILS, Classification, Outcome
from .retry_budget import RetryBudget

if TYPE_CHECKING:
    from .call import Call, Proceed
    from .clock import Clock
    from .context import PolicyContext

_log = logging.getLogger(__name__)

_SECONDS_MAX = 3600.0

SCHEDULED: Final = "scheduled"
"""A backoff began."""
SUCCEEDED: Final = "succeeded_after_retry"
"""A call came to a result that is no failure, after a retry."""
EXHAUSTED: Final = "exhausted"
"""The last of all attempts failed."""
NOT_REPEATABLE: Final = "not_repeatable"
"""A failed call could do harm a second time, or not send the same."""
BUDGET_SPENT: Final = "budget_spent"
"""The budget of the dependency had no retry left, before the backoff or after it."""
RETRY_AFTER_TOO_LONG: Final = "retry_after_too_long"
"""The other side asked for more time than the policy waits."""
NO_TIME: Final = "no_time"
"""The deadline would leave no time for another attempt, or left none after the backoff."""
STOPPED: Final = "stopped"
"""A retry ended in an error that is never retried; an open circuit breaker's refusal, most often."""

OUTCOMES: Final = (
    SCHEDULED,
    SUCCEEDED,
    EXHAUSTED,
    NOT_REPEATABLE,
    BUDGET_SPENT,
    RETRY_AFTER_TOO_LONG,
    NO_TIME,
    STOPPED,
)
"""What is counted."""

_RESULT = "result"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """An attempt failed, and another one is to follow after a wait.

    Attributes:
        operation: The call's.
        attempt: Number of the attempt that failed, from 1, of this policy.
        wait_seconds: How long the wait is.
        error: Class of the error; ``result`` for a returned value that is a failure.
    """

    operation: str
    attempt: int
    wait_seconds: float
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetriesExhausted(Event):
    """The last attempt failed, too.

    Attributes:
        operation: The call's.
        attempts: How many there were.
        error: Class of the last error; ``result`` for a returned value that is a failure.
    """

    level: ClassVar[int] = logging.WARNING

    operation: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudgetSpent(Event):
    """Calls fail and are no longer retried, because all retries are used up; told once until one is granted again.

    Attributes:
        operation: Of the first call that got none.
        error: Class of its error; ``result`` for a returned value that is a failure.
    """

    level: ClassVar[int] = logging.WARNING

    operation: str
    error: str


@dataclass(frozen=True, kw_only=True)
class RetryOptions(Options):
    """How often, how soon, and how many retries for all calls together."""

    max_attempts: int = option(3, "Attempts per call, the first one included", unit="attempts", low=1, high=100)
    base_seconds: float = option(
        1.0,
        "The longest first wait; the bound doubles with each further one",
        unit="seconds",
        above=0,
        high=_SECONDS_MAX,
    )
    cap_seconds: float = option(
        10.0, "The bound of a wait grows no further than this", unit="seconds", above=0, high=_SECONDS_MAX
    )
    retry_after_limit_seconds: float = option(
        10.0,
        "The longest Retry-After that is waited for; one that asks for more ends the call at once",
        unit="seconds",
        low=0,
        high=_SECONDS_MAX,
    )
    minimum_attempt_seconds: float = option(
        0.1,
        "No attempt is started when less than this would remain of the deadline",
        unit="seconds",
        low=0,
        high=_SECONDS_MAX,
    )
    budget_ratio: float = option(0.2, "Retries per call, all calls together", above=0, high=1)
    budget_floor: int = option(
        3,
        "Retries that are there at the start, and the most that are saved up",
        unit="retries",
        low=1,
        high=1_000_000,
    )

    def contradictions(self) -> Iterator[str]:
        """Yield what cannot be together."""
        if self.base_seconds > self.cap_seconds:
            yield (
                f"base_seconds ({self.base_seconds:g}) must not exceed cap_seconds ({self.cap_seconds:g}), or the "
                "first wait would be cut already"
            )

    def cautions(self) -> Iterator[str]:
        """Yield what works and is probably not meant."""
        if self.max_attempts == 1:
            yield "max_attempts is 1: nothing is retried"
        elif self.max_attempts - 1 > self.budget_floor:
            yield (
                f"budget_floor ({self.budget_floor}) is less than the {self.max_attempts - 1} retries that "
                f"max_attempts ({self.max_attempts}) allows: a call on its own will not get them all"
            )

    def bound_seconds(self, retry: int) -> float:
        """Return the longest backoff before a retry.

        Args:
            retry: Its number, from 1 to 100.
        """
        return min(self.cap_seconds, self.base_seconds * 2.0 ** (retry - 1))

    @property
    def longest_waits_seconds(self) -> float:
        """The sum of the longest backoffs of one call, without any Retry-After."""
        return sum(self.bound_seconds(retry) for retry in range(1, self.max_attempts))


class Retry:
    """A policy that does a failed call again. Thread-safe.

    Retried are failures in the eyes of the classification, errors and returned values alike. Never: refusals of
    other policies, ignored outcomes, the end of the call's deadline (the end of an attempt's own, narrower one is
    retried like a failure), calls that are not :attr:`.call.Call.repeatable`.

    Args:
        name: For events and metrics.
        options: How often, how soon, how many.
        classification: What is a failure, and what the other side asked for.
        clock: What the waits are waited with.
        bus: Who hears of retries.
        random: Where the jitter comes from.
        budget: Shared with other retry policies of the same dependency; ``budget_ratio`` and ``budget_floor`` then
            say nothing. None for a budget of its own.

    Attributes:
        budget: Its budget.
    """

    Options: ClassVar[type[RetryOptions]] = RetryOptions

    def __init__(
        self,
        name: str,
        options: RetryOptions | None = None,
        *,
        classification: Classification = EVERY_ERROR_FAILS,
        clock: Clock = SYSTEM_CLOCK,
        bus: EventBus | None = None,
        random: chance.Random | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        self.name = name
        self.options = RetryOptions() if options is None else options
        self.budget = budget or RetryBudget(self.options.budget_ratio, self.options.budget_floor)
        self._classification = classification
        self._judge = classification.of_result if classification.judges_results else None
        self._sleep = clock.sleep
        self._bus = bus or EventBus()
        self._random = random or chance.SystemRandom()
        self._deposit = self.budget.deposit
        self._counts = Counts("retries", name, "outcome", OUTCOMES)
        self._count = self._counts.add
        self._spent_is_told = False

    @classmethod
    def build(cls, options: RetryOptions, context: PolicyContext, budget: RetryBudget | None = None) -> Self:
        """Return a retry for a pipeline; see :class:`.context.PolicyKind`.

        Args:
            options: Judged already.
            context: Its surroundings.
            budget: Shared with other pipelines of the same dependency; None for one of its own.
        """
        return cls(
            context.name,
            options,
            classification=context.classification,
            clock=context.clock,
            bus=context.bus,
            random=context.random,
            budget=budget,
        )

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        """Run a call, again where that may help.

        ``call.attempt`` counts up with every further attempt, and afterwards is what it was before.

        Returns:
            What the last attempt returned, be it a failure or not.

        Raises:
            Exception: What the last attempt raised, unchanged.
        """
        self._deposit()
        judge = self._judge
        try:
            result = proceed(call)
        except Exception as error:
            if not self._goes_on_after_error(call, 1, error):
                raise
        else:
            if judge is None or judge(result) is not Outcome.FAILURE or not self._goes_on(call, 1, result, _RESULT):
                return result
        begins_at = call.attempt
        try:
            return self._repeat(call, proceed)
        finally:
            call.attempt = begins_at  # the same call may be run again

    def figures(self) -> Iterator[Figure]:
        """Yield how retries went, and what is left of the budget."""
        yield from self._counts.figures()
        yield Figure("retry_budget_remaining", "gauge", self.budget.remaining, {"name": self.name})

    def _repeat(self, call: Call[Any], proceed: Proceed) -> Any:
        attempt = 1  # the call's own number may hold attempts of an outer retry
        while True:
            attempt += 1
            call.attempt += 1
            try:
                result = proceed(call)
            except Exception as error:
                if not self._goes_on_after_error(call, attempt, error):
                    raise
            else:
                if self._judge is None or self._judge(result) is not Outcome.FAILURE:
                    self._count(SUCCEEDED)
                    return result
                if not self._goes_on(call, attempt, result, _RESULT):
                    return result

    def _goes_on_after_error(self, call: Call[Any], attempt: int, error: Exception) -> bool:
        if self._is_retried(error):
            return self._goes_on(call, attempt, error, type(error).__name__)
        if attempt > 1:
            self._count(STOPPED)
        return False

    def _is_retried(self, error: Exception) -> bool:
        if isinstance(error, DeadlineExceededError):
            # Only a deadline inside of this policy's own: the end of one attempt's time, not of the call's. No
            # classification is asked: it cannot see which of them has passed.
            return error.deadline is not None and error.deadline is not current_deadline()
        return not isinstance(error, CallRefusedError) and self._classification.of_error(error) is Outcome.FAILURE

    def _goes_on(self, call: Call[Any], attempt: int, said: Any, error: str) -> bool:
        """Return whether another attempt follows a failed one, when it is time for it.

        Args:
            call: The call.
            attempt: Number of the attempt that failed.
            said: What it raised or returned.
            error: The same in a word, for events.
        """
        try:
            asked = self._classification.retry_after(said)
            end = self._reason_to_end(call, attempt, asked)
            if end is None:
                wait = self._draw(attempt, asked)
                end = NO_TIME if self._lacks_time(wait) else self._wait(call, attempt, wait, error)
        except Exception:  # noqa: BLE001  # the call's own error must come out
            with suppress(Exception):  # what a log handler raises
                _log.exception(
                    "the surroundings of a retry raised; there is no further attempt", extra={"policy": self.name}
                )
            end = STOPPED
        if end is None:
            return True
        self._end(end, call, attempt, error)
        return False

    def _reason_to_end(self, call: Call[Any], attempt: int, asked: float | None) -> str | None:
        if attempt >= self.options.max_attempts:
            return EXHAUSTED
        if not call.repeatable:
            return NOT_REPEATABLE
        if asked is not None and asked > self.options.retry_after_limit_seconds:
            return RETRY_AFTER_TOO_LONG
        return None if self.budget.has_one else BUDGET_SPENT

    def _draw(self, attempt: int, asked: float | None) -> float:
        bound = self.options.bound_seconds(attempt)
        drawn = bound * self._random.random()
        if not 0 <= drawn <= bound:
            drawn = bound  # chance is broken: be patient
        return drawn if asked is None else max(drawn, asked)

    def _lacks_time(self, wait: float) -> bool:
        deadline = current_deadline()
        # "Not enough" is asked this way around so that a clock without a number ends the retries.
        return (
            deadline is not None and not deadline.remaining_seconds() - wait >= self.options.minimum_attempt_seconds
        )

    def _wait(self, call: Call[Any], attempt: int, wait: float, error: str) -> str | None:
        """Wait, and return what has come up meanwhile."""
        self._count(SCHEDULED)
        self._bus.publish(
            RetryScheduled(name=self.name, operation=call.operation, attempt=attempt, wait_seconds=wait, error=error)
        )
        self._sleep(wait)
        if self._lacks_time(0):
            return NO_TIME
        if not self.budget.take():
            return BUDGET_SPENT
        self._spent_is_told = False
        return None

    def _end(self, end: str, call: Call[Any], attempt: int, error: str) -> None:
        self._count(end)
        if end == EXHAUSTED:
            self._bus.publish(
                RetriesExhausted(name=self.name, operation=call.operation, attempts=attempt, error=error)
            )
        elif end == BUDGET_SPENT and not self._spent_is_told:
            self._spent_is_told = True
            self._bus.publish(RetryBudgetSpent(name=self.name, operation=call.operation, error=error))
