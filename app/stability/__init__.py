"""Stability for synchronous Python: standard library only, typed, usable without the rest of this product.

A :class:`Pipeline` puts policies around a function::

    from stability import Pipeline

    storage = Pipeline("storage", [policy, another])
    content = storage.call(fetch, "a-key")

What is here: the chain (:mod:`.call`, :mod:`.pipeline`), what a finished call says (:mod:`.outcome`), deadlines
(:mod:`.deadline`), events and figures for whoever watches (:mod:`.events`, :mod:`.figures`), options that judge
themselves (:mod:`.options`), and the policies, one module each.
"""

from .adaptive_limit import AdaptiveLimit, AdaptiveLimitOptions
from .board import Board, Decision, ProbeCounts
from .breaker import CircuitBreaker, Permit
from .breaker_events import BreakerReset, StateTransitioned, ThresholdCrossed
from .breaker_options import CircuitBreakerOptions
from .breaker_snapshot import BreakerSnapshot
from .breaker_states import MANUAL_TRANSITIONS, State, can_move
from .bulkhead import Bulkhead, BulkheadOptions
from .cache import Cache, CacheOptions
from .cache_tiers import Entry, GuardedTier, MemoryTier, Tier
from .call import Call, Linkable, Policy, Proceed
from .chaos import Chaos, ChaosInjected, ChaosOptions
from .clock import SYSTEM_CLOCK, Clock, SystemClock
from .configuration import build_pipelines
from .context import PolicyContext, PolicyKind
from .deadline import (
    Deadline,
    DeadlineExceededError,
    current_deadline,
    deadline_header_value,
    deadline_scope,
    enter_deadline,
    leave_deadline,
    narrow_deadline,
    remaining_seconds,
)
from .description import format_pipelines
from .document import read_document
from .errors import (
    BulkheadFullError,
    CallNotPermittedError,
    CallRefusedError,
    IllegalTransitionError,
    InjectedFaultError,
    LimitExceededError,
    OptionError,
    RateLimitExceededError,
    StabilityError,
)
from .events import Event, EventBus, Listener
from .fallback import Alternative, FailingResultError, Fallback, FallbackFailed, FallbackOptions, FallbackUsed
from .figures import Distribution, Figure, Measured
from .options import OptionRule, Options, option, rule_of
from .outcome import EVERY_ERROR_FAILS, Classification, Outcome
from .pipeline import Pipeline
from .pipelines import Pipelines
from .rate_limit import MemoryRateStore, Rate, RateLimit, RateLimitOptions, RateStore, RateStoreFailed
from .retry import RetriesExhausted, Retry, RetryBudgetSpent, RetryOptions, RetryScheduled
from .retry_after import parse_retry_after
from .retry_budget import RetryBudget
from .shedding import CallsShed
from .single_flight import SingleFlight
from .timeout import CallTimedOut, Timeout, TimeoutOptions

__all__ = [
    "EVERY_ERROR_FAILS",
    "MANUAL_TRANSITIONS",
    "SYSTEM_CLOCK",
    "AdaptiveLimit",
    "AdaptiveLimitOptions",
    "Alternative",
    "Board",
    "BreakerReset",
    "BreakerSnapshot",
    "Bulkhead",
    "BulkheadFullError",
    "BulkheadOptions",
    "Cache",
    "CacheOptions",
    "Call",
    "CallNotPermittedError",
    "CallRefusedError",
    "CallTimedOut",
    "CallsShed",
    "Chaos",
    "ChaosInjected",
    "ChaosOptions",
    "CircuitBreaker",
    "CircuitBreakerOptions",
    "Classification",
    "Clock",
    "Deadline",
    "DeadlineExceededError",
    "Decision",
    "Distribution",
    "Entry",
    "Event",
    "EventBus",
    "FailingResultError",
    "Fallback",
    "FallbackFailed",
    "FallbackOptions",
    "FallbackUsed",
    "Figure",
    "GuardedTier",
    "IllegalTransitionError",
    "InjectedFaultError",
    "LimitExceededError",
    "Linkable",
    "Listener",
    "Measured",
    "MemoryRateStore",
    "MemoryTier",
    "OptionError",
    "OptionRule",
    "Options",
    "Outcome",
    "Permit",
    "Pipeline",
    "Pipelines",
    "Policy",
    "PolicyContext",
    "PolicyKind",
    "ProbeCounts",
    "Proceed",
    "Rate",
    "RateLimit",
    "RateLimitExceededError",
    "RateLimitOptions",
    "RateStore",
    "RateStoreFailed",
    "RetriesExhausted",
    "Retry",
    "RetryBudget",
    "RetryBudgetSpent",
    "RetryOptions",
    "RetryScheduled",
    "SingleFlight",
    "StabilityError",
    "State",
    "StateTransitioned",
    "SystemClock",
    "ThresholdCrossed",
    "Tier",
    "Timeout",
    "TimeoutOptions",
    "build_pipelines",
    "can_move",
    "current_deadline",
    "deadline_header_value",
    "deadline_scope",
    "enter_deadline",
    "format_pipelines",
    "leave_deadline",
    "narrow_deadline",
    "option",
    "parse_retry_after",
    "read_document",
    "remaining_seconds",
    "rule_of",
]
