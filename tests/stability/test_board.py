"""The words that breakers of several processes exchange are plain values."""

from __future__ import annotations

import dataclasses
import math

import pytest

from app.stability.board import ATTEMPT_MAX, CheckedBoard, Decision, ProbeCounts
from tests.fakes.board import NaughtyBoard


def test_a_decision_is_the_breakers_own_unless_an_operator_is_named() -> None:
    decision = Decision(1, "open", 1, 12.5)

    assert (decision.by, decision.reason) == ("breaker", "")
    assert decision == Decision(era=1, state="open", attempt=1, until=12.5, by="breaker", reason="")
    assert decision != dataclasses.replace(decision, by="operator")


def test_a_state_without_an_end_lasts_for_ever() -> None:
    assert Decision(2, "forced_open", 0, math.inf).until > 1e300


@pytest.mark.parametrize("value", [Decision(1, "open", 1, 12.5), ProbeCounts(3, 1, 0)])
def test_what_was_decided_and_counted_cannot_be_changed(value: Decision | ProbeCounts) -> None:
    name = dataclasses.fields(value)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, 9)

    assert hash(value) == hash(dataclasses.replace(value))


GOOD = Decision(3, "open", 2, 1060.0)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "open",
        Decision(0, "open", 0, 1.0),
        Decision(1, "ajar", 0, 1.0),
        Decision(1, "open", -1, 1.0),
        Decision(1, "open", 0, math.nan),
        dataclasses.replace(GOOD, era="3"),  # type: ignore[arg-type]  # wrong types are tested
        dataclasses.replace(GOOD, attempt=1.5),  # type: ignore[arg-type]  # wrong types are tested
        dataclasses.replace(GOOD, until=None),  # type: ignore[arg-type]  # wrong types are tested
    ],
    ids=repr,
)
def test_a_decision_that_cannot_be_is_none(answer: object) -> None:
    board = CheckedBoard(NaughtyBoard(answer))

    assert board.read("storage") is None
    assert board.decide("storage", GOOD) is None


def test_a_decision_that_can_be_is_handed_on() -> None:
    board = CheckedBoard(NaughtyBoard(GOOD))

    assert board.read("storage") is GOOD
    assert board.decide("storage", GOOD) is GOOD


def test_a_run_of_openings_is_believed_up_to_a_bound() -> None:
    board = CheckedBoard(NaughtyBoard(dataclasses.replace(GOOD, attempt=10**30)))

    assert board.read("storage") == dataclasses.replace(GOOD, attempt=ATTEMPT_MAX)


@pytest.mark.parametrize(
    "answer",
    [
        (1, 0, 0),
        ProbeCounts(-1, 0, 0),
        ProbeCounts(1, 2, 0),
        ProbeCounts(1, 0, 2),
        ProbeCounts(1, -1, 0),
        ProbeCounts(1, 0, math.nan),  # type: ignore[arg-type]  # wrong types are tested
    ],
    ids=repr,
)
def test_counts_that_contradict_each_other_are_none(answer: object) -> None:
    board = CheckedBoard(NaughtyBoard(answer))

    assert board.record_probe("storage", 1, failed=True, slow=True) is None


def test_counts_that_can_be_are_handed_on() -> None:
    counts = ProbeCounts(3, 3, 0)

    assert CheckedBoard(NaughtyBoard(counts)).record_probe("storage", 1, failed=True, slow=False) is counts


@pytest.mark.parametrize(
    ("answer", "believed"), [(True, True), (False, False), (None, None), (1, None), ("no", None)]
)
def test_a_trial_call_is_granted_or_not_or_unknown(answer: object, believed: object) -> None:
    assert CheckedBoard(NaughtyBoard(answer)).take_probe("storage", 1, 4) is believed


def test_a_board_that_raises_has_no_answer_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    board = CheckedBoard(NaughtyBoard(OSError("no page")))

    answers = [
        board.read("storage"),
        board.decide("storage", GOOD),
        board.take_probe("storage", 1, 4),
        board.record_probe("storage", 1, failed=False, slow=False),
    ]
    board.return_probe("storage", 1)

    assert answers == [None] * 4
    (logged,) = caplog.records
    assert (logged.levelname, logged.exc_info is not None) == ("ERROR", True)


def test_a_board_that_breaks_again_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    behind = NaughtyBoard(OSError("no page"))
    board = CheckedBoard(behind)

    for behind.answer in (OSError("no page"), None, OSError("no page")):
        board.read("storage")

    assert len(caplog.records) == 2


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_a_board_is_asked_is_no_answer_of_the_board(interrupt: type[BaseException]) -> None:
    board = CheckedBoard(NaughtyBoard(interrupt()))

    with pytest.raises(interrupt):
        board.read("storage")
