"""What operators do with breakers: legal moves only, each one told with who and why, refused ones too."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest

from app.admin.service import BreakerService, ModeService
from app.errors import ConflictError, NotFoundError, UnavailableError, ValidationFailedError
from app.ops.host_board import MODES, HostBoard
from app.ops.mode_reasons import OperatorWord
from app.ops.modes import ModeName, Modes
from app.ops.state import PAGE_NAME, StatePage
from app.stability import CircuitBreaker, Decision, State
from tests.fakes.clocks import HandClock

ADA = "019aa2c4-7be1-7c52-9d3f-5b0c6f4e8a21"
SAID: Any = {"by": ADA, "reason": "the store is being moved"}


class Desk:
    """A worker with two breakers on a host's board."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / PAGE_NAME
        self.clock = HandClock()
        self.board = HostBoard(StatePage(self.path, clock=self.clock))
        self.breakers = {name: CircuitBreaker(name, board=self.board, clock=self.clock) for name in ("mail", "disk")}
        self.service = BreakerService(self.breakers, self.board)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "app.admin.service")
    names = ("breaker", "wanted", "for_seconds", "by", "reason", "before", "after", "refusal")
    return lambda: [
        (record.levelname, record.message, {name: vars(record)[name] for name in names if name in vars(record)})
        for record in caplog.records
        if record.name == "app.admin.service"
    ]


def test_all_are_listed_by_name_before_anything_was_decided(desk: Desk) -> None:
    records = desk.service.list_all()

    assert [record.snapshot.name for record in records] == ["disk", "mail"]
    assert [record.entry.decision for record in records] == [None, None]
    assert records[0].targets == tuple(state for state in State if state not in {State.CLOSED, State.HALF_OPEN})


def test_a_change_holds_for_the_host_and_is_told(desk: Desk, told: Any) -> None:
    record = desk.service.change("mail", "forced_open", **SAID)

    assert record.snapshot.state is desk.breakers["mail"].state is State.FORCED_OPEN
    assert record.is_shared
    assert record.entry.decision == desk.board.read("mail")
    assert desk.board.read("mail") == Decision(1, "forced_open", 0, math.inf, ADA, "the store is being moved")
    assert told() == [
        (
            "WARNING",
            "a breaker was set",
            {
                "breaker": "mail",
                "wanted": "forced_open",
                "for_seconds": None,
                "by": ADA,
                "reason": "the store is being moved",
                "before": "closed",
                "after": "forced_open",
            },
        )
    ]


def test_open_for_a_time_ends_then(desk: Desk) -> None:
    record = desk.service.change("mail", "open", for_seconds=300.0, **SAID)

    assert record.snapshot.remaining_seconds == 300
    desk.clock.advance(300)
    assert desk.breakers["mail"].try_acquire() is not None


@pytest.mark.parametrize("state", [state.value for state in State if state is not State.OPEN])
def test_no_other_state_ends_after_a_time(desk: Desk, told: Any, state: str) -> None:
    with pytest.raises(ValidationFailedError) as raised:
        desk.service.change("mail", state, for_seconds=5.0, **SAID)

    assert raised.value.errors[0]["pointer"] == "/for_seconds"
    assert desk.board.read("mail") is None
    assert told()[0][1] == "a breaker was not set"


def test_a_move_that_is_not_allowed_is_refused_with_those_that_are_and_told(desk: Desk, told: Any) -> None:
    desk.service.change("mail", "metrics_only", **SAID)

    for seconds in (None, 5.0):
        with pytest.raises(ConflictError, match="only to: closed, disabled, forced_open, forced_half_open"):
            desk.service.change("mail", "open", for_seconds=seconds, **SAID)

    level, message, facts = told()[-1]
    assert desk.breakers["mail"].state is State.METRICS_ONLY
    assert (level, message) == ("WARNING", "a breaker was not set")
    assert (facts["before"], facts["wanted"], facts["by"]) == ("metrics_only", "open", ADA)
    assert facts["refusal"].startswith("It is metrics_only")


def test_an_unknown_name_is_refused_with_those_that_there_are_and_told(desk: Desk, told: Any) -> None:
    with pytest.raises(NotFoundError, match="There are: disk, mail"):
        desk.service.change("male", "open", **SAID)
    with pytest.raises(NotFoundError):
        desk.service.show("male")

    assert [message for _, message, _ in told()] == ["a breaker was not set"]


def test_without_a_board_the_state_is_this_workers_alone() -> None:
    service = BreakerService({"mail": CircuitBreaker("mail")}, None)

    record = service.change("mail", "disabled", **SAID)

    assert record.snapshot.state is State.DISABLED
    assert (record.is_shared, record.entry.decision) == (False, None)


def test_a_lost_board_is_said_to_be_lost(desk: Desk) -> None:
    desk.service.show("mail")
    desk.path.write_bytes(b"noise")
    desk.path.unlink()
    desk.path.mkdir()
    desk.clock.advance(2)

    record = desk.service.change("mail", "disabled", **SAID)

    assert record.snapshot.state is State.DISABLED
    assert not record.is_shared


def test_who_and_why_of_another_state_are_not_shown(desk: Desk) -> None:
    alone = BreakerService({"mail": CircuitBreaker("mail")}, desk.board)
    desk.service.change("mail", "forced_open", **SAID)

    record = alone.show("mail")

    assert (record.snapshot.state, record.entry.decision) == (State.CLOSED, None)


def mode_desk(folder: Path, *, has_board: bool = True) -> ModeService:
    board = HostBoard(StatePage(folder / PAGE_NAME), prefix=MODES) if has_board else None
    word = OperatorWord(board)
    return ModeService(Modes([word]), word, board)


def test_each_mode_that_is_set_or_refused_is_told_with_who_and_why(tmp_path: Path, told: Any) -> None:
    desk = mode_desk(tmp_path)

    held = desk.change("read_only", for_seconds=60, **SAID)
    with pytest.raises(ValidationFailedError):
        desk.change("normal", for_seconds=60, **SAID)
    after = desk.change("normal", for_seconds=None, **SAID)

    assert (held.mode.name, held.is_shared, after.mode.name) == (ModeName.READ_ONLY, True, ModeName.NORMAL)
    assert told() == [
        (
            "WARNING",
            "a mode was set",
            {**SAID, "wanted": "read_only", "for_seconds": 60, "before": "normal", "after": "read_only"},
        ),
        (
            "WARNING",
            "a mode was not set",
            {**SAID, "wanted": "normal", "for_seconds": 60, "refusal": "Some fields are wrong."},
        ),
        (
            "WARNING",
            "a mode was set",
            {**SAID, "wanted": "normal", "for_seconds": None, "before": "read_only", "after": "normal"},
        ),
    ]


def test_a_mode_that_no_other_process_would_hear_of_is_not_set(tmp_path: Path, told: Any) -> None:
    desk = mode_desk(tmp_path, has_board=False)

    with pytest.raises(UnavailableError):
        desk.change("read_only", for_seconds=None, **SAID)

    assert [message for _, message, _ in told()] == ["a mode was not set"]
    assert (desk.show().mode.name, desk.show().is_shared) == (ModeName.NORMAL, False)
