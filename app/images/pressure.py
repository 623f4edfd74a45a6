"""What is still made of photos while memory is short: less in steps, and more again when memory is back.

::

    level  from     what is left out
    0               nothing
    1      80 %     sharpness: decoders leave out as much as they can, and work on smaller pictures
    2      86 %     AVIF, whose encoder takes the most memory; WebP or JPEG is given instead
    3      92 %     all that is not stored yet: 503 with Retry-After, and background work waits; originals go on

A level begins with the first look that finds it. It ends when memory has been :data:`SWING` below its limit, one
level at a time and each after a stay of :data:`DWELL_SECONDS`: what is left out itself frees memory, and taking it
up at once would bring the shortage back. The levels come before the limits of the health check of memory
(:func:`app.ops.checks.memory_check`): photos are to give way before uploads and before this host.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable
from typing import Final, Protocol

from app.images.presets import Format
from app.stability import SYSTEM_CLOCK, Clock

_log = logging.getLogger(__name__)

LIMITS: Final = (0.80, 0.86, 0.92)
"""Which part of memory is used when levels 1, 2 and 3 begin."""

SWING: Final = 0.04
"""How far memory has to be below a limit before its level ends."""

DWELL_SECONDS: Final = 10.0
"""How long a level lasts at the least."""

_LOOK_SECONDS = 1.0


class Level(enum.IntEnum):
    """How much is left out, the most last."""

    NORMAL = 0
    SHRINK_EARLY = 1
    FEWER_FORMATS = 2
    ORIGINALS_ONLY = 3

    @property
    def shrinks_early(self) -> bool:
        """Whether jobs save memory at some cost of sharpness: :attr:`app.images.jobs.RenderJob.shrinks_early`."""
        return self >= Level.SHRINK_EARLY

    @property
    def renders(self) -> bool:
        """Whether anything is made that is not stored yet."""
        return self < Level.ORIGINALS_ONLY

    def makes(self, image_format: Format) -> bool:
        """Return whether a format is made now; what is stored is given at every level."""
        return self.renders and (self < Level.FEWER_FORMATS or image_format is not Format.AVIF)

    @property
    def output(self) -> str:
        """One sentence for operators; empty in normal."""
        return _OUTPUTS[self]


_OUTPUTS: Final = {
    Level.NORMAL: "",
    Level.SHRINK_EARLY: "memory is short: renditions are made less sharp",
    Level.FEWER_FORMATS: "memory is short: renditions are made less sharp, and not as AVIF",
    Level.ORIGINALS_ONLY: "memory is short: no renditions are made, those that are stored are served",
}


class _Gauge(Protocol):
    def set(self, value: float) -> None: ...


class MemoryPressure:
    """Knows the level. Thread-safe.

    Args:
        used_ratio: Returns how much memory is used of what there may be, 0 to 1; asked once a second at the most.
        clock: Times the stays.
        gauge: Follows the level.
    """

    def __init__(
        self, used_ratio: Callable[[], float], *, clock: Clock = SYSTEM_CLOCK, gauge: _Gauge | None = None
    ) -> None:
        self._used_ratio = used_ratio
        self._clock = clock
        self._gauge = gauge
        self._lock = threading.Lock()
        self._level = Level.NORMAL
        self._changed_at = self._looked_at = float("-inf")
        self._is_blind = False
        if gauge is not None:
            gauge.set(Level.NORMAL)

    @property
    def level(self) -> Level:
        """The level that holds now; looks at memory when the last look is a second old."""
        with self._lock:
            now = self._clock.monotonic()
            if now - self._looked_at >= _LOOK_SECONDS:
                self._looked_at = now
                self._look(now)
            return self._level

    def _look(self, now: float) -> None:
        try:
            used = self._used_ratio()
        except (OSError, ValueError, LookupError):
            if not self._is_blind:
                _log.exception("nobody can tell how much memory is used; renditions are made as before")
            self._is_blind = True
            return
        self._is_blind = False
        reached = Level(sum(used >= limit for limit in LIMITS))
        held = Level(sum(used >= limit - SWING for limit in LIMITS))
        if reached > self._level:
            self._change(reached, used, now)
        elif held < self._level and now - self._changed_at >= DWELL_SECONDS:
            self._change(Level(self._level - 1), used, now)

    def _change(self, level: Level, used: float, now: float) -> None:
        facts = {"before": self._level.name.lower(), "after": level.name.lower(), "used_ratio": round(used, 4)}
        _log.warning("what is made of photos has changed with the memory that is left", extra=facts)
        self._level = level
        self._changed_at = now
        if self._gauge is not None:
            self._gauge.set(level)
