"""A token API behind its pipeline: tried twice, left alone when it fails or refuses, and told of once a minute.

Row 19 of the faults, the API's part, with its control: without the breaker each call reaches an API that is down.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from app.cdn.base import Purger, SignedUrl
from app.cdn.guarded import CDN_CLASSIFICATION, DENIED_SECONDS, GuardedPurger, GuardedSigner
from app.errors import UnavailableError, UpstreamDeniedError, UpstreamTimeoutError
from app.stability import (
    CircuitBreaker,
    CircuitBreakerOptions,
    Deadline,
    Pipeline,
    Policy,
    Retry,
    RetryOptions,
    State,
    Timeout,
    TimeoutOptions,
    deadline_scope,
)
from tests.fakes.clocks import HandClock

ENDS = datetime(2030, 1, 1, tzinfo=UTC)
DOWN = UnavailableError("Down.")
DENIED = UpstreamDeniedError("Refused.")


class Api:
    """Signs and purges, or raises."""

    name = "fake"

    def __init__(self) -> None:
        self.calls = 0
        self.errors: list[Exception] = []
        self.always: Exception | None = None
        self.is_closed = False

    def sign(self, path: str, *, expires_at: datetime) -> SignedUrl:
        self._act()
        return SignedUrl(path, expires_at)

    def purge(self, paths: Sequence[str]) -> None:
        del paths
        self._act()

    def close(self) -> None:
        self.is_closed = True

    def _act(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        if self.always is not None:
            raise self.always


class World:
    """An API behind a pipeline, on a clock of the test's own."""

    def __init__(self, *, has_breaker: bool = True, clock: HandClock | None = None) -> None:
        self.clock = clock or HandClock()
        self.api = Api()
        options = CircuitBreakerOptions(
            minimum_number_of_calls=4,
            sliding_window_size=4,
            wait_duration_in_open_state_seconds=5,
            permitted_calls_in_half_open_state=1,
        )
        self.breaker = CircuitBreaker("cdn_token", options, classification=CDN_CLASSIFICATION, clock=self.clock)
        retry = Retry(
            "cdn_token",
            RetryOptions(max_attempts=2, base_seconds=0.001, cap_seconds=0.001),
            classification=CDN_CLASSIFICATION,
            clock=self.clock,
        )
        policies: list[Policy] = [Timeout("cdn_token", TimeoutOptions(timeout_seconds=60)), retry]
        if has_breaker:
            policies.append(self.breaker)
        pipeline = Pipeline("cdn_token", policies)
        self.signer = GuardedSigner(self.api, pipeline, self.clock)
        self.purger: Purger = GuardedPurger(self.api, pipeline, self.clock)

    def sign(self) -> SignedUrl:
        return self.signer.sign("/a", expires_at=ENDS)

    def fail(self, times: int) -> None:
        for _ in range(times):
            with pytest.raises(UnavailableError):
                self.sign()


@pytest.fixture
def world() -> World:
    return World()


def test_a_failure_is_tried_once_more(world: World) -> None:
    world.api.errors = [DOWN]

    assert world.sign() == ("/a", ENDS)
    assert world.api.calls == 2


def test_an_api_that_is_down_is_asked_no_more_until_the_wait_is_over(world: World) -> None:
    world.api.always = DOWN
    world.fail(20)
    asked = world.api.calls

    world.api.always = None
    world.clock.advance(5)

    assert asked == 4
    assert world.sign() == ("/a", ENDS)
    assert world.breaker.state is State.CLOSED


def test_without_the_breaker_each_call_reaches_an_api_that_is_down() -> None:
    world = World(has_breaker=False)
    world.api.always = DOWN

    world.fail(20)

    assert world.api.calls > 20


@pytest.mark.parametrize("hours", [1, -1])
def test_a_jump_of_the_wall_clock_changes_no_breaker(world: World, hours: int) -> None:
    world.api.always = DOWN
    world.fail(4)
    asked = world.api.calls

    world.clock.jump(hours * 3600)
    world.fail(1)

    assert world.breaker.state is State.OPEN
    assert world.api.calls == asked


def test_a_breaker_on_the_wall_clock_would_ask_again_after_a_jump() -> None:
    """The control of the rule above."""

    class WallClock(HandClock):
        def monotonic(self) -> float:
            return self().timestamp()

    world = World(clock=WallClock())
    world.api.always = DOWN
    world.fail(4)
    asked = world.api.calls

    world.clock.jump(3600)
    world.fail(1)

    assert world.api.calls > asked


def test_an_open_breaker_says_when_to_come_again(world: World) -> None:
    world.api.always = DOWN
    world.fail(4)

    with pytest.raises(UnavailableError) as caught:
        world.sign()

    assert caught.value.retry_after_seconds == 5
    assert caught.value.__cause__ is None


def test_a_refusal_is_not_retried_and_believed_for_a_while(world: World) -> None:
    world.api.always = DENIED

    for _ in range(10):
        with pytest.raises(UpstreamDeniedError):
            world.sign()
    asked = world.api.calls
    world.clock.advance(DENIED_SECONDS)
    world.api.always = None

    assert asked == 1
    assert world.sign() == ("/a", ENDS)
    assert world.breaker.state is State.CLOSED


def test_a_refusal_is_logged_once_a_minute_with_its_reason(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.api.always = UpstreamDeniedError("Refused.")
    world.api.always.__cause__ = ValueError("code 20001")

    with caplog.at_level(logging.ERROR):
        for _ in range(24):  # two minutes
            with pytest.raises(UpstreamDeniedError):
                world.sign()
            world.clock.advance(DENIED_SECONDS)

    told = [record.getMessage() for record in caplog.records if record.name.startswith("app.cdn")]
    assert told == ["no access to the CDN: code 20001"] * 2


def test_a_call_whose_deadline_has_passed_is_a_timeout(world: World) -> None:
    with deadline_scope(Deadline(-1)), pytest.raises(UpstreamTimeoutError):
        world.sign()


def test_purges_pass_the_same_guard(world: World) -> None:
    world.api.always = DENIED

    for _ in range(2):
        with pytest.raises(UpstreamDeniedError):
            world.purger.purge(["/a"])

    assert world.api.calls == 1


def test_closing_closes_what_asks(world: World) -> None:
    world.signer.close()

    assert world.api.is_closed
    assert world.signer.name == "fake"
