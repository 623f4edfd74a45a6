"""The budget of photos: what fits in goes on at once, what does not waits in order, and everybody's turn comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from app.errors import OverloadedError
from app.images.budget import PixelBudget
from app.stability import Deadline, DeadlineExceededError, deadline_scope
from tests.fakes.clocks import HandClock

LONG = 60.0


class Crowd:
    """Threads that ask a budget, one after the other, and hold their shares until they are told."""

    def __init__(self, budget: PixelBudget) -> None:
        self.budget = budget
        self.order: list[str] = []
        self._pool = ThreadPoolExecutor(max_workers=32)
        self._leave: dict[str, threading.Event] = {}
        self._futures: dict[str, Future[None]] = {}

    def enter(self, name: str, cost: int, *, background: bool = False) -> None:
        """Let somebody ask, and return when they are in or wait."""
        before = self.budget.waiting + len(self.order)
        self._leave[name] = threading.Event()
        self._futures[name] = self._pool.submit(self._stay, name, cost, background=background)
        eventually(lambda: self.budget.waiting + len(self.order) > before)

    def leave(self, name: str) -> None:
        """Let somebody who is in give back their share, and return when they have."""
        self._leave[name].set()
        self._futures[name].result(LONG / 2)

    def await_inside(self, *names: str) -> None:
        eventually(lambda: list(names) == self.order)

    def close(self) -> None:
        for event in self._leave.values():
            event.set()
        self._pool.shutdown()

    def _stay(self, name: str, cost: int, *, background: bool) -> None:
        with self.budget.admit(cost, background=background):
            self.order.append(name)
            assert self._leave[name].wait(LONG / 2)


def eventually(condition: Callable[[], bool]) -> None:
    """Return when a condition holds."""
    ends = time.monotonic() + LONG / 2
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def crowd(clock: HandClock) -> Iterator[Crowd]:
    crowd = Crowd(PixelBudget(100, LONG, clock))
    yield crowd
    crowd.close()


def test_what_fits_in_together_is_admitted_at_once_and_the_next_waits(crowd: Crowd) -> None:
    crowd.enter("first", 60)
    crowd.enter("second", 40)
    crowd.enter("third", 1)

    assert crowd.order == ["first", "second"]
    assert (crowd.budget.in_use, crowd.budget.waiting) == (100, 1)


def test_who_waits_is_let_in_when_enough_is_given_back(crowd: Crowd) -> None:
    crowd.enter("first", 60)
    crowd.enter("second", 30)
    crowd.enter("third", 50)

    crowd.leave("second")
    assert crowd.budget.waiting == 1  # 40 are free, and 50 are asked for
    crowd.leave("first")

    crowd.await_inside("first", "second", "third")
    assert crowd.budget.in_use == 50


def test_a_photo_that_costs_more_than_there_is_works_alone(crowd: Crowd) -> None:
    crowd.enter("small", 1)
    crowd.enter("huge", 100_000)
    crowd.enter("later", 1)
    assert crowd.order == ["small"]

    crowd.leave("small")
    crowd.await_inside("small", "huge")
    assert (crowd.budget.in_use, crowd.budget.waiting) == (100, 1)

    crowd.leave("huge")
    crowd.await_inside("small", "huge", "later")


def test_small_ones_that_come_later_do_not_overtake_a_large_one_for_ever(crowd: Crowd) -> None:
    crowd.enter("0", 60)
    crowd.enter("large", 90)
    crowd.enter("1", 10)
    crowd.enter("2", 10)

    assert crowd.order == ["0"]
    crowd.leave("0")

    eventually(lambda: len(crowd.order) == 3)
    assert set(crowd.order) == {"0", "large", "1"}  # a hundred is taken, and the next has to wait again


def test_work_that_somebody_waits_for_goes_before_background_work_that_came_earlier(crowd: Crowd) -> None:
    crowd.enter("working", 100)
    crowd.enter("background", 100, background=True)
    crowd.enter("person", 100)

    crowd.leave("working")
    crowd.await_inside("working", "person")
    crowd.leave("person")

    crowd.await_inside("working", "person", "background")


def test_background_work_that_has_waited_for_half_of_the_longest_wait_stands_its_ground(
    crowd: Crowd, clock: HandClock
) -> None:
    crowd.enter("working", 100)
    crowd.enter("background", 100, background=True)
    clock.advance(LONG / 2 + 1)
    crowd.enter("person", 100)

    crowd.leave("working")

    crowd.await_inside("working", "background")


@pytest.mark.parametrize("background", [False, True], ids=["on demand", "background"])
def test_each_class_is_served_in_the_order_of_arrival(crowd: Crowd, background: bool) -> None:
    crowd.enter("working", 100)
    names = [str(number) for number in range(8)]
    for name in names:
        crowd.enter(name, 100, background=background)

    for leaving, coming in zip(["working", *names], names, strict=False):
        crowd.leave(leaving)
        eventually(lambda: coming in crowd.order)  # noqa: B023  it is called within its turn of the loop

    assert crowd.order == ["working", *names]


def test_who_has_waited_in_vain_is_told_when_to_come_again_and_leaves_nothing_behind() -> None:
    budget = PixelBudget(10, 0.05)

    with (
        budget.admit(10, background=False),
        pytest.raises(OverloadedError) as refused,
        budget.admit(1, background=False),
    ):
        pass

    assert refused.value.retry_after_seconds == 0.05
    assert (budget.in_use, budget.waiting) == (0, 0)


def test_a_deadline_that_comes_while_waiting_ends_the_wait() -> None:
    budget = PixelBudget(10, LONG)
    began = time.monotonic()

    with (
        budget.admit(10, background=False),
        deadline_scope(Deadline(0.05, HandClock())),  # it comes while it is waited, not before
        pytest.raises(OverloadedError),
        budget.admit(1, background=False),
    ):
        pass

    assert time.monotonic() - began < LONG / 2
    assert budget.in_use == 0


def test_a_deadline_that_has_passed_asks_for_nothing() -> None:
    clock = HandClock()
    budget = PixelBudget(10, LONG)
    deadline = Deadline(1, clock)
    clock.advance(2)

    with deadline_scope(deadline), pytest.raises(DeadlineExceededError), budget.admit(1, background=False):
        pass

    assert (budget.in_use, budget.waiting) == (0, 0)


def test_who_gives_up_at_the_head_of_the_queue_makes_way_for_those_behind() -> None:
    told: list[tuple[int, int]] = []
    budget = PixelBudget(10, LONG, observe=lambda in_use, waiting: told.append((in_use, waiting)))
    let_in = threading.Event()

    def small() -> None:
        with budget.admit(5, background=False):
            let_in.set()

    def large() -> None:
        with (
            deadline_scope(Deadline(0.3, HandClock())),
            pytest.raises(OverloadedError),
            budget.admit(10, background=False),
        ):
            pass

    with budget.admit(5, background=False), ThreadPoolExecutor(2) as pool:
        gave_up = pool.submit(large)
        eventually(lambda: (5, 1) in told)  # it may have given up already
        pool.submit(small)

        assert let_in.wait(LONG / 2)
        gave_up.result(LONG / 2)


def test_a_share_is_given_back_whatever_the_work_raises() -> None:
    budget = PixelBudget(10, LONG)

    with pytest.raises(KeyError), budget.admit(10, background=False):
        raise KeyError

    assert budget.in_use == 0


def test_work_that_costs_nothing_passes_while_nobody_waits() -> None:
    budget = PixelBudget(10, 0.05)

    with budget.admit(10, background=False), budget.admit(0, background=True):
        in_use = budget.in_use

    assert in_use == 10


def test_never_more_is_held_than_there_is_and_all_of_a_stampede_come_through() -> None:
    budget = PixelBudget(100, LONG)
    held: list[int] = []
    lock = threading.Lock()
    most = 0

    def work(cost: int) -> None:
        nonlocal most
        with budget.admit(cost, background=cost % 2 == 0):
            with lock:
                held.append(min(cost, 100))
                most = max(most, sum(held))
            time.sleep(0)
            with lock:
                held.remove(min(cost, 100))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, [1 + 37 * number % 150 for number in range(600)]))

    assert 0 < most <= 100
    assert (budget.in_use, budget.waiting) == (0, 0)


@pytest.mark.parametrize(
    ("total", "seconds"), [(0, 1.0), (-5, 1.0), (1, 0.0), (1, float("inf")), (1, float("nan"))], ids=str
)
def test_a_budget_that_cannot_work_is_refused(total: int, seconds: float) -> None:
    with pytest.raises(ValueError, match="a budget needs"):
        PixelBudget(total, seconds)


def test_a_negative_cost_is_refused() -> None:
    budget = PixelBudget(10, LONG)

    with pytest.raises(ValueError, match="less than nothing"), budget.admit(-1, background=False):
        pass

    assert budget.in_use == 0


def test_whoever_observes_is_told_of_every_change() -> None:
    told: list[tuple[int, int]] = []
    budget = PixelBudget(10, 0.05, observe=lambda in_use, waiting: told.append((in_use, waiting)))

    with budget.admit(7, background=False), pytest.raises(OverloadedError), budget.admit(5, background=False):
        pass

    assert told == [(7, 0), (7, 1), (7, 0), (0, 0)]
