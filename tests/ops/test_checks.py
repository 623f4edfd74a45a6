"""What each check finds, and what it says: words for operators, and figures."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.db.pool import PoolFigures
from app.errors import DatabaseBusyError, DatabaseDisconnectedError, DatabaseUnavailableError
from app.ops import checks
from app.ops.memory import Memory
from app.ops.metrics import Metrics
from app.ops.sampling import CheckResult, Status


class Pinged:
    """A database that is as it is told."""

    def __init__(self, *, is_read_only: bool = False, errors: Sequence[Exception] = ()) -> None:
        self._is_read_only = is_read_only
        self._errors = list(errors)

    def ping(self) -> bool:
        if self._errors:
            raise self._errors.pop(0)
        return self._is_read_only


class Level:
    """Memory that is used as far as the test wants."""

    used = 0.0

    def resident_bytes(self) -> int:
        return 1

    def used_ratio(self) -> float:
        return self.used


def test_a_spool_with_too_little_room_fails_and_its_room_is_measured(tmp_path: Path) -> None:
    metrics = Metrics(version="1")

    enough = checks.room_check(
        "spool", tmp_path / "spool", purpose="uploads", needed_bytes=1, free=metrics.spool_free
    )()
    short = checks.room_check("spool", tmp_path, purpose="uploads", needed_bytes=2**62)()

    assert (enough.status, short.status) == (Status.PASS, Status.FAIL)
    assert short.output == "too little room for uploads"
    assert metrics.spool_free._value.get() > 0


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOSPC, Status.FAIL),
        (errno.EDQUOT, Status.FAIL),
        (errno.EROFS, Status.WARN),
        (errno.EACCES, Status.WARN),
    ],
)
def test_a_spool_that_cannot_be_written_fails_only_for_want_of_room(
    number: int, status: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_named: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)

    assert checks.room_check("spool", tmp_path, purpose="uploads", needed_bytes=1)().status is status


def test_the_memory_check_measures_this_process() -> None:
    metrics = Metrics(version="1")

    result = checks.memory_check(metrics.memory_usage)()

    assert result.observed is not None
    assert 0 < result.observed["used_ratio"] <= 1.5
    assert metrics.memory_usage._value.get() == pytest.approx(Memory().resident_bytes(), rel=0.5)


def test_the_log_check_warns_about_lines_lost_since_the_last_sample() -> None:
    class Figures:
        dropped = 5
        queued = 2

    figures = Figures()
    check = checks.log_check(figures)
    figures.dropped = 7

    assert [check().status, check().status] == [Status.WARN, Status.PASS]


def test_a_call_that_answers_passes() -> None:
    assert checks.answers(lambda: None)().status is Status.PASS


def test_who_is_down_fails_in_words_and_any_other_error_is_the_checks_own() -> None:
    down = checks.answers(lambda: next(iter(())), down=(StopIteration,), says=lambda _error: "nobody answers")
    broken = checks.answers(lambda: next(iter(())), down=(KeyError,), says=lambda _error: "nobody answers")

    assert down() == CheckResult(Status.FAIL, "nobody answers")
    with pytest.raises(StopIteration):
        broken()


@pytest.mark.parametrize(
    ("database", "expected"),
    [
        (Pinged(), CheckResult(Status.PASS)),
        (Pinged(is_read_only=True), CheckResult(Status.WARN, "the database takes reads only")),
        (
            Pinged(errors=[DatabaseBusyError("")]),
            CheckResult(Status.WARN, "all connections are in use; the database was not asked"),
        ),
        (Pinged(errors=[DatabaseDisconnectedError("")]), CheckResult(Status.PASS)),
    ],
    ids=["sound", "read-only", "busy", "one connection died"],
)
def test_a_database_that_answers_is_not_down_whatever_it_answers(database: Pinged, expected: CheckResult) -> None:
    assert checks.database_check(database)() == expected


@pytest.mark.parametrize(
    "errors",
    [[DatabaseUnavailableError("")], [DatabaseDisconnectedError(""), DatabaseDisconnectedError("")]],
    ids=["refuses", "cuts every connection"],
)
def test_a_database_that_does_not_answer_has_failed(errors: Sequence[Exception]) -> None:
    with pytest.raises(DatabaseUnavailableError):
        checks.database_check(Pinged(errors=errors))()


@pytest.mark.parametrize(
    ("figures", "status"),
    [
        (PoolFigures(active=0, idle=3, waiting=0, max_connections=4), Status.PASS),
        (PoolFigures(active=3, idle=0, waiting=0, max_connections=4), Status.PASS),
        (PoolFigures(active=4, idle=0, waiting=0, max_connections=4), Status.WARN),
        (PoolFigures(active=4, idle=0, waiting=2, max_connections=4, timeouts=9), Status.WARN),
    ],
    ids=["idle", "one left", "full", "waited for"],
)
def test_a_pool_warns_as_long_as_it_is_full(figures: PoolFigures, status: Status) -> None:
    result = checks.pool_check(lambda: figures)()

    assert result.status is status
    assert result.observed == {
        "active_connections": figures.active,
        "idle_connections": figures.idle,
        "waiting_requests": figures.waiting,
        "max_connections": figures.max_connections,
        "timeouts_total": figures.timeouts,
    }


def test_memory_swings_neither_in_nor_out() -> None:
    memory = Level()
    check = checks.memory_check(memory=memory)
    seen = []

    for memory.used in (0.5, 0.89, 0.91, 0.88, 0.86, 0.98, 0.95, 0.93, 0.88, 0.96, 0.97, 0.5):
        seen.append(check().status.value)

    assert seen == [
        *("pass", "pass", "warn", "warn", "pass"),
        *("fail", "fail", "warn", "warn", "warn", "fail", "pass"),
    ]


def test_a_pool_of_which_nothing_is_known_warns() -> None:
    def figures() -> PoolFigures:
        raise LookupError

    result = checks.pool_check(figures)()

    assert (result.status, result.output) == (Status.WARN, "nothing is known of the connections")
