"""Ten times the load: what is done in time, and how soon the others are refused, with the time of a simulation."""

from __future__ import annotations

import heapq
from math import inf
from random import Random

from app.ops.admission import Admission, AdmissionOptions, Decision, RequestClass

READ = RequestClass.READ


class Overload:
    """Ten times the load, simulated: clients that stay for a second, 25 places and 50 ms of work, so 500 a second."""

    def __init__(self, *, is_guarded: bool) -> None:
        self.admission: Admission[int] = Admission(
            AdmissionOptions(max_concurrent=25, max_queue=500, max_wait_seconds=15.0)
        )
        self.is_guarded = is_guarded
        self.in_time = 0
        self.waits_before_refusal: list[float] = []
        self.waits_before_work: list[float] = []
        self._random = Random(4)
        self._offered: list[float] = []
        self._agenda: list[tuple[float, int, str]] = [(0.0, 0, "offer")]

    def run(self, seconds: float) -> None:
        while self._agenda[0][0] < seconds:
            now, ticket, what = heapq.heappop(self._agenda)
            if what == "offer":
                self._offer(ticket, now)
            elif what == "leave":
                self.admission.withdraw(ticket)
            else:
                self._finish(ticket, now)
        self.waits_before_refusal.sort()
        self.waits_before_work.sort()

    def _offer(self, ticket: int, now: float) -> None:
        if not self.is_guarded:
            self.admission._lanes[READ].guarded_until = -inf
        self._offered.append(now)
        decision = self.admission.offer(ticket, READ, now)
        if decision is Decision.ADMITTED:
            self._begin(ticket, now)
        elif decision is Decision.QUEUED:
            heapq.heappush(self._agenda, (now + 1.0, ticket, "leave"))
        else:
            self.waits_before_refusal.append(0.0)
        heapq.heappush(self._agenda, (now + self._random.expovariate(5000), ticket + 1, "offer"))

    def _begin(self, ticket: int, now: float) -> None:
        self.waits_before_work.append(now - self._offered[ticket])
        heapq.heappush(self._agenda, (now + self._random.expovariate(20), ticket, "done"))

    def _finish(self, ticket: int, now: float) -> None:
        self.in_time += now - self._offered[ticket] <= 1.0
        self.admission.release(READ)
        for waiter, reason in self.admission.next(now):
            if reason is None:
                self._begin(waiter, now)
            else:
                self.waits_before_refusal.append(now - self._offered[waiter])


def part(values: list[float], share: float) -> float:
    """Return the value that so large a share of the sorted ones is below."""
    return values[int(share * len(values))]


def test_at_ten_times_the_load_the_work_is_done_in_time_and_refusals_come_at_once() -> None:
    overload = Overload(is_guarded=True)

    overload.run(12.0)

    assert overload.in_time >= 0.96 * 500 * 12
    assert part(overload.waits_before_refusal, 0.99) < 0.010
    assert part(overload.waits_before_work, 0.5) < 0.1


def test_codel_alone_lets_them_wait_for_nothing() -> None:
    overload = Overload(is_guarded=False)

    overload.run(12.0)

    assert part(overload.waits_before_refusal, 0.99) > 0.3
    assert part(overload.waits_before_work, 0.5) > 0.4
