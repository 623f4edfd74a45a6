"""The dependency that every contender guards: it does nothing, fails on demand, or blocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Function: TypeAlias = Callable[[], object]
Guard: TypeAlias = Callable[[Function], Function]

_CALLS_TO_TRIP = 1_000


class UnavailableError(Exception):
    """The dependency is down. ``status`` tells it to classifiers that look for one."""

    status = 503


class Dependency:
    """Something remote that is not there.

    Attributes:
        calls: How often :meth:`answer_or_fail` was called.
        is_down: Whether :meth:`answer_or_fail` fails.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.is_down = False

    def answer_or_fail(self) -> str:
        """Return at once, or fail."""
        self.calls += 1
        if self.is_down:
            raise UnavailableError
        return "ok"


def answer() -> None:
    """Return at once: what is left is the cost of the guard."""


def fails_sometimes(every: int) -> Function:
    """Return a function that raises once in ``every`` calls, so that no window is ever without a failure."""
    left = every

    def answer_mostly() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            left = every
            raise UnavailableError

    return answer_mostly


def blocks(seconds: float, durations: list[float]) -> Function:
    """Return a function that blocks as a socket does, and notes how long it did."""

    def wait() -> None:
        began = time.perf_counter()
        time.sleep(seconds)
        durations.append(time.perf_counter() - began)

    return wait


def forgiving(function: Function) -> Function:
    """Return a function that swallows what the given one raises, as a caller with a fallback does."""

    def attempt() -> None:
        try:  # noqa: SIM105  # a context manager costs more than some of the guards
            function()
        except Exception:  # noqa: BLE001, S110  # every library has a refusal of its own
            pass

    return attempt


def tripped(guard: Guard) -> tuple[Function, Dependency]:
    """Return a guarded function whose breaker has opened because its dependency failed.

    Raises:
        RuntimeError: It lets calls through after a thousand failures.
    """
    dependency = Dependency()
    guarded = guard(dependency.answer_or_fail)
    attempt = forgiving(guarded)
    dependency.is_down = True
    for _ in range(_CALLS_TO_TRIP):
        attempt()
    reached = dependency.calls
    attempt()
    if dependency.calls != reached:
        message = "the breaker did not open"
        raise RuntimeError(message)
    return guarded, dependency
