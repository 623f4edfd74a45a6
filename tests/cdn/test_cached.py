"""What is remembered of signatures: within a window, up to a number, made once, by the monotonic clock."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import pytest

from app.cdn.base import SignedUrl
from app.cdn.cached import CachedSigner
from app.errors import UnavailableError, UpstreamTimeoutError
from app.stability import Deadline, deadline_scope
from tests.fakes.clocks import HandClock


class CountingSigner:
    """Signs with a number."""

    name = "counting"

    def __init__(self) -> None:
        self.signed: list[str] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.is_closed = False

    def sign(self, path: str, *, expires_at: datetime) -> SignedUrl:
        self.signed.append(path)
        self.reached.set()
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return SignedUrl(f"https://cdn{path}?n={len(self.signed)}", expires_at)

    def close(self) -> None:
        self.is_closed = True


class Gauge:
    """Keeps what it is set to."""

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value


class World:
    """A signer in memory behind a cache of three."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.inner = CountingSigner()
        self.gauge = Gauge()
        self.signer = CachedSigner(self.inner, max_entries=3, gauge=self.gauge, now=self.clock, clock=self.clock)

    def sign(self, path: str = "/a", *, minutes: float = 30) -> SignedUrl:
        return self.signer.sign(path, expires_at=self.clock() + timedelta(minutes=minutes))


@pytest.fixture
def world() -> World:
    return World()


def test_the_same_path_and_end_are_signed_once(world: World) -> None:
    assert world.sign() == world.sign()

    assert world.inner.signed == ["/a"]
    assert world.gauge.value == 1


def test_another_end_is_another_entry(world: World) -> None:
    assert world.sign(minutes=30) != world.sign(minutes=31)


def test_the_least_recently_used_one_goes_first(world: World) -> None:
    for path in ("/a", "/b", "/c", "/a", "/d", "/a", "/b"):
        world.sign(path)

    assert world.inner.signed == ["/a", "/b", "/c", "/d", "/b"]
    assert world.gauge.value == 3


def test_an_entry_ends_with_its_url(world: World) -> None:
    ends = world.clock() + timedelta(minutes=30)
    world.signer.sign("/a", expires_at=ends)

    world.clock.advance(29 * 60)
    world.signer.sign("/a", expires_at=ends)
    before = len(world.inner.signed)
    world.clock.advance(61)
    world.signer.sign("/a", expires_at=ends)

    assert (before, len(world.inner.signed)) == (1, 2)


@pytest.mark.parametrize("hours", [1, -1])
def test_a_jump_of_the_wall_clock_makes_nothing_older_or_younger(world: World, hours: int) -> None:
    ends = world.clock() + timedelta(minutes=30)
    world.signer.sign("/a", expires_at=ends)

    world.clock.jump(hours * 3600)
    world.signer.sign("/a", expires_at=ends)
    kept = len(world.inner.signed)
    world.clock.advance(31 * 60)
    world.signer.sign("/a", expires_at=ends)

    assert (kept, len(world.inner.signed)) == (1, 2)


@pytest.mark.parametrize("hours", [1, -1])
def test_the_end_of_new_urls_follows_a_jump_at_once(world: World, hours: int) -> None:
    world.sign()

    world.clock.jump(hours * 3600)

    assert world.sign().expires_at == world.clock() + timedelta(minutes=30)


def test_a_cache_on_the_wall_clock_would_lose_all_by_a_jump() -> None:
    """The control of the rule above: with the wall clock as its measure of length, the entry is gone."""
    clock, inner = HandClock(), CountingSigner()

    class Wall(HandClock):
        def monotonic(self) -> float:
            return clock().timestamp()

    signer = CachedSigner(inner, max_entries=3, gauge=Gauge(), now=clock, clock=Wall())
    ends = clock() + timedelta(minutes=30)
    signer.sign("/a", expires_at=ends)
    clock.jump(3600)
    signer.sign("/a", expires_at=ends)

    assert len(inner.signed) == 2


def test_many_who_want_the_same_have_it_made_once(world: World) -> None:
    ends = world.clock() + timedelta(minutes=30)
    world.inner.gate.clear()
    got: list[SignedUrl] = []
    threads = [
        threading.Thread(target=lambda: got.append(world.signer.sign("/a", expires_at=ends))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    assert world.inner.reached.wait(20)
    world.inner.gate.set()
    for thread in threads:
        thread.join(20)

    assert (len(got), len(set(got)), world.inner.signed) == (20, 1, ["/a"])


def test_an_error_is_not_remembered(world: World) -> None:
    world.inner.error = UnavailableError("Down.")
    with pytest.raises(UnavailableError):
        world.sign()

    world.inner.error = None

    assert world.sign().url.startswith("https://cdn/a")


def test_who_waits_for_another_gives_up_at_its_own_deadline(world: World) -> None:
    ends = world.clock() + timedelta(minutes=30)
    world.inner.gate.clear()
    leader = threading.Thread(target=lambda: world.signer.sign("/a", expires_at=ends))
    leader.start()
    assert world.inner.reached.wait(20)

    with deadline_scope(Deadline(0.05)), pytest.raises(UpstreamTimeoutError):
        world.signer.sign("/a", expires_at=ends)

    world.inner.gate.set()
    leader.join(20)


def test_closing_closes_the_signer(world: World) -> None:
    world.signer.close()

    assert world.inner.is_closed
    assert world.signer.name == "counting"
