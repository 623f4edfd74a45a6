"""The retry budget: what all calls together may retry, whatever came before."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability.errors import OptionError
from app.stability.retry_budget import RetryBudget


def take_all(budget: RetryBudget) -> int:
    """Take until nothing is left, and return how many there were."""
    taken = 0
    while budget.take():
        taken += 1
    return taken


def test_a_new_budget_has_its_floor() -> None:
    budget = RetryBudget(ratio=0.2, floor=3)

    assert budget.remaining == 3
    assert take_all(budget) == 3
    assert budget.remaining == 0


def test_five_calls_pay_for_one_retry_and_four_do_not() -> None:
    budget = RetryBudget(ratio=0.2, floor=3)
    take_all(budget)

    for _ in range(4):
        budget.deposit()
    after_four = (budget.has_one, budget.take(), budget.remaining)
    budget.deposit()

    assert after_four == (False, False, 0.8)
    assert budget.has_one
    assert budget.take()


def test_an_hour_of_good_calls_saves_up_no_more_than_the_floor() -> None:
    budget = RetryBudget(ratio=0.2, floor=3)

    for _ in range(100_000):
        budget.deposit()

    assert budget.remaining == 3


def test_a_budget_that_is_nearly_full_is_filled_to_the_floor_and_no_further() -> None:
    budget = RetryBudget(ratio=0.7, floor=1)
    take_all(budget)

    budget.deposit()
    budget.deposit()

    assert budget.remaining == 1


def test_looking_takes_nothing() -> None:
    budget = RetryBudget(floor=1)

    looks = [budget.has_one for _ in range(5)]

    assert looks == [True] * 5
    assert budget.remaining == 1


class CountingLock:
    """A lock that counts how often it was taken, and what the budget held at the end of each time."""

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget
        self.left: list[float] = []

    def __enter__(self) -> None:
        """Take it."""

    def __exit__(self, *_error: object) -> None:
        self.left.append(self._budget.remaining)


def test_a_full_budget_is_paid_into_without_the_lock_and_changed_only_under_it() -> None:
    budget = RetryBudget(ratio=0.5, floor=3)
    lock = CountingLock(budget)
    budget._lock = lock  # type: ignore[assignment]  # a lock that counts

    budget.deposit()
    while_full = list(lock.left)
    budget.take()
    budget.deposit()

    assert while_full == []
    assert lock.left == [2.0, 2.5]


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.1, float("nan")])
def test_a_ratio_outside_its_range_is_refused(ratio: float) -> None:
    with pytest.raises(OptionError, match="ratio"):
        RetryBudget(ratio=ratio)


def test_a_budget_without_a_whole_retry_is_refused() -> None:
    with pytest.raises(OptionError, match="floor"):
        RetryBudget(floor=0)


@given(
    ratio=st.floats(0.001, 1),
    floor=st.integers(1, 20),
    steps=st.lists(st.booleans(), max_size=300),
    start=st.integers(0, 300),
)
def test_in_any_stretch_retries_are_at_most_the_floor_and_the_ratio_of_its_calls(
    ratio: float, floor: int, steps: list[bool], start: int
) -> None:
    budget = RetryBudget(ratio, floor)
    calls = retries = 0

    for number, is_call in enumerate(steps):
        if number == start:
            calls = retries = 0  # whatever was before: the bound holds from here on
        if is_call:
            budget.deposit()
            calls += 1
        else:
            retries += budget.take()

        assert 0 <= budget.remaining <= floor
        assert retries <= floor + ratio * calls


def test_threads_that_pay_and_take_lose_nothing_and_gain_nothing() -> None:
    budget = RetryBudget(ratio=0.25, floor=1_000_000)
    threads, turns = 8, 5_000
    begin = threading.Barrier(threads)
    for _ in range(threads * turns):
        budget.take()  # below the floor, or nothing could be paid in

    def pay_four_and_take_one() -> None:
        begin.wait()
        for _ in range(turns):
            for _ in range(4):
                budget.deposit()
            assert budget.take()

    workers = [threading.Thread(target=pay_four_and_take_one) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert budget.remaining == 1_000_000 - threads * turns


def test_threads_share_out_what_is_there_and_not_one_more() -> None:
    budget = RetryBudget(floor=1_000)
    begin = threading.Barrier(8)
    taken: list[int] = []

    def take() -> None:
        begin.wait()
        taken.append(take_all(budget))

    workers = [threading.Thread(target=take) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert sum(taken) == 1_000


@pytest.mark.parametrize("floor", [float("nan"), float("inf"), 2.5, True, "3"])
def test_a_floor_that_is_no_whole_number_is_refused(floor: Any) -> None:
    with pytest.raises(OptionError, match="floor must be a whole number"):
        RetryBudget(0.2, floor)


def test_a_ratio_that_is_a_bool_is_refused() -> None:
    with pytest.raises(OptionError, match="ratio must be"):
        RetryBudget(ratio=True)
