"""Looks at the edge feed a breaker: it opens when the edge fails and closes when it is back, without any request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.cdn.guarded import CDN_CLASSIFICATION
from app.cdn.probe import CdnProbe
from app.errors import UnavailableError, UpstreamTimeoutError
from app.stability import CallNotPermittedError, CircuitBreaker, CircuitBreakerOptions, Pipeline, State
from tests.fakes.call_observer import RememberingObserver
from tests.fakes.clocks import HandClock
from tests.fakes.raw_server import RawServer, raw_server


class World:
    """An edge that says what it is told to, and a probe before it."""

    def __init__(self, server: RawServer, *, timeout_seconds: float = 20) -> None:
        self.server = server
        self.clock = HandClock()
        self.observer = RememberingObserver()
        options = CircuitBreakerOptions(
            sliding_window_size=6,
            minimum_number_of_calls=3,
            wait_duration_in_open_state_seconds=5,
            permitted_calls_in_half_open_state=2,
        )
        self.breaker = CircuitBreaker("cdn", options, classification=CDN_CLASSIFICATION, clock=self.clock)
        self.probe = CdnProbe(
            server.url + "/base",
            path="/up",
            timeout_seconds=timeout_seconds,
            pipeline=Pipeline("cdn", [self.breaker]),
            observer=self.observer,
        )

    def answer(self, status: str) -> None:
        self.server.pieces = [f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()]


@pytest.fixture
def world() -> Iterator[World]:
    with raw_server() as server:
        world = World(server)
        yield world
        world.probe.close()


@pytest.mark.parametrize("status", ["200 OK", "301 Moved", "401 No", "403 Forbidden", "404 Not Found", "429 Slow"])
def test_every_status_below_500_is_a_sign_of_life(world: World, status: str) -> None:
    world.answer(status)

    world.probe.look()

    assert world.observer.calls == [("cdn", "probe", "success", "")]
    assert world.server.heads[0].startswith(b"HEAD /base/up HTTP/1.1\r\n")


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Later", "599 What"])
def test_a_status_of_500_or_more_is_a_failure(world: World, status: str) -> None:
    world.answer(status)

    with pytest.raises(UnavailableError):
        world.probe.look()

    assert world.observer.calls == [("cdn", "probe", "failure", "UnavailableError")]


def test_an_edge_that_hangs_is_a_failure(world: World) -> None:
    world.server.hangs_up = False
    impatient = World(world.server, timeout_seconds=0.2)

    with pytest.raises(UpstreamTimeoutError):
        impatient.probe.look()

    impatient.probe.close()


def test_the_breaker_opens_asks_nobody_and_closes_by_itself(world: World) -> None:
    world.answer("503 Later")
    for _ in range(3):
        with pytest.raises(UnavailableError):
            world.probe.look()
    with pytest.raises(CallNotPermittedError):
        world.probe.look()
    asked, opened = len(world.server.heads), world.breaker.state

    world.answer("403 Forbidden")
    world.clock.advance(5)
    world.probe.look()
    world.probe.look()

    assert (asked, opened) == (3, State.OPEN)
    assert world.breaker.state is State.CLOSED
