"""The clock that everything reads: never back, and waiting as long as it was told."""

from __future__ import annotations

import time

import pytest

from app.stability.clock import SYSTEM_CLOCK, Clock, SystemClock
from tests.fakes.clocks import HandClock


def test_the_systems_clock_never_goes_back() -> None:
    instants = [SYSTEM_CLOCK.monotonic() for _ in range(1000)]

    assert instants == sorted(instants)


def test_the_systems_clock_is_the_one_that_all_processes_of_a_host_share() -> None:
    before = time.monotonic()

    now = SYSTEM_CLOCK.monotonic()

    assert before <= now <= time.monotonic()


def test_reading_the_systems_clock_costs_no_frame() -> None:
    assert SYSTEM_CLOCK.monotonic is time.monotonic
    assert SystemClock().sleep is time.sleep


def test_a_wait_is_at_least_as_long_as_asked() -> None:
    before = SYSTEM_CLOCK.monotonic()

    SYSTEM_CLOCK.sleep(0.001)

    assert SYSTEM_CLOCK.monotonic() - before >= 0.001


def test_the_systems_clock_holds_nothing_that_could_be_changed() -> None:
    with pytest.raises(AttributeError):
        SYSTEM_CLOCK.monotonic = lambda: 0.0  # type: ignore[misc]  # what is tested


def test_a_clock_moved_by_hand_can_stand_in_for_it() -> None:
    clock: Clock = HandClock()
    start = clock.monotonic()

    clock.sleep(5)

    assert clock.monotonic() == start + 5
