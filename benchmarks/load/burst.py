"""Five hundred requests in one instant: every one gets an answer, with room for all of them and without."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from benchmarks.load.application import WAIT_PATH
from benchmarks.load.generator import Generator
from benchmarks.load.records import Tally
from benchmarks.load.traffic import Target, Traffic, at_once

REQUESTS = 500
PLACES = 50
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Burst:
    """What came of one.

    Attributes:
        max_queue: How many requests the server let wait.
        tally: Of the requests.
    """

    max_queue: int
    tally: Tally

    @property
    def holds(self) -> bool:
        """Whether every request was answered: with what it asked for, or with a 503 that says when to come again."""
        return self.tally.good + self.tally.refused == self.tally.offered == REQUESTS

    def facts(self) -> dict[str, object]:
        """Return everything for JSON."""
        return {**asdict(self), "holds": self.holds}


def burst(target: Target, max_queue: int) -> Burst:
    """Send all requests at once, each on a connection of its own.

    Args:
        target: A server with 50 places that waits 50 ms for each request.
        max_queue: How many it lets wait; for the table.
    """
    due = at_once(REQUESTS)
    reads = Traffic("read", WAIT_PATH, due, timeout_seconds=PATIENCE_SECONDS, keeps_connections=False)
    records = Generator(target, [reads]).run()
    return Burst(max_queue, records[0].tally())
