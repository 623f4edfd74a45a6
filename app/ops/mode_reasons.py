"""Where the reasons of modes come from: an operator, the database, the object store's breaker, the spool, memory.

What one process knows of the database, or an operator has said, stands on the board of modes of this host
(:class:`app.ops.host_board.HostBoard` with ``MODES``) and holds in all of its workers with their next request;
breakers have a board of their own. Of the spool and of memory each process takes samples for itself. Where there is
no page, or it is lost, a process goes by what it knows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from app.errors import (
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    OverloadedError,
    ReadOnlyError,
    SpoolFullError,
    UnavailableError,
)
from app.ops.host_board import DATABASE, READ_ONLY, BoardEntry, HostBoard
from app.ops.modes import Changes, ModeName, Reason
from app.ops.sampling import Check, CheckResult, Status
from app.stability import SYSTEM_CLOCK, BreakerSnapshot, CallRefusedError, Clock, Decision, State

SMALL_BYTES: Final = 1024 * 1024
"""Uploads up to this size need no spool, and are taken on a host that is short of room or memory."""

FOR_SECONDS_MAX: Final = 86_400.0
"""For how long an operator may say something that ends by itself."""

NORMAL: Final = "normal"
"""What an operator says to take back what was said before."""

_OPERATOR = "operator"
_TRIES = 5
_DATABASE_SECONDS = 2.0
_OPERATOR_SECONDS = 30.0
_LOCAL_SECONDS = 5.0
_STORE_SECONDS = 2.0
_STORE_SECONDS_UNKNOWN = 10.0
_WAIT_SECONDS_MAX = 600.0  # a client that waits for the end of a long window would never notice an early one
_BARRED = frozenset({State.OPEN, State.FORCED_OPEN})
_TRYING = frozenset({State.HALF_OPEN, State.FORCED_HALF_OPEN})
_READ_ONLY_DETAIL = "Nothing can be changed just now; reading works. Try again in a moment."


class _Word:
    """One entry of the board of modes, and the last that was heard of it."""

    def __init__(self, name: str, board: HostBoard | None) -> None:
        self._name = name
        self._board = board
        self._last: Decision | None = None

    def read(self) -> Decision | None:
        said = None if self._board is None else self._board.read(self._name)
        if said is not None:
            self._last = said
        return self._last

    def entry(self) -> BoardEntry:
        """Return the decision with its time, which only a look at the whole page gives."""
        entries = None if self._board is None else self._board.entries()
        found = (entries or {}).get(self._name)
        return BoardEntry(self.read()) if found is None or found.decision is None else found

    def decide(self, state: str, *, until: float = math.inf, by: str, reason: str = "") -> bool:
        """Let a state hold; False when it could not be said to the other processes of this host."""
        standing = self.read()
        for _ in range(_TRIES):
            mine = Decision(1 if standing is None else standing.era + 1, state, 0, until, by, reason)
            held = None if self._board is None else self._board.decide(self._name, mine)
            if held is mine:
                self._last = mine
                return True
            if held is None:
                return False
            standing = held
        return False

    def remember(self, state: str, by: str) -> None:
        """Let a state hold in this process, until the page says something."""
        self._last = Decision(1, state, 0, math.inf, by)


class OperatorWord:
    """What an operator has said. A source of modes; thread-safe.

    Args:
        board: Of modes, of this host; None without a server.
        clock: Times the end of what was said.
    """

    def __init__(self, board: HostBoard | None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._word = _Word(_OPERATOR, board)
        self._clock = clock

    def look(self) -> Reason | None:
        """Return the reason while what was said holds."""
        entry = self._word.entry()
        decision = entry.decision
        if decision is None or not self._holds(decision):
            return None
        return Reason(
            _OPERATOR,
            ModeName.READ_ONLY,
            "an operator has said that nothing changes now",
            since=entry.decided_at or None,
            by=decision.by,
            said=decision.reason,
            ends_in_seconds=self._left_seconds(decision),
            stops_background=True,
        )

    def refuse(self, changes: Changes, size_bytes: int | None) -> None:
        """Refuse every change but those of sessions: who may read has to be able to log in."""
        del size_bytes
        decision = self._word.read()
        if decision is None or changes is Changes.SESSIONS or not self._holds(decision):
            return
        left = self._left_seconds(decision)
        wait = _OPERATOR_SECONDS if left is None else min(left, _WAIT_SECONDS_MAX)
        raise ReadOnlyError(_READ_ONLY_DETAIL, retry_after_seconds=wait)

    def say(self, state: str, *, seconds: float | None, by: str, reason: str) -> str:
        """Let something hold in all workers of this host, and return what held before.

        Args:
            state: ``READ_ONLY``, or ``NORMAL`` to take it back.
            seconds: With ``READ_ONLY``: for how long; until it is taken back when None.
            by: Who says so.
            reason: Why.

        Raises:
            UnavailableError: The shared page is lost; nothing was said.
        """
        standing = self._word.read()
        before = READ_ONLY if standing is not None and self._holds(standing) else NORMAL
        if before == state == NORMAL:
            return before
        until = math.inf if seconds is None or state == NORMAL else self._clock.monotonic() + seconds
        if not self._word.decide(state, until=until, by=by, reason=reason):
            raise UnavailableError(
                "The workers' shared page cannot be read or written, or changes faster than this. Nothing was "
                "changed. Try again."
            )
        return before

    def _holds(self, decision: Decision) -> bool:
        return decision.state == READ_ONLY and self._clock.monotonic() < decision.until

    def _left_seconds(self, decision: Decision) -> float | None:
        return None if math.isinf(decision.until) else decision.until - self._clock.monotonic()


class DatabaseWord:
    """Whether the database takes changes, as all workers of this host have seen. A source of modes; thread-safe.

    It says no from the first change that the database refuses, and yes from the first one that it takes:
    :meth:`check` tries one that changes nothing, as long as the word is no, or in doubt.

    Args:
        board: Of modes, of this host; None without a server.
    """

    def __init__(self, board: HostBoard | None) -> None:
        self._word = _Word(DATABASE, board)
        self._is_doubted = False

    @property
    def is_read_only(self) -> bool:
        """Whether it takes no changes."""
        decision = self._word.read()
        return decision is not None and decision.state == READ_ONLY

    def look(self) -> Reason | None:
        """Return the reason while the database takes no changes."""
        if not self.is_read_only:
            return None
        return Reason(
            DATABASE,
            ModeName.READ_ONLY,
            "the database takes no changes",
            since=self._word.entry().decided_at or None,
            stops_background=True,
        )

    def refuse(self, changes: Changes, size_bytes: int | None) -> None:
        """Refuse every change."""
        del changes, size_bytes
        if self.is_read_only:
            raise DatabaseReadOnlyError(_READ_ONLY_DETAIL, retry_after_seconds=_DATABASE_SECONDS)

    def doubt(self) -> None:
        """Let the next :meth:`check` find out whether changes are taken."""
        self._is_doubted = True

    def note_refused(self) -> None:
        """Say that the database has refused a change because it takes none."""
        if not self.is_read_only:
            self._say(READ_ONLY)

    def check(self, change_nothing: Callable[[], None]) -> Check:
        """Return a check that leaves this mode, and enters it where it was doubted: one small write while needed.

        Args:
            change_nothing: Makes a change that changes nothing; raises ``DatabaseReadOnlyError`` when none is taken.
        """

        def check() -> CheckResult:
            if not self._is_doubted and not self.is_read_only:
                return CheckResult(Status.PASS)
            self._is_doubted = False
            try:
                change_nothing()
            except DatabaseReadOnlyError:
                self.note_refused()
                return CheckResult(Status.WARN, "the database takes no changes")
            except DatabaseUnavailableError:
                return CheckResult(Status.WARN, "whether the database takes changes cannot be told")
            if self.is_read_only:
                self._say(NORMAL)
            return CheckResult(Status.PASS)

        return check

    def _say(self, state: str) -> None:
        if not self._word.decide(state, by=DATABASE):
            self._word.remember(state, DATABASE)


class _Permit(Protocol):
    def release(self) -> None: ...


class WriteBreaker(Protocol):
    """What is asked of the breaker before the object store; a :class:`app.stability.CircuitBreaker` is one."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def snapshot(self) -> BreakerSnapshot:
        """Return how it stands now."""
        ...

    def acquire(self) -> _Permit:
        """Return a permit for a call, or raise a :class:`app.stability.CallRefusedError`."""
        ...


class StorageWrites:
    """Whether the object store takes photos, by the breaker before it. A source of modes; thread-safe.

    While the breaker lets trial calls through, uploads pass: they are those calls.

    Args:
        breaker: The one before writing.
    """

    def __init__(self, breaker: WriteBreaker) -> None:
        self._breaker = breaker

    def look(self) -> Reason | None:
        """Return the reason while the breaker is not closed."""
        now = self._breaker.snapshot()
        if now.state not in _BARRED | _TRYING:
            return None
        output = f"the circuit breaker {now.name} is {now.state.value}"
        return Reason("storage_writes", ModeName.DEGRADED, output, ends_in_seconds=now.remaining_seconds)

    def refuse(self, changes: Changes, size_bytes: int | None) -> None:
        """Refuse uploads while the breaker would: it refuses itself, so that its figures tell of each of them."""
        del size_bytes
        if changes is not Changes.BYTES:
            return
        now = self._breaker.snapshot()
        if now.state not in _BARRED or now.remaining_seconds == 0:
            return
        try:
            self._breaker.acquire().release()
        except CallRefusedError as refusal:
            said = refusal.retry_after_seconds
            wait = _STORE_SECONDS_UNKNOWN if said is None or math.isinf(said) else max(_STORE_SECONDS, said)
            raise UnavailableError(
                "Photos cannot be stored just now; nothing of this one was read. Send it again.",
                retry_after_seconds=min(wait, _WAIT_SECONDS_MAX),
            ) from refusal


class LastResult:
    """A check whose last result can be asked for. Thread-safe.

    Args:
        check: The check.
    """

    def __init__(self, check: Check) -> None:
        self._check = check
        self._last = CheckResult(Status.PASS)

    @property
    def last(self) -> CheckResult:
        """What it found last; a pass before that."""
        return self._last

    def __call__(self) -> CheckResult:
        """Check."""
        self._last = result = self._check()
        return result


class SpoolRoom:
    """Whether this host has room for incoming bodies. A source of modes; thread-safe.

    Args:
        spool: The check of the spool, which fails when room is short.
        room: Returns how many bytes are free there at this moment; None when that cannot be told.
        max_bytes: The largest upload, which one that does not say its length may become.
    """

    def __init__(self, spool: LastResult, room: Callable[[], int | None], max_bytes: int) -> None:
        self._spool = spool
        self._room = room
        self._max_bytes = max_bytes

    def look(self) -> Reason | None:
        """Return the reason while room is short."""
        last = self._spool.last
        return Reason("spool", ModeName.DEGRADED, last.output) if last.status is Status.FAIL else None

    def refuse(self, changes: Changes, size_bytes: int | None) -> None:
        """Refuse uploads that need the spool and do not fit into what is free there at this moment."""
        if not _is_large_upload(changes, size_bytes):
            return
        room = self._room()
        if room is not None and room < min(size_bytes or self._max_bytes, self._max_bytes):
            raise SpoolFullError(
                "This server has no room for that upload just now. Try again in a moment.",
                retry_after_seconds=_LOCAL_SECONDS,
            )


def free_bytes(folder: Path) -> int | None:
    """Return how many bytes are free where a folder is; None when that cannot be told."""
    try:
        figures = os.statvfs(folder)
    except OSError:
        return None
    return figures.f_bavail * figures.f_frsize


class MemoryLeft:
    """Whether this host has memory left. A source of modes; thread-safe.

    Args:
        memory: The check of memory, which warns when it is short and fails when almost none is left.
    """

    def __init__(self, memory: LastResult) -> None:
        self._memory = memory

    def look(self) -> Reason | None:
        """Return the reason while memory is short; work that nobody waits for stops when almost none is left."""
        last = self._memory.last
        if last.status is Status.PASS:
            return None
        is_red = last.status is Status.FAIL
        return Reason("memory", ModeName.DEGRADED, last.output, stops_background=is_red)

    def refuse(self, changes: Changes, size_bytes: int | None) -> None:
        """Refuse large uploads, and those that do not say how large they are."""
        if _is_large_upload(changes, size_bytes) and self._memory.last.status is not Status.PASS:
            raise OverloadedError(
                f"This server takes no photo of more than {SMALL_BYTES} bytes just now. Try again in a moment.",
                retry_after_seconds=_LOCAL_SECONDS,
            )


class RenditionsLeft:
    """Whether all renditions are made as they should be. A source of modes; thread-safe.

    Args:
        left_out: Returns what is left out of them now to save memory, in a sentence; empty when nothing is.
    """

    def __init__(self, left_out: Callable[[], str]) -> None:
        self._left_out = left_out

    def look(self) -> Reason | None:
        """Return the reason while something is left out."""
        output = self._left_out()
        return Reason("renditions", ModeName.DEGRADED, output) if output else None

    def refuse(self, changes: Changes, size_bytes: int | None) -> None:
        """Refuse nothing: uploads need no rendition, and whoever asks for one is told by who makes them."""


def _is_large_upload(changes: Changes, size_bytes: int | None) -> bool:
    return changes is Changes.BYTES and (size_bytes is None or size_bytes > SMALL_BYTES)
