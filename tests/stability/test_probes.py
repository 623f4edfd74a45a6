"""The trial calls of one half-open visit, counted here and on the board."""

from __future__ import annotations

import pytest

from app.stability.board import Decision, ProbeCounts
from app.stability.probes import HostProbes, LocalProbes, ProbeLedger
from tests.fakes.board import MemoryBoard


@pytest.fixture
def board() -> MemoryBoard:
    board = MemoryBoard()
    board.decide("storage", Decision(1, "half_open", 1, 1060.0))
    return board


def host(board: MemoryBoard, era: int = 1) -> HostProbes:
    return HostProbes(board, "storage", era)


def take_all(ledger: ProbeLedger, limit: int, running: int = 0) -> int:
    """Take until none is left, beside some that run, and return how many there were."""
    taken = 0
    while ledger.take(limit, running + taken):
        taken += 1
    return taken


def test_a_process_alone_takes_as_many_as_the_limit() -> None:
    assert take_all(LocalProbes(), 3) == 3


def test_one_that_came_to_no_result_can_be_taken_again() -> None:
    ledger = LocalProbes()
    take_all(ledger, 3)

    ledger.give_back()

    assert take_all(ledger, 3, running=2) == 1


def test_a_finished_one_cannot_be_taken_again() -> None:
    ledger = LocalProbes()
    take_all(ledger, 3)

    ledger.record(failed=False, slow=False)

    assert take_all(ledger, 3, running=2) == 0


def test_results_are_counted_by_what_they_were() -> None:
    ledger = LocalProbes()

    for failed, slow in [(False, False), (True, False), (True, True), (False, True)]:
        ledger.record(failed=failed, slow=slow)

    assert ledger.counts == ProbeCounts(results=4, failures=2, slow=2)


def test_processes_of_a_host_share_one_limit(board: MemoryBoard) -> None:
    ledgers = [host(board) for _ in range(3)]

    assert sum(take_all(ledger, 4) for ledger in ledgers) == 4


def test_one_that_a_process_gives_back_can_be_taken_by_another(board: MemoryBoard) -> None:
    one, other = host(board), host(board)
    take_all(one, 4)

    one.give_back()

    assert take_all(other, 4) == 1


def test_one_that_a_process_gives_back_can_be_taken_by_itself(board: MemoryBoard) -> None:
    ledger = host(board)
    take_all(ledger, 4)

    ledger.give_back()

    assert take_all(ledger, 4, running=3) == 1


def test_each_process_sees_the_results_of_all_with_its_own_next_one(board: MemoryBoard) -> None:
    one, other = host(board), host(board)
    one.record(failed=True, slow=False)

    other.record(failed=False, slow=True)

    assert other.counts == ProbeCounts(2, 1, 1)
    assert one.counts == ProbeCounts(1, 1, 0)


def test_a_lost_board_leaves_each_process_its_own_limit(board: MemoryBoard) -> None:
    board.is_lost = True

    assert [take_all(host(board), 3), take_all(host(board), 3)] == [3, 3]


def test_a_board_that_is_lost_in_between_leaves_what_this_process_knows(board: MemoryBoard) -> None:
    ledger = host(board)
    ledger.take(4, 0)
    ledger.record(failed=True, slow=False)
    board.is_lost = True

    ledger.take(4, 0)
    ledger.record(failed=False, slow=False)

    assert ledger.counts == ProbeCounts(2, 1, 0)
    assert take_all(ledger, 4) == 2


def test_trial_calls_of_another_era_are_none_of_this_ones(board: MemoryBoard) -> None:
    board.decide("storage", Decision(2, "closed", 0, float("inf")))
    ledger = host(board, era=1)

    ledger.take(4, 0)
    ledger.record(failed=True, slow=False)
    ledger.give_back()

    assert board.taken == {}
    assert ledger.counts == ProbeCounts(1, 1, 0)


def test_a_board_with_a_short_memory_grants_a_process_no_more_than_the_limit(board: MemoryBoard) -> None:
    ledger = host(board)
    take_all(ledger, 2)
    board.taken.clear()

    assert not ledger.take(2, 2)
    assert board.taken == {("storage", 1): 0}, "what could not be used was given back"
