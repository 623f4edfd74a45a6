"""Row 40 as the door sees it: what is refused while memory is short, and that it comes back late enough to stay.

Renditions give way before uploads do.
"""

from __future__ import annotations

from pathlib import Path

from app.errors import OverloadedError
from app.images.presets import Format
from app.images.pressure import DWELL_SECONDS, LIMITS, Level, MemoryPressure
from app.ops import checks
from app.ops.memory import Memory
from app.ops.mode_reasons import SMALL_BYTES, LastResult, MemoryLeft
from app.ops.modes import Changes
from tests.fakes.clocks import HandClock
from tests.house.source import write_tree


def test_row_40_short_memory_refuses_large_uploads_alone_until_there_is_clearly_more(tmp_path: Path) -> None:
    check = LastResult(checks.memory_check(memory=Memory(tmp_path / "proc", tmp_path / "groups")))
    source = MemoryLeft(check)
    asked: list[tuple[Changes, int | None]] = [
        (Changes.BYTES, SMALL_BYTES + 1),
        (Changes.BYTES, None),
        (Changes.BYTES, SMALL_BYTES),
        (Changes.RECORDS, None),
    ]
    seen = {}

    for available in (50, 8, 12, 14, 2, 5, 7):
        leave_memory(tmp_path, available)
        check()
        reason = source.look()
        refused = [is_refused(source, *each) for each in asked]
        seen[available] = (refused, reason is not None and reason.stops_background)

    none, large = [False] * 4, [True, True, False, False]
    assert seen == {
        50: (none, False),
        8: (large, False),
        12: (large, False),  # short from 90 % on, until below 87 %
        14: (none, False),
        2: (large, True),
        5: (large, True),  # red from 97 % on, until below 94 %
        7: (large, False),
    }


def test_row_40_derived_work_gives_way_in_steps_before_uploads_do_and_comes_back_one_by_one(tmp_path: Path) -> None:
    clock, memory = HandClock(), Memory(tmp_path / "proc", tmp_path / "groups")
    pressure = MemoryPressure(memory.used_ratio, clock=clock)
    check = LastResult(checks.memory_check(memory=memory))
    uploads = MemoryLeft(check)
    seen = []

    for available in (50, 19, 13, 7, *[50] * 4):
        leave_memory(tmp_path, available)
        clock.advance(DWELL_SECONDS)
        check()
        level = pressure.level
        made = {image_format for image_format in Format if level.makes(image_format)}
        seen.append((level, made, is_refused(uploads, Changes.BYTES, None)))

    fewer = {Format.JPEG, Format.WEBP}
    assert seen == [
        (Level.NORMAL, set(Format), False),
        (Level.SHRINK_EARLY, set(Format), False),
        (Level.FEWER_FORMATS, fewer, False),
        (Level.ORIGINALS_ONLY, set(), True),
        (Level.FEWER_FORMATS, fewer, False),
        (Level.SHRINK_EARLY, set(Format), False),
        (Level.NORMAL, set(Format), False),
        (Level.NORMAL, set(Format), False),
    ]


def test_row_40_without_hysteresis_derived_work_would_come_and_go_with_every_look(tmp_path: Path) -> None:
    clock, memory = HandClock(), Memory(tmp_path / "proc", tmp_path / "groups")
    pressure = MemoryPressure(memory.used_ratio, clock=clock)
    protected, bare = [], []

    for available in (7, 9) * 20:
        leave_memory(tmp_path, available)
        clock.advance(DWELL_SECONDS)
        protected.append(pressure.level)
        bare.append(sum(memory.used_ratio() >= limit for limit in LIMITS))

    assert set(protected) == {Level.ORIGINALS_ONLY}
    assert bare == [3, 2] * 20


def leave_memory(folder: Path, available: int) -> None:
    """Let so many of 100 kB be available."""
    meminfo = f"MemTotal: 100 kB\nMemAvailable: {available} kB\n"
    write_tree(folder, {"proc/meminfo": meminfo, "proc/self/statm": "50 10 5 1 0 9 0\n"})


def is_refused(source: MemoryLeft, changes: Changes, size_bytes: int | None) -> bool:
    try:
        source.refuse(changes, size_bytes)
    except OverloadedError:
        return True
    return False
