"""Shares of a limit: guaranteed, lent while they are not needed, and given back as places come free."""

from __future__ import annotations

from collections import Counter, deque
from fractions import Fraction
from math import floor, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stability.partitions import CLAIM_SECONDS, LIMIT_REACHED, PARTITION_REACHED, Partition, Partitions

SHARES = {"health": 0.1, "read": 0.5, "upload": 0.2, "background": 0.0}


def fill(partitions: Partitions, name: str, now: float = 0.0) -> int:
    """Take until there is nothing more, and return how many there were."""
    taken = 0
    while not partitions.take(partitions.find(name), now):
        taken += 1
    return taken


def give_back(partitions: Partitions, partition: Partition) -> None:
    partitions.give_back(deque([(partition,)]))


def guaranteed(partitions: Partitions) -> dict[str, int]:
    return {partition.name: partition.guaranteed for partition in partitions.named.values()}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (20, {"health": 2, "read": 10, "upload": 4, "background": 0}),
        (100, {"health": 10, "read": 50, "upload": 20, "background": 0}),
        (27, {"health": 2, "read": 13, "upload": 5, "background": 0}),
        (5, {"health": 1, "read": 2, "upload": 1, "background": 0}),
    ],
)
def test_a_guarantee_is_the_share_of_the_limit_and_at_least_one_place(limit: int, expected: dict[str, int]) -> None:
    assert guaranteed(Partitions(SHARES, limit)) == expected


def test_a_share_that_binary_numbers_cannot_hold_is_not_rounded_down() -> None:
    assert 0.29 * 100 < 29

    assert guaranteed(Partitions({"read": 0.29}, 100)) == {"read": 29}


def test_where_one_place_each_is_too_much_the_largest_gives_way() -> None:
    partitions = Partitions({"read": 0.91, "health": 0.03, "upload": 0.03, "list": 0.03}, 5)

    assert guaranteed(partitions) == {"read": 2, "health": 1, "upload": 1, "list": 1}


def test_the_largest_gives_way_by_no_more_than_it_must() -> None:
    partitions = Partitions({"read": 0.8, "health": 0.05, "upload": 0.15}, 5)

    assert guaranteed(partitions) == {"read": 3, "health": 1, "upload": 1}


def test_a_limit_of_one_place_is_guaranteed_too() -> None:
    assert guaranteed(Partitions({"read": 0.5}, 1)) == {"read": 1}


@pytest.mark.parametrize("name", ["health", "read", "upload", "background", "", "no such partition"])
def test_one_partition_alone_may_have_the_whole_limit(name: str) -> None:
    partitions = Partitions(SHARES, 20)

    assert fill(partitions, name) == 20
    assert partitions.in_use == 20


def test_without_partitions_the_limit_is_first_come_first_served() -> None:
    partitions = Partitions({}, 3)

    reasons = [partitions.take(partitions.find(name), 0.0) for name in ("a", "b", "", "a")]

    assert reasons == ["", "", "", LIMIT_REACHED]


def test_calls_of_no_partition_share_what_is_nobodys() -> None:
    partitions = Partitions(SHARES, 20)

    assert partitions.find("no such partition") is partitions.find("") is partitions.others
    assert partitions.others.guaranteed == 0


def test_a_partition_that_comes_back_gets_the_next_free_place() -> None:
    partitions = Partitions(SHARES, 20)
    fill(partitions, "background")

    refused = partitions.take(partitions.find("read"), 0.0)
    give_back(partitions, partitions.find("background"))
    borrower = partitions.take(partitions.find("background"), 0.0)
    stranger = partitions.take(partitions.find(""), 0.0)
    owner = partitions.take(partitions.find("read"), 0.0)

    assert refused == LIMIT_REACHED
    assert (borrower, stranger, owner) == (PARTITION_REACHED, PARTITION_REACHED, "")


def test_a_claim_reaches_as_far_as_the_guarantee_and_no_further() -> None:
    partitions = Partitions(SHARES, 20)
    fill(partitions, "background")
    partitions.take(partitions.find("health"), 0.0)

    for _ in range(3):
        give_back(partitions, partitions.find("background"))

    assert partitions.take(partitions.find("background"), 0.0) == ""  # three free, two of them claimed
    assert partitions.take(partitions.find("background"), 0.0) == PARTITION_REACHED
    assert [partitions.take(partitions.find("health"), 0.0) for _ in range(3)] == ["", "", LIMIT_REACHED]


def test_a_claim_is_for_what_the_partition_does_not_have_yet() -> None:
    partitions = Partitions(SHARES, 20)
    for _ in range(4):
        partitions.take(partitions.find("read"), 0.0)
    fill(partitions, "background")
    partitions.take(partitions.find("read"), 0.0)

    for _ in range(7):
        give_back(partitions, partitions.find("background"))

    assert partitions.take(partitions.find("background"), 0.0) == ""  # seven free, ten less four of them claimed
    assert partitions.take(partitions.find("background"), 0.0) == PARTITION_REACHED


def test_claims_of_two_partitions_add_up() -> None:
    partitions = Partitions(SHARES, 20)
    fill(partitions, "background")
    partitions.take(partitions.find("health"), 0.0)
    partitions.take(partitions.find("upload"), 0.0)

    for _ in range(6):
        give_back(partitions, partitions.find("background"))

    assert partitions.take(partitions.find("background"), 0.0) == PARTITION_REACHED
    assert fill(partitions, "upload") == 4
    assert fill(partitions, "health") == 2


def test_a_refusal_beyond_the_guarantee_claims_nothing() -> None:
    partitions = Partitions(SHARES, 20)
    fill(partitions, "read")

    partitions.take(partitions.find("read"), 0.0)
    give_back(partitions, partitions.find("read"))

    assert partitions.take(partitions.find(""), 0.0) == ""


def test_who_has_all_of_its_guarantee_claims_nothing() -> None:
    partitions = Partitions(SHARES, 20)
    for _ in range(10):
        partitions.take(partitions.find("read"), 0.0)
    fill(partitions, "background")

    partitions.take(partitions.find("read"), 0.0)
    give_back(partitions, partitions.find("read"))

    assert partitions.take(partitions.find("background"), 0.0) == ""


def test_a_partition_that_does_not_ask_again_lends_again() -> None:
    partitions = Partitions(SHARES, 20)
    fill(partitions, "background")
    partitions.take(partitions.find("read"), 10.0)
    give_back(partitions, partitions.find("background"))

    before = partitions.take(partitions.find("background"), 10.0 + CLAIM_SECONDS - 0.001)
    after = partitions.take(partitions.find("background"), 10.0 + CLAIM_SECONDS)

    assert (before, after) == (PARTITION_REACHED, "")


def test_a_time_that_is_no_number_claims_nothing_and_keeps_the_limit() -> None:
    partitions = Partitions(SHARES, 20)
    fill(partitions, "background", nan)

    assert partitions.take(partitions.find("read"), nan) == LIMIT_REACHED
    give_back(partitions, partitions.find("background"))
    assert partitions.take(partitions.find("background"), nan) == ""


def test_a_lowered_limit_lets_nobody_in_until_calls_have_ended() -> None:
    partitions = Partitions(SHARES, 20)
    fill(partitions, "read")

    partitions.resize(10)
    refused = partitions.take(partitions.find("health"), 0.0)
    for _ in range(11):
        give_back(partitions, partitions.find("read"))

    assert refused == LIMIT_REACHED
    assert partitions.in_use == 9
    assert partitions.take(partitions.find("health"), 0.0) == ""


NAMES = (*SHARES, "stranger")


@given(
    limit=st.integers(4, 40),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.sampled_from(NAMES)),
            st.tuples(st.just("end"), st.sampled_from(NAMES)),
            st.tuples(st.just("limit"), st.integers(4, 40)),
            st.tuples(st.just("pass"), st.sampled_from([0.25, 0.5, 1.0])),
        ),
        max_size=150,
    ),
    flood=st.sampled_from(NAMES),
)
def test_whatever_happens_the_limit_holds_and_every_guarantee_is_kept(
    limit: int, steps: list[tuple[str, str | int | float]], flood: str
) -> None:
    partitions = Partitions(SHARES, limit)
    used: Counter[str] = Counter({flood: fill(partitions, flood)})
    asked: dict[str, float] = {}
    now = 0.0

    for action, value in steps:
        owed = {name: max(1, floor(Fraction(str(share)) * limit)) for name, share in SHARES.items() if share}
        free = limit - used.total()
        if action == "pass":
            now += float(value)
        elif action == "limit":
            limit = int(value)
            partitions.resize(limit)
        elif action == "end" and used[str(value)]:
            used[str(value)] -= 1
            give_back(partitions, partitions.find(str(value)))
        elif action == "take":
            name = str(value)
            is_owed = used[name] < owed.get(name, 0)
            spoken_for = sum(owed[n] - used[n] for n, at in asked.items() if used[n] < owed[n] and now < at + 1.0)

            reason = partitions.take(partitions.find(name), now)

            # What is guaranteed is refused only when nothing is free, and what is not only as far as it is claimed.
            assert (reason == "") == (free > (0 if is_owed else spoken_for))
            assert (reason == LIMIT_REACHED) == (free <= 0)
            used[name] += not reason
            if reason and is_owed:
                asked[name] = now
        assert partitions.in_use == used.total()
        assert sum(guaranteed(partitions).values()) <= limit
