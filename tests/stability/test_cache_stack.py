"""The stack of tiers: none of them can harm a call, neither by failing nor by lying."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from app.stability.cache_stack import RESULTS, Found, Lifetimes, TierStack
from app.stability.cache_tiers import Entry, MemoryTier
from app.stability.errors import OptionError
from app.stability.figures import Figure
from tests.fakes.clocks import HandClock

LIFETIMES = Lifetimes(fresh=60.0, stale=30.0, negative=5.0)


class ScriptedTier:
    """Answers as it is told, and remembers what it was told to do."""

    def __init__(self, name: str = "scripted", answer: Any = None, log: list[str] | None = None) -> None:
        self.name = name
        self.answer = answer
        self.log = [] if log is None else log

    def _act(self, what: str) -> Any:
        self.log.append(f"{self.name} {what}")
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def get(self, key: str) -> Any:
        return self._act(f"get {key}")

    def put(self, key: str, entry: Entry, keep_seconds: float) -> None:
        self._act(f"put {key} {entry.fresh_seconds:g} {keep_seconds:g}")

    def remove(self, key: str) -> None:
        self._act(f"remove {key}")


def stack_of(*tiers: Any, accepts: Callable[[str, Any], bool] | None = None) -> TierStack:
    return TierStack("photos", tiers, LIFETIMES, accepts)


def counts(stack: TierStack) -> dict[tuple[str, str], float]:
    return {
        (f.labels["tier"], f.labels["result"]): f.value
        for f in stack.figures()
        if f.metric == "cache_requests" and f.value
    }


class UncopyableError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one + two)


@pytest.mark.parametrize(
    "answer",
    [
        ConnectionError("down"),
        "no entry",
        ("a", 1, 5.0, False),
        Entry("b", 1, 5.0),
        Entry("a", 1, float("nan")),
        Entry("a", 1, "soon"),  # type: ignore[arg-type]  # a tier that lies
        Entry("a", 1, None),  # type: ignore[arg-type]  # a tier that lies
        Entry("a", UncopyableError(1, 2), 5.0, is_negative=True),
        Entry("a", KeyboardInterrupt(), 5.0, is_negative=True),
    ],
)
def test_a_tier_that_fails_or_lies_is_skipped_and_counted(answer: Any) -> None:
    stack = stack_of(ScriptedTier(answer=answer))

    found = stack.look(0)("a")

    assert found is None
    assert stack.glance("a") is None
    assert counts(stack) == {("scripted", "error"): 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_what_ends_the_process_passes(error: BaseException) -> None:
    stack = stack_of(ScriptedTier(answer=error))

    with pytest.raises(type(error)):
        stack.look(0)("a")


@pytest.mark.parametrize(
    ("entry", "result"),
    [
        (Entry("a", None, 0.1), "hit"),
        (Entry("a", None, 0.1, is_negative=True), "negative"),
        (Entry("a", LookupError(), 0.1, is_negative=True), "negative"),
        (Entry("a", None, 0.0), "miss"),
        (Entry("a", None, -29.9), "miss"),
    ],
)
def test_an_entry_that_is_fresh_or_of_use_is_found(entry: Entry, result: str) -> None:
    stack = stack_of(ScriptedTier(answer=entry))

    found = stack.look(0)("a")

    assert found == Found(entry, 0)
    assert counts(stack) == {("scripted", result): 1}


@pytest.mark.parametrize(
    "entry", [None, Entry("a", 1, -30.0), Entry("a", 1, float("-inf")), Entry("a", 1, 0.0, is_negative=True)]
)
def test_nothing_and_what_is_too_old_are_misses(entry: Entry | None) -> None:
    stack = stack_of(ScriptedTier(answer=entry))

    found = stack.look(0)("a")

    assert found is None
    assert counts(stack) == {("scripted", "miss"): 1}


@pytest.mark.parametrize(("is_negative", "seconds"), [(False, 60.0), (True, 5.0)])
def test_no_tier_can_make_an_entry_live_longer(is_negative: bool, seconds: float) -> None:
    stack = stack_of(ScriptedTier(answer=Entry("a", 1, 1e9, is_negative)))

    found = stack.look(0)("a")

    assert found == Found(Entry("a", 1, seconds, is_negative), 0)


def test_what_the_caller_does_not_accept_is_a_lie() -> None:
    def accepts(key: str, value: Any) -> bool:
        return bool(value["key"] == key)

    tier = ScriptedTier(answer=Entry("a", {"key": "a"}, 5.0))
    stack = stack_of(tier, accepts=accepts)

    found = [stack.look(0)("a") is not None]
    for lie in ({"key": "b"}, "a judgement that raises"):
        tier.answer = Entry("a", lie, 5.0)
        found.append(stack.look(0)("a") is not None)

    assert found == [True, False, False]
    assert counts(stack) == {("scripted", "hit"): 1, ("scripted", "error"): 2}


@pytest.mark.parametrize(
    ("answer", "is_found"),
    [
        (None, False),
        (Entry("a", 1, 5.0), True),
        (Entry("a", 1, 0.1), True),
        (Entry("a", 1, 0.0), False),
        (Entry("a", 1, -5.0), False),
    ],
)
def test_a_glance_finds_what_is_fresh_and_counts_nothing(answer: Any, is_found: bool) -> None:
    stack = stack_of(ScriptedTier(answer=answer))

    found = stack.glance("a")

    assert found == (Found(answer, 0) if is_found else None)
    assert counts(stack) == {}


def test_entries_are_written_lowest_tier_first_and_kept_for_their_stale_time() -> None:
    log: list[str] = []
    stack = stack_of(ScriptedTier("memory", log=log), ScriptedTier("remote", log=log))

    stack.put(Entry("a", 1, 60.0))
    stack.put(Entry("b", 1, 5.0, is_negative=True))
    stack.put(Entry("c", 1, -10.0), below=1)
    stack.put(Entry("d", 1, 0.1, is_negative=True), below=1)

    assert log == [
        "remote put a 60 90",
        "memory put a 60 90",
        "remote put b 5 5",
        "memory put b 5 5",
        "memory put c -10 20",
        "memory put d 0.1 0.1",
    ]


def test_an_entry_without_any_time_is_not_written() -> None:
    tier = ScriptedTier()

    stack_of(tier).put(Entry("a", 1, -30.0))

    assert tier.log == []


def test_a_tier_that_cannot_write_does_not_keep_the_others_from_it() -> None:
    memory = MemoryTier()
    stack = stack_of(memory, ScriptedTier("remote", OSError()))

    stack.put(Entry("a", 1, 60.0))

    assert memory.get("a") is not None
    assert counts(stack) == {("remote", "error"): 1}


def test_a_key_is_removed_lowest_tier_first_with_a_word_before_each() -> None:
    log: list[str] = []
    stack = stack_of(ScriptedTier("memory", log=log), ScriptedTier("remote", log=log))

    is_removed = stack.remove("a", before_each=lambda key: log.append(f"before {key}"))

    assert is_removed
    assert log == ["before a", "remote remove a", "before a", "memory remove a"]


def test_a_tier_that_cannot_remove_is_told_and_counted_and_the_others_do() -> None:
    memory = MemoryTier(clock=HandClock())
    memory.put("a", Entry("a", 1, 60.0), 60.0)
    stack = stack_of(memory, ScriptedTier("remote", OSError()))

    is_removed = stack.remove("a")

    assert not is_removed
    assert memory.get("a") is None
    assert counts(stack) == {("remote", "error"): 1}


def test_a_tiers_failure_is_logged_with_what_it_was_doing_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="app.stability.cache_stack")
    stack = stack_of(ScriptedTier("remote", ConnectionError()))

    stack.look(0)("a")
    stack.put(Entry("a", 1, 60.0))
    stack.remove("a")

    facts = [(r.__dict__["policy"], r.__dict__["tier"], r.args, r.exc_info and r.exc_info[0]) for r in caplog.records]
    assert facts == [("photos", "remote", (what,), ConnectionError) for what in ("read", "write", "removal")]


@pytest.mark.parametrize(
    ("names", "says"), [([], "none"), (["a", "a"], "a, a"), (["flight"], "flight"), (["source"], "source")]
)
def test_tiers_that_cannot_be_told_apart_are_refused_by_name(names: list[str], says: str) -> None:
    with pytest.raises(OptionError, match=f"names of their own, not {says}$"):
        stack_of(*(ScriptedTier(name) for name in names))


def test_every_result_of_every_tier_is_counted_from_zero_and_entries_where_they_are_known() -> None:
    memory = MemoryTier()
    stack = stack_of(memory, ScriptedTier("remote"))
    memory.put("a", Entry("a", 1, 60.0), 60.0)

    first, second = list(stack.figures()), list(stack.figures())

    assert first[:-1] == [
        Figure("cache_requests", "counter", 0, {"name": "photos", "tier": tier, "result": result})
        for tier in ("memory", "remote", "flight", "source")
        for result in RESULTS
    ]
    assert first[-1] == Figure("cache_entries", "gauge", 1, {"name": "photos", "tier": "memory"})
    assert first == second


def test_what_became_of_a_request_can_be_counted() -> None:
    stack = stack_of(ScriptedTier("memory"), ScriptedTier("remote"))

    stack.count("source", "hit")
    stack.count_stale(Found(Entry("a", 1, -1.0), 1))

    assert counts(stack) == {("source", "hit"): 1, ("remote", "stale"): 1}
    assert len(stack) == 2
