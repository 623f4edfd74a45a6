"""The boards of this host, on the state page: what one worker decides holds in all of them.

One board is that of the circuit breakers, the other that of modes (:mod:`app.ops.mode_reasons`), which knows no trial
calls. Each breaker has one entry: the decision that holds, and how the trial calls of its era stand. Both change in
one write, so that they belong together whoever dies when. Whatever the page cannot answer is None, and the breaker
that asked goes on by itself.

Each process remembers what it has last read and written, of all breakers, and puts it back when the page has
forgotten it: was cut off, overwritten, or made anew. On a page that forgets nothing eras only grow, so what is
remembered comes back only when the page says nothing, or something of no higher era that was decided earlier; in
any other case the page is right. What was decided on a page after it had forgotten stays, and of two processes of
which one remembers a later decision, that one has the last word.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Final

from app.ops.owners import boot_id
from app.ops.state import StatePage
from app.stability.board import Decision, ProbeCounts
from app.stability.clock import SYSTEM_CLOCK, Clock

BREAKER_NAME_BYTES_MAX: Final = 64
"""How long a breaker's name may be, in UTF-8, to be shared."""

REASON_BYTES_MAX: Final = 200
"""How much of a reason is kept."""

BREAKERS: Final = "breaker/"
"""How the names of the entries of circuit breakers begin."""

MODES: Final = "mode/"
"""How the names of the entries about modes begin."""

READ_ONLY: Final = "read_only"
"""The state of an entry about a mode that forbids changes; any other one allows them."""

DATABASE: Final = "database"
"""Who has decided, where the database has shown that it takes no changes, or takes them again."""

_BY_BYTES_MAX = 64
_STATE_BYTES_MAX = 24
_BY_THEMSELVES = frozenset({"breaker", DATABASE})
_RECORD: Final = struct.Struct("<QIdd4I3B")
_COUNT_MAX = 2**32 - 1
_LOOK_AROUND_SECONDS = 1.0
_ENDLESS_STATES = frozenset({"disabled", "metrics_only", "forced_open", "forced_half_open"})
_ENDING_STATES = frozenset({"open", READ_ONLY})


_NONE_COUNTED = ProbeCounts(0, 0, 0)


@dataclass(frozen=True, slots=True)
class BoardEntry:
    """What the board says of one breaker.

    Attributes:
        decision: What holds; None when nothing was decided yet.
        decided_at: When that was decided, seconds since 1970; 0.0 when nothing was.
        taken: How many trial calls of its era are given out or finished.
        counts: How the finished ones went.
    """

    decision: Decision | None = None
    decided_at: float = 0.0
    taken: int = 0
    counts: ProbeCounts = _NONE_COUNTED

    @property
    def era(self) -> int:
        """Number of the decision that holds; 0 when none does."""
        return 0 if self.decision is None else self.decision.era

    def is_forgotten_by(self, page: BoardEntry) -> bool:
        """Whether this, which was once on the page, has to be put back in place of what the page says now."""
        return self.era > 0 and (page.era == 0 or (page.era <= self.era and page.decided_at < self.decided_at))


class HostBoard:
    """A :class:`app.stability.board.Board` on a state page. Thread-safe.

    Args:
        page: Of this host.
        prefix: Which board: how the names of its entries begin on the page.
        now: The wall clock, for showing when something was decided and for telling which of two is the later.
        clock: Times how often it looks at what the page says of all breakers.
    """

    def __init__(
        self,
        page: StatePage,
        *,
        prefix: str = BREAKERS,
        now: Callable[[], float] = time.time,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._page = page
        self._prefix = prefix
        self._now = now
        self._monotonic = clock.monotonic
        self._remembered: dict[str, BoardEntry] = {}
        self._look_around_at = -inf

    @property
    def works(self) -> bool:
        """Whether what is decided here holds in all workers, as far as is known."""
        return self._page.works

    def announce(self, names: Iterable[str]) -> None:
        """Say which breakers there are, so that operators find them before anything is decided about them."""
        for name in names:
            self._change(name, lambda entry: entry if entry.era == 0 else None)

    def entries(self) -> dict[str, BoardEntry] | None:
        """Return every breaker that was announced or decided about; None when the page is lost.

        What the page has forgotten and this process remembers is put back first.
        """
        self._look_around_at = self._monotonic() + _LOOK_AROUND_SECONDS
        said = self._page.entries()
        if said is None:
            return None
        found = {
            name.removeprefix(self._prefix): read_entry(raw)
            for name, raw in said.items()
            if name.startswith(self._prefix)
        }
        for name, entry in found.items():
            self._remember(name, entry)
        for name in tuple(self._remembered):
            if self._is_forgotten(name, found.get(name)) and self._change(name, lambda _: None):
                found[name] = self._remembered[name]
        return found

    def read(self, name: str) -> Decision | None:
        """Return what holds for a breaker; None when nothing was decided yet, or the page is lost."""
        if not _is_sharable(name):
            return None
        raw = self._page.read(self._prefix + name)
        found = None if raw is None else read_entry(raw)
        if self._is_forgotten(name, found) or self._monotonic() >= self._look_around_at:
            found = (self.entries() or {}).get(name, found)
        if found is None:
            return None
        self._remember(name, found)
        return found.decision

    def decide(self, name: str, decision: Decision) -> Decision | None:
        """Write a decision if it follows what holds; see :meth:`app.stability.board.Board.decide`."""
        standing: list[Decision] = []

        def decided(entry: BoardEntry) -> BoardEntry | None:
            if entry.decision is not None and decision.era != entry.era + 1:
                standing.append(entry.decision)
                return None
            standing.append(decision)
            return BoardEntry(decision, self._now())

        if not self._change(name, decided):
            return None
        return standing[0]

    def take_probe(self, name: str, era: int, limit: int) -> bool | None:
        """Take one of ``limit`` trial calls of an era; see :meth:`app.stability.board.Board.take_probe`."""
        granted: list[bool] = []

        def taken(entry: BoardEntry) -> BoardEntry | None:
            if entry.era != era:
                return None
            granted.append(entry.taken < limit)
            return replace(entry, taken=entry.taken + 1) if granted[0] else None

        if not self._change(name, taken) or not granted:
            return None
        return granted[0]

    def return_probe(self, name: str, era: int) -> None:
        """Give a trial call back that came to no result; nothing happens when another era holds."""

        def given_back(entry: BoardEntry) -> BoardEntry | None:
            return replace(entry, taken=entry.taken - 1) if entry.era == era and entry.taken else None

        self._change(name, given_back)

    def record_probe(self, name: str, era: int, *, failed: bool, slow: bool) -> ProbeCounts | None:
        """Count the result of a trial call; see :meth:`app.stability.board.Board.record_probe`."""
        counted: list[ProbeCounts] = []

        def recorded(entry: BoardEntry) -> BoardEntry | None:
            if entry.era != era:
                return None
            before = entry.counts
            counted.append(ProbeCounts(before.results + 1, before.failures + failed, before.slow + slow))
            return replace(entry, counts=counted[0])

        if not self._change(name, recorded) or not counted:
            return None
        return counted[0]

    def _change(self, name: str, changed: Callable[[BoardEntry], BoardEntry | None]) -> bool:
        if not _is_sharable(name):
            return False
        holds: list[BoardEntry] = []

        def rewritten(raw: bytes | None) -> bytes | None:
            found = None if raw is None else read_entry(raw)
            is_forgotten = self._is_forgotten(name, found)
            before = self._remembered[name] if is_forgotten else found or BoardEntry()
            after = changed(before)
            if after is None and not is_forgotten:
                holds.extend([] if found is None else [found])
                return None
            holds.append(after or before)
            return pack_entry(holds[0])

        is_done = self._page.change(self._prefix + name, rewritten)
        if is_done and holds:
            self._remember(name, holds[0])
        return is_done

    def _is_forgotten(self, name: str, found: BoardEntry | None) -> bool:
        remembered = self._remembered.get(name)
        if remembered is None:
            return False
        return found is None or remembered.is_forgotten_by(found)

    def _remember(self, name: str, entry: BoardEntry) -> None:
        if not self._is_forgotten(name, entry):  # another thread may have written since this one has read
            self._remembered[name] = entry


def operators_entries(page: StatePage, monotonic: float) -> dict[str, bytes]:
    """Return what a new page takes over from an old one: what operators said and what still holds.

    Args:
        page: The old one.
        monotonic: The instant now; what ends later was said in the same boot of the host, or is dropped.
    """
    header = page.header
    if header is None:
        return {}
    ends_count = header.boot_id == boot_id() != ""
    kept = {}
    for prefix in (BREAKERS, MODES):
        for name, entry in (HostBoard(page, prefix=prefix).entries() or {}).items():
            decision = entry.decision
            if decision is None or decision.by in _BY_THEMSELVES:
                continue
            lasts = isfinite(decision.until) and decision.state in _ENDING_STATES
            is_endless = decision.state in _ENDLESS_STATES or (decision.state == READ_ONLY and not lasts)
            if is_endless or (lasts and ends_count and monotonic < decision.until):
                kept[prefix + name] = pack_entry(BoardEntry(decision, entry.decided_at))
    return kept


def pack_entry(entry: BoardEntry) -> bytes:
    """Return the payload of an entry; texts that are too long are cut."""
    decision = entry.decision or Decision(0, "", 0, 0.0, "")
    counts = entry.counts
    state, by, reason = (
        _cut(text, most)
        for text, most in (
            (decision.state, _STATE_BYTES_MAX),
            (decision.by, _BY_BYTES_MAX),
            (decision.reason, REASON_BYTES_MAX),
        )
    )
    numbers = (entry.taken, counts.results, counts.failures, counts.slow)
    fixed = _RECORD.pack(
        decision.era,
        min(decision.attempt, _COUNT_MAX),
        decision.until,
        entry.decided_at,
        *(min(number, _COUNT_MAX) for number in numbers),
        len(state),
        len(by),
        len(reason),
    )
    return fixed + state + by + reason


def read_entry(raw: bytes) -> BoardEntry:
    """Return what a payload says; one that cannot be read says that nothing was decided."""
    if len(raw) < _RECORD.size:
        return BoardEntry()
    era, attempt, until, decided_at, taken, results, failures, slow, *lengths = _RECORD.unpack_from(raw)
    if not era or len(raw) != _RECORD.size + sum(lengths):
        return BoardEntry()
    begin, texts = _RECORD.size, []
    for length in lengths:
        texts.append(raw[begin : begin + length].decode("utf-8", "replace"))
        begin += length
    state, by, reason = texts
    return BoardEntry(
        Decision(era, state, attempt, until, by, reason), decided_at, taken, ProbeCounts(results, failures, slow)
    )


def _is_sharable(name: str) -> bool:
    return name.isprintable() and 0 < len(name.encode()) <= BREAKER_NAME_BYTES_MAX


def _cut(text: str, bytes_max: int) -> bytes:
    return text.encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore").encode()
