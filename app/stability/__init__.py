"""Stability for synchronous Python: standard library only, typed, usable without the rest of this product.

Here so far: one deadline per request (:mod:`.deadline`) and the clock that everything reads (:mod:`.clock`).
"""

from .clock import Clock, SystemClock
from .deadline import (
    Deadline,
    DeadlineExceededError,
    current_deadline,
    deadline_scope,
    enter_deadline,
    leave_deadline,
    remaining_seconds,
)

__all__ = [
    "Clock",
    "Deadline",
    "DeadlineExceededError",
    "SystemClock",
    "current_deadline",
    "deadline_scope",
    "enter_deadline",
    "leave_deadline",
    "remaining_seconds",
]
