"""The trial calls of one half-open visit: how many are out, and what came of the others.

:class:`LocalProbes` counts for this process; :class:`HostProbes` counts on the board for all processes of the host,
and goes on by itself when the board is lost.

Not thread-safe: the breaker's lock is held around all of it.
"""

from __future__ import annotations

from typing import Protocol

from .board import Board, ProbeCounts


class ProbeLedger(Protocol):
    """Counts the trial calls of one visit."""

    @property
    def counts(self) -> ProbeCounts:
        """The results so far."""
        ...

    def take(self, limit: int, running: int) -> bool:
        """Take one of ``limit`` trial calls; False when all are taken.

        Args:
            limit: How many there are.
            running: How many that were taken here have come to no end yet.
        """
        ...

    def give_back(self) -> None:
        """Give back one that came to no result."""
        ...

    def record(self, *, failed: bool, slow: bool) -> None:
        """Count a result."""
        ...


class LocalProbes:
    """A :class:`ProbeLedger` for one process: what is taken is what runs or has ended, and nothing else is kept."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = ProbeCounts(0, 0, 0)

    def take(self, limit: int, running: int) -> bool:
        """Take one, if one is left."""
        return self.counts.results + running < limit

    def give_back(self) -> None:
        """Do nothing: it does not run any more."""

    def record(self, *, failed: bool, slow: bool) -> None:
        """Count a result."""
        counts = self.counts
        self.counts = ProbeCounts(counts.results + 1, counts.failures + failed, counts.slow + slow)


class HostProbes:
    """A :class:`ProbeLedger` for all processes of a host.

    Args:
        board: Where they are counted.
        name: Of the breaker.
        era: Number of the decision that made it half-open.
    """

    __slots__ = ("_board", "_era", "_local", "_name", "_shared")

    def __init__(self, board: Board, name: str, era: int) -> None:
        self._board = board
        self._name = name
        self._era = era
        self._local = LocalProbes()
        self._shared: ProbeCounts | None = None

    @property
    def counts(self) -> ProbeCounts:
        """All results of the host as of the last one here; this process's own while the board is lost."""
        return self._shared or self._local.counts

    def take(self, limit: int, running: int) -> bool:
        """Take one on the board; from this process's own limit while the board is lost."""
        granted = self._board.take_probe(self._name, self._era, limit)
        if granted is False:
            return False
        taken = self._local.take(limit, running)
        if granted and not taken:  # the board has forgotten what this process took
            self._board.return_probe(self._name, self._era)
        return taken

    def give_back(self) -> None:
        """Give one back."""
        self._board.return_probe(self._name, self._era)

    def record(self, *, failed: bool, slow: bool) -> None:
        """Count a result, here and on the board."""
        self._local.record(failed=failed, slow=slow)
        self._shared = self._board.record_probe(self._name, self._era, failed=failed, slow=slow)
