"""Tokens of NHN's API are asked for as the guide says, and believed only when they open what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from app.cdn.nhn import NhnSigner
from app.cdn.nhn_api import NhnApi
from app.errors import UpstreamContentError
from app.upstream.observing import SilentObserver
from tests.fakes.clocks import HandClock
from tests.servers.nhn_cdn import APP_KEY, ENCRYPT_KEY, SECRET_KEY, NhnCdn, sign

PATH = "/p/o/ab/cd.jpg"


class World:
    """An API and a signer on one clock."""

    def __init__(self, server: NhnCdn, clock: HandClock) -> None:
        self.server = server
        self.clock = clock
        api = NhnApi(
            server.url, app_key=APP_KEY, secret_key=SECRET_KEY, timeout_seconds=20, observer=SilentObserver()
        )
        self.signer = NhnSigner(api, "https://cdn.example.org/p", key_hex=ENCRYPT_KEY, parameter="token", now=clock)
        self.ends = clock() + timedelta(seconds=1800)
        self.epoch = int(self.ends.timestamp())


@pytest.fixture
def world() -> Iterator[World]:
    clock = HandClock()
    with NhnCdn(now=lambda: clock().timestamp()) as server:
        world = World(server, clock)
        yield world
        world.signer.close()


def test_a_token_is_asked_for_one_path_and_ten_seconds_more_than_needed(world: World) -> None:
    signed = world.signer.sign("/o/ab/cd.jpg", expires_at=world.ends)

    assert world.server.asked == [{"encryptKey": ENCRYPT_KEY, "durationSeconds": 1810, "singlePath": PATH}]
    token = sign(ENCRYPT_KEY, PATH, world.epoch + 10)
    assert signed == (f"https://cdn.example.org{PATH}?token={token}", world.ends)


LIES: dict[str, Callable[[int], Any]] = {
    "for another path": lambda ends: sign(ENCRYPT_KEY, "/p/o/ab/other.jpg", ends + 10),
    "with another key": lambda ends: sign("00" * 16, PATH, ends + 10),
    "that lives too long": lambda ends: sign(ENCRYPT_KEY, PATH, ends + 10 + 31),
    "with more in the url": lambda ends: sign(ENCRYPT_KEY, PATH, ends + 10) + "&x=1",
    "with a line break": lambda ends: sign(ENCRYPT_KEY, PATH, ends + 10) + "\r\nX: y",
    "that is a number": lambda _ends: 7,
    "that is nothing": lambda _ends: None,
    "that is endless": lambda _ends: "exp=1~" * 1000,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_token_that_was_not_asked_for_is_refused(world: World, lie: str) -> None:
    token = LIES[lie](world.epoch)
    world.server.lie = lambda answer: {**answer, "authToken": {"singlePathToken": token}}

    with pytest.raises(UpstreamContentError, match="token"):
        world.signer.sign("/o/ab/cd.jpg", expires_at=world.ends)


def test_no_tokens_at_all_are_refused(world: World) -> None:
    world.server.lie = lambda answer: {**answer, "authToken": "exp=1"}

    with pytest.raises(UpstreamContentError, match="no token"):
        world.signer.sign("/o/ab/cd.jpg", expires_at=world.ends)


def test_a_token_that_ends_sooner_is_told_so(world: World) -> None:
    token = sign(ENCRYPT_KEY, PATH, world.epoch - 90)
    world.server.lie = lambda answer: {**answer, "authToken": {"singlePathToken": token}}

    signed = world.signer.sign("/o/ab/cd.jpg", expires_at=world.ends)

    assert signed.expires_at == world.ends - timedelta(seconds=100)


def test_the_end_follows_the_wall_clock_when_it_jumps(world: World) -> None:
    for hours in (1, -2):
        world.clock.jump(hours * 3600)
        ends = world.clock() + timedelta(seconds=1800)

        assert world.signer.sign("/o/ab/cd.jpg", expires_at=ends).expires_at == ends


def test_nothing_is_asked_for_an_end_that_is_over(world: World) -> None:
    with pytest.raises(ValueError, match="end before"):
        world.signer.sign("/a", expires_at=world.clock() - timedelta(seconds=11))

    assert world.server.asked == []
