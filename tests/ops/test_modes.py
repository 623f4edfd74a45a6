"""Modes: the gravest reason names them, the first that refuses is heard, and who asks is told why."""

from __future__ import annotations

import logging

import pytest

from app.errors import OverloadedError, ReadOnlyError, UnavailableError
from app.ops.metrics import Metrics
from app.ops.modes import Changes, Mode, ModeName, Modes, Reason, describe
from app.ops.sampling import Status

SHORT = Reason("memory", ModeName.DEGRADED, "memory is short")
RED = Reason("memory", ModeName.DEGRADED, "almost no memory left", stops_background=True)
SAID = Reason(
    "operator",
    ModeName.READ_ONLY,
    "an operator has said so",
    since=1_777_896_000.4,
    by="ada@cli",
    said="the store is being moved",
    ends_in_seconds=41.52,
    stops_background=True,
)


class Told:
    """A source that says what it was told to."""

    def __init__(self, reason: Reason | None = None, refusal: UnavailableError | None = None) -> None:
        self.reason = reason
        self.refusal = refusal
        self.asked: list[tuple[Changes, int | None]] = []

    def look(self) -> Reason | None:
        return self.reason

    def refuse(self, changes: Changes, size_bytes: int | None) -> None:
        self.asked.append((changes, size_bytes))
        if self.refusal is not None:
            raise self.refusal


def series(metrics: Metrics) -> dict[str, float]:
    return {name.value: metrics.mode.labels(name.value)._value.get() for name in ModeName}


@pytest.mark.parametrize(
    ("reasons", "name"),
    [
        ((None, None), ModeName.NORMAL),
        ((None, SHORT), ModeName.DEGRADED),
        ((SHORT, SAID), ModeName.READ_ONLY),
        ((SAID, SHORT), ModeName.READ_ONLY),
    ],
    ids=["none", "one", "the graver last", "the graver first"],
)
def test_the_gravest_reason_names_the_mode(reasons: tuple[Reason | None, ...], name: ModeName) -> None:
    modes = Modes([Told(reason) for reason in reasons])

    mode = modes.current()

    assert mode == Mode(name, tuple(reason for reason in reasons if reason is not None))
    assert modes.last is mode


def test_what_changes_nothing_is_asked_of_no_source() -> None:
    source = Told(SAID, ReadOnlyError("no"))

    Modes([source]).admit(Changes.NOTHING, None)

    assert source.asked == []


def test_the_first_source_that_refuses_is_heard() -> None:
    first, second, third = Told(), Told(refusal=ReadOnlyError("no")), Told(refusal=OverloadedError("full"))

    with pytest.raises(ReadOnlyError):
        Modes([first, second, third]).admit(Changes.BYTES, 7)

    assert (first.asked, second.asked, third.asked) == ([(Changes.BYTES, 7)], [(Changes.BYTES, 7)], [])


@pytest.mark.parametrize(("reason", "allowed"), [(None, True), (SHORT, True), (RED, False), (SAID, False)])
def test_background_work_stands_still_for_grave_reasons_only(reason: Reason | None, allowed: bool) -> None:
    assert Modes([Told(reason)]).allows_background() is allowed


def test_the_check_warns_with_all_reasons_and_sets_one_series_to_1() -> None:
    metrics, source = Metrics(version="1"), Told()
    modes = Modes([source, Told(SHORT)], metrics.mode)
    seen = []

    for source.reason in (None, SAID):
        result = modes.check()
        seen.append((result.status, result.output, series(metrics)))

    assert seen == [
        (Status.WARN, "memory is short", {"normal": 0, "degraded": 1, "read_only": 0}),
        (Status.WARN, "an operator has said so; memory is short", {"normal": 0, "degraded": 0, "read_only": 1}),
    ]


def test_the_check_passes_in_normal() -> None:
    metrics = Metrics(version="1")

    result = Modes([Told()], metrics.mode).check()

    assert (result.status, result.output) == (Status.PASS, "")
    assert series(metrics) == {"normal": 1, "degraded": 0, "read_only": 0}


def test_everybody_is_told_names_and_operators_are_told_who_and_why() -> None:
    modes = Modes([Told(SAID)])
    before = modes.summary()
    details = modes.details()

    assert before == {"name": "normal", "reasons": []}  # nobody has looked yet
    assert modes.summary() == {"name": "read_only", "reasons": ["operator"]}
    assert details == {"name": "read_only", "reasons": [describe(SAID)]}
    assert describe(SAID) == {
        "name": "operator",
        "mode": "read_only",
        "output": "an operator has said so",
        "since": "2026-05-04T12:00:00Z",
        "by": "ada@cli",
        "reason": "the store is being moved",
        "ends_in_seconds": 41.5,
    }
    assert describe(SHORT)["since"] is describe(SHORT)["by"] is describe(SHORT)["ends_in_seconds"] is None


def test_a_change_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app.ops.modes")
    source = Told()
    modes = Modes([source])

    for source.reason in (None, SAID, SAID, None):
        modes.current()

    told = [
        (vars(record)["before"], vars(record)["after"], vars(record)["reasons"])
        for record in caplog.records
        if record.name == "app.ops.modes"
    ]
    assert told == [("normal", "read_only", ["operator"]), ("read_only", "normal", [])]


def test_what_the_database_refuses_is_passed_on() -> None:
    heard: list[str] = []

    Modes([], note_refused=lambda: heard.append("refused")).note_refused()

    assert heard == ["refused"]
