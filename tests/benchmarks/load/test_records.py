"""How requests are counted, and how their times are summed up."""

from __future__ import annotations

import math

from benchmarks.load.records import Loss, Outcome, Record, Spread, joined, percentile


def a_record(began: float = 0.0) -> Record:
    record = Record("reads", began=began)
    for due, seconds, outcome, status in (
        (0.0, 0.010, Outcome.GOOD, 200),
        (1.0, 0.030, Outcome.GOOD, 200),
        (1.5, 0.001, Outcome.REFUSED, 503),
        (2.0, 1.000, Outcome.TIMED_OUT, 0),
        (2.5, 0.020, Outcome.OTHER, 500),
        (3.0, 0.000, Outcome.LOST, 0),
    ):
        record.add(due=due, seconds=seconds, outcome=outcome, status=status)
    return record


def test_a_tally_counts_what_was_due_in_its_part_of_the_run() -> None:
    tally = a_record().tally(1.0, 3.0)

    assert (tally.offered, tally.good, tally.refused, tally.other, tally.timed_out, tally.lost) == (4, 1, 1, 1, 1, 0)
    assert tally.answered == 3
    assert tally.good_ms == Spread(30, 30, 30)
    assert tally.refused_ms == Spread(1, 1, 1)
    assert tally.statuses == {0: 1, 200: 1, 500: 1, 503: 1}


def test_records_of_several_processes_are_joined_on_one_clock() -> None:
    early, late = a_record(began=100), a_record(began=101)
    late.losses.append(Loss(3.0, 0.0, "closed", "waiting", is_fresh=True, port=1))

    whole = joined("all", [late], origin=100)

    assert list(whole.due) == [1.0, 2.0, 2.5, 3.0, 3.5, 4.0]
    assert whole.losses[0].due == 4.0
    assert joined("all", [early, late]).tally().offered == 12
    assert list(late.due) == list(early.due)


def test_a_loss_tells_its_circumstances() -> None:
    loss = Loss(1.0, 0.5, "ECONNRESET", "waiting", is_fresh=False, port=1)

    assert str(loss) == "at 1.000 s, after 0.500 s, waiting on a kept connection: ECONNRESET"


def test_percentiles_are_by_nearest_rank() -> None:
    hundred = [float(number) for number in range(1, 101)]

    assert (percentile(hundred, 0.5), percentile(hundred, 0.99), percentile(hundred, 1.0)) == (50, 99, 100)
    assert percentile([7.0], 0.01) == 7
    assert math.isnan(percentile([], 0.5))
