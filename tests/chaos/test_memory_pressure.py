"""Row 40 as the door sees it: what is refused while memory is short, and that it comes back late enough to stay."""

from __future__ import annotations

from pathlib import Path

from app.errors import OverloadedError
from app.ops import checks
from app.ops.memory import Memory
from app.ops.mode_reasons import SMALL_BYTES, LastResult, MemoryLeft
from app.ops.modes import Changes
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
        files = {
            "proc/meminfo": f"MemTotal: 100 kB\nMemAvailable: {available} kB\n",
            "proc/self/statm": "50 10 5 1 0 9 0\n",
        }
        write_tree(tmp_path, files)
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


def is_refused(source: MemoryLeft, changes: Changes, size_bytes: int | None) -> bool:
    try:
        source.refuse(changes, size_bytes)
    except OverloadedError:
        return True
    return False
