"""Boards for circuit breakers: one in memory that several breakers share, and one that breaks its promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.stability.board import Decision, ProbeCounts


class MemoryBoard:
    """What the real one does, without a file. Several breakers with one of these are as if in several processes.

    Attributes:
        is_lost: While it is, every answer is None and nothing is written.
        standing: What holds, by breaker.
        taken: Trial calls that are given out or finished, by breaker and era.
        interfere: Called once, before the next decision is written: what another process does a moment earlier.
    """

    def __init__(self) -> None:
        self.is_lost = False
        self.standing: dict[str, Decision] = {}
        self.taken: dict[tuple[str, int], int] = {}
        self.counts: dict[tuple[str, int], ProbeCounts] = {}
        self.reads = 0
        self.interfere: Callable[[], object] | None = None

    def read(self, name: str) -> Decision | None:
        self.reads += 1
        return None if self.is_lost else self.standing.get(name)

    def decide(self, name: str, decision: Decision) -> Decision | None:
        if self.interfere is not None:
            interfere, self.interfere = self.interfere, None
            interfere()
        if self.is_lost:
            return None
        before = self.standing.get(name)
        if before is not None and decision.era != before.era + 1:
            return before
        self.standing[name] = decision
        return decision

    def put(self, name: str, state: str, *, until: float = float("inf"), by: str = "ada", attempt: int = 0) -> None:
        """Write what an operator says in another process."""
        before = self.standing.get(name)
        self.standing[name] = Decision(1 if before is None else before.era + 1, state, attempt, until, by, "drill")

    def forget(self) -> None:
        """Lose everything, as a page that was deleted and made anew."""
        self.standing.clear()
        self.taken.clear()
        self.counts.clear()

    def take_probe(self, name: str, era: int, limit: int) -> bool | None:
        if not self._holds(name, era):
            return None
        taken = self.taken.get((name, era), 0)
        if taken < limit:
            self.taken[name, era] = taken + 1
        return taken < limit

    def return_probe(self, name: str, era: int) -> None:
        if self._holds(name, era):
            self.taken[name, era] = max(0, self.taken.get((name, era), 0) - 1)

    def record_probe(self, name: str, era: int, *, failed: bool, slow: bool) -> ProbeCounts | None:
        if not self._holds(name, era):
            return None
        before = self.counts.get((name, era), ProbeCounts(0, 0, 0))
        counts = ProbeCounts(before.results + 1, before.failures + failed, before.slow + slow)
        self.counts[name, era] = counts
        return counts

    def _holds(self, name: str, era: int) -> bool:
        standing = self.standing.get(name)
        return not self.is_lost and standing is not None and standing.era == era


class NaughtyBoard:
    """Answers every question with what it was given, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def read(self, *_: Any) -> Any:
        return self._answered()

    def decide(self, *_: Any) -> Any:
        return self._answered()

    def take_probe(self, *_: Any) -> Any:
        return self._answered()

    def return_probe(self, *_: Any) -> None:
        self._answered()

    def record_probe(self, *_: Any, **__: Any) -> Any:
        return self._answered()

    def _answered(self) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer
