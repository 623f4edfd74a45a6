"""The libraries of others, each set up as its own documents begin, with the changes named here and no others.

- Every breaker stays open for an hour instead of half a minute or a minute, so that none half-opens during the run.
- ``pyresilience`` and ``redress`` count failures by default; with a window of the last 100 calls ``pyresilience``
  does what ours and interlock-cb do by default, so it stands here twice.
- ``interlock-cb`` has no listener unless its name says so. Ours always has one, and figures.
- Retries are 3 attempts everywhere. Where 1,000 requests fail, none of them waits.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import circuitbreaker
import interlock
import purgatory
import pybreaker
import pyresilience
import redress
import stamina
import tenacity
from redress.strategies import decorrelated_jitter
from tenacity.wait import wait_none

from benchmarks.stability.contenders import OPEN_SECONDS, Contender
from benchmarks.stability.dependency import Function, Guard

ATTEMPTS: Final = 3
INTERLOCK: Final = "interlock-cb"


class CountingListener:
    """What ours counts without a listener: calls by outcome, and how long they took."""

    def __init__(self) -> None:
        self.calls: Counter[interlock.Outcome] = Counter()
        self.seconds = 0.0

    def on_call(self, *, name: str, outcome: interlock.Outcome, duration: float) -> None:  # noqa: ARG002  # its port
        """Count a call."""
        self.calls[outcome] += 1
        self.seconds += duration

    def on_state_change(self, *, name: str, old: interlock.State, new: interlock.State) -> None:
        """Hear of a transition."""

    def on_rejected(self, *, name: str) -> None:
        """Hear of a refusal."""

    def on_reset(self, *, name: str) -> None:
        """Hear of a reset."""


def interlock_breaker(kind: str, size: int) -> Guard:
    """Guard with interlock-cb, judged from 10 calls on; 100 calls are its default window.

    Args:
        kind: ``count`` or ``time``.
        size: Calls or seconds.
    """
    window = {"count": interlock.WindowType.COUNT_BASED, "time": interlock.WindowType.TIME_BASED}[kind]
    config = interlock.Config(wait_duration_in_open=OPEN_SECONDS, window_type=window, window_size=size)

    def guard(function: Function) -> Function:
        return interlock.CircuitBreaker(name="bench", config=config)(function)

    return guard


def _interlock_heard(function: Function) -> Function:
    config = interlock.Config(wait_duration_in_open=OPEN_SECONDS)
    return interlock.CircuitBreaker(name="bench", config=config, listener=CountingListener())(function)


def pyresilience_breaker(window: int) -> Guard:
    """Guard with pyresilience: 5 failures in a row, or half of a window's calls."""
    config = pyresilience.CircuitBreakerConfig(recovery_timeout=OPEN_SECONDS, sliding_window_size=window)

    def guard(function: Function) -> Function:
        return pyresilience.resilient(circuit_breaker=config)(function)

    return guard


def _pybreaker(function: Function) -> Function:
    guarded: Function = pybreaker.CircuitBreaker(reset_timeout=OPEN_SECONDS)(function)
    return guarded


def _circuitbreaker(function: Function) -> Function:
    guarded: Function = circuitbreaker.CircuitBreaker(recovery_timeout=int(OPEN_SECONDS))(function)
    return guarded


def _purgatory(function: Function) -> Function:
    guarded: Function = purgatory.SyncCircuitBreakerFactory(default_ttl=OPEN_SECONDS)("bench")(function)
    return guarded


def _redress(function: Function) -> Function:
    policy = redress.Policy(circuit_breaker=redress.CircuitBreaker(recovery_timeout_s=OPEN_SECONDS))
    return lambda: policy.call(function)


BREAKERS: Final = (
    Contender(INTERLOCK, interlock_breaker("count", 100)),
    Contender("interlock-cb, a listener counts", _interlock_heard),
    Contender("pyresilience", pyresilience_breaker(0)),
    Contender("pyresilience, window of 100", pyresilience_breaker(100)),
    Contender("redress", _redress),
    Contender("pybreaker", _pybreaker),
    Contender("circuitbreaker", _circuitbreaker),
    Contender("purgatory", _purgatory),
)
"""A breaker each."""


def _tenacity(function: Function) -> Function:
    waits = tenacity.wait_exponential_jitter(max=10)
    return tenacity.retry(stop=tenacity.stop_after_attempt(ATTEMPTS), wait=waits, reraise=True)(function)


def _stamina(function: Function) -> Function:
    return stamina.retry(on=Exception, attempts=ATTEMPTS)(function)


def _pyresilience_retry(function: Function) -> Function:
    return pyresilience.resilient(retry=pyresilience.RetryConfig(max_attempts=ATTEMPTS))(function)


def _redress_retry(function: Function) -> Function:
    policy = redress.Policy(retry=_redress_retries(max_s=10.0))
    return lambda: policy.call(function)


def _redress_retries(max_s: float, budget: redress.Budget | None = None) -> redress.Retry:
    return redress.Retry(
        classifier=redress.default_classifier,
        strategy=decorrelated_jitter(max_s=max_s),
        max_attempts=ATTEMPTS,
        budget=budget,
    )


RETRIES: Final = (
    Contender("tenacity", _tenacity),
    Contender("stamina", _stamina),
    Contender("pyresilience", _pyresilience_retry),
    Contender("redress", _redress_retry),
)
"""A retry each."""


def _interlock_all(function: Function) -> Function:
    breaker = interlock.CircuitBreaker(name="bench")
    pipeline = (
        interlock.Pipeline.builder().retry(attempts=ATTEMPTS).circuit_breaker(breaker).bulkhead(25).timeout(1.0)
    )
    return pipeline.build()(function)


def _interlock_three(function: Function) -> Function:
    breaker = interlock.CircuitBreaker(name="bench")
    pipeline = interlock.Pipeline.builder().retry(attempts=ATTEMPTS).circuit_breaker(breaker).bulkhead(25)
    return pipeline.build()(function)


def _pyresilience_all(function: Function) -> Function:
    return pyresilience.resilient(
        retry=pyresilience.RetryConfig(max_attempts=ATTEMPTS),
        circuit_breaker=pyresilience.CircuitBreakerConfig(sliding_window_size=100),
        bulkhead=pyresilience.BulkheadConfig(max_concurrent=25, max_wait=1.0),
        timeout=pyresilience.TimeoutConfig(seconds=1.0),
    )(function)


def _pyresilience_three(function: Function) -> Function:
    return pyresilience.resilient(
        retry=pyresilience.RetryConfig(max_attempts=ATTEMPTS),
        circuit_breaker=pyresilience.CircuitBreakerConfig(sliding_window_size=100),
        bulkhead=pyresilience.BulkheadConfig(max_concurrent=25, max_wait=1.0),
    )(function)


def _redress_three(function: Function) -> Function:
    policy = redress.Policy(retry=_redress_retries(max_s=10.0), circuit_breaker=redress.CircuitBreaker())
    return lambda: policy.call(function)


ALL_FOUR: Final = (
    Contender(INTERLOCK, _interlock_all),  # its timeout starts a thread per call
    Contender("interlock-cb, no timeout", _interlock_three),
    Contender("pyresilience, window of 100", _pyresilience_all),  # its timeout is a pool of four threads
    Contender("pyresilience, no timeout", _pyresilience_three),
    Contender("redress, no bulkhead", _redress_three),  # it has none; its retries have a deadline
)
"""Retry, breaker, bulkhead and a timeout together."""


def _impatient_tenacity(function: Function) -> Function:
    return tenacity.retry(stop=tenacity.stop_after_attempt(ATTEMPTS), wait=wait_none(), reraise=True)(function)


def _impatient_stamina(function: Function) -> Function:
    stamina.instrumentation.set_on_retry_hooks([])  # it logs each retry, and there are two thousand
    return stamina.retry(on=Exception, attempts=ATTEMPTS, wait_initial=0, wait_max=0, wait_jitter=0)(function)


def _impatient_pyresilience(function: Function) -> Function:
    return pyresilience.resilient(
        retry=pyresilience.RetryConfig(max_attempts=ATTEMPTS, delay=0.0),
        retry_budget=pyresilience.RetryBudgetConfig(),
    )(function)


def _impatient_redress(function: Function) -> Function:
    budget = redress.Budget(max_retries=20, window_s=60.0)  # the numbers of its documents
    policy = redress.Policy(retry=_redress_retries(max_s=0.0, budget=budget))
    return lambda: policy.call(function)


IMPATIENT: Final = (
    Contender("tenacity", _impatient_tenacity),
    Contender("stamina", _impatient_stamina),
    Contender("pyresilience, its budget", _impatient_pyresilience),
    Contender("redress, its budget", _impatient_redress),
)
"""Retries that do not wait."""
