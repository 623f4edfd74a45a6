"""Small policies with the option names of the real ones, for tests of how pipelines are put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from app import stability
from app.stability import Call, Figure, OptionError, Options, PolicyContext, PolicyKind, Proceed, option


class Recorder:
    """A policy that lets every call pass and counts them."""

    Options: ClassVar[type[stability.Options]] = stability.Options

    def __init__(self, options: stability.Options, context: PolicyContext) -> None:
        self.options = options
        self.context = context
        self.calls = 0

    @classmethod
    def build(cls, options: Any, context: PolicyContext) -> Self:
        return cls(options, context)

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        self.calls += 1
        return proceed(call)

    def figures(self) -> Iterator[Figure]:
        yield Figure("calls", "counter", self.calls, {"name": self.context.name})


@dataclass(frozen=True, kw_only=True)
class WaitOptions(Options):
    """One time."""

    timeout_seconds: float = option(30.0, "How long", unit="seconds", above=0, high=3600)


class Wait(Recorder):
    """Stands for a timeout."""

    Options: ClassVar[type[stability.Options]] = WaitOptions


@dataclass(frozen=True, kw_only=True)
class AgainOptions(Options):
    """Attempts, with a rule between two of the options and a caution."""

    max_attempts: int = option(3, "Calls at most", unit="calls", low=1, high=10)
    base_seconds: float = option(0.5, "First wait", unit="seconds", above=0, high=60)
    cap_seconds: float = option(10.0, "Longest wait", unit="seconds", above=0, high=60)
    minimum_attempt_seconds: float = option(0.1, "What an attempt needs", unit="seconds", low=0, high=60)
    jitter: str = option("full", "How it is drawn", choices=("full", "none"))
    statuses: tuple[int, ...] = option((), "What is tried again", judge=lambda _: None)

    def contradictions(self) -> Iterator[str]:
        if self.base_seconds > self.cap_seconds:
            yield "base_seconds must not exceed cap_seconds"

    def cautions(self) -> Iterator[str]:
        if self.jitter == "none":
            yield "without jitter all clients come back at once"


class Again(Recorder):
    """Stands for a retry."""

    Options: ClassVar[type[stability.Options]] = AgainOptions


@dataclass(frozen=True, kw_only=True)
class FuseOptions(Options):
    """When it blows."""

    slow_call_duration_threshold_seconds: float = option(60.0, "Slow", unit="seconds", above=0, high=3600)
    minimum_number_of_calls: int = option(100, "Least", unit="calls", low=1, high=1000)


class Fuse(Recorder):
    """Stands for a circuit breaker."""

    Options: ClassVar[type[stability.Options]] = FuseOptions


@dataclass(frozen=True, kw_only=True)
class PlacesOptions(Options):
    """How many."""

    max_concurrent_calls: int = option(25, "Calls at once", unit="calls", low=1, high=1000)


class Places(Recorder):
    """Stands for a bulkhead."""

    Options: ClassVar[type[stability.Options]] = PlacesOptions


class Unbuildable(Recorder):
    """Raises when it is made."""

    def __init__(self, options: stability.Options, context: PolicyContext) -> None:
        super().__init__(options, context)
        message = "no such network"
        raise ConnectionError(message)


class Demanding(Recorder):
    """Needs what no document can give."""

    def __init__(self, options: stability.Options, context: PolicyContext) -> None:
        super().__init__(options, context)
        raise OptionError(["needs a function", "and a key"])


KINDS: dict[str, type[PolicyKind]] = {
    "timeout": Wait,
    "retry": Again,
    "circuit_breaker": Fuse,
    "bulkhead": Places,
    "unbuildable": Unbuildable,
    "demanding": Demanding,
}
