"""Levels of memory pressure: begun at once, left slowly, and what each leaves out."""

from __future__ import annotations

import logging

import pytest

from app.images.presets import Format
from app.images.pressure import DWELL_SECONDS, LIMITS, SWING, Level, MemoryPressure
from tests.fakes.clocks import HandClock


class Gauge:
    """Remembers what it was set to."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def set(self, value: float) -> None:
        self.values.append(value)


class Host:
    """A host whose memory a test fills."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.gauge = Gauge()
        self.used: float | Exception = 0.0
        self.looks = 0
        self.pressure = MemoryPressure(self._used_ratio, clock=self.clock, gauge=self.gauge)

    def at(self, used: float | Exception, *, after: float = 1.0) -> Level:
        """Return the level when memory has been used like this for some seconds."""
        self.used = used
        self.clock.advance(after)
        return self.pressure.level

    def _used_ratio(self) -> float:
        self.looks += 1
        if isinstance(self.used, Exception):
            raise self.used
        return self.used


@pytest.fixture
def host() -> Host:
    return Host()


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what its module has logged; other threads of this process may log, too."""
    return [record for record in caplog.records if record.name == MemoryPressure.__module__]


@pytest.mark.parametrize(
    ("used", "level"),
    [
        (0.0, Level.NORMAL),
        (LIMITS[0] - 0.001, Level.NORMAL),
        (LIMITS[0], Level.SHRINK_EARLY),
        (LIMITS[1], Level.FEWER_FORMATS),
        (LIMITS[2], Level.ORIGINALS_ONLY),
        (1.0, Level.ORIGINALS_ONLY),
    ],
    ids=str,
)
def test_a_level_begins_with_the_first_look_that_finds_it(host: Host, used: float, level: Level) -> None:
    assert host.at(used) is level


def test_a_level_is_left_one_at_a_time_each_after_its_stay(host: Host) -> None:
    assert host.at(0.99) is Level.ORIGINALS_ONLY

    assert host.at(0.1, after=DWELL_SECONDS - 1) is Level.ORIGINALS_ONLY
    assert host.at(0.1) is Level.FEWER_FORMATS
    assert host.at(0.1) is Level.FEWER_FORMATS
    assert host.at(0.1, after=DWELL_SECONDS) is Level.SHRINK_EARLY
    assert host.at(0.1, after=DWELL_SECONDS) is Level.NORMAL
    assert host.gauge.values == [0, 3, 2, 1, 0]


def test_memory_that_swings_about_a_limit_changes_nothing_after_the_first_time(host: Host) -> None:
    levels = {host.at(used, after=DWELL_SECONDS) for used in [LIMITS[1], LIMITS[1] - SWING] * 50}

    assert levels == {Level.FEWER_FORMATS}
    assert host.gauge.values == [0, 2]


def test_a_level_ends_below_the_swing(host: Host) -> None:
    host.at(LIMITS[0])

    assert host.at(LIMITS[0] - SWING - 0.001, after=DWELL_SECONDS) is Level.NORMAL


def test_memory_that_runs_short_again_while_levels_are_left_is_believed_at_once(host: Host) -> None:
    host.at(LIMITS[2])
    host.at(0.1, after=DWELL_SECONDS)

    assert host.at(LIMITS[2]) is Level.ORIGINALS_ONLY
    assert host.at(0.1, after=DWELL_SECONDS - 1) is Level.ORIGINALS_ONLY


def test_memory_is_looked_at_once_a_second_however_often_it_is_asked(host: Host) -> None:
    for _ in range(100):
        host.at(0.5, after=0.05)

    assert 4 <= host.looks <= 6


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("x"), KeyError("MemTotal:")], ids=repr)
def test_figures_that_cannot_be_read_leave_the_level_and_are_logged_once(
    host: Host, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    host.at(LIMITS[0])
    caplog.clear()

    levels = {host.at(error, after=DWELL_SECONDS) for _ in range(5)}

    assert levels == {Level.SHRINK_EARLY}
    assert [record.levelname for record in said(caplog)] == ["ERROR"]


def test_each_change_is_logged_with_what_was_and_what_is(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    host.at(0.95)

    record = said(caplog)[0]
    facts = {name: vars(record)[name] for name in ("before", "after", "used_ratio")}
    assert facts == {"before": "normal", "after": "originals_only", "used_ratio": 0.95}


def test_each_level_leaves_out_what_the_one_before_it_does_and_more() -> None:
    shrinking = [level.shrinks_early for level in Level]
    formats = [{image_format for image_format in Format if level.makes(image_format)} for level in Level]

    assert shrinking == [False, True, True, True]
    assert formats == [set(Format), set(Format), {Format.JPEG, Format.WEBP}, set()]
    assert [level.renders for level in Level] == [True, True, True, False]


def test_operators_read_of_every_level_but_the_normal_one() -> None:
    assert [bool(level.output) for level in Level] == [False, True, True, True]
    assert len({level.output for level in Level}) == len(Level)
