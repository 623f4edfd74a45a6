"""Links take the best way that works now, come back by themselves, and stay the same for a window."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import urlsplit

import pytest

from app.accounts.keyring import DerivedRings, KeyRings
from app.cdn.base import SignedUrl
from app.errors import UnavailableError
from app.photos.links import (
    LinkService,
    Via,
    Way,
    cdn_way,
    is_closed,
    may_pass,
    origin_way,
    storage_way,
    window_at,
)
from app.photos.signed_links import SignedLinks
from app.stability import CircuitBreaker, CircuitBreakerOptions, State
from tests.fakes.clocks import HandClock

WINDOW_SECONDS = 1800


@dataclass(frozen=True)
class Photo:
    object_key: str = "originals/01/23"
    sha256: str = "ab" * 32
    content_type: str = "image/webp"


class Signer:
    """A CDN, or an object store, that signs and can fail."""

    name = "fake"

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.is_usable = True
        self.calls = 0

    def sign(self, path: str, *, expires_at: dt.datetime) -> SignedUrl:
        return SignedUrl(f"https://cdn.example.org{self._signed(path)}", expires_at - dt.timedelta(seconds=1))

    def presigned_get(self, key: str, *, expires_at: dt.datetime, issued_at: dt.datetime, content_type: str) -> str:
        assert expires_at - issued_at == dt.timedelta(seconds=2 * WINDOW_SECONDS)
        return f"https://storage.example.org{self._signed(f'/{key}')}&{content_type}"

    def close(self) -> None: ...

    def usable(self) -> bool:
        return self.is_usable

    def _signed(self, path: str) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return f"{path}?signed"


class World:
    """Three ways, and what they led to."""

    def __init__(self, *names: Via) -> None:
        self.clock = HandClock()
        self.cdn, self.storage = Signer(), Signer()
        signed = SignedLinks(KeyRings(DerivedRings(b"k" * 32), self.clock), now=self.clock)
        ways: dict[Via, Way] = {
            "cdn": cdn_way(self.cdn, self.cdn.usable),
            "storage": storage_way(self.storage, self.storage.usable),
            "origin": origin_way(signed),
        }
        chosen = [ways[name] for name in names or ways]
        self.service = LinkService(chosen, window_seconds=WINDOW_SECONDS, now=self.clock)

    def via(self) -> str:
        (link,) = self.service.links([Photo()])
        return link.via

    def fallbacks(self) -> dict[tuple[str, str], float]:
        figures = [*self.service.figures()]
        assert {(figure.metric, figure.labels["name"]) for figure in figures} <= {("fallback", "links")}
        return {(figure.labels["from"], figure.labels["to"]): figure.value for figure in figures if figure.value}


def test_links_lead_by_the_cdn_while_it_works() -> None:
    world = World()

    (link,) = world.service.links([Photo()])

    assert link.url == "https://cdn.example.org/originals/01/23?signed"
    assert (link.via, world.storage.calls, world.fallbacks()) == ("cdn", 0, {})
    assert link.expires_at == window_at(world.clock(), WINDOW_SECONDS).expires_at - dt.timedelta(seconds=1)


def test_a_way_that_is_not_usable_is_skipped_without_a_call_and_taken_again_by_itself() -> None:
    world = World()
    heard = []

    for cdn, storage in [(False, True), (False, False), (True, False), (False, True), (True, True)]:
        world.cdn.is_usable, world.storage.is_usable = cdn, storage
        before = world.cdn.calls, world.storage.calls
        via = world.via()
        heard.append((via, world.cdn.calls - before[0], world.storage.calls - before[1]))

    assert heard == [("storage", 0, 1), ("origin", 0, 0), ("cdn", 1, 0), ("storage", 0, 1), ("cdn", 1, 0)]
    assert world.fallbacks() == {("cdn", "storage"): 3, ("storage", "origin"): 1}


@pytest.mark.parametrize("error", [UnavailableError("No token."), RuntimeError("a mistake of ours")])
def test_a_way_that_fails_gives_way_to_the_next_for_all_photos_of_the_request(error: Exception) -> None:
    world = World()
    world.cdn.error = error

    links = world.service.links([Photo(), Photo("originals/45/67"), Photo()])

    assert [link.via for link in links] == ["storage"] * 3
    assert [urlsplit(link.url).path for link in links] == ["/originals/01/23", "/originals/45/67", "/originals/01/23"]
    assert world.fallbacks() == {("cdn", "storage"): 1}


def test_a_mistake_of_ours_is_logged_and_a_failure_of_theirs_is_not(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    for error in (UnavailableError("No token."), RuntimeError("a mistake of ours")):
        world.cdn.error = error
        world.via()

    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True]


def test_a_change_of_the_way_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    for usable in (True, False, False, False, True, True):
        world.cdn.is_usable = usable
        world.via()

    assert [record.getMessage() for record in caplog.records] == [
        "links lead by storage now",
        "links lead by cdn now",
    ]


@pytest.mark.parametrize("names", [("origin",), ("storage", "origin"), ("cdn", "origin")])
def test_ways_that_are_not_configured_do_not_exist(names: tuple[Via, ...]) -> None:
    world = World(*names)
    world.cdn.is_usable = world.storage.is_usable = False

    via = world.via()

    assert via == "origin"
    assert set(world.fallbacks()) == set(pairwise(names))


def test_no_photos_have_no_links() -> None:
    assert World().service.links([]) == []


def test_when_nothing_can_be_signed_the_first_ways_error_is_the_answer() -> None:
    world = World("cdn", "storage")
    world.cdn.error, world.storage.is_usable = UnavailableError("No token."), False

    with pytest.raises(UnavailableError, match="No token"):
        world.via()


def test_a_photo_has_the_same_link_for_a_window_and_it_lives_for_one_to_two() -> None:
    world = World("origin")
    seen: dict[str, list[float]] = {}

    for _ in range(120):
        (link,) = world.service.links([Photo()])
        seen.setdefault(link.url, []).append((link.expires_at - world.clock()).total_seconds())
        world.clock.advance(60)

    assert [len(lives) for lives in seen.values()] == [30] * 4
    assert all(min(lives) > WINDOW_SECONDS and max(lives) == 2 * WINDOW_SECONDS for lives in seen.values())


@pytest.mark.parametrize("at", [0, 1, 1799, 1800, 1_790_000_001.9])
def test_a_window_begins_and_ends_on_whole_windows_of_the_clock(at: float) -> None:
    window = window_at(dt.datetime.fromtimestamp(at, dt.UTC), WINDOW_SECONDS)

    assert window.issued_at.timestamp() % WINDOW_SECONDS == 0
    assert window.issued_at.timestamp() <= at < window.issued_at.timestamp() + WINDOW_SECONDS
    assert window.expires_at - window.issued_at == dt.timedelta(seconds=2 * WINDOW_SECONDS)


def breaker(clock: HandClock) -> CircuitBreaker:
    options = CircuitBreakerOptions(
        minimum_number_of_calls=1,
        wait_duration_in_open_state_seconds=10,
        permitted_calls_in_half_open_state=1,
    )
    return CircuitBreaker("storage_read", options, clock=clock)


def fail(guard: CircuitBreaker) -> None:
    permit = guard.try_acquire()
    assert permit is not None
    permit.fail(UnavailableError("down"))


def test_without_a_breaker_a_way_is_open() -> None:
    assert (is_closed(None), may_pass(None)) == (True, True)


@pytest.mark.parametrize(
    ("state", "closed", "passing"),
    [
        (State.CLOSED, True, True),
        (State.DISABLED, True, True),
        (State.METRICS_ONLY, True, True),
        (State.FORCED_HALF_OPEN, False, True),
        (State.FORCED_OPEN, False, False),
    ],
)
def test_a_way_follows_what_an_operator_said_of_its_breaker(state: State, closed: bool, passing: bool) -> None:
    guard = breaker(HandClock())
    guard.transition_to(state)

    assert (is_closed(guard), may_pass(guard)) == (closed, passing)


@pytest.mark.parametrize(
    ("judge", "heard"),
    [(is_closed, [True, False, False, False]), (may_pass, [True, False, True, True])],
    ids=["closed", "passing"],
)
def test_an_open_breaker_bars_a_way_that_nobody_tries_out_until_its_wait_is_over(
    judge: Callable[[CircuitBreaker | None], bool], heard: list[bool]
) -> None:
    clock = HandClock()
    guard = breaker(clock)
    said = [judge(guard)]

    fail(guard)
    said.append(judge(guard))
    clock.advance(10)
    said.append(judge(guard))
    permit = guard.acquire()  # half-open
    said.append(judge(guard))
    permit.succeed()

    assert said == heard
    assert judge(guard)
    assert guard.state is State.CLOSED
