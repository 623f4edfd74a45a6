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

All of them can be pickled and copied, as a pool of processes does with what its workers raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Final

_RETRY_AFTER: Final = 2


class StabilityError(Exception):
    """Base of what this library raises."""


class CallRefusedError(StabilityError):
    """The function was not called. Never retried.

    Args:
        name: Of the policy that refused.
        reason: One word or two of a fixed set, for messages and metrics.
        retry_after_seconds: When the next call may be let through, 0 or more; None when that cannot be known.
    """

    # No __init__ of its own but for type checkers: a refusal is to cost as little as it can, and BaseException
    # keeps the three arguments anyway. They are given by position.
    if TYPE_CHECKING:

        def __init__(self, name: str, reason: str, retry_after_seconds: float | None = None, /) -> None: ...

    @property
    def name(self) -> str:
        """Of the policy that refused."""
        return str(self.args[0])

    @property
    def reason(self) -> str:
        """Why, in one word or two of a fixed set."""
        return str(self.args[1])

    @property
    def retry_after_seconds(self) -> float | None:
        """When the next call may be let through; None when that cannot be known."""
        seconds: float | None = self.args[2] if len(self.args) > _RETRY_AFTER else None
        return None if seconds == inf else seconds

    def __str__(self) -> str:
        again = "" if self.retry_after_seconds is None else f"; try again in {self.retry_after_seconds:.1f} s"
        return f"{self.name} refused the call: {self.reason}{again}"


class CallNotPermittedError(CallRefusedError):
    """A circuit breaker does not let calls through; its last failure, if any, is the ``__cause__``.

    ``retry_after_seconds`` is None when a verdict or an operator ends the state, and not the time.
    """

    @property
    def state(self) -> str:
        """The state that refused, in lower case."""
        return self.reason


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
        super().__init__(name, source, target)
        self.name = name
        self.source = source
        self.target = target

    def __str__(self) -> str:
        return f"{self.name} cannot be moved from {self.source} to {self.target}"


class OptionError(StabilityError, ValueError):
    """Options that cannot work.

    Args:
        mistakes: Every mistake, one sentence each.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__(self.mistakes)

    def __str__(self) -> str:
        return "; ".join(self.mistakes)


class InjectedFaultError(StabilityError):
    """A fault that chaos put in the place of a call."""
