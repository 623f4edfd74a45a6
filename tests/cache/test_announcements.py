"""A change renews what is remembered, whatever Redis says, and what Redis was not told is told later."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from app.cache.announcements import Announcer
from app.cache.tiers import TierDownError, shared_name
from app.ops.stamps import Stamps
from app.stability import Pipeline

NAME = "photo:1"


class Shared:
    """Notes what Redis is told; can be dead."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[str]]] = []
        self.is_dead = False

    def _note(self, what: str, names: Sequence[str]) -> None:
        if self.is_dead:
            raise TierDownError
        self.told.append((what, [*names]))

    def begin(self, names: Sequence[str]) -> None:
        self._note("begin", names)

    def settle(self, names: Sequence[str]) -> None:
        self._note("settle", names)


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
def announcer(shared: Shared) -> Announcer:
    return Announcer(Stamps(None, owing_seconds=300.0), shared, Pipeline("redis"))


def test_a_key_stays_until_its_name_changes(announcer: Announcer) -> None:
    before = announcer.key(NAME)

    with announcer.changing([NAME]):
        during = announcer.key(NAME)

    assert before == before.strip()
    assert during == ""
    assert announcer.key(NAME) not in {before, ""}
    assert announcer.key(NAME) == announcer.key(NAME)


def test_a_change_that_fails_renews_the_key_all_the_same(announcer: Announcer) -> None:
    before = announcer.key(NAME)

    with pytest.raises(KeyboardInterrupt), announcer.changing([NAME]):
        raise KeyboardInterrupt

    assert announcer.key(NAME) not in {before, ""}


def test_redis_is_told_before_and_after(announcer: Announcer, shared: Shared) -> None:
    with announcer.changing([NAME, "photo:2"]):
        assert shared.told == [("begin", [NAME, "photo:2"])]

    assert shared.told[1:] == [("settle", [NAME, "photo:2"])]


def test_what_redis_was_not_told_is_not_asked_of_it_until_it_has_been_told(
    announcer: Announcer, shared: Shared
) -> None:
    shared.is_dead = True
    with announcer.changing([NAME]):
        pass
    owing = announcer.key(NAME)
    announcer.pay()
    still_owing = announcer.key(NAME)
    shared.is_dead = False
    announcer.pay()

    assert shared_name(owing) is None
    assert still_owing == owing
    assert shared_name(announcer.key(NAME)) == NAME
    assert shared.told == [("settle", [NAME])]


def test_a_debt_outlives_another_change_that_redis_was_told_of(announcer: Announcer, shared: Shared) -> None:
    shared.is_dead = True
    with announcer.changing([NAME]):
        pass
    shared.is_dead = False
    with announcer.changing([NAME]):
        pass
    assert shared_name(announcer.key(NAME)) is None

    announcer.pay()

    assert shared_name(announcer.key(NAME)) == NAME


def test_what_others_changed_renews_the_key_and_a_debt_stays(announcer: Announcer, shared: Shared) -> None:
    before = announcer.key(NAME)
    announcer.heard([NAME])
    heard = announcer.key(NAME)
    shared.is_dead = True
    with announcer.changing([NAME]):
        pass
    announcer.heard([NAME])

    assert heard not in {before, ""}
    assert shared_name(announcer.key(NAME)) is None


def test_losing_touch_renews_every_key(announcer: Announcer) -> None:
    before = {name: announcer.key(name) for name in (NAME, "photo:2")}

    announcer.lost_touch()

    assert not {announcer.key(name) for name in before} & set(before.values())
