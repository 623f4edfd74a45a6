"""Modes: what this server takes now, and why; entered and left by themselves, or by an operator's word.

==============  ==================================================================================
normal          everything
degraded        all but uploads, or large ones: something that only they need is missing
read_only       what changes nothing; an operator's word lets sessions begin and end besides
==============  ==================================================================================

Each reason has its source (:mod:`app.ops.mode_reasons`), which says for itself what it forbids. An operation declares
what it changes, and is asked about at the door: before anything of its body is read. What is under way when a mode
begins is finished. ``docs/operations/modes.md`` has the whole table.
"""

from __future__ import annotations

import datetime as dt
import enum
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from app.ops.sampling import CheckResult, Status

_log = logging.getLogger(__name__)


class ModeName(enum.StrEnum):
    """The modes, the gravest last."""

    NORMAL = "normal"
    DEGRADED = "degraded"
    READ_ONLY = "read_only"


class Changes(enum.StrEnum):
    """What an operation changes."""

    NOTHING = "nothing"
    SESSIONS = "sessions"
    """Logins begin, go on or end."""

    RECORDS = "records"
    """Anything else that the database holds."""

    BYTES = "bytes"
    """A photo comes in: the spool, the object store and the database."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a mode holds.

    Attributes:
        name: Of a fixed set.
        mode: What it alone would make of the server.
        output: One sentence for operators, without addresses, paths or secrets.
        since: When it began, seconds since 1970; None when that is not known.
        by: Who has said so; empty where nobody had to.
        said: Why, in their words.
        ends_in_seconds: When it ends if nothing else happens; None when no time ends it.
        stops_background: Whether work that nobody waits for stands still.
    """

    name: str
    mode: ModeName
    output: str
    since: float | None = None
    by: str = ""
    said: str = ""
    ends_in_seconds: float | None = None
    stops_background: bool = False


@dataclass(frozen=True, slots=True)
class Mode:
    """What holds at one moment.

    Attributes:
        name: The gravest of its reasons' modes.
        reasons: Why; none in normal.
    """

    name: ModeName = ModeName.NORMAL
    reasons: tuple[Reason, ...] = ()

    @property
    def output(self) -> str:
        """All reasons in a sentence; empty in normal."""
        return "; ".join(reason.output for reason in self.reasons)


class Source(Protocol):
    """Who knows of one reason. Thread-safe."""

    def look(self) -> Reason | None:
        """Return the reason if it holds now; reads memory and the shared page only."""
        ...

    def refuse(self, changes: Changes, size_bytes: int | None) -> None:
        """Raise when what is asked is not done now; about as quick as a look at memory.

        Args:
            changes: What it would change.
            size_bytes: How long its body says it is; None when it does not say.

        Raises:
            UnavailableError: With when to ask again.
        """
        ...


class _Gauge(Protocol):
    def set(self, value: float) -> None: ...


class _GaugeByMode(Protocol):
    def labels(self, *values: str) -> _Gauge: ...


_GRAVITY: Final = {name: gravity for gravity, name in enumerate(ModeName)}


class Modes:
    """The mode of this process, which through the shared page is that of its host. Thread-safe.

    Args:
        sources: Who may know a reason; asked in this order, and the first that refuses is heard.
        gauge: Has a series of 0 or 1 for each mode.
        note_refused: Called when the database has refused a change because it takes none.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        gauge: _GaugeByMode | None = None,
        *,
        note_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._sources = tuple(sources)
        self._gauge = gauge
        self.note_refused = note_refused
        self._last = Mode()

    @property
    def last(self) -> Mode:
        """What held when somebody last looked: within a second where health is sampled."""
        return self._last

    def current(self) -> Mode:
        """Look what holds now, and set the gauge. About 100 µs."""
        reasons = tuple(reason for source in self._sources if (reason := source.look()) is not None)
        name = max((reason.mode for reason in reasons), key=_GRAVITY.__getitem__, default=ModeName.NORMAL)
        mode, before = Mode(name, reasons), self._last
        self._last = mode
        if [reason.name for reason in before.reasons] != [reason.name for reason in reasons]:
            facts = {"before": before.name, "after": name, "reasons": [reason.name for reason in reasons]}
            _log.warning("the mode has changed", extra=facts)
        if self._gauge is not None:
            for each in ModeName:
                self._gauge.labels(each.value).set(float(each is name))
        return mode

    def admit(self, changes: Changes, size_bytes: int | None) -> None:
        """Let a request pass, or refuse it before its body is read.

        Args:
            changes: What its operation changes.
            size_bytes: How long its body says it is; None when it does not say.

        Raises:
            ReadOnlyError: An operator has said that nothing changes now.
            DatabaseReadOnlyError: The database takes no changes.
            SpoolFullError: This host has no room for that upload.
            OverloadedError: It has too little memory for it.
            UnavailableError: The object store takes no photos.
        """
        if changes is Changes.NOTHING:
            return
        for source in self._sources:
            source.refuse(changes, size_bytes)

    def allows_background(self) -> bool:
        """Tell whether work that nobody waits for is done now."""
        return not any(reason.stops_background for reason in self.current().reasons)

    def check(self) -> CheckResult:
        """Look what holds, as a check of health."""
        mode = self.current()
        return CheckResult(Status.PASS if mode.name is ModeName.NORMAL else Status.WARN, mode.output)

    def summary(self) -> dict[str, object]:
        """Return what everybody may know of the mode that held last: its name and those of its reasons."""
        return {"name": self._last.name.value, "reasons": [reason.name for reason in self._last.reasons]}

    def details(self) -> dict[str, object]:
        """Return what operators see of the mode that holds now."""
        mode = self.current()
        return {"name": mode.name.value, "reasons": [describe(reason) for reason in mode.reasons]}


def describe(reason: Reason) -> dict[str, object]:
    """Return what operators see of a reason, made of what JSON has."""
    ends, since = reason.ends_in_seconds, reason.since
    began = None if since is None else dt.datetime.fromtimestamp(since, dt.UTC).isoformat(timespec="seconds")
    return {
        "name": reason.name,
        "mode": reason.mode.value,
        "output": reason.output,
        "since": None if began is None else began.replace("+00:00", "Z"),
        "by": reason.by or None,
        "reason": reason.said or None,
        "ends_in_seconds": None if ends is None else round(ends, 1),
    }
