"""What a circuit breaker tells."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

from .breaker_states import State
from .events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTransitioned(Event):
    """A breaker has left one state for another, or an operator has given an opening another end.

    Attributes:
        source: The state that ended.
        target: The state that began.
        cause: ``failure_rate``, ``slow_call_rate``, ``wait_over``, ``verdict``, ``time_limit``, ``ordered`` (by a
            result), ``manual``, or ``adopted`` (decided in another process of this host).
        rate: The rate that decided, where one did.
        by: ``breaker``, or the operator.
        reason: The operator's words.
    """

    level: ClassVar[int] = logging.WARNING

    source: State
    target: State
    cause: str
    rate: float | None = None
    by: str = "breaker"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdCrossed(Event):
    """A breaker in METRICS_ONLY would have opened; told once per threshold and visit.

    Attributes:
        cause: ``failure_rate`` or ``slow_call_rate``.
        rate: The rate.
    """

    level: ClassVar[int] = logging.WARNING

    cause: str
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerReset(Event):
    """A breaker was closed by hand and has forgotten its figures.

    Attributes:
        by: The operator.
        reason: In the operator's words.
    """

    level: ClassVar[int] = logging.WARNING

    by: str
    reason: str
