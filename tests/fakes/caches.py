"""Asking a cache through a pipeline, what it has counted, and a tier that can be dead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.stability.cache import Cache
from app.stability.cache_tiers import Entry, MemoryTier
from app.stability.call import Call
from app.stability.pipeline import Pipeline
from tests.fakes.clocks import HandClock


def ask(cache: Cache, source: Callable[[], Any], key: str = "a") -> Any:
    return Pipeline("photos", [cache]).run(Call(source).describe(key=key))


def counts(cache: Cache) -> dict[tuple[str, str], float]:
    return {
        (f.labels["tier"], f.labels["result"]): f.value
        for f in cache.figures()
        if f.metric == "cache_requests" and f.value
    }


class RemoteTier(MemoryTier):
    """Another tier, which can be dead."""

    def __init__(self, clock: HandClock, name: str = "remote") -> None:
        super().__init__(name=name, clock=clock)
        self.error: BaseException | None = None
        self.writes = 0

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    def get(self, key: str) -> Entry | None:
        self._fail()
        return super().get(key)

    def put(self, key: str, entry: Entry, keep_seconds: float) -> None:
        self._fail()
        self.writes += 1
        super().put(key, entry, keep_seconds)

    def remove(self, key: str) -> None:
        self._fail()
        super().remove(key)
