"""Keys that a change renews, and memory whose time can be cut."""

from __future__ import annotations

from app.cache.tiers import BriefMemory, key_of, shared_name
from app.stability.cache_tiers import Entry
from tests.fakes.clocks import HandClock


def test_a_shared_tier_knows_a_name_whatever_its_stamp() -> None:
    assert shared_name(key_of("photo:1", "ab.0")) == shared_name(key_of("photo:1", "cd.7")) == "photo:1"


def test_what_a_shared_tier_may_have_in_an_old_form_is_not_asked_of_it() -> None:
    assert shared_name(key_of("photo:1", "ab.0", is_shared=False)) is None


def test_nothing_is_fresh_for_longer_than_memory_is_believed_when_it_comes() -> None:
    clock, believed = HandClock(), [60.0]
    memory = BriefMemory(10, lambda: believed[0], max_entry_bytes=100, size_of=len, clock=clock)
    memory.put("long", Entry("long", b"1", 300.0), 3900.0)
    believed[0] = 30.0
    memory.put("short", Entry("short", b"1", 300.0), 3900.0)
    memory.put("own", Entry("own", b"1", 5.0), 3605.0)

    found = {key: memory.get(key) for key in ("long", "short", "own")}

    assert {key: entry and entry.fresh_seconds for key, entry in found.items()} == {
        "long": 60.0,
        "short": 30.0,
        "own": 5.0,
    }


def test_what_is_stale_is_of_use_for_as_long_as_before() -> None:
    clock = HandClock()
    memory = BriefMemory(10, lambda: 30.0, max_entry_bytes=100, size_of=len, clock=clock)
    memory.put("a", Entry("a", b"1", 300.0), 300.0 + 3600.0)

    clock.advance(30.0 + 3599.0)
    last = memory.get("a")
    clock.advance(2.0)

    assert last is not None
    assert memory.get("a") is None


def test_what_is_too_large_is_not_kept() -> None:
    memory = BriefMemory(10, lambda: 30.0, max_entry_bytes=3, size_of=len)

    memory.put("a", Entry("a", b"1234", 60.0), 60.0)

    assert memory.get("a") is None
