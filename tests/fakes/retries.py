"""What tests of the retry are made of: dependencies that fail as told, chance that is known beforehand."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.stability.events import Event, EventBus
from app.stability.pipeline import Pipeline
from app.stability.retry import Retry, RetryOptions
from tests.fakes.clocks import HandClock


class FixedRandom(random.Random):
    """Chance that always gives the same number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number


@dataclass
class Answer:
    """An answer as an HTTP client gives it."""

    status_code: int
    retry_after_seconds: float | None = None


class ThrottledError(Exception):
    """A failure that says when to come back."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("slow down")
        self.retry_after_seconds = retry_after_seconds


class Dependency:
    """Answers what it was told to, one after the other, and the last one for ever; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.calls = 0

    def __call__(self) -> Any:
        answer = self._answers[min(self.calls, len(self._answers) - 1)]
        self.calls += 1
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Listener:
    """Remembers events; give it a bus."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._events: list[Event] = []
        bus.subscribe(self._events.append)

    @property
    def events(self) -> list[Event]:
        assert self._bus.flush()
        return self._events


def retry_of(clock: HandClock, options: RetryOptions | None = None, **surroundings: Any) -> Retry:
    surroundings.setdefault("random", FixedRandom(0.5))
    return Retry("storage", options, clock=clock, **surroundings)


def run(policy: Retry, function: Callable[[], Any]) -> Any:
    return Pipeline("storage", [policy]).call(function)


def counts(policy: Retry) -> dict[str, float]:
    return {f.labels["outcome"]: f.value for f in policy.figures() if f.metric == "retries" and f.value}
