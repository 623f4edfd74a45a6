"""Calls in threads of their own, in and in front of a bulkhead."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.stability.bulkhead import Bulkhead, BulkheadOptions
from app.stability.clock import Clock
from app.stability.errors import BulkheadFullError
from app.stability.events import EventBus
from app.stability.pipeline import Pipeline
from tests.fakes.clocks import HandClock

PATIENCE_SECONDS = 10.0


def bulkhead_of(places: int, *, clock: Clock | None = None, bus: EventBus | None = None, **options: Any) -> Bulkhead:
    """Return one whose calls wait for long, if nothing else is said."""
    given = BulkheadOptions(
        **({"max_concurrent_calls": places, "max_wait_duration_seconds": PATIENCE_SECONDS} | options)
    )
    return Bulkhead("storage", given, clock=clock or HandClock(), bus=bus)


def until(condition: Callable[[], bool]) -> None:
    """Let other threads run until something is so."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        os.sched_yield()


def shed(bulkhead: Bulkhead) -> dict[str, float]:
    figures = [figure for figure in bulkhead.figures() if figure.metric == "shed"]
    return {figure.labels["reason"]: figure.value for figure in figures if figure.value}


def refusal(bulkhead: Bulkhead) -> BulkheadFullError:
    """Call once and return how it was refused."""
    with pytest.raises(BulkheadFullError) as caught:
        Pipeline("storage", [bulkhead]).call(pytest.fail, "the function was called")
    return caught.value


class Caller:
    """A call in a thread of its own that stays in its place until it is told to leave."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.is_inside = False
        self.refused: BulkheadFullError | None = None
        self.is_done = False
        self._leave = threading.Event()
        self._pipeline = Pipeline("storage", [bulkhead])
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._pipeline.call(self._work)
        except BulkheadFullError as error:
            self.refused = error
        self.is_done = True

    def _work(self) -> None:
        self.is_inside = True
        self._leave.wait(PATIENCE_SECONDS)
        self.is_inside = False

    def leave(self) -> None:
        self._leave.set()
        self._thread.join(PATIENCE_SECONDS)
        assert self.is_done


def enter(bulkhead: Bulkhead) -> Caller:
    """Send a call and return when it is inside, waits, or was refused."""
    waiting = bulkhead.queue_size
    caller = Caller(bulkhead)
    until(lambda: caller.is_inside or caller.is_done or bulkhead.queue_size > waiting)
    return caller


class BrokenClock(HandClock):
    """Raises, or gives no number."""

    def __init__(self, reading: float | None) -> None:
        super().__init__()
        self.reading = reading

    def monotonic(self) -> float:
        if self.reading is None:
            raise OSError
        return self.reading
