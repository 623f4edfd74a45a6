"""A log handler that raises takes neither a result nor an error away from a call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.stability.adaptive_limit import AdaptiveLimit
from app.stability.bulkhead import Bulkhead, BulkheadOptions
from app.stability.cache import Cache
from app.stability.call import Call
from app.stability.chaos import Chaos, ChaosOptions
from app.stability.deadline import Deadline, deadline_scope
from app.stability.errors import BulkheadFullError, InjectedFaultError
from app.stability.fallback import Alternative, Fallback
from app.stability.pipeline import Pipeline
from app.stability.rate_limit import Rate, RateLimit
from app.stability.retry import Retry
from app.stability.single_flight import ends_with_caller, fresh_copy
from app.stability.timeout import Timeout
from tests.fakes.clocks import HandClock


class HandlerError(Exception):
    """What the handler raises."""


class Raising(logging.Handler):
    """Notes that it was called, and raises."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        raise HandlerError


@pytest.fixture(autouse=True)
def raising() -> Iterator[Raising]:
    """Let everything that the library logs reach a handler that raises."""
    logger, handler = logging.getLogger("app.stability"), Raising()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


class DeadClock(HandClock):
    """Raises, from its second or another question on."""

    def __init__(self, answers: int = 0) -> None:
        super().__init__()
        self.answers = answers

    def monotonic(self) -> float:
        self.answers -= 1
        if self.answers < 0:
            raise OSError("no time")
        return super().monotonic()


class Broken:
    """Does not work, as a store, a tier and a condition."""

    name = "broken"

    def take(self, _key: str, _rate: Rate, /) -> float:
        raise OSError

    def get(self, _key: str) -> None:
        raise OSError

    def put(self, *_: object) -> None:
        raise OSError

    def remove(self, _key: str) -> None:
        raise OSError

    def __call__(self, *_: object) -> Any:
        raise OSError


def through(policy: Any, function: Callable[[], object] = lambda: "stored") -> object:
    return Pipeline("p", [policy]).run(Call(function).describe(key="k"))


def fails() -> object:
    raise ConnectionError("the call's own")


def of_a_full_bulkhead() -> object:
    bulkhead = Bulkhead("b", BulkheadOptions(max_concurrent_calls=1, max_queue_length=0), clock=DeadClock())
    bulkhead.try_acquire()
    with deadline_scope(Deadline(1.0, DeadClock(1))), pytest.raises(BulkheadFullError):
        through(bulkhead)
    return "stored"


def of_a_retry() -> object:
    with deadline_scope(Deadline(1.0, DeadClock(1))), pytest.raises(ConnectionError, match="the call's own"):
        through(Retry("r"), fails)
    return "stored"


def of_a_fallback() -> object:
    with pytest.raises(ConnectionError, match="the call's own"):
        through(Fallback("f", [Alternative("a", lambda _call, _error: 1, when=Broken())]), fails)
    return "stored"


def of_a_fallback_whose_error_takes_no_notes() -> object:
    class NotelessError(ConnectionError):
        def add_note(self, _note: str, /) -> None:
            raise OSError

    def fails_so() -> object:
        raise NotelessError

    with pytest.raises(NotelessError):
        through(Fallback("f", [Alternative("a", lambda _call, _error: fails())]), fails_so)
    return "stored"


def of_a_chaos() -> object:
    with pytest.raises(InjectedFaultError):
        through(Chaos("c", ChaosOptions(fault_rate=1.0), allowed=True, fault=Broken()))
    return "stored"


def of_an_error_that_cannot_be_copied() -> object:
    class SingleError(Exception):
        def __copy__(self) -> SingleError:
            raise OSError

    return "stored" if fresh_copy(SingleError()) is None else "copied"


def of_a_flight_under_a_dead_clock() -> object:
    with deadline_scope(Deadline(1.0, DeadClock(1))):
        return "left" if ends_with_caller(ConnectionError()) else "stored"


@pytest.mark.parametrize(
    "result",
    [
        lambda: through(Timeout("t", clock=DeadClock())),
        lambda: through(Timeout("t", clock=DeadClock(1))),
        of_a_full_bulkhead,
        of_a_retry,
        of_a_fallback,
        of_a_fallback_whose_error_takes_no_notes,
        of_a_chaos,
        lambda: through(Chaos("c", ChaosOptions(fault_rate=1.0), allowed=True, clock=DeadClock())),
        lambda: through(RateLimit("l", store=Broken())),
        lambda: through(AdaptiveLimit("a", clock=DeadClock())),
        lambda: through(Cache("c", tiers=[Broken()])),
        lambda: through(Cache("c", negative_result=Broken())),
        of_an_error_that_cannot_be_copied,
        of_a_flight_under_a_dead_clock,
    ],
    ids=[
        "timeout",
        "late",
        "bulkhead",
        "retry",
        "fallback",
        "notes",
        "fault",
        "chaos",
        "rate",
        "adaptive",
        "tier",
        "rule",
        "copy",
        "flight",
    ],
)
def test_what_a_log_handler_raises_is_not_the_caller_s(result: Callable[[], object], raising: Raising) -> None:
    came_out = result()

    assert came_out == "stored"
    assert raising.lines
