"""Queues in front of what is limited, for tests: open ones, closed ones, and ones that remember."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from app.errors import OverloadedError


class OpenAdmission:
    """Admits everybody and remembers what they asked for.

    Attributes:
        asked: Cost and class of everybody, in their order.
        inside: How many are inside.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []
        self.inside = 0
        self._lock = threading.Lock()

    @contextmanager
    def admit(self, cost: int, /, *, background: bool) -> Iterator[None]:
        with self._lock:
            self.asked.append((cost, background))
            self.inside += 1
        try:
            yield
        finally:
            with self._lock:
                self.inside -= 1


class ClosedAdmission:
    """Admits nobody."""

    def admit(self, _cost: int, /, *, background: bool) -> AbstractContextManager[None]:
        who = "the background" if background else "anybody"
        raise OverloadedError(f"There is no turn for {who} in time.", retry_after_seconds=3)
