"""Chaos: faults, slowness and false outcomes on purpose, to see what the policies around it make of them.

::

    execute ─▶ active? ─ no ──────────────────────────────────────────▶ call
                  │
                 yes ─▶ latency? ─ yes ─▶ wait ─┐
                           └ no ────────────────┴─▶ fault? ─ yes ─▶ raised
                                                       └ no ─▶ outcome? ─ yes ─▶ returned in the call's place
                                                                  └ no ────────▶ call

It stands innermost, where the dependency stands. It never acts by accident:

* without ``allowed=True`` in code it lets every call pass, whatever a file says: ``link`` then returns what is behind
  it, and the policy is not even on the way of a call;
* all rates are 0 unless they are set;
* it stops by itself after ``enabled_for_seconds``, cannot be started again, and stops for good when its clock raises.

The same seed and name give the same sequence of decisions. Each call draws three numbers whatever becomes of it, so
that the faults of a run are the same when only the latency rate was changed.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

from .clock import SYSTEM_CLOCK
from .deadline import current_deadline
from .errors import InjectedFaultError, OptionError
from .events import Event, EventBus
from .figures import Figure
from .locks import make_lock
from .options import Options, option

if TYPE_CHECKING:
    from .call import Call, Proceed
    from .clock import Clock
    from .context import PolicyContext

_log = logging.getLogger(__name__)

FAULT: Final = "fault"
"""An error is raised in the call's place."""
LATENCY: Final = "latency"
"""The call is delayed."""
OUTCOME: Final = "outcome"
"""A value is returned in the call's place."""

KINDS: Final = (FAULT, LATENCY, OUTCOME)
"""What is injected."""

_NOTHING: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosInjected(Event):
    """Something was done to a call on purpose.

    Attributes:
        operation: The call's.
        kind: ``fault``, ``latency`` or ``outcome``.
        seconds: How long the call was delayed; 0 for the other kinds.
    """

    level: ClassVar[int] = logging.WARNING

    operation: str
    kind: str
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ChaosOptions(Options):
    """How much of what, and for how long."""

    fault_rate: float = option(0.0, "Share of the calls that end in an error", low=0, high=1)
    latency_rate: float = option(0.0, "Share of the calls that are delayed", low=0, high=1)
    latency_seconds: float = option(
        0.0, "How long a call is delayed; its deadline ends the delay", unit="seconds", low=0, high=3600
    )
    outcome_rate: float = option(
        0.0, "Share of the calls without a fault that return the given value instead", low=0, high=1
    )
    seed: int = option(0, "The same number gives the same decisions", low=0, high=2**63)
    enabled_for_seconds: float = option(
        300.0, "After this time, from its making on, it stops by itself", unit="seconds", above=0, high=86_400
    )

    def contradictions(self) -> Iterator[str]:
        """Yield what cannot be together."""
        if self.latency_rate > 0 and self.latency_seconds == 0:
            yield "latency_rate needs a latency_seconds of more than 0"

    def cautions(self) -> Iterator[str]:
        """Yield what works and is probably not meant."""
        if not self.injects:
            yield "fault_rate, latency_rate and outcome_rate are 0: nothing is injected"

    @property
    def injects(self) -> bool:
        """Whether any rate is more than 0."""
        return self.fault_rate > 0 or self.latency_rate > 0 or self.outcome_rate > 0


class Chaos:
    """A policy that disturbs calls on purpose. Thread-safe.

    Args:
        name: For events and metrics; part of the seed.
        options: How much of what, and for how long.
        allowed: Whether it may act here; the program says so, never a file.
        fault: Makes the error of a call; None for :class:`.errors.InjectedFaultError`. When it raises or makes no
            exception, that error is taken too.
        outcome: The value that is returned in place of calls.
        clock: Where the end of it comes from, and what waits.
        bus: Who hears of it.

    Raises:
        OptionError: ``outcome_rate`` is more than 0 and there is no outcome, or ``allowed`` is not a bool.
    """

    Options: ClassVar[type[ChaosOptions]] = ChaosOptions
    _given: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        name: str,
        options: ChaosOptions | None = None,
        *,
        allowed: bool = False,
        fault: Callable[[Call[Any]], Exception] | None = None,
        outcome: Any = _NOTHING,
        clock: Clock = SYSTEM_CLOCK,
        bus: EventBus | None = None,
    ) -> None:
        self.name = name
        self.options = ChaosOptions() if options is None else options
        _judge(self.options, allowed, outcome)
        self._is_stopped = not (allowed and self.options.injects)
        self._fault = fault
        self._outcome = outcome
        self._clock = clock
        self._bus = bus or EventBus()
        self._lock = make_lock()
        self._random = random.Random(f"{self.options.seed}:{name}")  # noqa: S311  # it is to be foreseeable
        self._counts: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._ends_at = self._end()
        if self.options.injects:
            state = (
                f"for {self.options.enabled_for_seconds:g} s" if allowed else "not allowed here, so it does nothing"
            )
            with suppress(Exception):  # what a log handler raises
                _log.warning("chaos is configured: %s", state, extra={"policy": name})

    @classmethod
    def given(
        cls,
        *,
        allowed: bool,
        fault: Callable[[Call[Any]], Exception] | None = None,
        outcome: Any = _NOTHING,
    ) -> type[Self]:
        """Return a class of this kind that a configuration can name, with what only code can say.

        ``build_pipelines(document, kinds={"chaos": Chaos.given(allowed=settings.chaos_enabled)})``
        """
        given = {"allowed": allowed, "fault": fault, "outcome": outcome}
        return cast("type[Self]", type(cls.__name__, (cls,), {"_given": given, "__doc__": cls.__doc__}))

    @classmethod
    def build(cls, options: ChaosOptions, context: PolicyContext) -> Self:
        """Return a chaos for a pipeline, not allowed unless :meth:`given` said so; see :class:`.context.PolicyKind`.

        Raises:
            OptionError: ``outcome_rate`` is more than 0 and there is no outcome.
        """
        return cls(context.name, options, clock=context.clock, bus=context.bus, **cls._given)

    @property
    def is_active(self) -> bool:
        """Whether calls are disturbed now; never raises."""
        if self._is_stopped:
            return False
        try:
            self._is_stopped = not self._clock.monotonic() < self._ends_at
        except Exception:  # noqa: BLE001  # whoever cannot tell the time must not go on for ever
            self._stop_for_its_clock()
        return not self._is_stopped

    def stop(self) -> None:
        """Stop for good."""
        self._is_stopped = True

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        """Disturb a call, or let it pass.

        Returns:
            What the call returned, or the given outcome.

        Raises:
            InjectedFaultError: A fault, unless there is a factory for another one.
            DeadlineExceededError: The deadline passed during a delay.
            Exception: What the call raised.
        """
        if not self.is_active:
            return proceed(call)
        options = self.options
        with self._lock:
            latency, fault, outcome = (self._random.random() for _ in range(3))
        if latency < options.latency_rate:
            self._delay(call)
        if fault < options.fault_rate:
            self._tell(call, FAULT)
            raise self._fault_of(call)
        if outcome < options.outcome_rate:
            self._tell(call, OUTCOME)
            return self._outcome
        return proceed(call)

    def link(self, proceed: Proceed) -> Proceed:
        """Return :meth:`execute` with its second argument given, or that argument itself when it can never act."""
        if self._is_stopped:
            return proceed
        execute = self.execute

        def disturbed(call: Call[Any]) -> Any:
            return execute(call, proceed)

        return disturbed

    def figures(self) -> Iterator[Figure]:
        """Yield what was injected, and whether anything can be."""
        for kind, count in self._counts.items():
            yield Figure("chaos_injected", "counter", count, {"name": self.name, "kind": kind})
        yield Figure("chaos_active", "gauge", int(self.is_active), {"name": self.name})

    def _end(self) -> float:
        try:
            return self._clock.monotonic() + self.options.enabled_for_seconds
        except Exception:  # noqa: BLE001  # a broken clock must end the chaos
            self._stop_for_its_clock()
            return -inf

    def _stop_for_its_clock(self) -> None:
        with suppress(Exception):  # what a log handler raises
            _log.exception("a clock raised; chaos stops", extra={"policy": self.name})
        self._is_stopped = True

    def _delay(self, call: Call[Any]) -> None:
        seconds = self.options.latency_seconds
        deadline = current_deadline()
        left = seconds if deadline is None else max(0.0, deadline.remaining_seconds())
        self._tell(call, LATENCY, min(seconds, left))
        try:
            self._clock.sleep(min(seconds, left))
        except Exception:  # noqa: BLE001  # the call's own result must come out
            self._stop_for_its_clock()
            return
        if deadline is not None and left <= seconds:
            raise deadline.exceeded()

    def _fault_of(self, call: Call[Any]) -> Exception:
        if self._fault is not None:
            made: Any = None
            try:
                made = self._fault(call)
            except Exception:  # noqa: BLE001  # a factory's mistake is no reason for no fault
                with suppress(Exception):  # what a log handler raises
                    _log.exception("the factory of a fault raised", extra={"policy": self.name})
            if isinstance(made, Exception):
                return made
        return InjectedFaultError(f"{self.name}: a fault injected on purpose")

    def _tell(self, call: Call[Any], kind: str, seconds: float = 0.0) -> None:
        with self._lock:
            self._counts[kind] += 1
        self._bus.publish(ChaosInjected(name=self.name, operation=call.operation, kind=kind, seconds=seconds))


def _judge(options: ChaosOptions, allowed: Any, outcome: Any) -> None:
    mistakes = []
    if not isinstance(allowed, bool):
        mistakes.append("allowed must be True or False")  # a text "false" would be true
    if options.outcome_rate > 0 and outcome is _NOTHING:
        mistakes.append("outcome_rate needs an outcome, which is code: give Chaos.given(allowed=…, outcome=…)")
    if mistakes:
        raise OptionError(mistakes)
