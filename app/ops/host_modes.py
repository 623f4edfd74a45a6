"""All reasons for a mode that a process of this host knows, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from app.images.pressure import MemoryPressure
from app.ops import checks
from app.ops.host_board import MODES, HostBoard
from app.ops.memory import Memory
from app.ops.mode_reasons import (
    DatabaseWord,
    LastResult,
    MemoryLeft,
    OperatorWord,
    RenditionsLeft,
    SpoolRoom,
    StorageWrites,
    free_bytes,
)
from app.ops.modes import Modes, Source
from app.stability import CircuitBreaker

if TYPE_CHECKING:
    from prometheus_client import Gauge

    from app.ops.state import StatePage
    from app.settings import UploadSettings


class ModeMetrics(Protocol):
    """Metrics that follow modes and what leads to them; :class:`app.ops.metrics.Metrics` has them."""

    mode: Gauge
    spool_free: Gauge
    memory_usage: Gauge
    degrade_level: Gauge


class HostModes:
    """What this host takes now, and why.

    Args:
        page: The page of this host's processes; None for a process without a server.
        uploads: Where uploads wait, and how large they may be.
        metrics: What follows.
        storage_writes: The breaker before the store's writes; None where there is none.

    Attributes:
        board: What was decided about modes on that page; None without one.
        operator_word: What operators have said of the mode.
        database_word: Whether the database takes changes.
        spool: The check of the spool, and its last result.
        memory: The check of memory, and its last result.
        pressure: How much of renditions is made now; whoever looks at the modes keeps it up to date.
        modes: What this host takes now.
    """

    def __init__(
        self,
        page: StatePage | None,
        uploads: UploadSettings,
        metrics: ModeMetrics,
        storage_writes: CircuitBreaker | None,
    ) -> None:
        self.board = None if page is None else HostBoard(page, prefix=MODES)
        self.operator_word, self.database_word = OperatorWord(self.board), DatabaseWord(self.board)
        self.spool = LastResult(
            checks.room_check(
                "spool",
                uploads.spool_dir,
                purpose="uploads",
                needed_bytes=2 * uploads.max_bytes,
                free=metrics.spool_free,
            )
        )
        self.memory = LastResult(checks.memory_check(metrics.memory_usage))
        sources: list[Source] = [self.operator_word, self.database_word]
        if storage_writes is not None:
            sources.append(StorageWrites(storage_writes))
        room = SpoolRoom(self.spool, lambda: free_bytes(uploads.spool_dir), uploads.max_bytes)
        self.pressure = MemoryPressure(Memory().used_ratio, gauge=metrics.degrade_level)
        sources += [room, MemoryLeft(self.memory), RenditionsLeft(lambda: self.pressure.level.output)]
        self.modes = Modes(sources, metrics.mode, note_refused=self.database_word.note_refused)
