"""What this library raises of its own; everything else that comes out of a pipeline is the guarded function's.

::

    StabilityError
    ├── CallRefusedError            the function was not called; nothing has happened
    │   ├── CallNotPermittedError     a circuit breaker is open
    │   ├── BulkheadFullError         no place and no room in the queue, or the wait was too long
    │   ├── LimitExceededError        an adaptive limit is reached
    │   └── RateLimitExceededError    too many calls in too short a time
    ├── IllegalTransitionError      a breaker cannot go from this state to that one by hand
    ├── OptionError (ValueError)    options that cannot work, all of them in one message
    └── InjectedFaultError          chaos
    DeadlineExceededError (TimeoutError)   see .deadline
"""

from __future__ import annotations

from collections.abc import Sequence


class StabilityError(Exception):
    """Base of what this library raises."""


class CallRefusedError(StabilityError):
    """The function was not called. Never retried.

    Args:
        name: Of the policy that refused.
        reason: One word or two of a fixed set, for messages and metrics.
        retry_after_seconds: When the next call may be let through, 0 or more; None when that cannot be known.
    """

    def __init__(self, name: str, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(name, reason, retry_after_seconds)
        self.name = name
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        again = "" if self.retry_after_seconds is None else f"; try again in {self.retry_after_seconds:.1f} s"
        return f"{self.name} refused the call: {self.reason}{again}"


class CallNotPermittedError(CallRefusedError):
    """A circuit breaker does not let calls through; its last failure, if any, is the ``__cause__``.

    Args:
        name: Of the breaker.
        state: Its state, in lower case.
        retry_after_seconds: How long it stays so; None when that is an operator's decision.
    """

    def __init__(self, name: str, state: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(name, state, retry_after_seconds=retry_after_seconds)
        self.state = state

    def __reduce__(self) -> tuple[type[CallNotPermittedError], tuple[str, str, float | None]]:
        return type(self), (self.name, self.state, self.retry_after_seconds)


class BulkheadFullError(CallRefusedError):
    """Too many calls at once."""


class LimitExceededError(CallRefusedError):
    """An adaptive limit lets no more calls in at once."""


class RateLimitExceededError(CallRefusedError):
    """Too many calls in too short a time."""


class IllegalTransitionError(StabilityError):
    """A circuit breaker cannot be moved from its state to another one by hand; nothing was changed.

    Args:
        name: Of the breaker.
        source: Its state, in lower case.
        target: Where it was to go, in lower case.
    """

    def __init__(self, name: str, source: str, target: str) -> None:
        super().__init__(f"{name} cannot be moved from {source} to {target}")
        self.name = name
        self.source = source
        self.target = target


class OptionError(StabilityError, ValueError):
    """Options that cannot work.

    Args:
        mistakes: Every mistake, one sentence each.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = tuple(mistakes)


class InjectedFaultError(StabilityError):
    """A fault that chaos put in the place of a call."""
