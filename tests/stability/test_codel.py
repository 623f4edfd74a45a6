"""CoDel drops calls of a queue that stands: figures worked out by hand, and the text of RFC 8289 beside it."""

from __future__ import annotations

from collections import deque
from math import nan, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability.codel import CoDel

LONG = 2.0
SHORT = 0.5


def codel() -> CoDel:
    """A target of 1 second and an interval of 16, so that the square roots are easy to check."""
    return CoDel(target_seconds=1.0, interval_seconds=16.0)


def standing() -> CoDel:
    """One whose queue has stood since 0, and that has dropped its first call at 16."""
    judge = codel()
    judge.drops(0.0, LONG, is_last=False)
    assert judge.drops(16.0, LONG, is_last=False)
    assert not judge.drops(16.0, LONG, is_last=False)
    return judge


def drop_instants(judge: CoDel, start: float, stop: float, step: float = 0.0625) -> list[float]:
    """Let a queue stand from start to stop, a call every step, and return when calls are dropped."""
    instants = []
    for number in range(int((stop - start) / step)):
        now = start + number * step
        while judge.drops(now, LONG, is_last=False):
            instants.append(now)
    return instants


def test_a_wait_above_the_target_is_dropped_only_after_a_whole_interval() -> None:
    judge = codel()

    verdicts = [judge.drops(now, LONG, is_last=False) for now in (0.0, 8.0, 15.9, 16.0)]

    assert verdicts == [False, False, False, True]


def test_a_wait_of_exactly_the_target_is_above_it() -> None:
    judge = codel()

    verdicts = [judge.drops(now, 1.0, is_last=False) for now in (0.0, 16.0)]

    assert verdicts == [False, True]


def test_one_short_wait_within_the_interval_begins_it_anew() -> None:
    judge = codel()

    judge.drops(0.0, LONG, is_last=False)
    judge.drops(15.0, SHORT, is_last=False)
    verdicts = [judge.drops(now, LONG, is_last=False) for now in (16.0, 31.9, 32.0)]

    assert verdicts == [False, False, True]


def test_a_call_with_nobody_behind_it_is_never_dropped() -> None:
    judge = codel()

    judge.drops(0.0, LONG, is_last=False)
    verdicts = [judge.drops(now, LONG, is_last=True) for now in (16.0, 32.0, 64.0)]

    assert verdicts == [False, False, False]


def test_an_empty_queue_begins_the_interval_anew() -> None:
    judge = codel()

    judge.drops(0.0, LONG, is_last=False)
    judge.empty()
    verdicts = [judge.drops(now, LONG, is_last=False) for now in (16.0, 32.0)]

    assert verdicts == [False, True]


def test_drops_come_an_interval_over_the_root_of_their_number_apart() -> None:
    judge = codel()

    instants = drop_instants(judge, 0.0, 69.0)

    # 16, then 16/√1, 16/√2, 16/√3, 16/√4 later: 32, 43.31, 52.55, 60.55, 67.71; judged every sixteenth of a second.
    assert instants == [16.0, 32.0, 43.375, 52.5625, 60.5625, 67.75]


def test_a_late_judgement_makes_up_for_the_drops_that_were_due() -> None:
    judge = standing()

    dropped = 0
    while judge.drops(53.0, LONG, is_last=False):
        dropped += 1

    assert dropped == 3  # due at 32, 43.31 and 52.55


def test_one_short_wait_ends_the_drops() -> None:
    judge = standing()

    judge.drops(31.0, SHORT, is_last=False)
    verdicts = [judge.drops(now, LONG, is_last=False) for now in (32.0, 47.9, 48.0)]

    assert verdicts == [False, False, True]


def test_a_queue_that_stands_again_soon_is_dropped_from_at_the_rate_that_worked() -> None:
    judge = codel()
    drop_instants(judge, 0.0, 61.0)  # five drops, the count went from 1 to 5
    judge.drops(61.0, SHORT, is_last=False)

    instants = drop_instants(judge, 64.0, 100.0)

    # It stands from 64 to 80; the count starts at 5 - 1 = 4, so the next come after 16/√4 = 8 and 16/√5 = 7.16.
    assert instants == [80.0, 88.0, 95.1875]


def test_two_drops_after_the_first_are_a_rate_to_remember_at_any_time_of_day() -> None:
    judge = codel()
    drop_instants(judge, 1000.0, 1044.0)  # at 1016, 1032 and 1043.31: the count went from 1 to 3
    judge.drops(1044.0, SHORT, is_last=False)

    instants = drop_instants(judge, 1046.0, 1075.0)

    # It stands from 1046 to 1062; the count starts at 3 - 1 = 2, so the next one comes after 16/√2 = 11.31.
    assert instants == [1062.0, 1073.375]


def test_the_rate_that_worked_is_forgotten_after_sixteen_intervals() -> None:
    judge = codel()
    drop_instants(judge, 0.0, 61.0)
    judge.drops(61.0, SHORT, is_last=False)

    instants = drop_instants(judge, 400.0, 440.0)

    assert instants == [416.0, 432.0]


def test_the_defaults_are_those_of_the_rfc() -> None:
    judge = CoDel()

    verdicts = [judge.drops(now, 0.005, is_last=False) for now in (1.0, 1.099, 1.1)]

    assert verdicts == [False, False, True]
    assert not judge.drops(1.1, 0.0049, is_last=False)


@pytest.mark.parametrize(("now", "waited"), [(nan, nan), (nan, LONG), (16.0, nan)])
def test_a_time_that_is_no_number_drops_nothing_and_is_forgotten(now: float, waited: float) -> None:
    judge = codel()
    judge.drops(0.0, LONG, is_last=False)

    dropped = judge.drops(now, waited, is_last=False)

    assert not dropped
    judge.empty()
    assert [judge.drops(at, LONG, is_last=False) for at in (100.0, 116.0)] == [False, True]


class RfcQueue:
    """Section 5 of RFC 8289 as it is printed there: packets of one unit, a largest packet of none."""

    def __init__(self, target: float, interval: float) -> None:
        self.packets: deque[tuple[int, float]] = deque()
        self.dropped: list[int] = []
        self.target, self.interval = target, interval
        self.first_above_time = 0.0
        self.drop_next = 0.0
        self.count = self.lastcount = 0
        self.dropping = False

    def control_law(self, instant: float) -> float:
        return instant + self.interval / sqrt(self.count)

    def dodequeue(self, now: float) -> tuple[tuple[int, float] | None, bool]:
        if not self.packets:
            self.first_above_time = 0
            return None, False
        packet = self.packets.popleft()
        if now - packet[1] < self.target or not self.packets:
            self.first_above_time = 0
        elif self.first_above_time == 0:
            self.first_above_time = now + self.interval
        elif now >= self.first_above_time:
            return packet, True
        return packet, False

    def dequeue(self, now: float) -> int | None:
        packet, ok_to_drop = self.dodequeue(now)
        if self.dropping:
            if not ok_to_drop:
                self.dropping = False
            while self.dropping and now >= self.drop_next:
                assert packet is not None
                self.dropped.append(packet[0])
                self.count += 1
                packet, ok_to_drop = self.dodequeue(now)
                if ok_to_drop:
                    self.drop_next = self.control_law(self.drop_next)
                else:
                    self.dropping = False
        elif ok_to_drop:
            assert packet is not None
            self.dropped.append(packet[0])
            packet, _ = self.dodequeue(now)
            self.dropping = True
            delta = self.count - self.lastcount
            self.count = delta if delta > 1 and now - self.drop_next < 16 * self.interval else 1
            self.drop_next = self.control_law(now)
            self.lastcount = self.count
        return packet[0] if packet is not None else None


@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.0, 0.125, 0.5, 1.0, 3.0, 8.0, 300.0])), min_size=1, max_size=400
    ),
    begin=st.integers(0, 60),
)
def test_it_drops_exactly_what_the_algorithm_of_the_rfc_drops(steps: list[tuple[bool, float]], begin: int) -> None:
    now = 1000.0
    judge, model = CoDel(1.0, 4.0), RfcQueue(1.0, 4.0)
    queue: deque[tuple[int, float]] = deque()
    served: list[int | None] = []
    expected: list[int | None] = []
    dropped: list[int] = []
    for number in range(begin):
        queue.append((-number, now))
        model.packets.append((-number, now))

    for number, (arrives, pause) in enumerate(steps, 1):
        now += pause
        if arrives:
            queue.append((number, now))
            model.packets.append((number, now))
            continue
        expected.append(model.dequeue(now))
        while queue and judge.drops(now, now - queue[0][1], is_last=len(queue) == 1):
            dropped.append(queue.popleft()[0])
        if not queue:
            judge.empty()
        served.append(queue.popleft()[0] if queue else None)

    assert dropped == model.dropped
    assert served == expected
