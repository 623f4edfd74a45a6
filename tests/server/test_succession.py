"""Who is started and who goes: nobody goes before another one is ready, and nobody is started for nothing."""

from __future__ import annotations

import random

import pytest

from app.server.succession import Seat, StartDelay, plan


def seat(pid: int, *, is_ready: bool = True, is_retiring: bool = False, is_leaving: bool = False) -> Seat:
    """Return a worker whose age is its process id."""
    return Seat(pid, pid, is_ready=is_ready, is_retiring=is_retiring, is_leaving=is_leaving)


def test_with_all_at_work_nothing_is_to_be_done() -> None:
    planned = plan([seat(1), seat(2)], wanted=2, newer_than=0)

    assert (planned.start, planned.dismiss, planned.is_settled) == (0, (), True)


def test_who_is_missing_is_started_and_who_starts_is_waited_for() -> None:
    assert plan([seat(1)], wanted=3, newer_than=0).start == 2
    assert plan([seat(1), seat(2, is_ready=False)], wanted=2, newer_than=0).start == 0
    assert not plan([seat(1), seat(2, is_ready=False)], wanted=2, newer_than=0).is_settled


def test_a_reload_starts_as_many_as_are_wanted_beside_those_there_are() -> None:
    planned = plan([seat(1), seat(2)], wanted=2, newer_than=2)

    assert (planned.start, planned.dismiss) == (2, ())


def test_each_new_worker_that_is_ready_lets_the_oldest_go() -> None:
    old = [seat(1), seat(2)]

    assert plan([*old, seat(3, is_ready=False), seat(4, is_ready=False)], wanted=2, newer_than=2).dismiss == ()
    assert plan([*old, seat(3), seat(4, is_ready=False)], wanted=2, newer_than=2).dismiss == (1,)
    assert plan([*old, seat(3), seat(4)], wanted=2, newer_than=2).dismiss == (1, 2)


def test_a_worker_that_retires_is_replaced_and_goes_only_then_whatever_its_age() -> None:
    retiring = seat(9, is_retiring=True)

    first = plan([seat(1), retiring], wanted=2, newer_than=0)
    then = plan([seat(1), retiring, seat(10)], wanted=2, newer_than=0)

    assert (first.start, first.dismiss) == (1, ())
    assert (then.start, then.dismiss) == (0, (9,))


def test_who_was_asked_to_go_counts_for_nothing() -> None:
    planned = plan([seat(1, is_leaving=True), seat(2), seat(3)], wanted=2, newer_than=1)

    assert (planned.start, planned.dismiss, planned.is_settled) == (0, (), True)


def test_fewer_wanted_workers_let_the_oldest_go_at_once() -> None:
    assert plan([seat(1), seat(2), seat(3)], wanted=1, newer_than=0).dismiss == (1, 2)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_dies_retires_and_is_reloaded_as_many_serve_as_were_ready_and_in_the_end_all_are_new(
    seed: int,
) -> None:
    chance = random.Random(seed)
    wanted, newer_than, age = 3, 0, 0
    seats: dict[int, Seat] = {}
    for step in range(300):
        planned = plan(seats.values(), wanted=wanted, newer_than=newer_than)
        before = sum(one.is_ready and not one.is_leaving for one in seats.values())
        for pid in planned.dismiss:
            seats[pid] = seat(pid, is_leaving=True)
        after = sum(one.is_ready and not one.is_leaving for one in seats.values())
        assert after >= min(before, wanted)
        for _ in range(planned.start):
            age += 1
            seats[age] = seat(age, is_ready=False)
        for pid, one in list(seats.items()):
            if one.is_leaving and chance.random() < 0.3:
                del seats[pid]
            elif not one.is_ready and chance.random() < 0.3:
                seats[pid] = seat(pid)
            elif step < 200 and chance.random() < 0.02:
                del seats[pid]
            elif step < 200 and one.is_ready and not one.is_leaving and chance.random() < 0.02:
                seats[pid] = seat(pid, is_retiring=True)
        if step < 200 and chance.random() < 0.05:
            newer_than = age
        assert len(seats) <= 40

    planned = plan(seats.values(), wanted=wanted, newer_than=newer_than)
    staying = [one for one in seats.values() if not one.is_leaving]
    assert planned.is_settled
    assert all(one.age > newer_than and not one.is_retiring for one in staying)


def test_failed_starts_are_tried_again_at_growing_intervals_until_one_succeeds() -> None:
    delay = StartDelay(longest_seconds=3)

    waits = [delay.failed(100.0) for _ in range(5)]

    assert waits == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert (delay.allows(102.9), delay.allows(103.0)) == (False, True)
    delay.succeeded()
    assert delay.allows(0.0)
    assert delay.failed(0.0) == 0.5
