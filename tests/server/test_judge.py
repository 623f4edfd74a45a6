"""The judge of a reload: a verdict by exit code, every mistake in the log, and no verdict that never comes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from app.errors import ConfigurationError
from app.server.judge import ReloadJudge
from tests.fakes.clocks import HandClock


def wrong() -> None:
    raise ConfigurationError(["one", "two"])


def broken() -> None:
    raise ValueError("on purpose")


@pytest.mark.parametrize(("judge", "is_right"), [(lambda: None, True), (wrong, False), (broken, False)])
def test_settings_are_right_when_nothing_is_raised(judge: Callable[[], object], *, is_right: bool) -> None:
    trial = ReloadJudge(judge)

    trial.start()
    _, status = os.waitpid(trial.pid, 0)

    assert trial.ended(os.waitstatus_to_exitcode(status)) is is_right
    assert trial.pid == 0


def test_who_was_killed_has_not_said_yes() -> None:
    clock = HandClock()
    trial = ReloadJudge(signal.pause, clock.monotonic)

    trial.start()
    clock.advance(59)
    in_time = trial.is_overdue()
    clock.advance(1)
    late = trial.is_overdue()
    os.kill(trial.pid, signal.SIGKILL)
    _, status = os.waitpid(trial.pid, 0)

    assert (in_time, late) == (False, True)
    assert not trial.ended(os.waitstatus_to_exitcode(status))
    assert not trial.is_overdue()
