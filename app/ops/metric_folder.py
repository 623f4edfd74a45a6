"""Where a process counts: in a file of its own among those of all others, or in memory.

:mod:`app.ops.metrics` asks for it once, before it defines the first metric.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

from prometheus_client import values

from app.ops.metric_collector import FolderCollector
from app.ops.metric_files import Role
from app.ops.metric_values import ValueFile

_log = logging.getLogger(__name__)
_FOLD_AT_START_FROM: Final = 8  # as many dead workers' files may wait for the next scrape


def open_folder(folder: Path | None, role: Role) -> tuple[FolderCollector | None, ValueFile | None]:
    """Let whatever is defined from now on count in a file of this process, or in memory.

    Args:
        folder: Where the files of all processes are; None where each counts in memory.
        role: What this process does; only a worker's gauges are in its file.

    Returns:
        What reads all files, and the file of this process; None where there is none.
    """
    values.ValueClass = values.MutexValue
    if folder is None:
        return None, None
    collector = FolderCollector(folder)
    try:
        file = ValueFile(folder, role)
    except OSError as error:
        _log.warning("no files for metrics (%s): this worker's are not in the totals", error.strerror)
        return collector, None
    in_file = file.value_class()
    values.ValueClass = in_file if role == "worker" else _without_gauges(in_file)
    # A process that starts has often taken a dead one's place: where nobody scrapes, this bounds the folder.
    collector.fold(from_files=_FOLD_AT_START_FROM)
    return collector, file


def _without_gauges(in_file: Any) -> Any:
    def number(typ: str, *arguments: Any, **options: Any) -> Any:
        return (values.MutexValue if typ == "gauge" else in_file)(typ, *arguments, **options)

    return number
