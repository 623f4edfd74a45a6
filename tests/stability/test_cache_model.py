"""The cache against a model of few words: whatever is asked in whatever order, both give the same answers.

There is one caller at a time here; many at a time are in ``test_cache_races.py``. The machine runs over one tier, and
over two of which the first is emptied now and then: what the tiers are must not be seen from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from app.stability.cache import Cache, CacheOptions
from app.stability.cache_tiers import MemoryTier
from app.stability.call import Call
from app.stability.outcome import Classification
from app.stability.pipeline import Pipeline
from tests.fakes.clocks import HandClock

TTL, REVALIDATE, IF_ERROR, NEGATIVE = 10, 3, 6, 4
OPTIONS = CacheOptions(
    ttl_seconds=TTL,
    stale_while_revalidate_seconds=REVALIDATE,
    stale_if_error_seconds=IF_ERROR,
    negative_ttl_seconds=NEGATIVE,
)
RULES = Classification(ignored=(PermissionError,), failing_result=lambda value: value == "bad")

KEYS = st.sampled_from(["a", "b", "c"])
KEPT = ("value", "none", "missing")
ANSWERS = st.sampled_from([*KEPT, "bad", "forbidden", "down"])


class MissingError(LookupError):
    """A negative answer."""


@dataclass
class Known:
    """What the model knows of a key."""

    value: Any
    since: float
    is_negative: bool


class CacheMachine(RuleBasedStateMachine):
    """Calls, time and invalidations in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.now = 0
        self.made = 0
        self.asked = 0
        self.known: dict[str, Known] = {}
        self.calls = 0
        self.cache = Cache(
            "model",
            OPTIONS,
            tiers=self.open_tiers(),
            classification=RULES,
            negative=(MissingError,),
            negative_result=lambda value: value is None,
        )
        self.pipeline = Pipeline("model", [self.cache])

    def open_tiers(self) -> list[MemoryTier]:
        return [MemoryTier(clock=self.clock)]

    @rule(key=KEYS, answer=ANSWERS)
    def call(self, key: str, answer: str) -> None:
        self.calls += 1
        self.made += 1
        made = self.made
        asked = self.asked
        expected = self._expect(key, answer, made)

        got = self._ask(key, answer, made)

        assert (got, self.asked - asked) == expected

    @rule(seconds=st.integers(1, 7))
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.now += seconds

    @rule(key=KEYS)
    def invalidate(self, key: str) -> None:
        self.known.pop(key, None)

        assert self.cache.invalidate(key)

    @invariant()
    def every_call_looked_once_into_the_first_tier(self) -> None:
        counted = {
            (f.labels["tier"], f.labels["result"]): f.value
            for f in self.cache.figures()
            if f.metric == "cache_requests"
        }
        looks = sum(counted["memory", result] for result in ("hit", "miss", "negative", "error"))
        asked = sum(counted["source", result] for result in ("hit", "negative", "error"))

        assert looks == self.calls
        assert asked == self.asked

    def _ask(self, key: str, answer: str, made: int) -> Any:
        """Return what the cache gives, an error by the name of its class."""

        def source() -> Any:
            self.asked += 1
            return source_says(answer, made)

        try:
            return self.pipeline.run(Call(source).describe(key=key))
        except (MissingError, PermissionError, ConnectionError) as error:
            return type(error).__name__

    def _expect(self, key: str, answer: str, made: int) -> tuple[Any, int]:
        """Return what the cache should give and how often it should ask the source."""
        known = self.known.get(key)
        age = 0.0 if known is None else self.now - known.since
        if known is not None and age < (NEGATIVE if known.is_negative else TTL):
            return known.value, 0
        is_of_use = known is not None and not known.is_negative and age < TTL + max(REVALIDATE, IF_ERROR)
        if answer in KEPT:
            value = {"value": made, "none": None, "missing": "MissingError"}[answer]
            self.known[key] = Known(value, self.now, is_negative=answer != "value")
            return value, 1
        if answer == "forbidden":
            self.known.pop(key, None)
            return "PermissionError", 1
        if known is not None and is_of_use:
            return known.value, 1
        return ("bad" if answer == "bad" else "ConnectionError"), 1


def source_says(answer: str, made: int) -> Any:
    match answer:
        case "value":
            return made
        case "none":
            return None
        case "bad":
            return "bad"
        case "missing":
            raise MissingError
        case "forbidden":
            raise PermissionError
    raise ConnectionError


class TwoTierMachine(CacheMachine):
    """The same over two tiers, of which the first keeps little, and not for long."""

    def open_tiers(self) -> list[MemoryTier]:
        self.memory = MemoryTier(2, ttl_seconds=5.0, clock=self.clock)
        return [self.memory, MemoryTier(name="remote", clock=self.clock)]

    @rule()
    def empty_the_first_tier(self) -> None:
        self.memory.clear()


STEPS = settings(max_examples=60, stateful_step_count=40, deadline=None)

TestOneTier = CacheMachine.TestCase
TestOneTier.settings = STEPS
TestTwoTiers = TwoTierMachine.TestCase
TestTwoTiers.settings = STEPS
