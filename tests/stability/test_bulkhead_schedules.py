"""Calls and threads in any order: the bound holds, and every place comes back."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import app.stability
from app.stability.bulkhead import QUEUE_FULL
from app.stability.errors import BulkheadFullError
from app.stability.pipeline import Pipeline
from tests.fakes.callers import Caller, bulkhead_of, enter, shed, until


class AnySchedule(RuleBasedStateMachine):
    """Calls come and go in any order; a list of who is inside and a list of who waits is the model."""

    def __init__(self) -> None:
        super().__init__()
        self.bulkhead = bulkhead_of(1)
        self.inside: list[Caller] = []
        self.waiting: list[Caller] = []
        self.taken = 0
        self.refusals = 0

    @initialize(places=st.integers(1, 3), queue=st.integers(0, 3))
    def build(self, places: int, queue: int) -> None:
        self.places, self.queue = places, queue
        self.bulkhead = bulkhead_of(places, max_queue_length=queue, queue_discipline="fifo")

    @rule()
    def arrive(self) -> None:
        has_place = len(self.inside) + self.taken < self.places
        has_room = len(self.waiting) < self.queue
        caller = enter(self.bulkhead)

        assert (caller.refused is None) == (has_place or has_room)
        if has_place:
            self.inside.append(caller)
        elif has_room:
            self.waiting.append(caller)
        else:
            self.refusals += 1

    @precondition(lambda self: self.inside)
    @rule(number=st.integers(0, 2))
    def finish(self, number: int) -> None:
        self.inside.pop(number % len(self.inside)).leave()
        self._next_one_enters()

    @rule()
    def take(self) -> None:
        is_free = len(self.inside) + self.taken < self.places

        assert self.bulkhead.try_acquire() == is_free
        self.taken += is_free

    @precondition(lambda self: self.taken)
    @rule()
    def give_back(self) -> None:
        self.bulkhead.release()
        self.taken -= 1
        self._next_one_enters()

    def _next_one_enters(self) -> None:
        if self.waiting:
            following = self.waiting.pop(0)
            until(lambda: following.is_inside)
            self.inside.append(following)

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        assert self.bulkhead.in_use == len(self.inside) + self.taken
        assert self.bulkhead.queue_size == len(self.waiting)
        assert all(caller.is_inside for caller in self.inside)
        assert not any(caller.is_inside or caller.is_done for caller in self.waiting)
        assert shed(self.bulkhead).get(QUEUE_FULL, 0) == self.refusals

    def teardown(self) -> None:
        for _ in range(self.taken):
            self.bulkhead.release()
        for caller in [*self.inside, *self.waiting]:
            caller.leave()
        assert (self.bulkhead.in_use, self.bulkhead.queue_size) == (0, 0)


class TestAnySchedule(AnySchedule.TestCase):  # type: ignore[misc, valid-type]  # hypothesis makes it at run time
    """Run the model against the bulkhead."""

    settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let threads take turns often, so that they meet in the middle of things."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.00005)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(
    "options",
    [
        {"max_queue_length": 0},
        {"max_queue_length": 8, "queue_discipline": "fifo"},
        {"max_queue_length": 3, "max_wait_duration_seconds": 0.0002, "queue_discipline": "fifo"},
        {"max_queue_length": 8, "codel_target_seconds": 1e-6, "codel_interval_seconds": 1e-5},
    ],
    ids=["refusing", "waiting", "giving up", "dropping"],
)
def test_eight_threads_find_every_place_again_and_every_call_counted(
    frequent_switches: None, options: dict[str, Any]
) -> None:
    places, threads, calls = 3, 8, 1_500
    bulkhead = bulkhead_of(places, clock=app.stability.SYSTEM_CLOCK, **options)
    begin, inside, most = threading.Barrier(threads), list[None](), list[int]()
    counted: list[Counter[str]] = []

    def work(number: int) -> None:
        inside.append(None)
        most.append(len(inside))
        os.sched_yield()
        del inside[-1]
        if number % 97 == 0:
            raise KeyboardInterrupt

    def send() -> None:
        seen: Counter[str] = Counter()
        call = Pipeline("storage", [bulkhead]).call
        begin.wait()
        for number in range(calls):
            try:
                call(work, number)
                seen["done"] += 1
            except BulkheadFullError as error:
                seen[error.reason] += 1
            except KeyboardInterrupt:
                seen["done"] += 1
        counted.append(seen)

    workers = [threading.Thread(target=send) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    total = sum(counted, Counter[str]())
    assert max(most) <= places
    assert total.total() == threads * calls
    assert {reason: count for reason, count in total.items() if reason != "done"} == shed(bulkhead)
    assert total["done"] == len(most)
    assert (bulkhead.in_use, bulkhead.queue_size) == (0, 0)
